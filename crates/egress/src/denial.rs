//! Denials shown to whoever reads the directive's log: each `host:port` once, bounded.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::policy::reason::Reason;

/// Distinct denied destinations that are kept and shown; further ones are in the audit file only.
pub const MAX_DENIED_DESTINATIONS: usize = 100;

/// A fitting bound for the channel that denials are sent over: room for every one of a proxy.
pub const DENIAL_QUEUE: usize = MAX_DENIED_DESTINATIONS;

/// A destination that was denied for the first time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The host, as it was judged, or what was sent instead of one, made printable.
    pub host: String,
    /// The port; 0 where there was none.
    pub port: u16,
    /// Why.
    pub reason: Reason,
}

/// The line for the directive's stderr, without its line end.
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[egress] denied {} ({})", shown(&self.host, self.port), self.reason)
    }
}

fn shown(host: &str, port: u16) -> String {
    match (host, port) {
        ("", _) => "(no destination)".to_owned(),
        (host, 0) => host.to_owned(),
        (host, port) => format!("{host}:{port}"),
    }
}

/// The distinct destinations denied so far.
#[derive(Debug, Default)]
pub(crate) struct Denied(Mutex<BTreeSet<String>>);

impl Denied {
    /// Whether this is the first denial of the destination, and there is room to keep it.
    pub(crate) fn is_new(&self, denial: &Denial) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.len() < MAX_DENIED_DESTINATIONS && seen.insert(shown(&denial.host, denial.port))
    }

    pub(crate) fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(host: &str, port: u16) -> Denial {
        Denial { host: host.into(), port, reason: Reason::NotInAllowlist }
    }

    #[test]
    fn lines() {
        assert_eq!(denial("example.com", 443).to_string(), "[egress] denied example.com:443 (NOT_IN_ALLOWLIST)");
        assert_eq!(denial("junk", 0).to_string(), "[egress] denied junk (NOT_IN_ALLOWLIST)");
        assert_eq!(denial("", 0).to_string(), "[egress] denied (no destination) (NOT_IN_ALLOWLIST)");
    }

    #[test]
    fn each_once_and_no_more_than_the_bound() {
        let denied = Denied::default();
        for round in 0..3 {
            for host in 0..10_000 {
                let is_new = denied.is_new(&denial(&format!("h{host}.example.com"), 443));
                assert_eq!(is_new, round == 0 && host < MAX_DENIED_DESTINATIONS, "{round} {host}");
            }
        }
        assert_eq!(denied.list().len(), MAX_DENIED_DESTINATIONS);
    }
}
