//! The daemon's life: engine, polling, the line of each directive, territory heartbeats, shutdown.
//!
//! ```text
//! start ─▶ lock work_dir ─▶ engine ─▶ health ─▶ recover ─▶ poll … ─▶ signal ─▶ drain ─▶ flush ─▶ end
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use conduits::DirectiveId;
use egress::EgressCounters;
use sandbox::StopReason;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info, info_span, warn};

use crate::client::Mothership;
use crate::config::Config;
use crate::credentials::renewal::Renewal;
use crate::directive::report::{MothershipDesk, Reporter};
use crate::directive::stop::{CANCEL_GRACE, StopSwitch};
use crate::directive::{Order, SHIP_WITHIN, carry_out};
use crate::engine::{Engine, EngineError, Surroundings, folders};
use crate::logs::LogCounters;
use crate::observe::http::{self, Observed};
use crate::observe::metrics::{Metrics, WorkSample, WorkSource};
use crate::observe::ready::ReadyFacts;
use crate::observe::tape;
use crate::outbox::{Outbox, OutboxError};
use crate::poll::{Claimed, PollSettings, poll_until};
use crate::signals::Signals;

pub(crate) use logs_at_work::LogAtWork;
use logs_at_work::LogsAtWork;

mod beat;
mod control;
mod format;
mod logs_at_work;
mod recover;
mod removals;
mod rest;
mod retention;
mod root;

/// How long flushing may take after the last directive has ended.
pub const FLUSH_WITHIN: Duration = Duration::from_secs(10);

/// How long the first poll waits for an answer to the first heartbeat: a server may have polls that work and heartbeats that
/// do not.
const INTRODUCED_WITHIN: Duration = Duration::from_secs(30);

