//! Asking again: one rhythm for all calls that may be repeated.
//!
//! Every call of the protocol is idempotent, so a call whose answer was lost is simply made again. While the mothership
//! answers at all, a failed call is repeated on its own jittered rhythm; once it does not, all wait in
//! [`Reach`](super::reach::Reach).

use std::time::Duration;

use tokio::time::Instant;

use super::Mothership;
use super::error::CallError;

/// First pause after a failure; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two tries of one call while the mothership answers others.
const MAX_PAUSE: Duration = Duration::from_millis(1500);

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
            let mut pause = FIRST_PAUSE;
            loop {
                self.ready().await;
                let error = match call().await {
                    Ok(answer) => return Ok(answer),
                    Err(error) if error.is_transient() => error,
                    Err(error) => return Err(error),
                };
                self.count_retry();
                let wait = error.retry_after().unwrap_or_else(|| jittered(pause));
                pause = (pause * 2).min(MAX_PAUSE);
                tracing::debug!(%error, wait_ms = wait.as_millis(), "asking the mothership again");
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

fn too_late() -> CallError {
    CallError::Unavailable { retry_after: None, why: "no answer before the deadline".to_owned() }
}

/// Between half of `pause` and all of it.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::random_range(0.5..1.0))
}
