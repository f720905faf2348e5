//! The monotonic clock.

use core::time::Duration;

use super::sys::{BestEffort, call};

const CLOCK_MONOTONIC: i32 = 1;

/// struct timespec.
#[repr(C)]
pub(crate) struct TimeSpec {
    pub(crate) seconds: i64,
    pub(crate) nanos: i64,
}

/// A moment; the system's start is the earliest.
#[derive(Clone, Copy)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        let mut time = TimeSpec { seconds: 0, nanos: 0 };
        // SAFETY: the structure is the kernel's.
        unsafe { call!(CLOCK_GETTIME, CLOCK_MONOTONIC, &raw mut time) }.best_effort();
        Self(Duration::new(time.seconds.unsigned_abs(), u32::try_from(time.nanos).unwrap_or(0)))
    }

    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}
