//! Directives: their rows, and the ways between the queue, a lease and the end.

use conduits::DirectiveState;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};
use serde::Serialize;
use serde_json::Value;

use super::{StoreError, Tx, facilities};
use crate::clock::Micros;
use crate::hub::Effect;

/// What a new directive is made of; the spec is validated already.
#[derive(Debug)]
pub struct NewDirective<'a> {
    /// Its id.
    pub id: &'a str,
    /// The facility it runs in, of the same account.
    pub facility_id: &'a str,
    /// The territory that the facility is bound to.
    pub territory_id: Option<&'a str>,
    /// The profile it asks for.
    pub profile: &'a str,
    /// The whole DirectiveSpec.
    pub spec: &'a Value,
    /// Both streams' bytes at most.
    pub max_output_bytes: u64,
    /// The diff's bytes at most.
    pub max_diff_bytes: u64,
}

/// A directive's row as the rules need it.
#[derive(Debug, Clone)]
pub struct DirectiveRow {
    /// Order of creation.
    pub seq: i64,
    /// Its id.
    pub id: String,
    /// Its account.
    pub account_id: String,
    /// Its facility.
    pub facility_id: String,
    /// Where it stands.
    pub state: DirectiveState,
    /// Who holds or last held the lease.
    pub territory_id: Option<String>,
    /// The number of the newest lease.
    pub lease_number: i64,
    /// Whether a cancel was asked for.
    pub cancel_requested: bool,
    /// The version recorded by `started`.
    pub nexus_version: Option<String>,
    /// The sandbox's version recorded by `started`.
    pub sandbox_version: Option<String>,
    /// Both streams' bytes at most.
    pub max_output_bytes: i64,
    /// The diff's bytes at most.
    pub max_diff_bytes: i64,
    /// Bytes stored so far.
    pub output_bytes: i64,
}

/// A directive as the user API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct DirectiveView {
    /// Its id.
    pub id: String,
    /// The facility it runs in.
    pub facility_id: String,
    /// Where it stands.
    pub state: String,
    /// The profile it asks for.
    pub sandbox_profile: String,
    /// The territory that holds or held its lease.
    pub territory_id: Option<String>,
    /// The whole DirectiveSpec, as the territory gets it.
    pub spec: Value,
    /// How many times it was leased.
    pub lease_number: i64,
    /// Whether a cancel was asked for.
    pub cancel_requested: bool,
    /// Why the mothership ended or moved it, such as `territory_lost`.
    pub reason: Option<String>,
    /// When it was created, RFC 3339 with microseconds, as the three below.
    pub queued_at: String,
    /// When its newest lease was given.
    pub leased_at: Option<String>,
    /// When its territory said that it runs.
    pub started_at: Option<String>,
    /// When its end was recorded.
    pub finished_at: Option<String>,
    /// What the territory said when it started it.
    pub started: Value,
    /// Bytes of output stored.
    pub output_bytes: i64,
    /// Whether the mothership cut its output.
    pub output_truncated: bool,
    /// The result: the territory's report without the diff. Null before the end.
    pub result: Value,
}

/// What a list is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only in this state.
    pub state: Option<String>,
    /// Only in this facility.
    pub facility_id: Option<String>,
    /// Only of this territory.
    pub territory_id: Option<String>,
    /// Only older than this `seq`.
    pub before: Option<i64>,
}

fn corrupt(what: &'static str, detail: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { what, detail: detail.to_string() }
}

/// Queues a new directive and wakes those who could take it.
///
/// # Errors
/// The store fails.
pub fn create(tx: &Tx<'_>, account: &str, new: &NewDirective<'_>) -> Result<(), StoreError> {
    let bounded = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    tx.conn()
        .prepare_cached(
            "INSERT INTO directives (id, account_id, facility_id, state, profile, spec,
                max_output_bytes, max_diff_bytes, queued_at)
             VALUES (?1, ?2, ?3, 'queued', ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            new.id,
            account,
            new.facility_id,
            new.profile,
            new.spec.to_string(),
            bounded(new.max_output_bytes),
            bounded(new.max_diff_bytes),
            tx.now().0
        ])?;
    facilities::refresh_head(tx, new.facility_id)?;
    tx.publish(Effect::Work { account: account.to_owned(), territory: new.territory_id.map(str::to_owned) });
    Ok(())
}

