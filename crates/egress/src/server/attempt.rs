//! The account of one attempt, written when it ends, however it ends.

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use super::Shared;
use crate::audit::AuditEvent;
use crate::denial::Denial;
use crate::policy::Refusal;
use crate::policy::reason::{Decision, Reason};
use crate::relay::Meter;
use crate::wire::host::Destination;

/// How the client asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Connect,
    Http,
    Socks5,
    /// By connecting to an address that stands for a name.
    Tcp,
    /// By looking a name up; only what is refused is an attempt.
    Dns,
}

impl Method {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::Http => "HTTP",
            Self::Socks5 => "SOCKS5",
            Self::Tcp => "TCP",
            Self::Dns => "DNS",
        }
    }
}

/// One attempt. Dropping it writes its audit line, counts it and shows a denial, so that a
/// connection cut by a cancel or a peer is accounted for like any other.
#[derive(Debug)]
pub(super) struct Attempt {
    shared: Arc<Shared>,
    method: Method,
    host: String,
    port: u16,
    began: jiff::Timestamp,
    resolved: Option<IpAddr>,
    decision: Decision,
    reason: Reason,
    pub(super) sni: OnceLock<String>,
    pub(super) meter: Meter,
}

impl Attempt {
    /// An attempt at a readable destination; until it is decided it counts as failed inside.
    pub(super) fn at(shared: &Arc<Shared>, method: Method, to: &Destination) -> Self {
        Self::new(shared, method, to.host.to_string(), to.port)
    }

    /// An attempt at something unreadable, denied from the start.
    pub(super) fn unreadable(shared: &Arc<Shared>, method: Method, asked: &str, reason: Reason) -> Self {
        let port = asked.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = port.unwrap_or((asked, 0));
        let mut attempt = Self::new(shared, method, host.to_owned(), port);
        attempt.reason = reason;
        attempt
    }

    fn new(shared: &Arc<Shared>, method: Method, host: String, port: u16) -> Self {
        Self {
            shared: Arc::clone(shared),
            method,
            host,
            port,
            began: jiff::Timestamp::now(),
            resolved: None,
            decision: Decision::Deny,
            reason: Reason::InternalError,
            sni: OnceLock::new(),
            meter: Meter::new(),
        }
    }

    pub(super) fn deny(&mut self, refusal: &Refusal) {
        self.decision = Decision::Deny;
        self.reason = refusal.reason;
    }

    /// Allowed by name; not `OK` before a connection stands.
    pub(super) fn allowed(&mut self) {
        self.decision = Decision::Allow;
        self.reason = Reason::Other;
    }

    /// Allowed, on a connection that an earlier attempt opened to this address.
    pub(super) fn connected_again(&mut self, address: Option<IpAddr>) {
        self.decision = Decision::Allow;
        self.reason = Reason::Ok;
        self.resolved = address;
    }

    /// The address that was dialled.
    pub(super) fn resolved(&self) -> Option<IpAddr> {
        self.resolved
    }

    pub(super) fn connected(&mut self, address: Option<IpAddr>) {
        self.resolved = address;
        self.reason = Reason::Ok;
    }

    /// An allowed attempt that ended for this reason.
    pub(super) fn ended(&mut self, reason: Reason) {
        self.reason = reason;
    }

    fn event(&self, up: u64, down: u64) -> AuditEvent {
        AuditEvent {
            ts: self.began,
            directive_id: Arc::clone(&self.shared.directive_id),
            method: self.method.as_str(),
            dest_host: self.host.clone(),
            dest_port: self.port,
            resolved_ip: self.resolved,
            decision: self.decision.as_str(),
            reason_code: self.reason.as_str(),
            sni: self.sni.get().cloned(),
            bytes_up: up,
            bytes_down: down,
            duration_ms: u64::try_from(self.meter.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let shared = &self.shared;
        let (up, down) = (self.meter.up.load(Relaxed), self.meter.down.load(Relaxed));
        shared.counters.count(self.decision, self.reason, up, down);
        shared.totals.bytes_up.fetch_add(up, Relaxed);
        shared.totals.bytes_down.fetch_add(down, Relaxed);
        match self.decision {
            Decision::Allow => shared.totals.allowed.fetch_add(1, Relaxed),
            Decision::Deny => shared.totals.denied.fetch_add(1, Relaxed),
        };
        if self.decision == Decision::Deny {
            let denial = Denial { host: self.host.clone(), port: self.port, reason: self.reason };
            if shared.denied.is_new(&denial)
                && let Err(error) = shared.denials.try_send(denial)
            {
                tracing::debug!(%error, "a denial could not be shown");
            }
        }
        if !shared.audit.record(self.event(up, down)) {
            shared.counters.count_audit_dropped();
        }
    }
}
