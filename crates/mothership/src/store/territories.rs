//! Territories and the certificates that prove them.

use std::time::Duration;

use conduits::{Fingerprint, SandboxProfile, code};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde_json::Value;

use super::{StoreError, Tx};
use crate::clock::Micros;
use crate::hub::Effect;
use crate::refusal::{Fault, Refusal, RefusalKind};

/// Who calls, as the connection or a trusted header says; what it is worth is looked up at each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// The holder of the client certificate with this fingerprint.
    Certificate(Fingerprint),
    /// Whoever says to be this territory: development only.
    Claimed(String),
}

/// An authenticated territory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Territory {
    /// Its id.
    pub id: String,
    /// The account it serves.
    pub account_id: String,
    /// How many directives it runs at once.
    pub max_concurrent: u32,
    /// The daemon instance that sent the last heartbeat.
    pub instance_id: Option<String>,
}

/// What enrolment records.
#[derive(Debug)]
pub struct NewTerritory<'a> {
    /// Its id.
    pub id: &'a str,
    /// The account of the token.
    pub account_id: &'a str,
    /// A short name.
    pub name: &'a str,
    /// `server`, `desktop`, `mobile` or `bridge`.
    pub kind: &'a str,
    /// Such as `linux/amd64`.
    pub platform: Option<&'a str>,
    /// A name for people.
    pub display_name: Option<&'a str>,
    /// Labels, a JSON object.
    pub labels: &'a Value,
    /// Metadata, a JSON object.
    pub metadata: &'a Value,
}

/// A territory as the user API shows it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TerritoryView {
    /// Its id.
    pub id: String,
    /// A short name.
    pub name: String,
    /// `server`, `desktop`, `mobile` or `bridge`.
    pub kind: String,
    /// Such as `linux/amd64`.
    pub platform: Option<String>,
    /// A name for people.
    pub display_name: Option<String>,
    /// Its labels.
    pub labels: Value,
    /// When it enrolled, RFC 3339.
    pub enrolled_at: String,
    /// When it was disabled, where it is.
    pub disabled_at: Option<String>,
    /// Its last heartbeat.
    pub last_seen_at: Option<String>,
    /// How many directives it runs at once.
    pub max_concurrent: u32,
    /// The version it last reported.
    pub nexus_version: Option<String>,
    /// Its last heartbeat's report: capacity, capabilities, runtime status.
    pub last_heartbeat: Value,
    /// When the newest of its certificates ends.
    pub certificate_not_after: Option<String>,
    /// Its last poll since this mothership started; now, while one is held.
    pub last_poll_at: Option<String>,
    /// The profiles of which it would take a directive soon: it polls for them, or is busy and offers them.
    pub available_profiles: Vec<SandboxProfile>,
    /// Its last heartbeat.
    #[serde(skip)]
    pub last_seen: Option<Micros>,
}

/// The territory behind `caller`, if it is enrolled and not disabled, and its certificate has not ended: a connection may
/// live longer than the certificate that opened it.
///
/// # Errors
/// 401 for an unknown identity or one that has ended, 403 for a disabled territory; the store fails.
pub fn authenticate(conn: &Connection, caller: &Caller, now: Micros) -> Result<Territory, Fault> {
    let (sql, key) = match caller {
        Caller::Certificate(fingerprint) => (
            "SELECT t.id, t.account_id, t.max_concurrent, t.instance_id, t.disabled_at, c.not_after
             FROM certificates c JOIN territories t ON t.id = c.territory_id WHERE c.fingerprint = ?1",
            fingerprint.to_string(),
        ),
        Caller::Claimed(id) => (
            "SELECT id, account_id, max_concurrent, instance_id, disabled_at, NULL
             FROM territories WHERE id = ?1",
            id.clone(),
        ),
    };
    let found = conn
        .prepare_cached(sql)?
        .query_row([key], |row| {
            let disabled: Option<i64> = row.get(4)?;
            let territory = Territory {
                id: row.get(0)?,
                account_id: row.get(1)?,
                max_concurrent: row.get(2)?,
                instance_id: row.get(3)?,
            };
            let is_over = row.get::<_, Option<i64>>(5)?.is_some_and(|end| end <= now.0);
            Ok((territory, disabled.is_some(), is_over))
        })
        .optional()?;
    match found {
        None => Err(Refusal::unauthenticated(
            code::UNAUTHORIZED,
            "no enrolled territory has this identity; enrol it with a fresh token",
        )
        .into()),
        Some((_, _, true)) => Err(Refusal::unauthenticated(
            code::UNAUTHORIZED,
            "this territory's certificate has ended; enrol it with a fresh token",
        )
        .into()),
        Some((_, true, _)) => Err(Refusal::forbidden(
            code::TERRITORY_DISABLED,
            "this territory is disabled; ask the mothership's operator to enable it",
        )
        .into()),
        Some((territory, false, false)) => Ok(territory),
    }
}

