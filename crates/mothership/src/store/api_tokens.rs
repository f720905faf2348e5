//! API tokens: stored as digests, each with a scope and perhaps an end.

use std::str::FromStr;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::Serialize;

use super::{StoreError, Tx};
use crate::clock::Micros;
use crate::secret;

/// What a token may be used for; each may do what those before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Look at facilities, directives, logs and territories.
    Read,
    /// Make, cancel and delete them.
    Run,
    /// Decide who gets in: tokens of both kinds, territories, keys; and see the audit.
    Admin,
}

impl Scope {
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Run => "run",
            Self::Admin => "admin",
        }
    }
}

/// A text that names no scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scope; use read, run or admin")]
pub struct ScopeError(String);

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(text: &str) -> Result<Self, ScopeError> {
        [Self::Read, Self::Run, Self::Admin]
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| ScopeError(text.chars().take(40).collect()))
    }
}

impl FromSql for Scope {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(|error| FromSqlError::Other(Box::new(error)))
    }
}

/// Who a valid token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The account whose things he sees.
    pub account_id: String,
    /// The token's id.
    pub token_id: String,
    /// The token's name, for the audit.
    pub token_name: String,
    /// What he may do.
    pub scope: Scope,
}

/// A token as the user API lists it: never the secret.
#[derive(Debug, Clone, Serialize)]
pub struct ApiToken {
    /// Its id.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// What it may be used for.
    pub scope: Scope,
    /// `usable`, `expired` or `revoked`.
    pub state: &'static str,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// From when on it is no good, RFC 3339; for ever where there is none.
    pub expires_at: Option<String>,
}

/// What is recorded of a new token.
#[derive(Debug)]
pub struct NewToken<'a> {
    /// Its id.
    pub id: &'a str,
    /// What its owner calls it.
    pub name: &'a str,
    /// The secret, of which the digest is kept.
    pub secret: &'a str,
    /// What it may be used for.
    pub scope: Scope,
    /// From when on it is no good.
    pub expires_at: Option<Micros>,
}

/// Records a token by its digest.
///
/// # Errors
/// The store fails.
pub fn add(tx: &Tx<'_>, account: &str, new: &NewToken<'_>) -> Result<(), StoreError> {
    tx.conn().execute(
        "INSERT INTO api_tokens (id, account_id, name, token_sha256, created_at, expires_at, scope)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            new.id,
            account,
            new.name,
            secret::sha256(new.secret.as_bytes()),
            tx.now().0,
            new.expires_at.map(|end| end.0),
            new.scope.as_str()
        ],
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

/// Revokes a token; false when the account has none of this id that is not revoked yet.
///
/// # Errors
/// The store fails.
pub fn revoke(tx: &Tx<'_>, account: &str, id: &str) -> Result<bool, StoreError> {
    let changed = tx.conn().execute(
        "UPDATE api_tokens SET revoked_at = ?3 WHERE id = ?1 AND account_id = ?2 AND revoked_at IS NULL",
        params![id, account, tx.now().0],
    )?;
    Ok(changed == 1)
}

/// How many tokens of the account, but for `but`, may administrate it without an end.
///
/// # Errors
/// The store fails.
pub fn other_administrators(tx: &Tx<'_>, account: &str, but: &str) -> Result<u32, StoreError> {
    Ok(tx.conn().query_row(
        "SELECT count(*) FROM api_tokens
         WHERE account_id = ?1 AND id <> ?2 AND scope = 'admin' AND revoked_at IS NULL AND expires_at IS NULL",
        params![account, but],
        |row| row.get(0),
    )?)
}

/// Whom `token` speaks for at `now`; none when it is unknown, expired or revoked.
///
/// # Errors
/// The store fails.
pub fn owner(conn: &Connection, token: &str, now: Micros) -> Result<Option<User>, StoreError> {
    Ok(conn
        .prepare_cached(
            "SELECT account_id, id, name, scope FROM api_tokens
             WHERE token_sha256 = ?1 AND revoked_at IS NULL
               AND (expires_at IS NULL OR expires_at > ?2)",
        )?
        .query_row(params![secret::sha256(token.as_bytes()), now.0], |row| {
            Ok(User { account_id: row.get(0)?, token_id: row.get(1)?, token_name: row.get(2)?, scope: row.get(3)? })
        })
        .optional()?)
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
) -> Result<Vec<ApiToken>, StoreError> {
    let mut query = conn.prepare_cached(
        "SELECT id, name, scope, created_at, expires_at, revoked_at
         FROM api_tokens WHERE account_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
    )?;
    let rows = query.query_map(params![account, after.unwrap_or(""), limit], |row| {
        let expires_at = row.get::<_, Option<i64>>(4)?.map(Micros);
        let revoked_at: Option<i64> = row.get(5)?;
        Ok(ApiToken {
            id: row.get(0)?,
            name: row.get(1)?,
            scope: row.get(2)?,
            state: match (revoked_at, expires_at) {
                (Some(_), _) => "revoked",
                (None, Some(end)) if end <= now => "expired",
                (None, _) => "usable",
            },
            created_at: Micros(row.get(3)?).rfc3339(),
            expires_at: expires_at.map(Micros::rfc3339),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scope_may_what_those_before_it_may() {
        assert!(Scope::Read < Scope::Run && Scope::Run < Scope::Admin);
        for scope in [Scope::Read, Scope::Run, Scope::Admin] {
            assert_eq!(scope.as_str().parse(), Ok(scope));
        }
        assert!("root".parse::<Scope>().is_err());
    }
}
