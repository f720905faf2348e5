//! The mothership's time.
//!
//! One reading of the wall clock at start, then the monotonic clock: a step of the wall clock (an
//! operator's `date -s`, a bad NTP answer) neither expires every lease at once nor keeps a dead one
//! alive. Times are microseconds since 1970-01-01 UTC, as stored. Certificates are the exception: they
//! are checked by other machines, so `ca` dates them by the wall clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment in microseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub i64);

impl Micros {
    /// This moment moved `by` into the future, at most to the end of time.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// This moment moved `by` into the past.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        let micros = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// Whole seconds since the epoch, as JWT wants them; 0 before it.
    #[must_use]
    pub fn unix_seconds(self) -> u64 {
        u64::try_from(self.0.div_euclid(1_000_000)).unwrap_or(0)
    }

    /// RFC 3339 in UTC with six decimals, so that differences of fields are exact to the microsecond.
    #[must_use]
    pub fn rfc3339(self) -> String {
        jiff::Timestamp::from_microsecond(self.0).map(|at| format!("{at:.6}")).unwrap_or_default()
    }
}

/// Where times come from; cheap to copy, the same for every part of one process.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Micros,
    since: Instant,
}

impl Clock {
    /// A clock that starts from the wall clock's present reading.
    #[must_use]
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { wall: Micros(0).plus(wall), since: Instant::now() }
    }

    /// The present moment; never goes back within one process.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.wall.plus(self.since.elapsed())
    }

    /// How long it is until `moment`; nothing where it is past.
    #[must_use]
    pub fn until(&self, moment: Micros) -> Duration {
        Duration::from_micros(u64::try_from(moment.0.saturating_sub(self.now().0)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_to_the_microsecond() {
        assert_eq!(Micros(1_700_000_000_000_120).rfc3339(), "2023-11-14T22:13:20.000120Z");
        assert_eq!(Micros(-1).unix_seconds(), 0);
        assert_eq!(Micros(5).plus(Duration::from_secs(1)).minus(Duration::from_micros(1)), Micros(1_000_004));
    }
}
