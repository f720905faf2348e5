//! Audit events: who did what to which thing. Written in the transaction of the deed itself.

use rusqlite::{Connection, params};
use serde::Serialize;
use serde_json::Value;

use super::{StoreError, Tx};
use crate::clock::Micros;

/// An audit event as the user API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct AuditEvent {
    /// Number; newer is higher.
    pub id: i64,
    /// When, RFC 3339.
    pub at: String,
    /// Who: `token:<name>`, `territory:<id>` or `mothership`.
    pub actor: String,
    /// What was done, such as `territory.disable`.
    pub action: String,
    /// To what: an id.
    pub subject: String,
    /// Further facts; never a secret.
    pub details: Value,
}

/// Records a deed.
///
/// # Errors
/// The store fails.
pub fn record(
    tx: &Tx<'_>,
    account: &str,
    actor: &str,
    action: &str,
    subject: &str,
    details: &Value,
) -> Result<(), StoreError> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO audit_events (account_id, at, actor, action, subject, details)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![account, tx.now().0, actor, action, subject, details.to_string()])?;
    Ok(())
}

/// The account's events, newest first, older than `before` where given.
///
/// # Errors
/// The store fails.
pub fn list(conn: &Connection, account: &str, before: Option<i64>, limit: u32) -> Result<Vec<AuditEvent>, StoreError> {
    let mut query = conn.prepare_cached(
        "SELECT id, at, actor, action, subject, details FROM audit_events
         WHERE account_id = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3",
    )?;
    let rows = query.query_map(params![account, before.unwrap_or(i64::MAX), limit], |row| {
        Ok(AuditEvent {
            id: row.get(0)?,
            at: Micros(row.get(1)?).rfc3339(),
            actor: row.get(2)?,
            action: row.get(3)?,
            subject: row.get(4)?,
            details: serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or(Value::Null),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}
