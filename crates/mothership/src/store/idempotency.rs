//! Idempotency keys: a create that is sent again answers as it did the first time.
//!
//! The answer shows what was made, so it is forgotten with the facility that this belongs to; the key and the request's
//! digest stay, so that the create does not happen a second time.

use std::time::Duration;

use conduits::code;
use rusqlite::{OptionalExtension as _, params};
use serde_json::Value;

use super::{StoreError, Tx};
use crate::refusal::{Fault, Refusal};

/// How long a key is remembered.
pub const REMEMBERED: Duration = Duration::from_secs(24 * 60 * 60);

/// The recorded answer of an earlier request with this key.
///
/// # Errors
/// 409 when the earlier request was another one, or what it made was deleted; the store fails.
pub fn recall(tx: &Tx<'_>, account: &str, key: &str, request: &[u8; 32]) -> Result<Option<Value>, Fault> {
    let found: Option<(Vec<u8>, String)> = tx
        .conn()
        .prepare_cached("SELECT request_sha256, answer FROM idempotency_keys WHERE account_id = ?1 AND key = ?2")?
        .query_row(params![account, key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((earlier, answer)) = found else {
        return Ok(None);
    };
    if earlier != request {
        return Err(Refusal::conflict(
            code::IDEMPOTENCY_CONFLICT,
            "this Idempotency-Key was used for another request; use a fresh one",
        )
        .into());
    }
    if answer.is_empty() {
        return Err(Refusal::conflict(
            code::IDEMPOTENCY_CONFLICT,
            "what was made with this Idempotency-Key was deleted since; to make another, use a fresh one",
        )
        .into());
    }
    let answer = serde_json::from_str(&answer)
        .map_err(|error| StoreError::Corrupt { what: "idempotency_keys.answer", detail: error.to_string() })?;
    Ok(Some(answer))
}

/// Records the answer to a request, and the facility that it tells about.
///
/// # Errors
/// The store fails.
pub fn remember(
    tx: &Tx<'_>,
    account: &str,
    key: &str,
    request: &[u8; 32],
    answer: &Value,
    facility: Option<&str>,
) -> Result<(), StoreError> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO idempotency_keys (account_id, key, request_sha256, answer, created_at, facility_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![account, key, request, answer.to_string(), tx.now().0, facility])?;
    Ok(())
}

/// Forgets what answers tell about a facility and its directives.
pub(super) fn forget_facility(tx: &Tx<'_>, facility: &str) -> Result<(), StoreError> {
    tx.conn().execute("UPDATE idempotency_keys SET answer = '' WHERE facility_id = ?1", [facility])?;
    Ok(())
}

/// Forgets what is older than [`REMEMBERED`].
///
/// # Errors
/// The store fails.
pub fn forget_old(tx: &Tx<'_>) -> Result<(), StoreError> {
    tx.conn().execute("DELETE FROM idempotency_keys WHERE created_at < ?1", [tx.now().minus(REMEMBERED).0])?;
    Ok(())
}
