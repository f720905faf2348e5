//! Whether the daemon is ready: a pure function of what is known.

use std::time::{Duration, Instant};

use conduits::DriverKind;

/// Territory heartbeat intervals without contact after which the mothership counts as out of reach.
const SILENT_INTERVALS: u32 = 3;

/// What readiness depends on. The daemon publishes a new value whenever one of these changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyFacts {
    /// The offered drivers; `Err` says why one is not healthy. Empty until the first health checks are done.
    pub drivers: Vec<(DriverKind, Result<(), String>)>,
    /// When the mothership last answered.
    pub last_contact: Option<Instant>,
    /// What the mothership says while it refuses this territory.
    pub refusal: Option<String>,
    /// What is to be said of a client certificate that has ended.
    pub certificate_ended: Option<String>,
    /// The territory heartbeat interval in force.
    pub heartbeat_interval: Duration,
    /// `nexusd drain` was asked for.
    pub drained: bool,
    /// A shutdown is under way.
    pub shutting_down: bool,
}

/// `Ok` when directives can be taken on: at least one offered driver is healthy, the mothership answered within three
/// heartbeat intervals and does not refuse this territory, its certificate has not ended, and no shutdown is under way.
///
/// # Errors
/// Every reason why not, one line each.
pub fn readiness(facts: &ReadyFacts, now: Instant) -> Result<(), Vec<String>> {
    let mut reasons = Vec::new();
    if facts.shutting_down {
        reasons.push("shutting down".to_owned());
    }
    if facts.drained {
        reasons.push("drained (nexusd undrain ends it)".to_owned());
    }
    if facts.drivers.is_empty() {
        reasons.push("no driver has been checked yet".to_owned());
    } else if facts.drivers.iter().all(|(_, health)| health.is_err()) {
        for (driver, health) in &facts.drivers {
            if let Err(reason) = health {
                reasons.push(format!("driver {driver}: {}", reason.lines().next().unwrap_or_default()));
            }
        }
    }
    let patience = facts.heartbeat_interval.saturating_mul(SILENT_INTERVALS);
    match facts.last_contact {
        None => reasons.push("the mothership has not answered yet".to_owned()),
        Some(at) => {
            let silent = now.saturating_duration_since(at);
            if silent > patience {
                reasons.push(format!(
                    "the mothership has not answered for {} s (at most {} s)",
                    silent.as_secs(),
                    patience.as_secs()
                ));
            }
        }
    }
    if let Some(refusal) = &facts.refusal {
        reasons.push(format!("the mothership refuses this territory: {refusal}"));
    }
    reasons.extend(facts.certificate_ended.clone());
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_said() {
        let start = Instant::now();
        let good = ReadyFacts {
            drivers: vec![(DriverKind::Bwrap, Err("no user namespaces".to_owned())), (DriverKind::Host, Ok(()))],
            last_contact: Some(start),
            refusal: None,
            certificate_ended: None,
            heartbeat_interval: Duration::from_secs(30),
            drained: false,
            shutting_down: false,
        };
        let after = |secs| start + Duration::from_secs(secs);
        assert_eq!(readiness(&good, after(90)), Ok(()));
        assert_eq!(
            readiness(&good, after(91)),
            Err(vec!["the mothership has not answered for 91 s (at most 90 s)".to_owned()])
        );
        assert_eq!(
            readiness(&ReadyFacts { drained: true, ..good.clone() }, after(0)),
            Err(vec!["drained (nexusd undrain ends it)".to_owned()])
        );
        assert_eq!(
            readiness(&ReadyFacts { shutting_down: true, ..good.clone() }, after(0)),
            Err(vec!["shutting down".to_owned()])
        );
        let refused = ReadyFacts { refusal: Some("401, who?".to_owned()), ..good.clone() };
        assert_eq!(
            readiness(&refused, after(0)),
            Err(vec!["the mothership refuses this territory: 401, who?".to_owned()])
        );
        let ended = ReadyFacts { certificate_ended: Some("it ended".to_owned()), ..good.clone() };
        assert_eq!(readiness(&ended, after(0)), Err(vec!["it ended".to_owned()]));
        let fresh = ReadyFacts { drivers: Vec::new(), ..good.clone() };
        assert_eq!(readiness(&fresh, after(0)), Err(vec!["no driver has been checked yet".to_owned()]));
        let bad = ReadyFacts {
            drivers: vec![(DriverKind::Bwrap, Err("no user namespaces".to_owned()))],
            last_contact: None,
            ..good
        };
        assert_eq!(
            readiness(&bad, after(0)),
            Err(vec!["driver bwrap: no user namespaces".to_owned(), "the mothership has not answered yet".to_owned(),])
        );
    }
}