const ROW: &str = "SELECT seq, id, account_id, facility_id, state, territory_id, lease_number,
        cancel_requested_at IS NOT NULL, nexus_version, sandbox_version, max_output_bytes,
        max_diff_bytes, output_bytes
     FROM directives";

fn row(row: &Row<'_>) -> rusqlite::Result<Result<DirectiveRow, StoreError>> {
    let state: String = row.get(4)?;
    let state = match state.parse() {
        Ok(state) => state,
        Err(error) => return Ok(Err(corrupt("directives.state", error))),
    };
    Ok(Ok(DirectiveRow {
        seq: row.get(0)?,
        id: row.get(1)?,
        account_id: row.get(2)?,
        facility_id: row.get(3)?,
        state,
        territory_id: row.get(5)?,
        lease_number: row.get(6)?,
        cancel_requested: row.get(7)?,
        nexus_version: row.get(8)?,
        sandbox_version: row.get(9)?,
        max_output_bytes: row.get(10)?,
        max_diff_bytes: row.get(11)?,
        output_bytes: row.get(12)?,
    }))
}

/// The row of a directive.
///
/// # Errors
/// The store fails.
pub fn find(conn: &Connection, id: &str) -> Result<Option<DirectiveRow>, StoreError> {
    conn.prepare_cached(&format!("{ROW} WHERE id = ?1"))?.query_row([id], row).optional()?.transpose()
}

/// The rows that `condition` (of this module's callers, never of a request) picks.
pub(super) fn pick(
    conn: &Connection,
    condition: &str,
    params: impl rusqlite::Params,
) -> Result<Vec<DirectiveRow>, StoreError> {
    let mut query = conn.prepare_cached(&format!("{ROW} WHERE {condition}"))?;
    let rows = query.query_map(params, row)?;
    rows.map(|row| row?).collect()
}

/// Puts a leased directive back into the queue, at its old place, and frees its facility.
pub(super) fn requeue(tx: &Tx<'_>, directive: &DirectiveRow, reason: &str) -> Result<(), StoreError> {
    tx.conn()
        .prepare_cached(
            "UPDATE directives SET state = 'queued', territory_id = NULL, instance_id = NULL,
                claim_id = NULL, lease_expires_at = NULL, leased_at = NULL, reason = ?2
             WHERE seq = ?1",
        )?
        .execute(params![directive.seq, reason])?;
    left(tx, directive)
}

/// Ends a directive: its state is `state` from now on, and its facility is free.
pub(super) fn end(
    tx: &Tx<'_>,
    directive: &DirectiveRow,
    state: DirectiveState,
    reason: Option<&str>,
) -> Result<(), StoreError> {
    tx.conn()
        .prepare_cached(
            "UPDATE directives SET state = ?2, finished_at = ?3, reason = ?4, lease_expires_at = NULL
             WHERE seq = ?1",
        )?
        .execute(params![directive.seq, state.as_str(), tx.now().0, reason])?;
    left(tx, directive)
}

/// What follows when a directive left the queue or its lease.
fn left(tx: &Tx<'_>, directive: &DirectiveRow) -> Result<(), StoreError> {
    let territory = facilities::unlock(tx, &directive.facility_id, &directive.id)?;
    facilities::refresh_head(tx, &directive.facility_id)?;
    tx.publish(Effect::Work { account: directive.account_id.clone(), territory });
    tx.publish(Effect::Directive(directive.id.clone()));
    Ok(())
}

/// Records that a cancel was asked for, and tells whoever holds the directive's lease.
pub(super) fn request_cancel(tx: &Tx<'_>, directive: &DirectiveRow) -> Result<(), StoreError> {
    tx.conn()
        .prepare_cached(
            "UPDATE directives SET cancel_requested_at = coalesce(cancel_requested_at, ?2)
             WHERE seq = ?1",
        )?
        .execute(params![directive.seq, tx.now().0])?;
    tx.publish(Effect::Directive(directive.id.clone()));
    Ok(())
}

