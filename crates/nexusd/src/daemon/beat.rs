//! What the daemon says of itself: territory heartbeats, driver health, readiness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use conduits::{
    Capacity, DriverHealth, DriverKind, RuntimeStatus, TerritoryHeartbeatAnswer, TerritoryHeartbeatRequest,
};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Daemon;
use super::rest::{self, Rest, Seen};
use crate::client::CallError;
use crate::credentials::renewal;
use crate::observe::ready::ReadyFacts;

/// The server may ask for heartbeats this often at most, and this seldom at least.
const INTERVAL: std::ops::RangeInclusive<Duration> = Duration::from_secs(5)..=Duration::from_secs(300);

/// How often a driver that works is asked again: the check runs a whole sandbox.
const HEALTHY_CHECK: Duration = Duration::from_secs(300);

/// How often a driver that does not work is asked again.
const UNHEALTHY_CHECK: Duration = Duration::from_secs(15);

/// How often readiness is looked at besides.
const FACTS_EVERY: Duration = Duration::from_secs(5);

/// Pause before a heartbeat that failed is sent again, where the server does not say.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// The first heartbeat; a mothership that cannot be reached now is told as soon as it can.
pub(super) async fn first(daemon: &Daemon) -> Rhythm {
    let interval = daemon.engine.config.territory_heartbeat.interval;
    let mut rhythm = Rhythm { interval, next: interval, warned_of_version: false };
    rhythm.beat(daemon).await;
    rhythm
}

/// How often heartbeats are sent, and what has been said about them.
#[derive(Debug)]
pub(super) struct Rhythm {
    interval: Duration,
    /// Until the next one.
    next: Duration,
    warned_of_version: bool,
}

/// Sends the territory heartbeats after the first until `stop`.
pub(super) async fn territory(daemon: Arc<Daemon>, mut rhythm: Rhythm, stop: CancellationToken) {
    loop {
        let due = async {
            tokio::select! {
                () = tokio::time::sleep(rhythm.next) => {}
                () = daemon.beat_now.notified() => {}
            }
            daemon.mothership.up().await;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = due => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = rhythm.beat(&daemon) => {}
        }
    }
}

impl Rhythm {
    async fn beat(&mut self, daemon: &Daemon) {
        let answered = send(daemon).await;
        self.next = next_after(&answered, self.interval);
        // A refusal is an answer too: asked sooner it would not be another one.
        if !matches!(&answered, Err(error) if error.is_transient()) {
            daemon.introduced.send_replace(true);
        }
        if let Ok(answer) = answered {
            self.interval = next_interval(&answer, daemon.engine.config.territory_heartbeat.interval);
            if !self.warned_of_version && too_old(&answer) {
                self.warned_of_version = true;
                warn!(
                    version = crate::VERSION,
                    min_compatible = answer.min_compatible_version.as_deref().unwrap_or_default(),
                    "this nexusd is older than the mothership is compatible with: upgrade it"
                );
            }
            if answer.upgrade_available == Some(true) {
                debug!(latest = answer.latest_version.as_deref().unwrap_or_default(), "a newer nexusd exists");
            }
            daemon.removals.ask(answer.removed_facility_ids);
            self.next = self.interval;
        }
        daemon.publish(self.interval);
    }
}

async fn send(daemon: &Daemon) -> Result<TerritoryHeartbeatAnswer, CallError> {
    let answered = daemon.mothership.territory_heartbeat(&request(daemon)).await;
    if let Err(error) = &answered {
        daemon.metrics.heartbeat_errors.inc();
        warn!(%error, "the territory's heartbeat failed");
    }
    answered
}

/// When the next heartbeat is due: what passes is asked again soon, for the first one tells what an earlier start left.
fn next_after(answered: &Result<TerritoryHeartbeatAnswer, CallError>, interval: Duration) -> Duration {
    match answered {
        Err(error) if error.is_transient() => error.retry_after().unwrap_or(AFTER_FAILURE).max(AFTER_FAILURE),
        _ => interval,
    }
}

/// Keeps the health of the drivers up to date until `stop`.
pub(super) async fn health(daemon: Arc<Daemon>, stop: CancellationToken) {
    let mut told: BTreeMap<DriverKind, String> = BTreeMap::new();
    loop {
        let drivers = daemon.engine.health();
        let all_healthy = drivers.values().all(|health| health.healthy);
        let reasons: BTreeMap<_, _> = drivers
            .into_iter()
            .filter(|(_, health)| !health.healthy)
            .map(|(kind, health)| (kind, health.reason.unwrap_or_default()))
            .collect();
        for (kind, reason) in reasons.iter().filter(|(kind, reason)| told.get(*kind) != Some(*reason)) {
            warn!(
                driver = kind.as_str(),
                reason = reason.as_str(),
                "a driver does not work: its profiles are not offered"
            );
        }
        if all_healthy && !told.is_empty() {
            info!("every driver works");
        }
        told = reasons;
        let wait = if all_healthy { HEALTHY_CHECK } else { UNHEALTHY_CHECK };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        daemon.engine.check_health().await;
        daemon.publish(daemon.engine.config.territory_heartbeat.interval);
    }
}

