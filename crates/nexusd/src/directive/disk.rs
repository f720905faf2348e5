//! The watch over the disk while a command runs: what the directive adds to its facility, and what the disk has left.
//!
//! A walk over a facility costs in proportion to its files, a look at the file system's free space costs microseconds. So
//! the free space is looked at ten times a second, and the facility is walked only where it may have grown too large by now:
//! when as much space has gone as the directive still may take, or after a while in any case, since others may have freed
//! some meanwhile. The decision is a pure function ([`Watch::walk_is_due`]).
//!
//! Leaves to others: bounding memory file systems (the driver does), and the spool (its own limit does).

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandbox::{Census, Limit};
use sys::usage::{self, UsageError};
use tokio::time::Instant;

use super::admit::Admitted;
use crate::engine::Engine;
use crate::facility::Occupied;

/// How often the free space is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The longest time between two walks.
const WALK_WITHIN: Duration = Duration::from_secs(10);

/// How many times its own length passes between two walks at least: watching takes a twentieth of one processor at most.
const WALK_SHARE: u32 = 20;

/// What ended a run that went too far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Breach {
    /// It added more than it may.
    Quota { added: u64, allowed: u64 },
    /// What it added cannot be told.
    Unmeasurable(String),
    /// The disk is nearly full, whoever filled it.
    Floor { free: u64, min: u64 },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quota { added, allowed } => {
                write!(
                    f,
                    "ended by its disk limit: it added {added} bytes to its facility, limits.disk_mb allows {allowed}"
                )
            }
            Self::Unmeasurable(why) => write!(f, "ended by its disk limit: {why}"),
            Self::Floor { free, min } => {
                write!(f, "ended: the disk has {free} bytes free, below min_free_bytes ({min})")
            }
        }
    }
}

/// The facility as the command found it, and what may become of it.
#[derive(Debug)]
pub struct DiskWatch {
    path: PathBuf,
    quota: Option<Quota>,
    min_free: u64,
}

/// A directive's own limit.
#[derive(Debug, Clone)]
struct Quota {
    facility: Arc<OwnedFd>,
    device: u64,
    before: u64,
    allowed: u64,
}

/// Where the watch stands between two looks.
#[derive(Debug, Clone, Copy)]
struct Watch {
    /// Bytes that the directive had added when the facility was last walked.
    added: u64,
    /// Free bytes at that time.
    free: u64,
    /// When that was, and how long it took.
    walked: Instant,
    took: Duration,
}

impl Watch {
    fn walk_is_due(&self, allowed: u64, free: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.walked);
        if passed < self.took * WALK_SHARE {
            return false;
        }
        let gone = self.free.saturating_sub(free);
        let left = allowed.saturating_sub(self.added);
        gone > left || passed >= WALK_WITHIN
    }
}

impl DiskWatch {
    /// Measures the facility, where the directive has a disk limit.
    ///
    /// # Errors
    /// It cannot be measured: a limit that is named and cannot be watched refuses the directive.
    pub(super) async fn begin(engine: &Engine, admitted: &Admitted, occupied: &Occupied) -> Result<Self, String> {
        Self::of(engine, admitted, &occupied.path).await
    }

    /// The same for another folder that a step of the directive fills.
    ///
    /// # Errors
    /// It cannot be measured.
    pub(super) async fn of(engine: &Engine, admitted: &Admitted, folder: &Path) -> Result<Self, String> {
        let quota = match admitted.disk {
            None => None,
            Some(Limit { value: allowed, .. }) => {
                let begun = Quota::begin(folder, allowed).await;
                Some(begun.map_err(|error| format!("limits.disk_mb cannot be watched: {error}"))?)
            }
        };
        Ok(Self { path: folder.to_owned(), quota, min_free: engine.config.min_free_bytes })
    }

    /// Resolves when the run has gone too far; never, when it does not.
    pub(super) async fn breach(&self, census: Census) -> Breach {
        let mut watch = Watch { added: 0, free: self.free(), walked: Instant::now(), took: Duration::ZERO };
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let free = self.free();
            if free < self.min_free {
                return Breach::Floor { free, min: self.min_free };
            }
            let Some(quota) = &self.quota else { continue };
            if !watch.walk_is_due(quota.allowed, free, Instant::now()) {
                continue;
            }
            let began = Instant::now();
            match quota.added(census.pids()).await {
                Ok(added) if added > quota.allowed => return Breach::Quota { added, allowed: quota.allowed },
                Ok(added) => watch = Watch { added, free, walked: Instant::now(), took: began.elapsed() },
                Err(why) => return Breach::Unmeasurable(why),
            }
        }
    }

    /// The last look, once the command has ended by itself: what was too fast for the watch is too much all the same.
    pub(super) async fn last_look(&self) -> Option<Breach> {
        let quota = self.quota.as_ref()?;
        match quota.added(Vec::new()).await {
            Ok(added) if added > quota.allowed => Some(Breach::Quota { added, allowed: quota.allowed }),
            Ok(_) => None,
            Err(why) => Some(Breach::Unmeasurable(why)),
        }
    }

    /// A file system that cannot be asked is not taken for a full one.
    fn free(&self) -> u64 {
        sys::disk::space(&self.path).map_or(u64::MAX, |space| space.free)
    }
}

impl Quota {
    async fn begin(folder: &Path, allowed: u64) -> Result<Self, UsageError> {
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
        let facility = fs::File::options().read(true).custom_flags(flags.bits().cast_signed()).open(folder)?;
        let device = facility.metadata()?.dev();
        let facility = Arc::new(OwnedFd::from(facility));
        let before = measured(Arc::clone(&facility), Vec::new(), device).await?;
        Ok(Self { facility, device, before, allowed })
    }

    /// Bytes that the facility takes more than before.
    async fn added(&self, pids: Vec<i32>) -> Result<u64, String> {
        let bytes = measured(Arc::clone(&self.facility), pids, self.device).await.map_err(|error| error.to_string())?;
        Ok(bytes.saturating_sub(self.before))
    }
}

/// The walk blocks, so it has a thread of its own.
async fn measured(facility: Arc<OwnedFd>, pids: Vec<i32>, device: u64) -> Result<u64, UsageError> {
    let walk = move || Ok(usage::beneath(facility.as_fd())? + usage::held_unlinked(&pids, device));
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
        let walked = Instant::now();
        let watch = |took| Watch { added: 40, free: 1000, walked, took };
        let quick = watch(Duration::ZERO);
        let after = |millis| walked + Duration::from_millis(millis);
        // 60 of 100 are left.
        for (free, millis, due) in
            [(1000, 100, false), (940, 100, false), (939, 100, true), (2000, 9_999, false), (2000, 10_000, true)]
        {
            assert_eq!(quick.walk_is_due(100, free, after(millis)), due, "{free} free after {millis} ms");
        }
        // A walk of a second is not made again for twenty, whatever happens.
        let slow = watch(Duration::from_secs(1));
        assert!(!slow.walk_is_due(100, 0, after(19_999)));
        assert!(slow.walk_is_due(100, 0, after(20_000)));
    }
}
