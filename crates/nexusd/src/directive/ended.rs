//! How a directive ended: one value for every way out, and the one place where it becomes a report.

use conduits::{FinishedRequest, FinishedStatus, LogStream};
use egress::EgressSummary;
use jiff::Timestamp;
use sandbox::{EndedBy, Exit, StopReason, Usage};
use serde_json::{Map, Value, json};

use super::collect::Collected;
use crate::logs::LogSummary;

/// The end of a directive, whatever it was.
#[derive(Debug)]
pub struct Ended {
    /// What is reported.
    pub status: FinishedStatus,
    /// The exit code of `sandbox.md`.
    pub exit_code: i32,
    /// Why it did not simply run to its end: `timeout`, `cancel`, `lost_lease`, `oom`, `pids`, `disk`, `log`, `refused`,
    /// `start_refused`, …
    pub ended_by: Option<&'static str>,
    /// Why, in words, where no log can say so: the mothership takes none of what has not started.
    pub reason: Option<String>,
    /// Time and memory that the command used, and what it was refused.
    pub usage: Option<Used>,
    /// What the egress proxy counted.
    pub egress: Option<EgressSummary>,
    /// What the command could reach was asked for, not enforced.
    pub soft_network: bool,
    /// Snapshots, diff and artifacts.
    pub collected: Collected,
}

/// What is reported of a run's use of the machine.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    usage: Usage,
    pids_refused: Option<u64>,
    oom_kills: Option<u64>,
}

impl Ended {
    /// Refused or failed before the command ran: exit code 1, the reason is on stderr.
    pub fn before_the_run(ended_by: &'static str) -> Self {
        Self {
            status: FinishedStatus::Failed,
            exit_code: 1,
            ended_by: Some(ended_by),
            reason: None,
            usage: None,
            egress: None,
            soft_network: false,
            collected: Collected::default(),
        }
    }

    /// The mothership refused the start, for this reason.
    pub fn start_refused(refusal: &str) -> Self {
        let reason = Some(format!("the mothership refused the start: {refusal}"));
        Self { reason, ..Self::before_the_run("start_refused") }
    }

    /// Stopped before the command ran, for this reason.
    pub fn stopped_before_the_run(reason: StopReason) -> Self {
        let (status, ended_by) = status_of_stop(reason);
        Self { status, ended_by: Some(ended_by), exit_code: 137, ..Self::before_the_run(ended_by) }
    }

    /// The command ran and ended like this.
    pub fn after_the_run(exit: &Exit, egress: Option<EgressSummary>) -> Self {
        let (status, ended_by) = status_of(&exit.ended, exit.code);
        // The limit itself kills nothing: the command fails over a process that it did not get.
        let short_of_pids = status == FinishedStatus::Failed && exit.pids_refused.is_some_and(|refused| refused > 0);
        let ended_by = ended_by.or(short_of_pids.then_some("pids"));
        Self {
            status,
            exit_code: exit.code,
            ended_by,
            reason: None,
            usage: Some(Used { usage: exit.usage, pids_refused: exit.pids_refused, oom_kills: exit.oom_kills }),
            egress,
            soft_network: false,
            collected: Collected::default(),
        }
    }

    /// The report, with what the log came to.
    pub fn into_report(self, log: &LogSummary, finished_at: Timestamp) -> FinishedRequest {
        let manifest = self.manifest(log);
        FinishedRequest {
            status: self.status,
            exit_code: Some(self.exit_code),
            stdout_truncated: log.stream(LogStream::Stdout).truncated,
            stderr_truncated: log.stream(LogStream::Stderr).truncated,
            diff_truncated: self.collected.diff_truncated,
            snapshot_before: self.collected.snapshot_before,
            snapshot_after: self.collected.snapshot_after,
            artifacts_manifest: manifest,
            diff_base64: self.collected.diff,
            finished_at: Some(finished_at),
        }
    }

