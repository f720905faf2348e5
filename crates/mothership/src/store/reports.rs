//! What a territory reports about a directive it holds: started, heartbeat, finished, released; and a user's cancel.
//!
//! Each function gets the directive as it is in this transaction and the lease that the report's token is
//! of, decides by `transition`, and changes rows only when the rule says so.

use std::time::Duration;

use conduits::{DirectiveState, FinishedRequest, StartedRequest, code};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::Value;

use super::directives::{self, DirectiveRow};
use super::territories::Territory;
use super::{StoreError, Tx};
use crate::hub::Effect;
use crate::refusal::{Fault, Refusal};
use crate::transition::{Event, Step, step};

/// What a report led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// The state that stands now.
    pub state: DirectiveState,
    /// Whether it had been reported before.
    pub duplicate: bool,
    /// Whether a cancel was asked for.
    pub cancel_requested: bool,
}

/// The directive `id` for a report of `territory` with a token of lease `lid`.
///
/// # Errors
/// 404 where the territory's account has no such directive, 409 where the token is of an older lease, 403
/// where another territory holds it; the store fails.
pub fn held(conn: &Connection, territory: &Territory, id: &str, lid: Option<i64>) -> Result<DirectiveRow, Fault> {
    let directive = directives::find(conn, id)?
        .filter(|directive| directive.account_id == territory.account_id)
        .ok_or_else(|| Refusal::not_found("there is no such directive"))?;
    if lid.is_some_and(|lid| lid != directive.lease_number) || directive.territory_id.is_none() {
        return Err(lease_lost().into());
    }
    if directive.territory_id.as_ref() != Some(&territory.id) {
        return Err(Refusal::forbidden(code::FORBIDDEN, "the directive is another territory's").into());
    }
    Ok(directive)
}

fn lease_lost() -> Refusal {
    Refusal::conflict(code::LEASE_LOST, "this lease is over; stop working on the directive")
}

fn refused(directive: &DirectiveRow, what: &str) -> Fault {
    Refusal::conflict(
        code::STATE_CONFLICT,
        format!("the directive is {}, so it cannot be {what}", directive.state.as_str()),
    )
    .into()
}

/// `started`: leased becomes running; again while running or after the end changes nothing.
///
/// # Errors
/// 409 in any other state, or with versions that differ from those recorded; the store fails.
pub fn started(
    tx: &Tx<'_>,
    directive: &DirectiveRow,
    report: &StartedRequest,
    lease_ttl: Duration,
) -> Result<Reported, Fault> {
    let reported = |state, duplicate| Reported { state, duplicate, cancel_requested: directive.cancel_requested };
    match step(directive.state, Event::Start) {
        Step::To(state) => {
            let report_text = serde_json::to_string(report)
                .map_err(|error| StoreError::Corrupt { what: "the started report", detail: error.to_string() })?;
            tx.conn()
                .prepare_cached(
                    "UPDATE directives SET state = ?2, started_at = ?3, nexus_version = ?4,
                        sandbox_version = ?5, started_report = ?6, lease_expires_at = ?7
                     WHERE seq = ?1",
                )?
                .execute(params![
                    directive.seq,
                    state.as_str(),
                    tx.now().0,
                    report.nexus_version,
                    report.sandbox_version,
                    report_text,
                    tx.now().plus(lease_ttl).0
                ])?;
            tx.publish(Effect::Directive(directive.id.clone()));
            Ok(reported(state, false))
        }
        Step::Same => {
            let differs = |said: &Option<String>, recorded: &Option<String>| said != recorded;
            if differs(&report.nexus_version, &directive.nexus_version)
                || differs(&report.sandbox_version, &directive.sandbox_version)
            {
                return Err(Refusal::conflict(
                    code::PAYLOAD_CONFLICT,
                    "the versions differ from those recorded when it started",
                )
                .into());
            }
            Ok(reported(directive.state, true))
        }
        Step::Signal | Step::Refused => Err(refused(directive, "started")),
    }
}

/// `heartbeat`: renews the lease of a running directive.
///
/// # Errors
/// 409 when it does not run; the store fails.
pub fn heartbeat(tx: &Tx<'_>, directive: &DirectiveRow, lease_ttl: Duration) -> Result<Reported, Fault> {
    let reported = running(directive)?;
    tx.conn()
        .prepare_cached("UPDATE directives SET lease_expires_at = ?2 WHERE seq = ?1")?
        .execute(params![directive.seq, tx.now().plus(lease_ttl).0])?;
    Ok(reported)
}

/// What a held heartbeat says when it looks again.
///
/// # Errors
/// 409 when the directive does not run any more.
pub fn running(directive: &DirectiveRow) -> Result<Reported, Fault> {
    if directive.state != DirectiveState::Running {
        return Err(refused(directive, "renewed"));
    }
    Ok(Reported { state: directive.state, duplicate: false, cancel_requested: directive.cancel_requested })
}

