//! The watch: what a directive has added is measured by walking over its facility.
//!
//! A walk costs in proportion to the facility's files, a look at the file system's free space costs microseconds. So the
//! facility is walked only where it may have grown too large by now: when as much space has gone as the directive still
//! may take, or after a while in any case, since others may have freed some meanwhile. The decision is a pure function
//! ([`LastWalk::next_is_due`]).

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use sys::usage::{self, BeyondTheEnd, UsageError};
use tokio::time::Instant;

/// The longest time between two walks.
const WALK_WITHIN: Duration = Duration::from_secs(10);

/// How many times its own length passes between two walks at least: watching takes a twentieth of one processor at most.
const WALK_SHARE: u32 = 20;

/// The facility as the command found it.
#[derive(Debug, Clone)]
pub(super) struct Watched {
    facility: Arc<OwnedFd>,
    device: u64,
    beyond: BeyondTheEnd,
    before: u64,
}

/// Where the watch stands between two looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastWalk {
    /// Bytes that the directive had added by then.
    pub(super) added: u64,
    /// Free bytes at that time.
    pub(super) free: u64,
    /// When that was, and how long it took.
    pub(super) at: Instant,
    pub(super) took: Duration,
}

impl LastWalk {
    pub(super) fn next_is_due(&self, allowed: u64, free: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at);
        if passed < self.took * WALK_SHARE {
            return false;
        }
        let gone = self.free.saturating_sub(free);
        let left = allowed.saturating_sub(self.added);
        gone > left || passed >= WALK_WITHIN
    }
}

impl Watched {
    /// Measures the facility.
    pub(super) async fn begin(facility: Arc<OwnedFd>, beyond: BeyondTheEnd) -> Result<Self, UsageError> {
        let device = rustix::fs::fstat(&facility).map_err(io::Error::from)?.st_dev;
        let before = measured(Arc::clone(&facility), Vec::new(), device, beyond).await?;
        Ok(Self { facility, device, beyond, before })
    }

    /// Bytes that the facility takes more than before, those included that these processes hold without a name.
    pub(super) async fn added(&self, pids: Vec<i32>) -> Result<u64, String> {
        let bytes = measured(Arc::clone(&self.facility), pids, self.device, self.beyond).await;
        Ok(bytes.map_err(|error| error.to_string())?.saturating_sub(self.before))
    }
}

/// The walk blocks, so it has a thread of its own.
async fn measured(
    facility: Arc<OwnedFd>,
    pids: Vec<i32>,
    device: u64,
    beyond: BeyondTheEnd,
) -> Result<u64, UsageError> {
    let walk = move || Ok(usage::beneath(facility.as_fd(), beyond)? + usage::held_unlinked(&pids, device));
    match tokio::task::spawn_blocking(walk).await {
        Ok(measured) => measured,
        Err(error) => Err(UsageError::Io(io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_walk_is_due_when_the_rest_may_be_used_up_or_time_has_passed() {
        let at = Instant::now();
        let last = |took| LastWalk { added: 40, free: 1000, at, took };
        let quick = last(Duration::ZERO);
        let after = |millis| at + Duration::from_millis(millis);
        // 60 of 100 are left.
        for (free, millis, due) in
            [(1000, 100, false), (940, 100, false), (939, 100, true), (2000, 9_999, false), (2000, 10_000, true)]
        {
            assert_eq!(quick.next_is_due(100, free, after(millis)), due, "{free} free after {millis} ms");
        }
        // A walk of a second is not made again for twenty, whatever happens.
        let slow = last(Duration::from_secs(1));
        assert!(!slow.next_is_due(100, 0, after(19_999)));
        assert!(slow.next_is_due(100, 0, after(20_000)));
    }
}