/// Keeps the metrics that are read elsewhere, and readiness, up to date until `stop`; and gives memory back while no work
/// comes.
pub(super) async fn facts(daemon: Arc<Daemon>, stop: CancellationToken) {
    let mut rest = Rest::default();
    loop {
        daemon.publish(daemon.engine.config.territory_heartbeat.interval);
        let seen = Seen {
            begun: daemon.begun.load(Ordering::Relaxed),
            at_work: !daemon.held().is_empty(),
            resident: rest::resident(),
        };
        if rest.look(seen) {
            rest.gave_back(rest::give_back());
        }
        let wait = if rest.is_resting() { rest::LOOK_EVERY } else { FACTS_EVERY };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Daemon {
    /// Shows what readiness depends on, as it is now.
    pub(super) fn publish(&self, heartbeat_interval: Duration) {
        let drivers = self
            .engine
            .health()
            .into_iter()
            .map(|(kind, health)| match health.healthy {
                true => (kind, Ok(())),
                false => (kind, Err(health.reason.unwrap_or_else(|| "its check failed".to_owned()))),
            })
            .chain(self.engine.missing_drivers().map(|(_, kind)| (kind, Err("not a part of this build".to_owned()))))
            .collect();
        self.facts.send_replace(ReadyFacts {
            drivers,
            last_contact: self.mothership.reach().last_success().map(tokio::time::Instant::into_std),
            refusal: self.mothership.refusal(),
            certificate_ended: self.mothership.presented().and_then(|present| renewal::ended(&present, renewal::now())),
            heartbeat_interval,
            drained: *self.drained.borrow(),
            shutting_down: *self.stopping.borrow(),
        });
    }
}

fn request(daemon: &Daemon) -> TerritoryHeartbeatRequest {
    let engine = &daemon.engine;
    let held = daemon.held();
    let count = u64::try_from(held.len()).unwrap_or(u64::MAX);
    TerritoryHeartbeatRequest {
        nexus_version: Some(crate::VERSION.to_owned()),
        labels: daemon.labels.borrow().clone(),
        capacity: Capacity {
            max_concurrent: u32::try_from(engine.config.max_concurrent_directives).ok(),
            sandbox_health: engine
                .health()
                .into_iter()
                .map(|(kind, health)| (kind.to_string(), driver_health(health)))
                .collect(),
            supported_profiles: engine.offered_profiles().iter().map(ToString::to_string).collect(),
            untrusted_driver: Some(engine.config.untrusted_driver.to_string()),
        },
        capabilities: Vec::new(),
        runtime_status: RuntimeStatus {
            running_directives: count,
            directive_ids: held,
            uptime_seconds: daemon.began.elapsed().as_secs(),
        },
        running_directives_count: count,
        telemetry: Map::new(),
        instance_id: Some(engine.instance.clone()),
        removed_facility_ids: daemon.removals.gone(),
    }
}

fn driver_health(health: sandbox::Health) -> DriverHealth {
    let mut details: Map<String, Value> =
        health.details.into_iter().map(|(name, value)| (name, value.into())).collect();
    if !health.version.is_empty() {
        details.insert("version".into(), health.version.into());
    }
    if let Some(reason) = health.reason {
        details.insert("reason".into(), reason.into());
    }
    DriverHealth { healthy: health.healthy, details }
}

fn next_interval(answer: &TerritoryHeartbeatAnswer, configured: Duration) -> Duration {
    match answer.next_heartbeat_interval_seconds {
        Some(seconds) => Duration::from_secs(seconds).clamp(*INTERVAL.start(), *INTERVAL.end()),
        None => configured,
    }
}

/// Versions that are not three numbers say nothing.
fn too_old(answer: &TerritoryHeartbeatAnswer) -> bool {
    let numbers = |version: &str| -> Option<Vec<u64>> {
        let plain = version.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
        plain.split('.').map(|part| part.parse().ok()).collect()
    };
    match (answer.min_compatible_version.as_deref().and_then(numbers), numbers(crate::VERSION)) {
        (Some(min), Some(own)) => own < min,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_interval_is_obeyed_within_bounds() {
        let configured = Duration::from_secs(30);
        let ask = |seconds| TerritoryHeartbeatAnswer { next_heartbeat_interval_seconds: seconds, ..Default::default() };
        for (asked, expected) in [(None, 30), (Some(60), 60), (Some(0), 5), (Some(1), 5), (Some(86_400), 300)] {
            assert_eq!(next_interval(&ask(asked), configured), Duration::from_secs(expected), "{asked:?}");
        }
    }

    #[test]
    fn a_failed_heartbeat_is_sent_again_soon_and_when_the_server_says() {
        let interval = Duration::from_secs(30);
        let down = |after: Option<u64>| CallError::Unavailable {
            retry_after: after.map(Duration::from_secs),
            why: String::new(),
        };
        let refused = CallError::Unauthorized(crate::client::Said::default());
        for (answered, expected) in [
            (Ok(TerritoryHeartbeatAnswer::default()), 30),
            (Err(down(None)), 1),
            (Err(down(Some(0))), 1),
            (Err(down(Some(45))), 45),
            (Err(refused), 30),
        ] {
            assert_eq!(next_after(&answered, interval), Duration::from_secs(expected), "{answered:?}");
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        let min =
            |text: &str| TerritoryHeartbeatAnswer { min_compatible_version: Some(text.into()), ..Default::default() };
        for (version, expected) in
            [("0.0.9", false), ("999.0.0", true), ("v999.1.0-rc1", true), ("nonsense", false), ("", false)]
        {
            assert_eq!(too_old(&min(version)), expected, "{version:?}");
        }
        assert!(!too_old(&min(crate::VERSION)));
    }
}
