//! One state of reachability for every call to the mothership.
//!
//! A mothership that is down must not be asked by each waiting report, chunk and poll on a rhythm of its own: once
//! [`FAILURES_TO_DOWN`] calls in a row have failed, everything waits here and a single light request asks again, every
//! 1.5 s at most for the first ten minutes and every 30 s after that. The first success of any call releases every
//! waiting call, spread over a second, so that a returning mothership is not run over.
//!
//! ```text
//!            3 failures in a row                     any success
//!   Up ------------------------------> Down(since) ---------------> Up, release n+1
//!                                       |      ^
//!                                       +------+ probe failed: the next one is jittered
//! ```
//!
//! [`ReachState`] is the pure machine (time and jitter are arguments). [`Reach`] is its edge on tokio: no task of its own;
//! the first of those who wait does the probing, and when it stops waiting the next one takes over.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Failures in a row, over all calls and with no success between, after which the mothership counts as unreachable.
/// One failure is noise (a reset, a single 502); a call that fails alone is retried on its own rhythm.
pub const FAILURES_TO_DOWN: u32 = 3;
/// Longest time between two probes while an outage is young.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(1500);
/// An outage is young for this long.
pub const YOUNG_OUTAGE: Duration = Duration::from_secs(600);
/// Longest time between two probes of an old outage.
pub const SLOW_PROBE_INTERVAL: Duration = Duration::from_secs(30);
/// Those who waited out an outage go on within this time.
pub const RELEASE_SPREAD: Duration = Duration::from_secs(1);
/// A longer `Retry-After` is cut to this.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// What is known of the mothership: the pure state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReachState {
    failures: u32,
    down_since: Option<Instant>,
    /// A `Retry-After` that came with a failure: no probe before it.
    hold_until: Option<Instant>,
    last_success: Option<Instant>,
}

/// What a report to [`ReachState`] changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing that anybody waits for.
    None,
    /// The mothership counts as unreachable from now on.
    WentDown,
    /// It is back after this long: release those who wait.
    CameBack {
        /// How long it was unreachable.
        after: Duration,
    },
}

impl ReachState {
    /// Nothing is known yet: calls go out.
    #[must_use]
    pub fn new() -> Self {
        Self { failures: 0, down_since: None, hold_until: None, last_success: None }
    }

    /// True while calls must wait.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down_since.is_some()
    }

    /// When the last call was answered.
    #[must_use]
    pub fn last_success(&self) -> Option<Instant> {
        self.last_success
    }

    /// A call failed in a way that says the mothership cannot serve now (transport error, timeout, 5xx).
    pub fn failed(&mut self, now: Instant, retry_after: Option<Duration>) -> Change {
        self.failures = self.failures.saturating_add(1);
        if let Some(wait) = retry_after {
            let until = now + wait.min(MAX_RETRY_AFTER);
            self.hold_until = Some(self.hold_until.map_or(until, |known| known.max(until)));
        }
        if self.down_since.is_none() && self.failures >= FAILURES_TO_DOWN {
            self.down_since = Some(now);
            return Change::WentDown;
        }
        Change::None
    }

    /// A call was answered (whatever the answer said).
    pub fn succeeded(&mut self, now: Instant) -> Change {
        self.failures = 0;
        self.hold_until = None;
        self.last_success = Some(now);
        match self.down_since.take() {
            Some(since) => Change::CameBack { after: now.saturating_duration_since(since) },
            None => Change::None,
        }
    }

    /// When the next probe is due, counted from `now`; `jitter` in 0..1 takes up to a third off the interval.
    #[must_use]
    pub fn next_probe(&self, now: Instant, jitter: f64) -> Instant {
        let old = self.down_since.is_some_and(|since| now.saturating_duration_since(since) >= YOUNG_OUTAGE);
        let interval = if old { SLOW_PROBE_INTERVAL } else { PROBE_INTERVAL };
        let due = now + interval - interval.mul_f64(jitter.clamp(0.0, 1.0) / 3.0);
        self.hold_until.map_or(due, |hold| due.max(hold))
    }
}

impl Default for ReachState {
    fn default() -> Self {
        Self::new()
    }
}

/// What waiters see: whether calls must wait, and how often they were released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gate {
    down: bool,
    releases: u64,
}

/// The shared state of reachability of one mothership.
#[derive(Debug)]
pub struct Reach {
    state: Mutex<ReachState>,
    gate: watch::Sender<Gate>,
    /// Held by the one who probes.
    prober: tokio::sync::Mutex<()>,
}

impl Reach {
    /// Nothing is known yet: calls go out.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: Mutex::new(ReachState::new()),
            gate: watch::Sender::new(Gate { down: false, releases: 0 }),
            prober: tokio::sync::Mutex::new(()),
        }
    }

    /// A call was answered.
    pub fn succeeded(&self) {
        let change = self.with_state(|state| state.succeeded(Instant::now()));
        if let Change::CameBack { after } = change {
            tracing::info!(outage_seconds = after.as_secs(), "the mothership answers again");
            self.gate.send_modify(|gate| *gate = Gate { down: false, releases: gate.releases + 1 });
        }
    }

    /// A call failed; `why` is for the log (no secrets).
    pub fn failed(&self, why: &str, retry_after: Option<Duration>) {
        let change = self.with_state(|state| state.failed(Instant::now(), retry_after));
        if change == Change::WentDown {
            tracing::warn!(why, "the mothership cannot be reached: calls wait while one probe asks again");
            self.gate.send_modify(|gate| gate.down = true);
        }
    }

    /// True while calls must wait.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.gate.borrow().down
    }

    /// When the last call was answered (by tokio's clock); `None` before the first.
    #[must_use]
    pub fn last_success(&self) -> Option<Instant> {
        self.with_state(|state| state.last_success())
    }

    /// Completes when the state of reachability differs from `was_down`.
    pub async fn changed_from(&self, was_down: bool) {
        let mut gate = self.gate.subscribe();
        // The sender lives in self: the wait cannot fail while we hold &self.
        if gate.wait_for(|gate| gate.down != was_down).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until calls may go out, probing with `probe` when nobody else does. `probe` makes one light call and reports
    /// its outcome to this state. Cancel safe.
    pub async fn ready<P, F>(&self, probe: P)
    where
        P: Fn() -> F,
        F: Future<Output = ()>,
    {
        if !self.is_down() {
            return;
        }
        let mut gate = self.gate.subscribe();
        let probed = tokio::select! {
            biased;
            probed = self.probe_until_up(&probe) => probed,
            _ = gate.wait_for(|gate| !gate.down) => false,
        };
        if !probed {
            // The prober goes on at once, the others spread out behind it.
            tokio::time::sleep(RELEASE_SPREAD.mul_f64(rand::random::<f64>())).await;
        }
    }

    async fn probe_until_up<P, F>(&self, probe: &P) -> bool
    where
        P: Fn() -> F,
        F: Future<Output = ()>,
    {
        let _only_one = self.prober.lock().await;
        let mut probed = false;
        while self.is_down() {
            let due = self.with_state(|state| state.next_probe(Instant::now(), rand::random::<f64>()));
            tokio::time::sleep_until(due).await;
            if self.is_down() {
                probe().await;
                probed = true;
            }
        }
        probed
    }

    fn with_state<T>(&self, change: impl FnOnce(&mut ReachState) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Default for Reach {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
