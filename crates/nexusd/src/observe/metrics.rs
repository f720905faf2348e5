//! The metrics page: one registry, one struct of typed handles.
//!
//! Names are those of the guide's implementation where it had them. A counter's `_total` is added by the encoder
//! (OpenMetrics, "Counter"), so it is not part of the registered name. Every label is a closed set.

use std::fmt;
use std::time::Duration;

use conduits::{DriverKind, FinishedStatus, SandboxProfile};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::process::ProcessCollector;

mod asked;
mod labels;

use asked::{EgressCollector, WorkCollector};
pub use asked::{EgressSample, EgressSource, WorkSample, WorkSource};
pub use labels::PollResult;
use labels::{DriverLabel, ResultLabel, RunLabel, StatusLabel};

/// `Content-Type` of the page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bucket bounds of a directive's duration, in seconds: from a `true` to a day's build.
const DURATION_BUCKETS: [f64; 14] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0];

/// Bucket bounds of the start latency, in seconds: around the 10 ms that a sandbox takes.
const START_BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0, 10.0];

/// Every metric of the daemon. Cheap to share behind an [`Arc`]; counting takes no lock but a family's read lock.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// `nexusd_directives_in_flight`
    pub directives_in_flight: Gauge,
    /// `nexusd_poll_errors_total`
    pub poll_errors: Counter,
    /// `nexusd_heartbeat_errors_total`
    pub heartbeat_errors: Counter,
    /// `nexusd_oom_kills_total`
    pub oom_kills: Counter,
    directives: Family<StatusLabel, Counter>,
    directive_duration: Family<RunLabel, Histogram>,
    directive_start: Family<DriverLabel, Histogram>,
    polls: Family<ResultLabel, Counter>,
    driver_healthy: Family<DriverLabel, Gauge>,
}