    fn manifest(&self, log: &LogSummary) -> Map<String, Value> {
        let mut manifest = Map::new();
        manifest.insert("log".into(), log.manifest());
        if let Some(overflow) = log.overflow_manifest() {
            manifest.insert("log_overflow".into(), overflow);
        }
        if let Some(ended_by) = self.ended_by {
            manifest.insert("ended_by".into(), ended_by.into());
        }
        if let Some(reason) = &self.reason {
            manifest.insert("reason".into(), reason.as_str().into());
        }
        if let Some(usage) = &self.usage {
            manifest.insert("usage".into(), usage_manifest(usage));
        }
        if let Some(egress) = self.egress.as_ref().filter(|egress| egress.attempts > 0) {
            manifest.insert("egress".into(), serde_json::to_value(egress).unwrap_or(Value::Null));
        }
        if self.soft_network {
            manifest.insert("network_enforced".into(), false.into());
        }
        if !self.collected.artifacts.is_empty() {
            manifest.insert("artifacts".into(), self.collected.artifacts.clone().into());
        }
        manifest
    }
}

/// Counts that no cgroup kept are left out: nothing counted is not none.
fn usage_manifest(used: &Used) -> Value {
    let usage = &used.usage;
    let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let mut manifest = json!({
        "wall_ms": millis(usage.wall),
        "user_ms": millis(usage.user),
        "system_ms": millis(usage.system),
        "peak_rss_bytes": usage.peak_rss_bytes,
    });
    for (name, count) in [("oom_kills", used.oom_kills), ("pids_refused", used.pids_refused)] {
        if let Some(count) = count {
            manifest[name] = count.into();
        }
    }
    manifest
}

fn status_of(ended: &EndedBy, code: i32) -> (FinishedStatus, Option<&'static str>) {
    match ended {
        EndedBy::Exited if code == 0 => (FinishedStatus::Succeeded, None),
        EndedBy::Exited | EndedBy::Signal(_) => (FinishedStatus::Failed, None),
        EndedBy::TimedOut => (FinishedStatus::TimedOut, Some("timeout")),
        EndedBy::OutOfMemory => (FinishedStatus::Failed, Some("oom")),
        EndedBy::Engine(_) => (FinishedStatus::Failed, Some("engine")),
        EndedBy::Stopped(reason) => {
            let (status, ended_by) = status_of_stop(*reason);
            (status, Some(ended_by))
        }
    }
}

fn status_of_stop(reason: StopReason) -> (FinishedStatus, &'static str) {
    match reason {
        StopReason::Cancel => (FinishedStatus::Canceled, "cancel"),
        StopReason::Shutdown => (FinishedStatus::Canceled, "shutdown"),
        StopReason::LeaseLost => (FinishedStatus::Failed, "lost_lease"),
        StopReason::DiskFull => (FinishedStatus::Failed, "disk"),
        StopReason::LogFailed => (FinishedStatus::Failed, "log"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_status() {
        use FinishedStatus::{Canceled, Failed, Succeeded, TimedOut};
        let cases = [
            (EndedBy::Exited, 0, Succeeded, None),
            (EndedBy::Exited, 1, Failed, None),
            (EndedBy::Exited, 127, Failed, None),
            (EndedBy::Signal(9), 137, Failed, None),
            (EndedBy::TimedOut, 124, TimedOut, Some("timeout")),
            (EndedBy::OutOfMemory, 137, Failed, Some("oom")),
            (EndedBy::Engine("bwrap is gone".into()), 1, Failed, Some("engine")),
            (EndedBy::Stopped(StopReason::Cancel), 143, Canceled, Some("cancel")),
            (EndedBy::Stopped(StopReason::Shutdown), 137, Canceled, Some("shutdown")),
            (EndedBy::Stopped(StopReason::LeaseLost), 137, Failed, Some("lost_lease")),
            (EndedBy::Stopped(StopReason::DiskFull), 125, Failed, Some("disk")),
            (EndedBy::Stopped(StopReason::LogFailed), 137, Failed, Some("log")),
        ];
        for (ended, code, status, ended_by) in cases {
            assert_eq!(status_of(&ended, code), (status, ended_by), "{ended:?} with {code}");
        }
    }

    #[test]
    fn counts_are_reported_where_a_cgroup_kept_them() {
        let used = |oom_kills, pids_refused| Used { usage: Usage::default(), pids_refused, oom_kills };
        let counts = |used: &Used| {
            let manifest = usage_manifest(used);
            (manifest["oom_kills"].as_u64(), manifest["pids_refused"].as_u64())
        };
        for kept in [(None, None), (Some(0), Some(0)), (Some(2), None), (None, Some(7))] {
            assert_eq!(counts(&used(kept.0, kept.1)), kept);
        }
    }
}