const VIEW: &str = "SELECT d.id, d.facility_id, d.state, d.profile, d.territory_id, d.spec, d.lease_number,
        d.cancel_requested_at, d.reason, d.queued_at, d.leased_at, d.started_at, d.finished_at,
        d.started_report, d.output_bytes, d.output_truncated, r.report, d.seq
     FROM directives d LEFT JOIN results r ON r.directive_seq = d.seq";

/// The columns of [`VIEW`] that may be long.
const SPEC_COLUMN: usize = 5;
const REPORT_COLUMN: usize = 16;

fn view(row: &Row<'_>) -> rusqlite::Result<(i64, DirectiveView)> {
    let time = |at: Option<i64>| at.map(|at| Micros(at).rfc3339());
    let json = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
    let view = DirectiveView {
        id: row.get(0)?,
        facility_id: row.get(1)?,
        state: row.get(2)?,
        sandbox_profile: row.get(3)?,
        territory_id: row.get(4)?,
        spec: json(row.get(5)?),
        lease_number: row.get(6)?,
        cancel_requested: row.get::<_, Option<i64>>(7)?.is_some(),
        reason: row.get(8)?,
        queued_at: Micros(row.get(9)?).rfc3339(),
        leased_at: time(row.get(10)?),
        started_at: time(row.get(11)?),
        finished_at: time(row.get(12)?),
        started: json(row.get(13)?),
        output_bytes: row.get(14)?,
        output_truncated: row.get(15)?,
        result: json(row.get(16)?),
    };
    Ok((row.get(17)?, view))
}

/// One directive of the account.
///
/// # Errors
/// The store fails.
pub fn get(conn: &Connection, account: &str, id: &str) -> Result<Option<DirectiveView>, StoreError> {
    Ok(conn
        .prepare_cached(&format!("{VIEW} WHERE d.id = ?1 AND d.account_id = ?2"))?
        .query_row([id, account], view)
        .optional()?
        .map(|(_, view)| view))
}

/// Bytes of specs and results on a page of directives, about: each may have megabytes.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// The account's directives, newest first, each with its `seq`; at most `limit`, fewer where they are large. And whether
/// there are more.
///
/// # Errors
/// The store fails.
pub fn list(
    conn: &Connection,
    account: &str,
    filter: &Filter,
    limit: u32,
) -> Result<(Vec<(i64, DirectiveView)>, bool), StoreError> {
    let mut sql = format!("{VIEW} WHERE d.account_id = ?");
    let mut values = vec![Sql::Text(account.to_owned())];
    let mut narrow = |condition: &str, value: Option<Sql>| {
        if let Some(value) = value {
            sql.push_str(condition);
            values.push(value);
        }
    };
    narrow(" AND d.state = ?", filter.state.clone().map(Sql::Text));
    narrow(" AND d.facility_id = ?", filter.facility_id.clone().map(Sql::Text));
    narrow(" AND d.territory_id = ?", filter.territory_id.clone().map(Sql::Text));
    narrow(" AND d.seq < ?", filter.before.map(Sql::Integer));
    sql.push_str(" ORDER BY d.seq DESC LIMIT ?");
    values.push(Sql::Integer(i64::from(limit) + 1));
    let mut query = conn.prepare_cached(&sql)?;
    let mut rows = query.query(params_from_iter(values))?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.next()? {
        if found.len() >= usize::try_from(limit).unwrap_or(usize::MAX) || bytes >= PAGE_BYTES {
            return Ok((found, true));
        }
        let length = |column| row.get_ref(column).ok().and_then(|text| text.as_bytes().ok()).map_or(0, <[u8]>::len);
        bytes += length(SPEC_COLUMN) + length(REPORT_COLUMN);
        found.push(view(row)?);
    }
    Ok((found, false))
}
