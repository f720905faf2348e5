//! Whom a directive is reported to: the mothership, or the terminal of `nexusd run`. The line is the same.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use conduits::{DirectiveId, FinishedRequest, StartedRequest};
use sandbox::StopReason;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::admit::Admitted;
use super::ended::Ended;
use super::keep::{expire, keep_lease};
use super::lease::{BootTime, Lease};
use super::stop::StopSwitch;
use crate::client::DirectiveCalls;
use crate::daemon::LogAtWork;
use crate::engine::Engine;
use crate::facility::Occupied;
use crate::logs::{LogCounters, LogSettings, Logs, Overflow};
use crate::observe::metrics::Metrics;
use crate::outbox::{Delivered, Outbox, OutboxError, Report};

/// How long a daemon that shuts down still waits for the answer to a report; it is on disk by then.
const ANSWER_AT_SHUTDOWN: Duration = Duration::from_secs(10);

/// Between two tries to keep an end.
pub(crate) const KEEP_AGAIN: Duration = Duration::from_secs(1);

/// Whether the run may begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// `started` was accepted.
    Go,
    /// The directive was stopped meanwhile, or its lease is lost.
    Stopped(StopReason),
    /// `started` was refused, for this reason, but the lease is still ours: the end is to be told.
    Refused(String),
}

impl Begun {
    /// The end of a directive that may not run.
    pub(super) fn no_go(self) -> Option<Ended> {
        match self {
            Self::Go => None,
            Self::Stopped(reason) => Some(Ended::stopped_before_the_run(reason)),
            Self::Refused(why) => Some(Ended::start_refused(&why)),
        }
    }
}

/// Whom to report to.
#[derive(Debug)]
pub enum Reporter {
    /// The control plane.
    Mothership(Box<MothershipDesk>),
    /// The terminal.
    Terminal(TerminalDesk),
}

/// The reports of one leased directive.
#[derive(Debug)]
pub struct MothershipDesk {
    /// The calls, with the lease's token.
    pub calls: DirectiveCalls,
    /// The lease.
    pub lease: Arc<Lease>,
    /// Where reports become durable.
    pub outbox: Outbox,
    /// Counts of all logs.
    pub counters: Arc<LogCounters>,
    /// `heartbeat.interval`.
    pub heartbeat: Duration,
    /// Cancelled when the daemon stops waiting for what is not delivered.
    pub give_up: CancellationToken,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// True from the acceptance of `started` to the sending of `finished`: as long as a heartbeat is welcome.
    pub running: watch::Sender<bool>,
    /// The report of the start, once it is accepted: kept on disk with the lease's newest token.
    pub started: OnceLock<StartedRequest>,
    /// What ships its log.
    pub(crate) log: LogAtWork,
}

impl MothershipDesk {
    /// An end that the disk does not take is not sent: nobody could tell it again after a crash. It is tried again as long as
    /// there is a lease, which heartbeats renew meanwhile. None: it is given up; the start, which is on disk, says at the next
    /// start of the daemon that there was a run.
    async fn keep_again(&self, end: &Report, mut error: OutboxError, stop: &StopSwitch) -> Option<Report> {
        let id = self.calls.id();
        error!(directive = %id, %error, "the end is withheld until it can be kept");
        loop {
            tokio::select! {
                biased;
                () = self.give_up.cancelled() => {
                    error!(directive = %id, %error, "nexusd ends before the end could be kept: it is not told");
                    return None;
                }
                () = tokio::time::sleep(KEEP_AGAIN) => {}
            }
            if stop.reason() == Some(StopReason::LeaseLost) || self.lease.left(BootTime::now()).is_zero() {
                error!(directive = %id, %error, "the lease is over before the end could be kept: it is not told");
                self.outbox.forget(id).await;
                return None;
            }
            match self.outbox.keep(&self.calls, end.clone()).await {
                Ok(kept) => {
                    info!(directive = %id, "the end is kept now");
                    return Some(kept);
                }
                Err(again) => error = again,
            }
        }
    }
}

/// The reports of `nexusd run`.
#[derive(Debug)]
pub struct TerminalDesk {
    logs: Logs,
    end: Mutex<Option<Box<FinishedRequest>>>,
}

impl TerminalDesk {
    /// Reports of a run whose output goes to `logs`.
    pub fn new(logs: Logs) -> Self {
        Self { logs, end: Mutex::new(None) }
    }

    /// The end, once there is one.
    pub fn into_end(self) -> Option<FinishedRequest> {
        self.end.into_inner().unwrap_or_else(PoisonError::into_inner).map(|end| *end)
    }
}