/// `finished`: the end, once. The same report again is a duplicate, another one a conflict.
///
/// # Errors
/// 409 for another report or a state that has no end to report, 422 for a diff over the limit; the store fails.
pub fn finished(tx: &Tx<'_>, directive: &DirectiveRow, report: &FinishedRequest) -> Result<Reported, Fault> {
    let digest = conduits::finished_digest(report);
    if directive.state.is_terminal() {
        let recorded: Option<Vec<u8>> = tx
            .conn()
            .prepare_cached("SELECT digest FROM results WHERE directive_seq = ?1")?
            .query_row([directive.seq], |row| row.get(0))
            .optional()?;
        if recorded.as_deref() == Some(&digest) {
            return Ok(Reported {
                state: directive.state,
                duplicate: true,
                cancel_requested: directive.cancel_requested,
            });
        }
        return Err(Refusal::conflict(
            code::PAYLOAD_CONFLICT,
            format!("the directive is {} already, with another result", directive.state.as_str()),
        )
        .into());
    }
    let Step::To(state) = step(directive.state, Event::Finish(report.status)) else {
        return Err(refused(directive, "finished"));
    };
    let diff_bytes = report.diff_base64.as_ref().map_or(0, Vec::len);
    if i64::try_from(diff_bytes).unwrap_or(i64::MAX) > directive.max_diff_bytes {
        return Err(Refusal::invalid(
            code::DIFF_TOO_LARGE,
            format!(
                "the diff has {diff_bytes} bytes, {} are allowed; cut it and set diff_truncated",
                directive.max_diff_bytes
            ),
        )
        .into());
    }
    record_result(tx, directive, report, &digest, diff_bytes)?;
    directives::end(tx, directive, state, reason_of(report))?;
    Ok(Reported { state, duplicate: false, cancel_requested: directive.cancel_requested })
}

/// The reason that a daemon gives for an end of its own making, such as `nexusd_restarted`.
fn reason_of(report: &FinishedRequest) -> Option<&str> {
    report.artifacts_manifest.get("reason").and_then(Value::as_str)
}

fn record_result(
    tx: &Tx<'_>,
    directive: &DirectiveRow,
    report: &FinishedRequest,
    digest: &[u8; 32],
    diff_bytes: usize,
) -> Result<(), StoreError> {
    let shown = serde_json::json!({
        "status": report.status,
        "exit_code": report.exit_code,
        "stdout_truncated": report.stdout_truncated,
        "stderr_truncated": report.stderr_truncated,
        "diff_truncated": report.diff_truncated,
        "snapshot_before": report.snapshot_before,
        "snapshot_after": report.snapshot_after,
        "artifacts_manifest": report.artifacts_manifest,
        "diff_bytes": diff_bytes,
        "finished_at": report.finished_at,
    });
    tx.conn()
        .prepare_cached(
            "INSERT INTO results (directive_seq, digest, exit_code, report, diff)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![directive.seq, digest, report.exit_code, shown.to_string(), report.diff_base64])?;
    Ok(())
}

/// `release`: a claim that cannot be started goes back to the queue, or ends where a cancel was asked for.
///
/// # Errors
/// 409 when it is not leased; the store fails.
pub fn release(tx: &Tx<'_>, directive: &DirectiveRow) -> Result<DirectiveState, Fault> {
    let event = Event::Requeue { cancel_requested: directive.cancel_requested };
    match step(directive.state, event) {
        Step::To(DirectiveState::Queued) => {
            directives::requeue(tx, directive, "released")?;
            Ok(DirectiveState::Queued)
        }
        Step::To(state) => {
            directives::end(tx, directive, state, Some("canceled"))?;
            Ok(state)
        }
        Step::Signal | Step::Same | Step::Refused => Err(refused(directive, "released")),
    }
}

/// A user's cancel: a queued directive ends at once, one that is held is told.
///
/// # Errors
/// The store fails.
pub fn cancel(tx: &Tx<'_>, directive: &DirectiveRow) -> Result<(), StoreError> {
    match step(directive.state, Event::Cancel) {
        Step::To(state) => {
            directives::request_cancel(tx, directive)?;
            directives::end(tx, directive, state, Some("canceled"))
        }
        Step::Signal => directives::request_cancel(tx, directive),
        Step::Same | Step::Refused => Ok(()),
    }
}

/// The diff of a finished directive of the account.
///
/// # Errors
/// The store fails.
pub fn diff(conn: &Connection, account: &str, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
    Ok(conn
        .prepare_cached(
            "SELECT r.diff FROM results r JOIN directives d ON d.seq = r.directive_seq
             WHERE d.id = ?1 AND d.account_id = ?2",
        )?
        .query_row([id, account], |row| row.get(0))
        .optional()?
        .flatten())
}
