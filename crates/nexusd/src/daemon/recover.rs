//! After a restart: what an earlier process left on disk is told before anything new begins.
//!
//! The outbox says which directives there were ([`left_of`], pure): an end that is not acknowledged goes out again, once the
//! rest of its output is shipped; a directive that was running is reported `failed`, `nexusd_restarted`, with what the spool
//! holds of its output; one whose command was never released is given back. Until that is settled each counts as held
//! here: the mothership would otherwise end it as lost. A log of which the outbox says nothing is shipped with the token that lies
//! beside it; output that cannot be shipped is set aside.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use conduits::{
    DirectiveHeartbeatRequest, DirectiveId, DirectiveToken, FinishedRequest, FinishedStatus, LogStream, StartedRequest,
};
use jiff::Timestamp;
use sandbox::StopReason;
use serde_json::Map;
use tracing::{Instrument as _, debug, error, info, info_span, warn};

use super::{Daemon, LogAtWork, Running};
use crate::client::{CallError, Deadline, DirectiveCalls};
use crate::directive::SHIP_WITHIN;
use crate::directive::report::KEEP_AGAIN;
use crate::directive::stop::StopSwitch;
use crate::logs::{self, Leftover, LogSettings, LogSummary, Logs};
use crate::outbox::{Delivered, Entry, Report};

/// `artifacts_manifest.reason` of a directive that ran when the daemon went away.
const RESTARTED: &str = "nexusd_restarted";

/// How long giving back a directive that never ran is tried before it is reported instead.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(60);

/// What the outbox says of one directive.
#[derive(Debug, Clone, PartialEq)]
enum Left {
    /// Its end is not acknowledged.
    Ended { started: Option<StartedRequest>, finished: Box<FinishedRequest> },
    /// Its command may have run; `told` is whether the mothership is sure to know.
    Ran { started: StartedRequest, told: bool },
    /// Its command was never released.
    NeverRan { started: StartedRequest },
    /// Nothing but its log: the outbox lost its start, or its end was told before all of the log had arrived.
    LogOnly,
}

/// What came of telling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// There is nothing more to tell.
    Over,
    /// The next start goes on.
    Later,
}

/// Sorts what the outbox held by directive, with the newest token of each.
fn left_of(entries: Vec<Entry>) -> BTreeMap<DirectiveId, (DirectiveToken, Left)> {
    let mut found: BTreeMap<DirectiveId, (DirectiveToken, Left)> = BTreeMap::new();
    for entry in entries {
        let (may_have_run, accepted) = (entry.may_have_run(), entry.accepted);
        let Entry { directive_id, token, report, .. } = entry;
        let left = match (report, found.remove(&directive_id)) {
            (Report::Started(_), Some(earlier @ (_, Left::Ended { .. }))) => earlier,
            (Report::Started(started), _) if may_have_run => (token, Left::Ran { started, told: accepted }),
            (Report::Started(started), _) => (token, Left::NeverRan { started }),
            (Report::Finished(finished), earlier) => {
                let started = match earlier {
                    Some((_, Left::Ran { started, told: false } | Left::NeverRan { started })) => Some(started),
                    _ => None,
                };
                (token, Left::Ended { started, finished })
            }
        };
        found.insert(directive_id, left);
    }
    found
}

/// Takes everything up in the background; returns once all of it counts as held.
pub(super) async fn recover(daemon: &Arc<Daemon>, reports: Vec<Entry>, set_aside: Vec<PathBuf>) {
    for path in set_aside {
        error!(path = %path.display(), "a damaged report was set aside and is not sent");
    }
    let mut spools = spools(daemon).await;
    for (id, (token, left)) in left_of(reports) {
        let spool = spools.remove(&id);
        take_up(daemon, daemon.mothership.directive(id, token), spool, left);
    }
    for (id, leftover) in spools {
        match leftover.lease.clone() {
            _ if !leftover.holds_output() => drop_empty(leftover),
            Some(token) => take_up(daemon, daemon.mothership.directive(id, token), Some(leftover), Left::LogOnly),
            None => keep_aside(leftover, "nothing says whose lease it belongs to"),
        }
    }
}

fn take_up(daemon: &Arc<Daemon>, calls: DirectiveCalls, spool: Option<Leftover>, left: Left) {
    let (id, switch) = (calls.id().clone(), StopSwitch::default());
    daemon.running.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), Running::new(switch.clone()));
    let log = daemon.logs.begin(&id, &daemon.give_up);
    let of_one = OfOne { daemon: Arc::clone(daemon), calls, spool, log };
    let span = info_span!("directive", directive_id = %id);
    daemon.engine.tasks.spawn(of_one.settle(left, switch).instrument(span));
}

/// Output that cannot be shipped is kept for whoever wants it.
fn keep_aside(leftover: Leftover, why: &str) {
    let (id, bytes) = (leftover.directive_id.clone(), leftover.waiting_bytes());
    match leftover.set_aside() {
        Ok(spool) => {
            error!(directive = %id, spool = %spool.display(), bytes, why, "output of a run that was cut off cannot be shipped: set aside");
        }
        Err(error) => {
            error!(directive = %id, %error, bytes, why, "output of a run that was cut off stays in its spool");
        }
    }
}