impl Metrics {
    /// All metrics at zero. `egress` and `work` are asked at each scrape.
    #[must_use]
    pub fn new(egress: EgressSource, work: WorkSource) -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            directives_in_flight: Gauge::default(),
            poll_errors: Counter::default(),
            heartbeat_errors: Counter::default(),
            oom_kills: Counter::default(),
            directives: Family::default(),
            directive_duration: Family::new_with_constructor(|| Histogram::new(DURATION_BUCKETS)),
            directive_start: Family::new_with_constructor(|| Histogram::new(START_BUCKETS)),
            polls: Family::default(),
            driver_healthy: Family::default(),
        };
        metrics.register(egress, work);
        metrics.begin_at_zero();
        metrics
    }

    fn register(&mut self, egress: EgressSource, work: WorkSource) {
        let registry = &mut self.registry;
        let commit = crate::cli::NEXUS_COMMIT.unwrap_or("unknown").to_owned();
        let build = Info::new([("version", crate::cli::NEXUS_VERSION.to_owned()), ("commit", commit)]);
        registry.register("nexusd_build", "The build", build);
        registry.register("nexusd_directives", "Directives that ended, by status", self.directives.clone());
        registry.register("nexusd_directive_duration_seconds", "From start to end", self.directive_duration.clone());
        registry.register(
            "nexusd_directive_start_seconds",
            "From the lease to the running command",
            self.directive_start.clone(),
        );
        registry.register(
            "nexusd_directives_in_flight",
            "Directives being worked on",
            self.directives_in_flight.clone(),
        );
        registry.register("nexusd_poll", "Polls, by result", self.polls.clone());
        registry.register("nexusd_poll_errors", "Polls that failed", self.poll_errors.clone());
        registry.register("nexusd_heartbeat_errors", "Heartbeats that failed", self.heartbeat_errors.clone());
        registry.register("nexusd_driver_healthy", "Whether a driver can run directives", self.driver_healthy.clone());
        registry.register(
            "nexusd_oom_kills",
            "Processes of directives killed for want of memory",
            self.oom_kills.clone(),
        );
        registry.register_collector(Box::new(WorkCollector(work)));
        registry.register_collector(Box::new(EgressCollector(egress)));
        registry.register_collector(Box::new(ProcessCollector));
    }

    /// A rate over a counter that appears with its first event misses that event.
    fn begin_at_zero(&self) {
        for status in
            [FinishedStatus::Succeeded, FinishedStatus::Failed, FinishedStatus::Canceled, FinishedStatus::TimedOut]
        {
            drop(self.directives.get_or_create(&StatusLabel { status: status.as_str() }));
        }
        for result in PollResult::ALL {
            drop(self.polls.get_or_create(&ResultLabel { result: result.as_str() }));
        }
    }

    /// A directive ended.
    pub fn directive_ended(&self, status: FinishedStatus, driver: DriverKind, profile: SandboxProfile, took: Duration) {
        self.directives.get_or_create(&StatusLabel { status: status.as_str() }).inc();
        let label = RunLabel { driver: driver.as_str(), profile: profile.as_str() };
        self.directive_duration.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// A directive ended before a driver had it.
    pub fn directive_refused(&self, status: FinishedStatus) {
        self.directives.get_or_create(&StatusLabel { status: status.as_str() }).inc();
    }

    /// A command began to run, so long after its lease arrived.
    pub fn directive_started(&self, driver: DriverKind, took: Duration) {
        self.directive_start.get_or_create(&DriverLabel { driver: driver.as_str() }).observe(took.as_secs_f64());
    }

    /// A poll ended.
    pub fn polled(&self, result: PollResult) {
        self.polls.get_or_create(&ResultLabel { result: result.as_str() }).inc();
        if result == PollResult::Error {
            self.poll_errors.inc();
        }
    }

    /// What a driver's health check said.
    pub fn set_driver_healthy(&self, driver: DriverKind, healthy: bool) {
        self.driver_healthy.get_or_create(&DriverLabel { driver: driver.as_str() }).set(i64::from(healthy));
    }

    /// The page, in the OpenMetrics text format.
    ///
    /// # Errors
    /// When a collector cannot encode itself.
    pub fn page(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_page() {
        let egress = EgressSample {
            decisions: vec![("allow", "OK", 3), ("deny", "NOT_IN_ALLOWLIST", 2)],
            bytes_up: 10,
            bytes_down: 2000,
            audit_dropped: 5,
            connections_refused: 6,
        };
        let work = WorkSample {
            log_in_bytes: 4096,
            log_shipped_bytes: 2048,
            log_truncated_bytes: 1024,
            spool_bytes: 512,
            outbox_entries: 2,
            retries: 3,
            unreadable_answers: 4,
            client_cert_expiry: Some(1_800_000_000),
        };
        let metrics = Metrics::new(Arc::new(move || egress.clone()), Arc::new(move || work.clone()));
        metrics.directive_ended(
            FinishedStatus::Succeeded,
            DriverKind::Bwrap,
            SandboxProfile::Untrusted,
            Duration::from_millis(250),
        );
        metrics.directive_refused(FinishedStatus::Failed);
        metrics.directive_started(DriverKind::Bwrap, Duration::from_micros(6500));
        metrics.polled(PollResult::Directives);
        metrics.polled(PollResult::Error);
        metrics.heartbeat_errors.inc();
        metrics.set_driver_healthy(DriverKind::Bwrap, true);
        metrics.set_driver_healthy(DriverKind::Container, false);
        metrics.directives_in_flight.set(1);
        metrics.oom_kills.inc_by(1);
        let page = metrics.page().unwrap();
        // The process's own figures change with every run; that they are there is tested, not what they are.
        for name in ["process_cpu_seconds_total ", "process_resident_memory_bytes ", "process_open_fds "] {
            assert!(page.contains(name) || cfg!(not(target_os = "linux")), "{name} is missing");
        }
        let mut lines: Vec<&str> = page.lines().filter(|line| !line.contains("process_")).collect();
        // A family's samples come in the order of a hash map: sorted here, buckets left as they are.
        let name = |line: &&str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
        for samples in lines.chunk_by_mut(|a, b| name(a) == name(b) && !a.starts_with('#') && !a.contains("le=")) {
            samples.sort_unstable();
        }
        let shown = lines.join("\n");
        insta::assert_snapshot!(shown);
    }

    #[test]
    fn the_guides_names_are_all_there() {
        let metrics = Metrics::new(Arc::new(EgressSample::default), Arc::new(WorkSample::default));
        metrics.directive_ended(FinishedStatus::Failed, DriverKind::Host, SandboxProfile::Host, Duration::ZERO);
        metrics.set_driver_healthy(DriverKind::Host, true);
        let page = metrics.page().unwrap();
        for line in [
            "nexusd_directives_total{status=\"failed\"} 1",
            "nexusd_directive_duration_seconds_count{driver=\"host\",profile=\"host\"} 1",
            "nexusd_directives_in_flight 0",
            "nexusd_poll_total{result=\"empty\"} 0",
            "nexusd_poll_errors_total 0",
            "nexusd_heartbeat_errors_total 0",
            "nexusd_driver_healthy{driver=\"host\"} 1",
        ] {
            assert!(page.lines().any(|found| found == line), "{line} is missing from\n{page}");
        }
        assert!(page.ends_with("# EOF\n"));
    }
}
