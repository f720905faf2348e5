//! An idle daemon is small: when it gives back what only past work needed.
//!
//! Once is not enough. Connections that were fed large answers let go of their buffers a minute after the work, and each
//! heartbeat and each scrape brings program text back in. So it is looked at again while no work comes, and given back
//! again where there is something to gain.

use std::time::Duration;

use tracing::debug;

/// How often a daemon at rest is looked at: a heartbeat brings in 5 MB at once, and none of it is wanted before the next.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What an idle daemon may grow by, in bytes, before it gives back again.
const SLACK: u64 = 3_000_000;

/// What the daemon is like at one look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// How many directives have begun so far.
    pub(super) begun: u64,
    /// Whether any is held.
    pub(super) at_work: bool,
    /// Resident memory in bytes; 0 where it cannot be read.
    pub(super) resident: u64,
}

/// Since when there has been no work, and what has been given back since.
#[derive(Debug, Default)]
pub(super) struct Rest {
    begun: u64,
    /// Resident after memory was last given back, while no work came since.
    floor: Option<u64>,
}

impl Rest {
    /// Whether to give memory back now: at the first look at which no work has come since the one before, and whenever
    /// [`SLACK`] has grown since.
    pub(super) fn look(&mut self, seen: Seen) -> bool {
        if seen.begun != self.begun || seen.at_work {
            *self = Self { begun: seen.begun, floor: None };
            return false;
        }
        self.floor.is_none_or(|floor| seen.resident > floor.saturating_add(SLACK))
    }

    /// Whether no work has come since memory was last given back.
    pub(super) fn is_resting(&self) -> bool {
        self.floor.is_some()
    }

    /// Memory was given back, and this much is still resident.
    pub(super) fn gave_back(&mut self, resident: u64) {
        self.floor = Some(resident);
    }
}

/// Resident memory in bytes; 0 where it cannot be read.
pub(super) fn resident() -> u64 {
    sys::memory::resident().unwrap_or_else(|error| {
        debug!(%error, "resident memory cannot be read");
        0
    })
}

/// Gives back what can be, and says how much is resident then.
pub(super) fn give_back() -> u64 {
    if let Err(error) = sys::memory::give_back() {
        debug!(%error, "what only past work needed stays in memory");
    }
    resident()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_once_work_ends_and_whenever_it_has_grown() {
        let mut rest = Rest::default();
        let mut look = |begun, at_work, resident| {
            let given = rest.look(Seen { begun, at_work, resident });
            if given {
                rest.gave_back(10_000_000);
            }
            given
        };
        assert!(look(0, false, 9_000_000), "what only the start needed");
        assert!(!look(0, false, 12_000_000), "within the slack");
        assert!(!look(1, true, 30_000_000), "at work");
        assert!(!look(1, true, 30_000_000), "one that takes long");
        assert!(!look(5, false, 30_000_000), "others began and ended between two looks");
        assert!(look(5, false, 20_000_000), "no work since the last look");
        assert!(!look(5, false, 13_000_000), "within the slack");
        assert!(look(5, false, 13_000_001), "heartbeats brought it back in");
        assert!(!look(5, false, 0), "unreadable");
        assert!(!look(6, false, 20_000_000), "work again");
        assert!(!rest.is_resting());
    }
}
