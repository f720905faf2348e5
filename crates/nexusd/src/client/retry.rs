//! Asking again: one rhythm for all calls that may be repeated.
//!
//! Every call of the protocol is idempotent, so a call whose answer was lost is simply made again. While the mothership
//! answers at all, a failed call is repeated on its own jittered rhythm; once it does not, all wait in
//! [`Reach`](super::reach::Reach).

use std::time::Duration;

use tokio::time::Instant;

use super::Mothership;
use super::error::CallError;
use super::reach::{PROBE_INTERVAL, SLOW_PROBE_INTERVAL, YOUNG_OUTAGE};

/// First pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A `Retry-After` is obeyed, but one that says "at once" (0, or a date that has passed by this machine's clock) again and again
/// is followed by our own rhythm, up to this.
const LONGEST_FLOOR: Duration = Duration::from_secs(1);
/// Failures of one call after which it is no noise any more that it fails.
const FAILING: u32 = 5;

/// Until when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// As long as it takes (the caller bounds it by cancellation).
    Never,
    /// No try begins after this.
    At(Instant),
}

impl Deadline {
    /// This long from now.
    #[must_use]
    pub fn within(time: Duration) -> Self {
        Self::At(Instant::now() + time)
    }

    fn reached(self, at: Instant) -> bool {
        matches!(self, Self::At(deadline) if at >= deadline)
    }
}

impl Mothership {
    /// Makes `call` until it succeeds, is refused for good, or `deadline` comes; then the last error is returned. A try that
    /// is under way at the deadline is dropped. `call` is asked for a fresh future each time and must be idempotent.
    ///
    /// # Errors
    /// What the last try ended with; [`CallError::Unavailable`] when none was made in time.
    pub async fn with_retry<T, C, F>(&self, deadline: Deadline, mut call: C) -> Result<T, CallError>
    where
        C: FnMut() -> F,
        F: Future<Output = Result<T, CallError>>,
    {
        let mut last = None;
        let tries = async {
            let (began, mut failures) = (Instant::now(), 0_u32);
            loop {
                self.ready().await;
                let error = match call().await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if error.is_transient() => error,
                    Err(error) => return Err(error),
                };
                self.count_retry();
                let own = jittered(pause(failures, began.elapsed()));
                let wait = error.retry_after().map_or(own, |asked| asked.max(own.min(LONGEST_FLOOR)));
                failures = failures.saturating_add(1);
                tracing::debug!(%error, wait_ms = wait.as_millis(), "asking the mothership again");
                if failures >= FAILING
                    && let Some(unsaid) = self.inner.failing.say(Instant::now())
                {
                    let seconds = began.elapsed().as_secs();
                    tracing::warn!(%error, failures, seconds, unsaid, "a call to the mothership fails again and again: made until it succeeds");
                }
                let give_up = deadline.reached(Instant::now() + wait);
                last = Some(error);
                if give_up {
                    return Err(last.take().unwrap_or_else(too_late));
                }
                tokio::time::sleep(wait).await;
            }
        };
        match deadline {
            Deadline::Never => tries.await,
            Deadline::At(at) => match tokio::time::timeout_at(at, tries).await {
                Ok(outcome) => outcome,
                Err(_) => Err(last.unwrap_or_else(too_late)),
            },
        }
    }
}

/// The pause after so many failures of one call, the first of them so long ago: doubled up to the rhythm of an outage.
fn pause(failures: u32, since: Duration) -> Duration {
    let longest = if since < YOUNG_OUTAGE { PROBE_INTERVAL } else { SLOW_PROBE_INTERVAL };
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(longest)
}

fn too_late() -> CallError {
    CallError::Unavailable { retry_after: None, why: "no answer before the deadline".to_owned() }
}

/// Between half of `pause` and all of it.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_fails_alone_is_made_again_as_seldom_as_an_outage_is_probed() {
        let table =
            [(0, 0, 100), (1, 1, 200), (3, 1, 800), (4, 2, 1500), (u32::MAX, 599, 1500), (u32::MAX, 600, 30_000)];
        for (failures, seconds, millis) in table {
            let expected = Duration::from_millis(millis);
            assert_eq!(pause(failures, Duration::from_secs(seconds)), expected, "{failures} {seconds}");
        }
    }
}
