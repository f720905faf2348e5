//! Facilities: their names, the territory they are bound to, and the lock that a lease takes.

use conduits::territory::MAX_REMOVED_FACILITIES;
use conduits::{FacilityId, code};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;

use super::{StoreError, Tx, idempotency};
use crate::clock::Micros;
use crate::hub::Effect;
use crate::refusal::{Fault, Refusal};

/// A facility as the user API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Facility {
    /// Its id, the name of its directory on the territory.
    pub id: String,
    /// Its name, unique in the account.
    pub name: String,
    /// What is cloned into it when it is first used.
    pub repo_url: Option<String>,
    /// The territory it is on: named at its creation, or bound by the first claim.
    pub territory_id: Option<String>,
    /// The directive that has it now.
    pub locked_by: Option<String>,
    /// When it was made, RFC 3339.
    pub created_at: String,
}

/// What a new facility is made of.
#[derive(Debug)]
pub struct NewFacility<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What to clone into it.
    pub repo_url: Option<&'a str>,
    /// The territory to bind it to.
    pub territory_id: Option<&'a str>,
}

const COLUMNS: &str = "SELECT id, name, repo_url, territory_id, locked_by, created_at FROM facilities";

fn facility(row: &Row<'_>) -> rusqlite::Result<Facility> {
    Ok(Facility {
        id: row.get(0)?,
        name: row.get(1)?,
        repo_url: row.get(2)?,
        territory_id: row.get(3)?,
        locked_by: row.get(4)?,
        created_at: Micros(row.get(5)?).rfc3339(),
    })
}

/// Makes a facility.
///
/// # Errors
/// 409 when the name is taken; the store fails.
pub fn create(tx: &Tx<'_>, account: &str, new: &NewFacility<'_>) -> Result<Facility, Fault> {
    let taken = tx
        .conn()
        .prepare_cached("SELECT 1 FROM facilities WHERE account_id = ?1 AND name = ?2")?
        .exists([account, new.name])?;
    if taken {
        return Err(Refusal::conflict(
            code::STATE_CONFLICT,
            format!("a facility is named {:?} already; use it or choose another name", new.name),
        )
        .into());
    }
    tx.conn()
        .prepare_cached(
            "INSERT INTO facilities (id, account_id, name, repo_url, territory_id, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![new.id, account, new.name, new.repo_url, new.territory_id, tx.now().0])?;
    Ok(Facility {
        id: new.id.to_owned(),
        name: new.name.to_owned(),
        repo_url: new.repo_url.map(str::to_owned),
        territory_id: new.territory_id.map(str::to_owned),
        locked_by: None,
        created_at: tx.now().rfc3339(),
    })
}

/// One facility of the account.
///
/// # Errors
/// The store fails.
pub fn get(conn: &Connection, account: &str, id: &str) -> Result<Option<Facility>, StoreError> {
    Ok(conn
        .prepare_cached(&format!("{COLUMNS} WHERE id = ?1 AND account_id = ?2"))?
        .query_row([id, account], facility)
        .optional()?)
}

/// The account's facilities by id, after `after`, with this name where given.
///
/// # Errors
/// The store fails.
pub fn list(
    conn: &Connection,
    account: &str,
    name: Option<&str>,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<Facility>, StoreError> {
    let mut query = conn.prepare_cached(&format!(
        "{COLUMNS} WHERE account_id = ?1 AND id > ?2 AND (?3 IS NULL OR name = ?3) ORDER BY id LIMIT ?4"
    ))?;
    let rows = query.query_map(params![account, after.unwrap_or(""), name, limit], facility)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Removes a facility with its directives, their logs and results, and what idempotency keys remember of them; false
/// when there is none.
///
/// # Errors
/// 409 while a directive has it; the store fails.
pub fn delete(tx: &Tx<'_>, account: &str, id: &str) -> Result<bool, Fault> {
    let Some(found) = get(tx.conn(), account, id)? else {
        return Ok(false);
    };
    if let Some(directive) = found.locked_by {
        return Err(Refusal::conflict(
            code::STATE_CONFLICT,
            format!("directive {directive} is using this facility; cancel it and wait for its end"),
        )
        .into());
    }
    let gone = tx
        .conn()
        .prepare_cached("SELECT id FROM directives WHERE facility_id = ?1")?
        .query_map([id], |row| row.get(0))?
        .collect::<Result<Vec<String>, _>>()?;
    idempotency::forget_facility(tx, id)?;
    // Only a territory that was given a directive of it can have its folder.
    tx.conn().execute(
        "INSERT INTO removed_facilities (facility_id, territory_id, removed_at)
         SELECT f.id, f.territory_id, ?2 FROM facilities f WHERE f.id = ?1 AND f.territory_id IS NOT NULL
            AND EXISTS (SELECT 1 FROM directives d WHERE d.facility_id = f.id AND d.lease_number > 0)",
        params![id, tx.now().0],
    )?;
    tx.conn().execute("DELETE FROM facilities WHERE id = ?1", [id])?;
    // Whoever follows one of them must look again, to find nothing.
    for directive in gone {
        tx.publish(Effect::Directive(directive));
    }
    Ok(true)
}

/// The deleted facilities that `territory` may still have, oldest first, as many as one answer holds.
///
/// # Errors
/// The store fails.
pub fn removed(tx: &Tx<'_>, territory: &str) -> Result<Vec<FacilityId>, StoreError> {
    let most = u32::try_from(MAX_REMOVED_FACILITIES).unwrap_or(u32::MAX);
    let mut query = tx.conn().prepare_cached(
        "SELECT facility_id FROM removed_facilities WHERE territory_id = ?1 ORDER BY removed_at, facility_id LIMIT ?2",
    )?;
    let ids = query.query_map(params![territory, most], |row| row.get::<_, String>(0))?;
    ids.map(|id| {
        id?.parse().map_err(|error: conduits::IdError| StoreError::Corrupt {
            what: "removed_facilities.facility_id",
            detail: error.to_string(),
        })
    })
    .collect()
}

/// Forgets a deleted facility that `territory` says it has no more; false where it was not asked about it.
///
/// # Errors
/// The store fails.
pub fn forget_removed(tx: &Tx<'_>, territory: &str, id: &FacilityId) -> Result<bool, StoreError> {
    let forgotten = tx
        .conn()
        .prepare_cached("DELETE FROM removed_facilities WHERE territory_id = ?1 AND facility_id = ?2")?
        .execute([territory, id.as_str()])?;
    Ok(forgotten == 1)
}

/// Sets `head_seq` to the facility's oldest queued directive. To be called after each change of that set.
pub(super) fn refresh_head(tx: &Tx<'_>, id: &str) -> Result<(), StoreError> {
    tx.conn()
        .prepare_cached(
            "UPDATE facilities SET head_seq =
                (SELECT min(seq) FROM directives WHERE facility_id = ?1 AND state = 'queued')
             WHERE id = ?1",
        )?
        .execute([id])?;
    Ok(())
}

/// Frees the lock if `directive` has it, and says which territory the facility is bound to.
pub(super) fn unlock(tx: &Tx<'_>, id: &str, directive: &str) -> Result<Option<String>, StoreError> {
    tx.conn()
        .prepare_cached("UPDATE facilities SET locked_by = NULL WHERE id = ?1 AND locked_by = ?2")?
        .execute([id, directive])?;
    Ok(tx
        .conn()
        .prepare_cached("SELECT territory_id FROM facilities WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?
        .flatten())
}