/// Records an enrolled territory.
///
/// # Errors
/// The store fails.
pub fn create(tx: &Tx<'_>, new: &NewTerritory<'_>) -> Result<(), StoreError> {
    tx.conn().execute(
        "INSERT INTO territories
            (id, account_id, name, kind, platform, display_name, labels, metadata, enrolled_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            new.id,
            new.account_id,
            new.name,
            new.kind,
            new.platform,
            new.display_name,
            new.labels.to_string(),
            new.metadata.to_string(),
            tx.now().0
        ],
    )?;
    Ok(())
}

/// Certificates of one territory that are good at the same time; a daemon has two while it renews.
const MOST_CERTIFICATES: u32 = 64;
/// How long one that has ended is remembered, for its owner to be told so.
const REMEMBERED: Duration = Duration::from_secs(30 * 24 * 3600);
/// When a territory that has too many may come again.
const COME_AGAIN: Duration = Duration::from_secs(3600);

/// Records a certificate that was issued to a territory.
///
/// # Errors
/// 429 where the territory has too many that are good; the store fails.
pub fn add_certificate(tx: &Tx<'_>, territory: &str, fingerprint: Fingerprint, not_after: Micros) -> Result<(), Fault> {
    let long_ended = tx.now().minus(REMEMBERED).0;
    tx.conn().execute(
        "DELETE FROM certificates WHERE territory_id = ?1 AND not_after <= ?2",
        params![territory, long_ended],
    )?;
    let good: u32 = tx.conn().query_row(
        "SELECT count(*) FROM certificates WHERE territory_id = ?1 AND not_after > ?2",
        params![territory, tx.now().0],
        |row| row.get(0),
    )?;
    if good >= MOST_CERTIFICATES {
        return Err(Refusal::of(
            RefusalKind::RateLimited(COME_AGAIN),
            code::RATE_LIMITED,
            format!("this territory has {good} certificates that are good; use one of them"),
        )
        .into());
    }
    tx.conn().execute(
        "INSERT INTO certificates (fingerprint, territory_id, issued_at, not_after)
         VALUES (?1, ?2, ?3, ?4)",
        params![fingerprint.to_string(), territory, tx.now().0, not_after.0],
    )?;
    Ok(())
}

/// What a territory heartbeat changes in the territory's own row.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The daemon's version.
    pub nexus_version: Option<&'a str>,
    /// How many directives it runs at once; unchanged where it does not say.
    pub max_concurrent: Option<u32>,
    /// The daemon's instance; unchanged where it does not say.
    pub instance_id: Option<&'a str>,
    /// The report as it came, for people to read.
    pub report: &'a Value,
}

