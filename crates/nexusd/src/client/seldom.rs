//! Saying what keeps happening: at once, and then seldom, with how often it has happened since.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Between two lines about the same thing.
pub const SAID_EVERY: Duration = Duration::from_secs(60);

/// One thing that may keep happening.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    said: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// It happened again. `Some` when that is to be said now: how often it has happened unsaid since the last time.
    #[must_use]
    pub fn say(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.said.is_some_and(|said| now.saturating_duration_since(said) < SAID_EVERY) {
            state.unsaid += 1;
            return None;
        }
        state.said = Some(now);
        Some(std::mem::take(&mut state.unsaid))
    }

    /// It is over: the next time is the first again.
    pub fn over(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_happening_is_said_once_a_minute() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let mut said = Vec::new();
        for second in 0..130 {
            if let Some(unsaid) = seldom.say(start + Duration::from_secs(second)) {
                said.push((second, unsaid));
            }
        }
        assert_eq!(said, [(0, 0), (60, 59), (120, 59)]);
        seldom.over();
        assert_eq!(seldom.say(start + Duration::from_secs(131)), Some(0));
    }
}
