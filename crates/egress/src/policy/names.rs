//! What the policy says of a name alone: which ports an allowlist opens at all, and on which of them a name is reached.

use std::collections::BTreeSet;

use conduits::{DnsName, NetMode};
use tokio::time::Instant;

use super::hosts::Found;
use super::reason::Reason;
use super::{EgressPolicy, Refusal};
use crate::wire::host::Destination;

/// A port that no entry can have.
const NO_PORT: u16 = 0;

impl EgressPolicy {
    /// The ports that the allowlist names; none in another mode.
    #[must_use]
    pub fn named_ports(&self) -> BTreeSet<u16> {
        if self.mode == NetMode::Allowlist { self.allow.ports() } else { BTreeSet::new() }
    }

    /// Those of the ports on which [`EgressPolicy::decide`] allows a name, at least one.
    ///
    /// # Errors
    /// The refusal, where it allows none of them.
    pub(crate) fn judge_name(&self, host: &DnsName, ports: &[u16], now: Instant) -> Result<Vec<u16>, Refusal> {
        let to = |port| Destination { host: host.clone(), port };
        if self.allow.find(host, NO_PORT) == Found::Nothing {
            // Whatever the port: one look is enough, however many names are tried.
            return self.decide(&to(NO_PORT), now).map(|()| Vec::new());
        }
        let (mut open, mut refusal) = (Vec::new(), None);
        for port in ports {
            match self.decide(&to(*port), now) {
                Ok(()) => open.push(*port),
                // That a port is not listed is said of most of them; the others say more.
                Err(other) if other.reason != Reason::PortNotAllowed => refusal = Some(other),
                Err(other) => refusal = refusal.or(Some(other)),
            }
        }
        match refusal {
            Some(refusal) if open.is_empty() => Err(refusal),
            _ => Ok(open),
        }
    }
}

#[cfg(test)]
mod tests {
    use conduits::NetCapability;
    use serde_json::json;

    use super::super::OperatorRules;
    use super::*;

    fn policy(net: &serde_json::Value, rules: &OperatorRules, now: Instant) -> EgressPolicy {
        EgressPolicy::compile(&NetCapability::from_value(net).unwrap(), rules, now).unwrap()
    }

    #[test]
    fn names_and_the_ports_they_are_reached_on() {
        let now = Instant::now();
        let allow = [
            "db.example:5432",
            "db.example:443",
            "*.cdn.example:443",
            "denied.example:443",
            "mixed.example:443",
            "mixed.example:80",
        ];
        let rules = OperatorRules {
            net_deny: ["denied.example:443", "mixed.example:80"].iter().map(|entry| entry.parse().unwrap()).collect(),
            ..OperatorRules::default()
        };
        let policy = policy(&json!({"mode": "allowlist", "allow": allow, "ttl_seconds": 60}), &rules, now);
        assert_eq!(policy.named_ports().into_iter().collect::<Vec<_>>(), [80, 443, 5432]);
        let judge = |name: &str, now| {
            let judged = policy.judge_name(&DnsName::parse(name).unwrap(), &[80, 443, 5432], now);
            judged.map_err(|refusal| refusal.reason)
        };
        let cases = [
            ("db.example", Ok(vec![443, 5432])),
            ("a.cdn.example", Ok(vec![443])),
            ("b.a.cdn.example", Ok(vec![443])),
            ("cdn.example", Err(Reason::NotInAllowlist)),
            ("other.example", Err(Reason::NotInAllowlist)),
            ("denied.example", Err(Reason::Other)),
            ("mixed.example", Ok(vec![443])),
        ];
        for (name, expected) in cases {
            assert_eq!(judge(name, now), expected, "{name}");
        }
        let late = now + std::time::Duration::from_secs(60);
        assert_eq!(judge("db.example", late), Err(Reason::PolicyExpired));
        assert_eq!(judge("other.example", late), Err(Reason::PolicyExpired));
        // A port that is served for another name alone.
        let unserved = policy.judge_name(&DnsName::parse("db.example").unwrap(), &[80], now);
        assert_eq!(unserved.unwrap_err().reason, Reason::PortNotAllowed);
    }

    #[test]
    fn without_an_allowlist_no_port_is_named() {
        let now = Instant::now();
        for mode in ["none", "unrestricted"] {
            let policy = policy(&json!({"mode": mode}), &OperatorRules::default(), now);
            assert!(policy.named_ports().is_empty(), "{mode}");
        }
    }
}