fn drop_empty(leftover: Leftover) {
    let id = leftover.directive_id.clone();
    if let Err(error) = leftover.discard() {
        warn!(directive = %id, %error, "a spool that holds nothing stays behind");
    }
}

/// The spools of earlier processes.
async fn spools(daemon: &Daemon) -> BTreeMap<DirectiveId, Leftover> {
    let root = daemon.engine.config.state_dir().join("spool");
    let looked = root.clone();
    let found = match tokio::task::spawn_blocking(move || logs::recover(&looked)).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            error!(spool = %root.display(), %error, "the spool cannot be read: output of earlier runs stays there");
            Vec::new()
        }
        Err(error) => {
            error!(%error, "the spool could not be looked at");
            Vec::new()
        }
    };
    found.into_iter().map(|leftover| (leftover.directive_id.clone(), leftover)).collect()
}

/// What was shipped of a log, which is held until the end is told.
struct Shipped {
    summary: LogSummary,
    _logs: Option<Logs>,
}

/// One directive of an earlier process.
struct OfOne {
    daemon: Arc<Daemon>,
    calls: DirectiveCalls,
    spool: Option<Leftover>,
    /// What ships its log.
    log: LogAtWork,
}

impl OfOne {
    /// Settles it. A shutdown leaves the rest for the next start; another lease of the same directive ends the matter.
    async fn settle(mut self, left: Left, switch: StopSwitch) {
        let (daemon, id) = (Arc::clone(&self.daemon), self.calls.id().clone());
        let leased_again = tokio::select! {
            biased;
            () = daemon.give_up.cancelled() => false,
            reason = stopped_for_good(&switch) => reason == StopReason::LeaseLost,
            told = self.tell(left) => {
                match self.spool.take() {
                    Some(spool) if told == Told::Over && spool.holds_output() => {
                        keep_aside(spool, "the mothership does not take it");
                    }
                    Some(spool) if told == Told::Over => drop_empty(spool),
                    _ => {}
                }
                false
            }
        };
        if leased_again {
            daemon.outbox.forget(&id).await;
        }
        daemon.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        daemon.ended.notify_waiters();
        daemon.logs.over(&id, &self.log).await;
    }

    async fn tell(&mut self, left: Left) -> Told {
        match left {
            Left::Ended { started, finished } => {
                if let Some(over) = self.start(started).await {
                    return over;
                }
                let shipped = match self.spool.is_some() {
                    true => Some(self.ship(None).await),
                    false => None,
                };
                self.daemon.outbox.deliver_again(&self.calls, Report::Finished(finished)).await;
                drop(shipped);
            }
            Left::Ran { started, told } => {
                if !told && let Some(over) = self.start(Some(started)).await {
                    return over;
                }
                self.end_what_ran().await;
            }
            Left::NeverRan { started } => {
                if self.give_back().await {
                    self.daemon.outbox.forget(self.calls.id()).await;
                } else if let Some(over) = self.start(Some(started)).await {
                    return over;
                } else {
                    let shipped = self.ship(Some("[nexusd] not run: nexusd was restarted before it began")).await;
                    self.end(shipped).await;
                }
            }
            Left::LogOnly => match self.still_runs().await {
                Ok(()) => self.end_what_ran().await,
                // It has ended there: its log is taken late, too.
                Err(CallError::Conflict(_)) => drop(self.ship(None).await),
                Err(error) => warn!(%error, "the mothership knows nothing of a run whose log is here"),
            },
        }
        Told::Over
    }

    /// Tells the start again, where the mothership may not know it; something when that ends the matter.
    async fn start(&self, started: Option<StartedRequest>) -> Option<Told> {
        let started = started?;
        match self.daemon.outbox.deliver_again(&self.calls, Report::Started(started)).await {
            Delivered::Started(_) => None,
            Delivered::Refused(error) if error.ends_the_lease() => {
                // Whose it is now, nobody here knows: an end that was kept is not told, at no later start either.
                self.daemon.outbox.forget(self.calls.id()).await;
                Some(Told::Over)
            }
            Delivered::Refused(_) => None,
            Delivered::Finished(_) | Delivered::Kept => Some(Told::Later),
        }
    }

    /// Whether it counts as running at the mothership: a heartbeat is welcome then, and only then.
    async fn still_runs(&self) -> Result<(), CallError> {
        let request =
            DirectiveHeartbeatRequest { progress: Map::new(), last_output_seq: None, now: Some(Timestamp::now()) };
        let beat = || self.calls.heartbeat(&request, None);
        self.calls.mothership().with_retry(Deadline::Never, beat).await.map(drop)
    }

    async fn end_what_ran(&mut self) {
        let shipped = self.ship(Some("[nexusd] ended: nexusd was restarted while this ran")).await;
        self.end(shipped).await;
    }

