//! What is counted elsewhere: asked for at each scrape, so that nothing is counted twice and nothing forgotten.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::labels::{DecisionLabel, DirectionLabel};

/// What the egress proxies have counted so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressSample {
    /// Decision (`allow`, `deny`), reason code, count.
    pub decisions: Vec<(&'static str, &'static str, u64)>,
    /// Bytes from sandboxes to the network.
    pub bytes_up: u64,
    /// Bytes from the network to sandboxes.
    pub bytes_down: u64,
    /// Audit events that were lost.
    pub audit_dropped: u64,
    /// Connections beyond the bound of their directive.
    pub connections_refused: u64,
}

/// Where [`EgressSample`]s come from; asked at each scrape.
pub type EgressSource = Arc<dyn Fn() -> EgressSample + Send + Sync>;

/// What logs, outbox and client have counted so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkSample {
    /// Written by commands.
    pub log_in_bytes: u64,
    /// Acknowledged by the mothership.
    pub log_shipped_bytes: u64,
    /// Left out beyond the output limit.
    pub log_truncated_bytes: u64,
    /// Output on disk, not yet acknowledged.
    pub spool_bytes: u64,
    /// Reports on disk, not yet acknowledged.
    pub outbox_entries: u64,
    /// Reports and log chunks sent again.
    pub retries: u64,
    /// Answers of the mothership that could not be read.
    pub unreadable_answers: u64,
    /// Unix time at which the client certificate ends; `None` without one.
    pub client_cert_expiry: Option<i64>,
}

/// Where [`WorkSample`]s come from; asked at each scrape.
pub type WorkSource = Arc<dyn Fn() -> WorkSample + Send + Sync>;

pub(super) struct WorkCollector(pub(super) WorkSource);

impl fmt::Debug for WorkCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorkCollector")
    }
}

impl Collector for WorkCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sample = (self.0)();
        for (name, help, count) in [
            ("nexusd_log_in_bytes", "Output written by commands", sample.log_in_bytes),
            ("nexusd_log_shipped_bytes", "Output acknowledged by the mothership", sample.log_shipped_bytes),
            ("nexusd_log_truncated_bytes", "Output left out beyond the limit", sample.log_truncated_bytes),
            ("nexusd_retries", "Reports and log chunks sent to the mothership again", sample.retries),
            (
                "nexusd_unreadable_answers",
                "Answers of the mothership that could not be read",
                sample.unreadable_answers,
            ),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let whole = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        for (name, help, value) in [
            ("nexusd_spool_bytes", "Output on disk that is not acknowledged", Some(whole(sample.spool_bytes))),
            ("nexusd_outbox_entries", "Reports that are not acknowledged", Some(whole(sample.outbox_entries))),
            (
                "nexusd_client_cert_expiry_seconds",
                "Unix time at which the client certificate ends; absent without one",
                sample.client_cert_expiry,
            ),
        ] {
            let Some(value) = value else { continue };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

pub(super) struct EgressCollector(pub(super) EgressSource);

impl fmt::Debug for EgressCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EgressCollector")
    }
}

impl Collector for EgressCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let sample = (self.0)();
        let counter = ConstCounter::new(0_u64);
        let mut decisions = encoder.encode_descriptor(
            "nexusd_egress_decisions",
            "Connection attempts of sandboxes, by decision and reason",
            None,
            counter.metric_type(),
        )?;
        for (decision, reason, count) in sample.decisions {
            let label = DecisionLabel { decision, reason };
            ConstCounter::new(count).encode(decisions.encode_family(&label)?)?;
        }
        let mut bytes = encoder.encode_descriptor(
            "nexusd_egress_bytes",
            "Bytes through the egress proxies",
            None,
            counter.metric_type(),
        )?;
        for (direction, count) in [("up", sample.bytes_up), ("down", sample.bytes_down)] {
            ConstCounter::new(count).encode(bytes.encode_family(&DirectionLabel { direction })?)?;
        }
        for (name, help, count) in [
            (
                "nexusd_egress_audit_dropped",
                "Egress audit events lost because the file could not keep up",
                sample.audit_dropped,
            ),
            (
                "nexusd_egress_connections_refused",
                "Connections to an egress proxy beyond egress.max_connections",
                sample.connections_refused,
            ),
        ] {
            let counter = ConstCounter::new(count);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
