//! Which territories know which authority.

use rusqlite::{Connection, params};

use super::{StoreError, Tx};
use crate::clock::Micros;

/// Records that these authorities are handed out from now on, that the first of them signs, and that others are no more.
///
/// # Errors
/// The store fails.
pub fn handed_out(tx: &Tx<'_>, keys: &[[u8; 32]]) -> Result<(), StoreError> {
    let known: Vec<Vec<u8>> = tx
        .conn()
        .prepare_cached("SELECT key_sha256 FROM authorities")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for gone in known.iter().filter(|known| !keys.iter().any(|key| key[..] == known[..])) {
        tx.conn().execute("DELETE FROM authorities WHERE key_sha256 = ?1", params![gone])?;
    }
    for key in keys {
        tx.conn().execute(
            "INSERT INTO authorities (key_sha256, handed_out_since) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![key, tx.now().0],
        )?;
    }
    if let Some(signs) = keys.first() {
        tx.conn().execute(
            "UPDATE authorities SET signs_since = ?2 WHERE key_sha256 = ?1 AND signs_since IS NULL",
            params![signs, tx.now().0],
        )?;
    }
    Ok(())
}

/// The territories that would be locked out where this authority signs: not disabled, with a certificate that is good at `now`,
/// and with none from after it was first handed out. All of them, where it never was. Names and ids.
///
/// # Errors
/// The store fails.
pub fn strangers(conn: &Connection, key: &[u8; 32], now: Micros) -> Result<Vec<(String, String)>, StoreError> {
    without(conn, "handed_out_since", key, now)
}

/// The territories that would be locked out were this authority the only one: not disabled, with a certificate that is good at
/// `now`, and with none that this authority signed. Names and ids.
///
/// # Errors
/// The store fails.
pub fn left_behind(conn: &Connection, key: &[u8; 32], now: Micros) -> Result<Vec<(String, String)>, StoreError> {
    without(conn, "signs_since", key, now)
}

/// A territory whose certificates have all ended must enrol anew whatever is done, and is not among them.
fn without(
    conn: &Connection,
    since: &'static str,
    key: &[u8; 32],
    now: Micros,
) -> Result<Vec<(String, String)>, StoreError> {
    let mut query = conn.prepare(&format!(
        "SELECT t.name, t.id FROM territories t
         WHERE t.disabled_at IS NULL
           AND EXISTS (SELECT 1 FROM certificates c WHERE c.territory_id = t.id AND c.not_after > ?2)
           AND NOT EXISTS (
             SELECT 1 FROM certificates c JOIN authorities a ON a.key_sha256 = ?1
             WHERE c.territory_id = t.id AND c.issued_at >= a.{since})
         ORDER BY t.id",
    ))?;
    let rows = query.query_map(params![key, now.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