impl Reporter {
    /// Where the directive's output goes. `placed` is what a run that was admitted has; a refusal has no facility.
    pub fn open_logs(&self, engine: &Engine, id: &DirectiveId, placed: Option<(&Admitted, &Occupied)>) -> Logs {
        let desk = match self {
            Self::Terminal(desk) => return desk.logs.clone(),
            Self::Mothership(desk) => desk,
        };
        let config = &engine.config;
        let spec = placed.map(|(admitted, _)| &admitted.spec);
        let asked = spec.and_then(|spec| spec.limits.max_output_bytes);
        let settings = LogSettings {
            max_output_bytes: asked.map_or(config.log.max_output_bytes, |asked| asked.min(config.log.max_output_bytes)),
            chunk_bytes: config.log.chunk_bytes,
            flush_interval: config.log.flush_interval,
            spool_root: config.state_dir().join("spool"),
            overflow: placed.filter(|_| config.log_overflow.enabled).and_then(|(_, occupied)| match occupied.open() {
                Ok(facility) => Some(Overflow {
                    facility,
                    dir: config.log_overflow.dir.to_string_lossy().into_owned(),
                    max_bytes_per_stream: config.log_overflow.max_bytes_per_stream,
                    owner: Some((occupied.owner.uid, occupied.owner.gid)),
                }),
                Err(error) => {
                    warn!(directive = %id, %error, "output beyond the limit will not be kept in the facility");
                    None
                }
            }),
            secrets: spec
                .and_then(|spec| spec.facility.repo_url.as_ref())
                .map(conduits::RepoUrl::secrets)
                .unwrap_or_default(),
            counters: Arc::clone(&desk.counters),
        };
        Logs::to_mothership(desk.calls.clone(), settings, &desk.log.tasks, desk.log.stop.clone())
    }

    /// Says that the directive is about to run, and whether it may.
    pub async fn started(&self, request: StartedRequest, stop: &StopSwitch) -> Begun {
        let desk = match self {
            Self::Terminal(_) => return stop.reason().map_or(Begun::Go, Begun::Stopped),
            Self::Mothership(desk) => desk,
        };
        let delivered = tokio::select! {
            biased;
            delivered = desk.outbox.deliver(&desk.calls, Report::Started(request.clone())) => delivered,
            reason = stop.stopped() => return Begun::Stopped(reason),
        };
        match delivered {
            Ok(Delivered::Started(answer)) => {
                desk.started.get_or_init(|| request);
                desk.running.send_replace(true);
                if answer.cancel_requested {
                    stop.stop(StopReason::Cancel);
                }
            }
            Ok(Delivered::Refused(error)) if error.ends_the_lease() => {
                warn!(directive = %desk.calls.id(), %error, "the mothership refused the start: the directive is left alone");
                stop.stop(StopReason::LeaseLost);
            }
            Ok(Delivered::Refused(error)) => return Begun::Refused(error.to_string()),
            Ok(Delivered::Finished(_) | Delivered::Kept) => stop.stop(StopReason::Shutdown),
            Err(error) => {
                warn!(directive = %desk.calls.id(), %error, "the start could not be made durable");
                stop.stop(StopReason::DiskFull);
            }
        }
        stop.reason().map_or(Begun::Go, Begun::Stopped)
    }

    /// Keeps the lease until it is dropped; turns `stop` when it is lost or a cancel is asked for.
    pub async fn keep(&self, stop: &StopSwitch) -> Infallible {
        if let Self::Mothership(desk) = self {
            let mut running = desk.running.subscribe();
            let beats = async {
                if running.wait_for(|running| *running).await.is_ok() {
                    keep_lease(desk, stop).await;
                }
            };
            tokio::join!(beats, expire(&desk.lease, stop));
        }
        std::future::pending().await
    }

    /// Hands over the end. It is durable before it is sent, and goes on being sent after this returns where it must.
    pub async fn finished(&self, request: FinishedRequest, stop: &StopSwitch) {
        let desk = match self {
            Self::Terminal(desk) => {
                *desk.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(request));
                return;
            }
            Self::Mothership(desk) => desk,
        };
        let id = desk.calls.id();
        if stop.reason() == Some(StopReason::LeaseLost) {
            info!(directive = %id, status = request.status.as_str(), "not reported: the lease is lost");
            desk.outbox.forget(id).await;
            return;
        }
        let end = Report::Finished(Box::new(request));
        let kept = match desk.outbox.keep(&desk.calls, end.clone()).await {
            Ok(kept) => kept,
            Err(error) => match desk.keep_again(&end, error, stop).await {
                Some(kept) => kept,
                None => return,
            },
        };
        desk.running.send_replace(false);
        let delivered = tokio::select! {
            delivered = desk.outbox.send(&desk.calls, kept) => delivered,
            () = async { desk.give_up.cancelled().await; tokio::time::sleep(ANSWER_AT_SHUTDOWN).await } => Delivered::Kept,
        };
        match delivered {
            Delivered::Finished(_) => {}
            Delivered::Refused(error) => {
                warn!(directive = %id, %error, "the mothership refused the end of a directive");
            }
            Delivered::Started(_) | Delivered::Kept => {
                info!(directive = %id, "the end is kept and will be sent again");
            }
        }
    }
}
