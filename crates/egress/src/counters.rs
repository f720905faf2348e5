//! What the proxies of a daemon have done: counters for metrics, and one directive's summary.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::policy::reason::{Decision, Reason};

const REASONS: usize = Reason::ALL.len();

/// Counts of all proxies of a daemon; shared, exported as metrics.
#[derive(Debug, Default)]
pub struct EgressCounters {
    decisions: [[AtomicU64; REASONS]; Decision::ALL.len()],
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    audit_dropped: AtomicU64,
    connections_refused: AtomicU64,
}

impl EgressCounters {
    /// Attempts by decision and reason, in a fixed order, zeroes included.
    pub fn decisions(&self) -> impl Iterator<Item = (Decision, Reason, u64)> + '_ {
        Decision::ALL.into_iter().zip(&self.decisions).flat_map(|(decision, row)| {
            Reason::ALL.into_iter().zip(row).map(move |(reason, count)| (decision, reason, count.load(Relaxed)))
        })
    }

    /// Bytes sent to origins.
    #[must_use]
    pub fn bytes_up(&self) -> u64 {
        self.bytes_up.load(Relaxed)
    }

    /// Bytes received from origins.
    #[must_use]
    pub fn bytes_down(&self) -> u64 {
        self.bytes_down.load(Relaxed)
    }

    /// Audit events that found the queue full.
    #[must_use]
    pub fn audit_dropped(&self) -> u64 {
        self.audit_dropped.load(Relaxed)
    }

    /// Connections refused because the directive already had as many as it may.
    #[must_use]
    pub fn connections_refused(&self) -> u64 {
        self.connections_refused.load(Relaxed)
    }

    pub(crate) fn count(&self, decision: Decision, reason: Reason, up: u64, down: u64) {
        self.decisions[decision as usize][reason as usize].fetch_add(1, Relaxed);
        self.bytes_up.fetch_add(up, Relaxed);
        self.bytes_down.fetch_add(down, Relaxed);
    }

    pub(crate) fn count_audit_dropped(&self) {
        self.audit_dropped.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_connection_refused(&self) {
        self.connections_refused.fetch_add(1, Relaxed);
    }
}

/// What one directive's proxy did, for `artifacts_manifest.egress`.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct EgressSummary {
    /// Attempts in all.
    pub attempts: u64,
    /// Attempts the policy let through.
    pub allowed: u64,
    /// Attempts the policy refused.
    pub denied: u64,
    /// Bytes sent to origins.
    pub bytes_up: u64,
    /// Bytes received from origins.
    pub bytes_down: u64,
    /// Distinct `host:port` that were denied, sorted, at most
    /// [`MAX_DENIED_DESTINATIONS`](crate::MAX_DENIED_DESTINATIONS).
    pub denied_destinations: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_decision_and_reason_has_its_own_count() {
        let counters = EgressCounters::default();
        for decision in Decision::ALL {
            for (times, reason) in Reason::ALL.into_iter().enumerate() {
                for _ in 0..times {
                    counters.count(decision, reason, 2, 3);
                }
            }
        }
        let per_reason: Vec<u64> = counters.decisions().map(|(_, _, count)| count).collect();
        assert_eq!(per_reason, (0..12).chain(0..12).collect::<Vec<u64>>());
        assert_eq!((counters.bytes_up(), counters.bytes_down()), (2 * 132, 3 * 132));
    }
}
