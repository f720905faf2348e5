//! Polls that fail, one after the other: what is said of them, and how soon the next one is.

use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::client::CallError;
use crate::client::reach::SLOW_PROBE_INTERVAL;
use crate::client::seldom::Seldom;

/// What has come of one claim so far.
#[derive(Debug, Default)]
pub(super) struct Failing {
    kind: Option<Discriminant<CallError>>,
    seldom: Seldom,
    /// Refusals in a row.
    refusals: u32,
}

impl Failing {
    /// A poll failed. Each kind of failure is said at once, and then once a minute.
    pub(super) fn again(&mut self, error: &CallError) {
        if let Some(unsaid) = self.note(error) {
            warn!(%error, unsaid, "{}", what_failed(error));
        }
    }

    /// `Some` when the failure is to be said: how many were not since the last one that was.
    fn note(&mut self, error: &CallError) -> Option<u64> {
        self.refusals = if error.is_transient() { 0 } else { self.refusals.saturating_add(1) };
        let kind = discriminant(error);
        if self.kind.replace(kind) != Some(kind) {
            self.seldom.over();
        }
        self.seldom.say(Instant::now())
    }

    /// The pause that takes the place of `poll.retry_backoff`. A refusal is no outage: nothing but somebody's hand changes
    /// it, so it is asked for ever more seldom, as seldom as an old outage is probed.
    pub(super) fn backoff(&self, configured: Duration) -> Duration {
        let doubled = configured.saturating_mul(2_u32.saturating_pow(self.refusals.saturating_sub(1)));
        doubled.min(SLOW_PROBE_INTERVAL.max(configured))
    }
}

fn what_failed(error: &CallError) -> &'static str {
    match error {
        CallError::Unauthorized(_) => {
            "the mothership does not know this territory: no directive is claimed until it does; enrol again, or correct tls.client_cert_file or territory_id"
        }
        CallError::Forbidden(_) => {
            "the mothership does not let this territory work: no directive is claimed until it does; enable it there"
        }
        _ => "the poll failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Said;

    #[test]
    fn a_refusal_is_asked_for_ever_more_seldom_and_said_once_a_minute() {
        let refused = CallError::Unauthorized(Said::new("unauthorized", "who?"));
        let lost = CallError::Unavailable { retry_after: None, why: "reset".to_owned() };
        let backoff = Duration::from_secs(2);
        let mut failing = Failing::default();
        let mut seen = Vec::new();
        for error in [&lost, &lost, &refused, &refused, &refused, &refused, &refused, &refused, &lost] {
            let said = failing.note(error).is_some();
            seen.push((said, failing.backoff(backoff).as_secs()));
        }
        let expected = [
            (true, 2),
            (false, 2),
            (true, 2),
            (false, 4),
            (false, 8),
            (false, 16),
            (false, 30),
            (false, 30),
            (true, 2),
        ];
        assert_eq!(seen, expected);
        assert_eq!(failing.backoff(Duration::from_secs(60)), Duration::from_secs(60));
    }
}
