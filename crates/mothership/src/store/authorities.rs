//! Which territories know which authority.

use rusqlite::{Connection, params};

use super::{StoreError, Tx};

/// Records that these authorities are handed out from now on, and that others are not any more.
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
    Ok(())
}

/// The territories that are not disabled and have not been given this authority: names and ids. All of them, where it was
/// never handed out.
///
/// # Errors
/// The store fails.
pub fn strangers(conn: &Connection, key: &[u8; 32]) -> Result<Vec<(String, String)>, StoreError> {
    let mut query = conn.prepare(
        "SELECT t.name, t.id FROM territories t
         WHERE t.disabled_at IS NULL
           AND EXISTS (SELECT 1 FROM certificates c WHERE c.territory_id = t.id)
           AND NOT EXISTS (
             SELECT 1 FROM certificates c JOIN authorities a ON a.key_sha256 = ?1
             WHERE c.territory_id = t.id AND c.issued_at >= a.handed_out_since)
         ORDER BY t.id",
    )?;
    let rows = query.query_map(params![key], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}
