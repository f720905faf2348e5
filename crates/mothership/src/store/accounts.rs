//! Accounts, API tokens and the keys that sign directive tokens.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::{StoreError, Tx};
use crate::clock::Micros;
use crate::secret;

/// Who a valid API token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The account whose things he sees.
    pub account_id: String,
    /// The token's id.
    pub token_id: String,
    /// The token's name, for the audit.
    pub token_name: String,
}

/// A key that signs or verifies directive tokens.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// Its number, the `kid` of the tokens.
    pub id: i64,
    /// 32 random bytes.
    pub secret: Vec<u8>,
}

/// The first account, where there is one.
///
/// # Errors
/// The store fails.
pub fn first(tx: &Tx<'_>) -> Result<Option<String>, StoreError> {
    Ok(tx
        .conn()
        .query_row("SELECT id FROM accounts ORDER BY created_at, id LIMIT 1", [], |row| row.get(0))
        .optional()?)
}

/// Makes an account.
///
/// # Errors
/// The store fails.
pub fn create(tx: &Tx<'_>, id: &str, name: &str) -> Result<(), StoreError> {
    tx.conn()
        .execute("INSERT INTO accounts (id, name, created_at) VALUES (?1, ?2, ?3)", params![id, name, tx.now().0])?;
    Ok(())
}

/// Records an API token by its digest.
///
/// # Errors
/// The store fails.
pub fn add_token(tx: &Tx<'_>, account: &str, id: &str, name: &str, token: &str) -> Result<(), StoreError> {
    tx.conn().execute(
        "INSERT INTO api_tokens (id, account_id, name, token_sha256, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id, account, name, secret::sha256(token.as_bytes()), tx.now().0],
    )?;
    Ok(())
}

/// Revokes the tokens of `account` that are named `name`.
///
/// # Errors
/// The store fails.
pub fn revoke_named(tx: &Tx<'_>, account: &str, name: &str) -> Result<(), StoreError> {
    tx.conn().execute(
        "UPDATE api_tokens SET revoked_at = ?3
         WHERE account_id = ?1 AND name = ?2 AND revoked_at IS NULL",
        params![account, name, tx.now().0],
    )?;
    Ok(())
}

/// Whom `token` speaks for at `now`; none when it is unknown, expired or revoked.
///
/// # Errors
/// The store fails.
pub fn by_token(conn: &Connection, token: &str, now: Micros) -> Result<Option<User>, StoreError> {
    Ok(conn
        .prepare_cached(
            "SELECT account_id, id, name FROM api_tokens
             WHERE token_sha256 = ?1 AND revoked_at IS NULL
               AND (expires_at IS NULL OR expires_at > ?2)",
        )?
        .query_row(params![secret::sha256(token.as_bytes()), now.0], |row| {
            Ok(User { account_id: row.get(0)?, token_id: row.get(1)?, token_name: row.get(2)? })
        })
        .optional()?)
}

/// The signing keys, newest first; one is made where there is none.
///
/// # Errors
/// The store fails.
pub fn signing_keys(tx: &Tx<'_>) -> Result<Vec<SigningKey>, StoreError> {
    let read = || -> Result<Vec<SigningKey>, StoreError> {
        let mut query = tx.conn().prepare_cached("SELECT id, secret FROM signing_keys ORDER BY id DESC")?;
        let rows = query.query_map([], |row| Ok(SigningKey { id: row.get(0)?, secret: row.get(1)? }))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    let keys = read()?;
    if !keys.is_empty() {
        return Ok(keys);
    }
    tx.conn().execute(
        "INSERT INTO signing_keys (secret, created_at) VALUES (?1, ?2)",
        params![secret::random_bytes(), tx.now().0],
    )?;
    read()
}