/// Records a heartbeat.
///
/// # Errors
/// The store fails.
pub fn seen(tx: &Tx<'_>, territory: &str, seen: &Seen<'_>) -> Result<(), StoreError> {
    tx.conn()
        .prepare_cached(
            "UPDATE territories SET last_seen_at = ?2, nexus_version = coalesce(?3, nexus_version),
                max_concurrent = coalesce(?4, max_concurrent), instance_id = coalesce(?5, instance_id),
                last_heartbeat = ?6
             WHERE id = ?1",
        )?
        .execute(params![
            territory,
            tx.now().0,
            seen.nexus_version,
            seen.max_concurrent,
            seen.instance_id,
            seen.report.to_string()
        ])?;
    Ok(())
}

/// Disables a territory at once, or enables it again; false when the account has no such territory.
///
/// # Errors
/// The store fails.
pub fn set_disabled(tx: &Tx<'_>, account: &str, id: &str, disabled: bool) -> Result<bool, StoreError> {
    let changed = tx.conn().execute(
        "UPDATE territories
         SET disabled_at = CASE WHEN ?3 THEN coalesce(disabled_at, ?4) ELSE NULL END
         WHERE id = ?1 AND account_id = ?2",
        params![id, account, disabled, tx.now().0],
    )?;
    tx.publish(Effect::Territory(id.to_owned()));
    let held = tx
        .conn()
        .prepare_cached("SELECT id FROM directives WHERE territory_id = ?1 AND state IN ('leased', 'running')")?
        .query_map([id], |row| row.get(0))?
        .collect::<Result<Vec<String>, _>>()?;
    for directive in held {
        tx.publish(Effect::Directive(directive));
    }
    Ok(changed == 1)
}

/// Whether the account has this territory.
///
/// # Errors
/// The store fails.
pub fn exists(conn: &Connection, account: &str, id: &str) -> Result<bool, StoreError> {
    Ok(conn.prepare_cached("SELECT 1 FROM territories WHERE id = ?1 AND account_id = ?2")?.exists([id, account])?)
}

const VIEW: &str = "SELECT id, name, kind, platform, display_name, labels, enrolled_at, disabled_at,
        last_seen_at, max_concurrent, nexus_version, last_heartbeat,
        (SELECT max(not_after) FROM certificates c WHERE c.territory_id = territories.id)
     FROM territories";

fn view(row: &Row<'_>) -> rusqlite::Result<TerritoryView> {
    let time = |at: Option<i64>| at.map(|at| Micros(at).rfc3339());
    let json = |text: Option<String>| text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Value::Null);
    Ok(TerritoryView {
        id: row.get(0)?,
        name: row.get(1)?,
        kind: row.get(2)?,
        platform: row.get(3)?,
        display_name: row.get(4)?,
        labels: json(row.get(5)?),
        enrolled_at: Micros(row.get(6)?).rfc3339(),
        disabled_at: time(row.get(7)?),
        last_seen_at: time(row.get(8)?),
        max_concurrent: row.get(9)?,
        nexus_version: row.get(10)?,
        last_heartbeat: json(row.get(11)?),
        certificate_not_after: time(row.get(12)?),
        last_poll_at: None,
        available_profiles: Vec::new(),
        last_seen: row.get::<_, Option<i64>>(8)?.map(Micros),
    })
}

/// One territory of the account.
///
/// # Errors
/// The store fails.
pub fn get(conn: &Connection, account: &str, id: &str) -> Result<Option<TerritoryView>, StoreError> {
    Ok(conn
        .prepare_cached(&format!("{VIEW} WHERE id = ?1 AND account_id = ?2"))?
        .query_row([id, account], view)
        .optional()?)
}

/// The account's territories by id, after `after` where given.
///
/// # Errors
/// The store fails.
pub fn list(
    conn: &Connection,
    account: &str,
    after: Option<&str>,
    limit: u32,
) -> Result<Vec<TerritoryView>, StoreError> {
    let mut query = conn.prepare_cached(&format!("{VIEW} WHERE account_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3"))?;
    let rows = query.query_map(params![account, after.unwrap_or(""), limit], view)?;
    Ok(rows.collect::<Result<_, _>>()?)
}
