//! The lease: how long this daemon may go on with a directive.
//!
//! Counted on `CLOCK_BOOTTIME` from the moment the request was *sent* that granted or renewed it: a machine
//! that slept has lost its lease even if its monotonic clock stood still, and a slow answer shortens the
//! lease, never lengthens it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

#[cfg(target_os = "linux")]
const WITH_SUSPENDED_TIME: rustix::time::ClockId = rustix::time::ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const WITH_SUSPENDED_TIME: rustix::time::ClockId = rustix::time::ClockId::Monotonic;

/// A moment on the clock that also counts suspended time, as time since the machine's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now, by `clock_gettime(CLOCK_BOOTTIME)`; macOS's CLOCK_MONOTONIC is that clock.
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(WITH_SUSPENDED_TIME);
        Self(Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)))
    }
}

/// The time to live of one lease, renewed by heartbeats.
#[derive(Debug)]
pub struct Lease {
    ttl: Duration,
    granted: Mutex<BootTime>,
}

impl Lease {
    /// A lease of `ttl`, granted by an answer to the request sent at `asked`.
    pub fn new(ttl: Duration, asked: BootTime) -> Self {
        Self { ttl, granted: Mutex::new(asked) }
    }

    /// A heartbeat sent at `asked` was accepted. An older one than the last changes nothing.
    pub fn renew(&self, asked: BootTime) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        *granted = (*granted).max(asked);
    }

    /// What is left at `now`; zero when the lease is lost.
    pub fn left(&self, now: BootTime) -> Duration {
        let granted = *self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        self.ttl.saturating_sub(now.0.saturating_sub(granted.0))
    }

    /// The whole time to live, in which heartbeats must be accepted.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    #[test]
    fn counts_from_the_request_and_never_backwards() {
        let lease = Lease::new(Duration::from_secs(300), at(1000));
        assert_eq!(lease.left(at(1000)), Duration::from_secs(300));
        assert_eq!(lease.left(at(1299)), Duration::from_secs(1));
        assert_eq!(lease.left(at(1300)), Duration::ZERO);
        assert_eq!(lease.left(at(9000)), Duration::ZERO);
        lease.renew(at(1200));
        lease.renew(at(1100));
        assert_eq!(lease.left(at(1300)), Duration::from_secs(200));
    }

    #[test]
    fn the_clock_moves_on() {
        let before = BootTime::now();
        assert!(BootTime::now() >= before);
        assert!(before.0 > Duration::ZERO);
    }
}