/// How long a command that has ended may take to become a report at a shutdown without a mothership.
const COLLECT_WITHIN: Duration = Duration::from_secs(5);

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A second daemon.
    #[error("another nexusd already works in {work_dir} (it holds {lock}); stop it or choose another work_dir", work_dir = work_dir.display(), lock = lock.display())]
    SecondDaemon {
        /// The folder.
        work_dir: PathBuf,
        /// The lock.
        lock: PathBuf,
    },
    /// The lock cannot be taken.
    #[error("cannot lock {lock}: {source}", lock = lock.display())]
    Lock {
        /// The lock.
        lock: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The folder is another version's.
    #[error(transparent)]
    Format(#[from] format::FormatError),
    /// What every directive needs.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The outbox.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The observability listener.
    #[error(transparent)]
    Observe(#[from] crate::observe::http::BindError),
    /// The socket of `nexusd status`.
    #[error("cannot open the local socket in {path}: {source}", path = path.display())]
    Control {
        /// The daemon's own folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// What the daemon is started with.
#[derive(Debug)]
pub struct Start {
    /// The configuration.
    pub config: Config,
    /// What `main` read from the environment.
    pub around: Surroundings,
    /// The control plane.
    pub mothership: Mothership,
    /// What writes the debug tape, where there is one.
    pub tape_writer: Option<tape::Writer>,
}

/// A daemon at work.
#[derive(Debug)]
pub struct Daemon {
    engine: Engine,
    mothership: Mothership,
    outbox: Outbox,
    counters: Arc<LogCounters>,
    metrics: Arc<Metrics>,
    slots: Arc<Semaphore>,
    running: Mutex<BTreeMap<DirectiveId, Running>>,
    logs: LogsAtWork,
    directives: TaskTracker,
    /// How many directives have begun.
    begun: AtomicU64,
    /// Facilities that were deleted at the mothership.
    removals: removals::Removals,
    /// Told at the end of every directive.
    ended: Notify,
    /// Cancelled when nothing more is waited for.
    give_up: CancellationToken,
    /// True while nothing new is to be taken on.
    drained: watch::Sender<bool>,
    /// True from the first signal on.
    stopping: watch::Sender<bool>,
    /// What readiness depends on.
    facts: watch::Sender<ReadyFacts>,
    /// True once the mothership has answered a heartbeat of this start.
    introduced: watch::Sender<bool>,
    /// The next heartbeat does not wait for its time.
    beat_now: Notify,
    /// `labels`, as they were read last.
    labels: watch::Sender<BTreeMap<String, String>>,
    /// When the mothership last answered, and when the daemon began.
    began: Instant,
    _lock: sys::lock::LockFile,
}

/// A directive that is here.
#[derive(Debug, Clone)]
struct Running {
    switch: StopSwitch,
    since: Instant,
}

impl Running {
    fn new(switch: StopSwitch) -> Self {
        Self { switch, since: Instant::now() }
    }
}

/// What a reload hands to a daemon at work: the labels, where the configuration could be read.
pub type Reloaded = Option<BTreeMap<String, String>>;

/// Runs the daemon until a signal ends it.
///
/// # Errors
/// It could not start; once it runs, nothing ends it but a signal.
pub async fn run(
    mut start: Start,
    mut signals: Signals,
    reload: impl Fn(&Mothership) -> Reloaded,
) -> Result<(), DaemonError> {
    let mothership = start.mothership.clone();
    let background = TaskTracker::new();
    let give_up = CancellationToken::new();
    if let Some(writer) = start.tape_writer.take() {
        background.spawn(writer.run(give_up.clone()));
    }
    let up = tokio::select! {
        biased;
        // Nothing has been asked for yet, so nothing is owed: what is left on disk is sent at the next start.
        () = signals.until_stop(|| drop(reload(&mothership))) => None,
        up = bring_up(start, &background, &give_up) => Some(up?),
    };
    let Some((daemon, rhythm)) = up else {
        crate::signals::notify_stopping();
        end(&background, None, &give_up).await;
        return Ok(());
    };
    let heartbeat_interval = daemon.engine.config.territory_heartbeat.interval;
    background.spawn(beat::territory(Arc::clone(&daemon), rhythm, give_up.clone()));
    background.spawn(beat::health(Arc::clone(&daemon), give_up.clone()));
    background.spawn(beat::facts(Arc::clone(&daemon), give_up.clone()));
    background.spawn(removals::run(Arc::clone(&daemon), give_up.clone()));
    background.spawn(retention::run(Arc::clone(&daemon), give_up.clone()));
    if let Some(renewal) = Renewal::of(&daemon.engine.config, &daemon.mothership) {
        background.spawn(renewal.run(give_up.clone()));
    }

    let stop_polling = CancellationToken::new();
    let mut polling = background.spawn(daemon.clone().poll(stop_polling.clone()));
    crate::signals::notify_ready();
    background.spawn(crate::signals::watchdog(give_up.clone()));
    info!(server = %daemon.engine.config.server_url, slots = daemon.engine.config.max_concurrent_directives, "nexusd is up");

    let reloaded = || daemon.take_over(reload(&daemon.mothership));
    signals.until_stop(reloaded).await;
    // A drain may last for hours, in which certificates are replaced.
    let reloaded = || {
        info!("SIGHUP while shutting down: reloading");
        reloaded();
    };
    daemon.stopping.send_replace(true);
    daemon.publish(heartbeat_interval);
    crate::signals::notify_stopping();
    stop_polling.cancel();
    let mut patient = true;
    let polled = tokio::select! {
        polled = &mut polling => polled,
        () = signals.again(reloaded) => {
            patient = false;
            daemon.cancel_all("a second signal");
            polling.await
        }
    };
    if let Err(error) = polled {
        warn!(%error, "polling ended badly");
    }
    daemon.drain(&mut signals, reloaded, patient).await;
    tokio::select! {
        () = end(&background, Some(&daemon), &give_up) => {}
        never = signals.too_late() => match never {},
    }
    Ok(())
}

/// Everything up to the first heartbeat: the mothership must know this start of the daemon before it leases anything to
/// it.
async fn bring_up(
    start: Start,
    background: &TaskTracker,
    give_up: &CancellationToken,
) -> Result<(Arc<Daemon>, beat::Rhythm), DaemonError> {
    let lock = lock_work_dir(&start.config)?;
    let state = start.config.state_dir();
    format::take(&state)?;
    let egress = Arc::<EgressCounters>::default();
    let opened = Outbox::open(state.join("outbox"))?;
    let counters = Arc::<LogCounters>::default();
    let work = work_of(Arc::clone(&counters), opened.outbox.clone(), start.mothership.clone());
    let metrics = Arc::new(crate::engine::metrics(&egress, work));
    let engine = Engine::new(start.config, start.around, Arc::clone(&metrics), egress, give_up).await?;
    let slots = engine.config.max_concurrent_directives;
    let labels = watch::Sender::new(engine.config.labels.clone());
    let heartbeat_interval = engine.config.territory_heartbeat.interval;
    let daemon = Arc::new(Daemon {
        engine,
        mothership: start.mothership,
        outbox: opened.outbox,
        counters,
        metrics,
        slots: Arc::new(Semaphore::new(slots)),
        running: Mutex::default(),
        logs: LogsAtWork::default(),
        directives: TaskTracker::new(),
        begun: AtomicU64::new(0),
        removals: removals::Removals::default(),
        ended: Notify::new(),
        give_up: give_up.clone(),
        drained: watch::Sender::new(control::was_drained(&state)),
        stopping: watch::Sender::new(false),
        facts: watch::Sender::new(ReadyFacts {
            drivers: Vec::new(),
            last_contact: None,
            refusal: None,
            certificate_ended: None,
            heartbeat_interval,
            drained: false,
            shutting_down: false,
        }),
        introduced: watch::Sender::new(false),
        beat_now: Notify::new(),
        labels,
        began: Instant::now(),
        _lock: lock,
    });
    background.spawn(opened.task.run(give_up.clone()));
    daemon.observe(background)?;
    let door = control::open(&state).await.map_err(|source| DaemonError::Control { path: state, source })?;
    background.spawn(control::serve(Arc::clone(&daemon), door, give_up.clone()));
    daemon.engine.check_health().await;
    for (profile, driver) in daemon.engine.missing_drivers() {
        warn!(%profile, %driver, "this build does not have the profile's driver: its directives are not asked for");
    }
    if daemon.engine.awaits_root() {
        background.spawn(root::fetch(Arc::clone(&daemon), give_up.clone()));
    }
    recover::recover(&daemon, opened.leftovers, opened.set_aside).await;
    let rhythm = beat::first(&daemon).await;
    Ok((daemon, rhythm))
}

/// What the metrics page asks for at each scrape.
fn work_of(logs: Arc<LogCounters>, outbox: Outbox, mothership: Mothership) -> WorkSource {
    Arc::new(move || {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let calls = mothership.counts();
        WorkSample {
            log_in_bytes: read(&logs.bytes_in),
            log_shipped_bytes: read(&logs.bytes_shipped),
            log_truncated_bytes: read(&logs.bytes_truncated),
            spool_bytes: read(&logs.spool_bytes),
            outbox_entries: u64::try_from(outbox.entries()).unwrap_or(u64::MAX),
            retries: calls.retries,
            unreadable_answers: calls.unreadable,
            client_cert_expiry: mothership.certificate_expiry(),
        }
    })
}

/// Ends what runs in the background, within a bound.
async fn end(background: &TaskTracker, daemon: Option<&Daemon>, give_up: &CancellationToken) {
    give_up.cancel();
    background.close();
    let flushed = async {
        if let Some(daemon) = daemon {
            // What still waited for the mothership writes its end into the outbox now.
            daemon.directives.wait().await;
            daemon.engine.tasks.close();
            daemon.engine.tasks.wait().await;
        }
        background.wait().await;
    };
    if tokio::time::timeout(FLUSH_WITHIN, flushed).await.is_err() {
        warn!("some background work did not end in time; what is on disk is sent at the next start");
    }
    info!("nexusd is down");
}

impl Daemon {
    /// Opens the observability listener, where it is wanted.
    fn observe(self: &Arc<Self>, background: &TaskTracker) -> Result<(), DaemonError> {
        let settings = &self.engine.config.observability;
        if settings.enabled {
            let listener = http::bind(&settings.listen_addr)?;
            let observed = Observed { metrics: Arc::clone(&self.metrics), facts: self.facts.subscribe() };
            background.spawn(http::serve(listener, observed, self.give_up.clone()));
        }
        Ok(())
    }

    /// Takes over what a reload brought, and tells the mothership.
    fn take_over(&self, reloaded: Reloaded) {
        let Some(fresh) = reloaded else { return };
        let changed = self.labels.send_if_modified(|labels| {
            let changed = *labels != fresh;
            *labels = fresh;
            changed
        });
        if changed {
            self.beat_now.notify_one();
        }
    }

    /// Polls and spawns the line of each directive that comes.
    async fn poll(self: Arc<Self>, stop: CancellationToken) {
        let offer = || PollSettings {
            profiles: self.engine.offered_profiles(),
            max_claim: usize::from(self.engine.config.poll.max_directives_to_claim),
            wait: self.engine.config.poll.long_poll_timeout,
            backoff: self.engine.config.poll.retry_backoff,
        };
        // What is leased before the mothership knows this start would be taken for an earlier one's.
        let mut introduced = self.introduced.subscribe();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTRODUCED_WITHIN) => {}
            _ = introduced.wait_for(|introduced| *introduced) => {}
        }
        let mut drained = self.drained.subscribe();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = drained.wait_for(|drained| !*drained) => {}
            }
            // Ends as a shutdown ends it: what was claimed and not begun is given back.
            let resting = stop.child_token();
            let rests = async {
                drop(drained.wait_for(|drained| *drained).await);
                resting.cancel();
                std::future::pending::<()>().await;
            };
            let polls = poll_until(&self.mothership, &self.slots, &self.metrics, &resting, offer, |claimed| {
                self.begin(claimed);
            });
            tokio::select! {
                () = polls => {}
                () = rests => {}
            }
        }
    }

    /// Starts the line of one directive.
    fn begin(self: &Arc<Self>, claimed: Claimed) {
        let switch = StopSwitch::default();
        let id = claimed.lease.directive_id.clone();
        let earlier_log = self.logs.of(&id);
        let earlier = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            let earlier = running.get(&id).map(|earlier| earlier.switch.clone());
            if earlier.is_none() && earlier_log.is_none() {
                running.insert(id.clone(), Running::new(switch.clone()));
            }
            earlier
        };
        if earlier.is_some() || earlier_log.is_some() {
            // Leased again, so the earlier lease is over; the two must not run side by side, nor ship logs from one place.
            if let Some(earlier) = earlier {
                warn!(directive = %id, "the server leased a directive that runs here again: the earlier run is killed first");
                earlier.stop(StopReason::LeaseLost);
            }
            if let Some(log) = earlier_log {
                log.stop.cancel();
            }
            let daemon = Arc::clone(self);
            self.directives.spawn(async move {
                daemon.until_ended(&id).await;
                let spool = daemon.engine.config.state_dir().join("spool").join(id.as_str());
                daemon.logs.make_room(&id, &spool).await;
                daemon.begin(claimed);
            });
            return;
        }
        self.begun.fetch_add(1, Ordering::Relaxed);
        let Claimed { lease, clock, slot } = claimed;
        let log = self.logs.begin(&id, &self.give_up);
        let reporter = Reporter::Mothership(Box::new(MothershipDesk {
            calls: self.mothership.directive(id.clone(), lease.directive_token),
            lease: Arc::new(clock),
            outbox: self.outbox.clone(),
            counters: Arc::clone(&self.counters),
            heartbeat: self.engine.config.heartbeat.interval,
            give_up: self.give_up.clone(),
            metrics: Arc::clone(&self.metrics),
            running: watch::Sender::new(false),
            started: std::sync::OnceLock::new(),
            log: log.clone(),
        }));
        let order = Order { id: id.clone(), spec: lease.spec, folder: None, input: None, received: Instant::now() };
        let daemon = Arc::clone(self);
        let span = info_span!("directive", directive_id = %id);
        let line = async move {
            daemon.metrics.directives_in_flight.inc();
            carry_out(&daemon.engine, order, &reporter, &switch).await;
            daemon.metrics.directives_in_flight.dec();
            daemon.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            daemon.ended.notify_waiters();
            drop(slot);
            let shipping = Arc::clone(&daemon);
            daemon.engine.tasks.spawn(async move { shipping.logs.over(&id, &log).await });
        };
        self.directives.spawn(line.instrument(span));
    }

    /// Waits until a directive no longer runs here; a run that is killed ends soon.
    async fn until_ended(&self, id: &DirectiveId) {
        loop {
            let ended = self.ended.notified();
            if !self.running.lock().unwrap_or_else(PoisonError::into_inner).contains_key(id) {
                return;
            }
            ended.await;
        }
    }

    /// Waits for the running directives, at most `shutdown_timeout` and until a second signal; then cancels them. Without
    /// patience that has happened already. A further signal leaves their reports to the next start.
    async fn drain(&self, signals: &mut Signals, reload: impl Fn(), patient: bool) {
        self.directives.close();
        let waiting = self.directives.len();
        if waiting > 0 {
            info!(directives = waiting, "waiting for running directives");
        }
        if patient {
            let over = async {
                match self.engine.config.shutdown_timeout {
                    Some(timeout) => tokio::time::sleep(timeout).await,
                    None => std::future::pending().await,
                }
            };
            let why = tokio::select! {
                () = self.directives.wait() => return,
                () = over => "shutdown_timeout is over",
                () = signals.again(&reload) => "a second signal",
            };
            self.cancel_all(why);
        }
        let last = CANCEL_GRACE + SHIP_WITHIN;
        tokio::select! {
            () = self.directives.wait() => {}
            () = self.nobody_answers() => warn!("the mothership does not answer; what it was not told is sent at the next start"),
            () = tokio::time::sleep(last) => warn!("some directives did not end in time; their reports are sent at the next start"),
            () = signals.again(&reload) => warn!("a further signal: reports that are not sent yet are sent at the next start"),
        }
    }

    /// Completes once the commands have had their grace while the mothership cannot be reached: what they printed and how they
    /// ended is on disk, and waiting for it longer only keeps whoever stops the daemon waiting.
    async fn nobody_answers(&self) {
        tokio::time::sleep(CANCEL_GRACE + COLLECT_WITHIN).await;
        self.mothership.reach().changed_from(false).await;
    }

    fn cancel_all(&self, why: &str) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        warn!(directives = running.len(), "{why}: running directives are canceled");
        for one in running.values() {
            one.switch.stop(StopReason::Shutdown);
        }
    }

    /// The directives that this daemon holds, for the territory's heartbeat.
    fn held(&self) -> Vec<DirectiveId> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

fn lock_work_dir(config: &Config) -> Result<sys::lock::LockFile, DaemonError> {
    let state = config.state_dir();
    let lock = state.join("nexusd.lock");
    let fail = |source| DaemonError::Lock { lock: lock.clone(), source };
    folders::work_dir(&config.work_dir, &state).map_err(EngineError::from)?;
    sys::lock::LockFile::try_acquire(&lock)
        .map_err(fail)?
        .ok_or_else(|| DaemonError::SecondDaemon { work_dir: config.work_dir.clone(), lock: lock.clone() })
}
