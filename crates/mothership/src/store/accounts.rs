//! Accounts.

use rusqlite::{OptionalExtension as _, params};

use super::{StoreError, Tx};

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
