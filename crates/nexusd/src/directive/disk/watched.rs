//! The watch: what a directive has added is measured by walking over its facility.
//!
//! A walk costs in proportion to the facility's files, a look at the file system's free space costs microseconds. So the
//! facility is walked only where it may have grown too large by now: when as much space has gone, or as many files have come,
//! as the directive still may take, or after a while in any case, since others may have freed some meanwhile. The decision is a pure function
//! ([`LastWalk::next_is_due`]).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use sys::disk::Space;
use sys::usage::{self, Usage, UsageError};
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
    before: Usage,
}

/// Where the watch stands between two looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastWalk {
    /// What the directive had added by then.
    pub(super) added: Usage,
    /// What was free at that time.
    pub(super) free: Option<Space>,
    /// When that was, and how long it took.
    pub(super) at: Instant,
    pub(super) took: Duration,
}

impl LastWalk {
    pub(super) fn next_is_due(&self, allowed: Usage, free: Option<Space>, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at);
        if passed < self.took * WALK_SHARE {
            return false;
        }
        let may_be_used_up = self.free.zip(free).is_some_and(|(then, now)| {
            let more = |then: u64, now: u64, allowed: u64, added: u64| {
                then.saturating_sub(now) > allowed.saturating_sub(added)
            };
            more(then.free, now.free, allowed.bytes, self.added.bytes)
                || more(then.free_inodes, now.free_inodes, allowed.entries, self.added.entries)
        });
        may_be_used_up || passed >= WALK_WITHIN
    }
}

impl Watched {
    /// Measures the facility.
    pub(super) async fn begin(facility: Arc<OwnedFd>) -> Result<Self, UsageError> {
        let device = File::from(facility.try_clone()?).metadata()?.dev();
        let before = measured(Arc::clone(&facility), Vec::new(), device).await?;
        Ok(Self { facility, device, before })
    }

    /// What the facility takes more than before, that included which these processes hold without a name.
    pub(super) async fn added(&self, pids: Vec<i32>) -> Result<Usage, String> {
        let now = measured(Arc::clone(&self.facility), pids, self.device).await.map_err(|error| error.to_string())?;
        Ok(Usage {
            bytes: now.bytes.saturating_sub(self.before.bytes),
            entries: now.entries.saturating_sub(self.before.entries),
        })
    }
}

/// The walk blocks, so it has a thread of its own.
async fn measured(facility: Arc<OwnedFd>, pids: Vec<i32>, device: u64) -> Result<Usage, UsageError> {
    let walk = move || {
        let (named, held) = (usage::beneath(facility.as_fd())?, usage::held_unlinked(&pids, device));
        Ok(Usage { bytes: named.bytes.saturating_add(held.bytes), entries: named.entries + held.entries })
    };
    match tokio::task::spawn_blocking(walk).await {
        Ok(measured) => measured,
        Err(error) => Err(UsageError::Io(io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Usage = Usage { bytes: 100, entries: 10 };

    fn free(bytes: u64, inodes: u64) -> Option<Space> {
        Some(Space { free: bytes, total: 5000, free_inodes: inodes, inodes: 5000 })
    }

    #[tokio::test(start_paused = true)]
    async fn a_walk_is_due_when_the_rest_may_be_used_up_or_time_has_passed() {
        let at = Instant::now();
        let last = |took| LastWalk { added: Usage { bytes: 40, entries: 4 }, free: free(1000, 500), at, took };
        let quick = last(Duration::ZERO);
        let after = |millis| at + Duration::from_millis(millis);
        // 60 bytes of 100 are left, and 6 entries of 10.
        for (bytes, inodes, millis, due) in [
            (1000, 500, 100, false),
            (940, 500, 100, false),
            (939, 500, 100, true),
            (1000, 494, 100, false),
            (1000, 493, 100, true),
            (2000, 600, 9_999, false),
            (2000, 600, 10_000, true),
        ] {
            let next = quick.next_is_due(ALLOWED, free(bytes, inodes), after(millis));
            assert_eq!(next, due, "{bytes} bytes and {inodes} inodes free after {millis} ms");
        }
        // A file system that cannot be asked is walked by the clock.
        assert!(!quick.next_is_due(ALLOWED, None, after(9_999)) && quick.next_is_due(ALLOWED, None, after(10_000)));
        // A walk of a second is not made again for twenty, whatever happens.
        let slow = last(Duration::from_secs(1));
        assert!(!slow.next_is_due(ALLOWED, free(0, 0), after(19_999)));
        assert!(slow.next_is_due(ALLOWED, free(0, 0), after(20_000)));
    }
}
