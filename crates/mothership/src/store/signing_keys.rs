//! The keys that sign directive tokens: the newest signs, those before it verify until their overlap is over.

use std::time::Duration;

use rusqlite::params;

use super::{StoreError, Tx};
use crate::clock::Micros;
use crate::secret;

/// How long a key signs.
const SIGNS_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a key that signs no more still verifies. A token lives for minutes, but a daemon that was cut off for days asks
/// for a fresh one with the old one.
const VERIFIES_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

/// A key that signs or verifies directive tokens.
#[derive(Clone)]
pub struct SigningKey {
    /// Its number, the `kid` of the tokens.
    pub id: i64,
    /// 32 random bytes.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({})", self.id)
    }
}

/// What becomes of the keys before a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Older {
    /// They verify until their overlap is over.
    Verify,
    /// They are gone at once, and every token of theirs with them: somebody else may have them.
    Drop,
}

/// The keys as they are to be used from now on, newest first: a new one where there is none or the newest has signed for long
/// enough, and none whose overlap is over.
///
/// # Errors
/// The store fails.
pub fn current(tx: &Tx<'_>) -> Result<Vec<SigningKey>, StoreError> {
    let newest: Option<i64> = tx.conn().query_row("SELECT max(created_at) FROM signing_keys", [], |row| row.get(0))?;
    if newest.is_none_or(|made| Micros(made).plus(SIGNS_FOR) <= tx.now()) {
        insert(tx)?;
    }
    drop_superseded(tx, tx.now().minus(VERIFIES_FOR))?;
    all(tx)
}

/// Makes a new key, which signs from now on.
///
/// # Errors
/// The store fails.
pub fn rotate(tx: &Tx<'_>, older: Older) -> Result<Vec<SigningKey>, StoreError> {
    insert(tx)?;
    match older {
        Older::Verify => {}
        Older::Drop => drop_superseded(tx, tx.now())?,
    }
    all(tx)
}

fn insert(tx: &Tx<'_>) -> Result<(), StoreError> {
    tx.conn().execute(
        "INSERT INTO signing_keys (secret, created_at) VALUES (?1, ?2)",
        params![secret::random_bytes(), tx.now().0],
    )?;
    Ok(())
}

/// Forgets the keys whose successor was made at `since` or before.
fn drop_superseded(tx: &Tx<'_>, since: Micros) -> Result<(), StoreError> {
    tx.conn().execute(
        "DELETE FROM signing_keys WHERE EXISTS
            (SELECT 1 FROM signing_keys s WHERE s.id > signing_keys.id AND s.created_at <= ?1)",
        params![since.0],
    )?;
    Ok(())
}

fn all(tx: &Tx<'_>) -> Result<Vec<SigningKey>, StoreError> {
    let mut query = tx.conn().prepare_cached("SELECT id, secret FROM signing_keys ORDER BY id DESC")?;
    let rows = query.query_map([], |row| Ok(SigningKey { id: row.get(0)?, secret: row.get(1)? }))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