    /// Gives back a claim that was not begun. True when there is nothing more to say.
    async fn give_back(&self) -> bool {
        let release = || self.calls.release();
        match self.calls.mothership().with_retry(Deadline::within(GIVE_BACK_WITHIN), release).await {
            Ok(_) => {
                info!("given back: nexusd was restarted before it began");
                true
            }
            Err(CallError::Unauthorized(_) | CallError::Forbidden(_)) => true,
            // It runs by now, or the server does not know releases.
            Err(_) => false,
        }
    }

    /// Ships what the spool holds, and this line; at most for as long as an end is held back for it.
    async fn ship(&mut self, line: Option<&str>) -> Shipped {
        let (daemon, config) = (&self.daemon, &self.daemon.engine.config);
        let settings = LogSettings {
            max_output_bytes: config.log.max_output_bytes,
            chunk_bytes: config.log.chunk_bytes,
            flush_interval: config.log.flush_interval,
            spool_root: config.state_dir().join("spool"),
            overflow: None,
            secrets: Vec::new(),
            counters: Arc::clone(&daemon.counters),
        };
        let logs = match self.spool.take() {
            Some(leftover) => {
                info!(bytes = leftover.waiting_bytes(), "shipping output of an earlier run");
                Logs::recovered(leftover, self.calls.clone(), settings, &self.log.tasks, self.log.stop.clone())
            }
            None => Ok(Logs::to_mothership(self.calls.clone(), settings, &self.log.tasks, self.log.stop.clone())),
        };
        let logs = match logs {
            Ok(logs) => logs,
            Err(error) => {
                error!(%error, "output of an earlier run cannot be shipped");
                return Shipped { summary: LogSummary::default(), _logs: None };
            }
        };
        if let Some(line) = line {
            logs.notice(LogStream::Stderr, line).await;
        }
        logs.end_of_output(Duration::ZERO).await;
        Shipped { summary: logs.shipped(SHIP_WITHIN).await, _logs: Some(logs) }
    }

    /// The end of a directive whose daemon went away.
    async fn end(&self, shipped: Shipped) {
        let log = &shipped.summary;
        let mut end = FinishedRequest::new(FinishedStatus::Failed);
        end.stdout_truncated = log.stream(LogStream::Stdout).truncated;
        end.stderr_truncated = log.stream(LogStream::Stderr).truncated;
        end.artifacts_manifest.insert("log".into(), log.manifest());
        end.artifacts_manifest.insert("reason".into(), RESTARTED.into());
        end.artifacts_manifest.insert("ended_by".into(), RESTARTED.into());
        end.finished_at = Some(Timestamp::now());
        let (outbox, end) = (&self.daemon.outbox, Report::Finished(Box::new(end)));
        let mut said = false;
        let kept = loop {
            match outbox.keep(&self.calls, end.clone()).await {
                Ok(kept) => break kept,
                Err(error) if said => debug!(%error, "the end still cannot be kept"),
                Err(error) => error!(%error, "the end is withheld until it can be kept"),
            }
            said = true;
            tokio::time::sleep(KEEP_AGAIN).await;
        };
        if let Delivered::Finished(_) = outbox.send(&self.calls, kept).await {
            warn!("it ran when nexusd went away: reported failed, {RESTARTED}");
        }
    }
}

/// What a user asks for changes nothing here: it has ended already, and its report is under way.
async fn stopped_for_good(switch: &StopSwitch) -> StopReason {
    match switch.stopped().await {
        reason @ (StopReason::LeaseLost | StopReason::Shutdown) => reason,
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(report: Report) -> Entry {
        Entry::new("d".parse().unwrap(), DirectiveToken::new("a.b.c"), report)
    }

    #[test]
    fn what_is_left_says_what_to_do() {
        let started = StartedRequest::default();
        let finished = Box::new(FinishedRequest::new(FinishedStatus::Succeeded));
        let fresh = entry(Report::Started(started.clone()));
        let accepted = Entry { accepted: true, ..fresh.clone() };
        let before_the_boot = Entry { boot: "another".into(), ..fresh.clone() };
        let end = entry(Report::Finished(finished.clone()));
        let ended = |started: Option<StartedRequest>| Left::Ended { started, finished: finished.clone() };
        let cases = [
            (vec![fresh.clone()], Left::NeverRan { started: started.clone() }),
            (vec![accepted.clone()], Left::Ran { started: started.clone(), told: true }),
            (vec![before_the_boot.clone()], Left::Ran { started: started.clone(), told: false }),
            (vec![end.clone()], ended(None)),
            (vec![accepted, end.clone()], ended(None)),
            (vec![fresh, end.clone()], ended(Some(started.clone()))),
            (vec![before_the_boot, end], ended(Some(started))),
        ];
        for (entries, expected) in cases {
            let found = left_of(entries.clone());
            assert_eq!(found.into_values().map(|(_, left)| left).collect::<Vec<_>>(), [expected], "{entries:?}");
        }
    }
}
