//! Enrolment tokens: single use, hashed, with an end.

use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;
use serde_json::Value;

use super::{StoreError, Tx};
use crate::clock::Micros;
use crate::secret;

/// A token as the user API lists it: never the secret.
#[derive(Debug, Clone, Serialize)]
pub struct EnrollmentToken {
    /// Its id.
    pub id: String,
    /// `usable`, `used`, `expired` or `revoked`.
    pub state: &'static str,
    /// Labels that the territory gets, over its own.
    pub labels: Value,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// From when on it is no good, RFC 3339.
    pub expires_at: String,
    /// When a territory used it.
    pub used_at: Option<String>,
    /// The territory that used it.
    pub used_by: Option<String>,
}

/// A token that may be used now.
#[derive(Debug, Clone)]
pub struct Usable {
    /// Its id.
    pub id: String,
    /// The account that the territory will belong to.
    pub account_id: String,
    /// Labels that the territory gets, over its own: a JSON object.
    pub labels: Value,
}

/// Records a token by its secret's digest.
///
/// # Errors
/// The store fails.
pub fn create(
    tx: &Tx<'_>,
    account: &str,
    id: &str,
    token_secret: &str,
    labels: &Value,
    expires_at: Micros,
) -> Result<(), StoreError> {
    tx.conn().execute(
        "INSERT INTO enrollment_tokens (id, account_id, secret_sha256, labels, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        params![id, account, secret::sha256(token_secret.as_bytes()), labels.to_string(), tx.now().0, expires_at.0],
    )?;
    Ok(())
}

/// The token with this secret, when it may be used now. What exactly is wrong with another is not told: a guesser
/// learns nothing.
///
/// # Errors
/// The store fails.
pub fn usable(tx: &Tx<'_>, token_secret: &str) -> Result<Option<Usable>, StoreError> {
    Ok(tx
        .conn()
        .prepare_cached(
            "SELECT id, account_id, labels FROM enrollment_tokens
             WHERE secret_sha256 = ?1 AND used_at IS NULL AND revoked_at IS NULL AND expires_at > ?2",
        )?
        .query_row(params![secret::sha256(token_secret.as_bytes()), tx.now().0], |row| {
            Ok(Usable {
                id: row.get(0)?,
                account_id: row.get(1)?,
                labels: serde_json::from_str(&row.get::<_, String>(2)?).unwrap_or(Value::Null),
            })
        })
        .optional()?)
}

/// Marks a token used.
///
/// # Errors
/// The store fails.
pub fn spend(tx: &Tx<'_>, id: &str, territory: &str) -> Result<(), StoreError> {
    tx.conn().execute(
        "UPDATE enrollment_tokens SET used_at = ?2, used_by = ?3 WHERE id = ?1",
        params![id, tx.now().0, territory],
    )?;
    Ok(())
}

/// Revokes a token; false when the account has none of this id that is neither used nor revoked.
///
/// # Errors
/// The store fails.
pub fn revoke(tx: &Tx<'_>, account: &str, id: &str) -> Result<bool, StoreError> {
    let changed = tx.conn().execute(
        "UPDATE enrollment_tokens SET revoked_at = ?3
         WHERE id = ?1 AND account_id = ?2 AND used_at IS NULL AND revoked_at IS NULL",
        params![id, account, tx.now().0],
    )?;
    Ok(changed == 1)
}

/// The account's tokens by id, after `after` where given.
///
/// # Errors
/// The store fails.
pub fn list(
    conn: &Connection,
    account: &str,
    after: Option<&str>,
    limit: u32,
    now: Micros,
) -> Result<Vec<EnrollmentToken>, StoreError> {
    let mut query = conn.prepare_cached(
        "SELECT id, labels, created_at, expires_at, used_at, used_by, revoked_at
         FROM enrollment_tokens WHERE account_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
    )?;
    let rows = query.query_map(params![account, after.unwrap_or(""), limit], |row| {
        let expires_at = Micros(row.get(3)?);
        let used_at: Option<i64> = row.get(4)?;
        let revoked_at: Option<i64> = row.get(6)?;
        Ok(EnrollmentToken {
            id: row.get(0)?,
            state: if used_at.is_some() {
                "used"
            } else if revoked_at.is_some() {
                "revoked"
            } else if expires_at <= now {
                "expired"
            } else {
                "usable"
            },
            labels: serde_json::from_str(&row.get::<_, String>(1)?).unwrap_or(Value::Null),
            created_at: Micros(row.get(2)?).rfc3339(),
            expires_at: expires_at.rfc3339(),
            used_at: used_at.map(|at| Micros(at).rfc3339()),
            used_by: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
