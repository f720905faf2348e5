//! The disk while a command runs: what the directive adds to its facility, and what the disk has left.
//!
//! What it adds is bounded by a project quota where the file system has one ([`fenced`]), else watched ([`watched`]); which
//! of the two is a pure function ([`choice`]), and said when the directive starts. Either way who takes more than allowed
//! is ended. XFS needs both: its count holds more than the files do. The free space is looked at ten times a second.
//!
//! Files take more than their bytes: a file system has a number of them to give away, and empty ones would use it up. So the
//! same limit bounds how many there may be ([`allowance`]), and what the disk must have left is bounded as well.
//!
//! Leaves to others: bounding memory file systems (the driver does), and the spool (its own limit does).

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use sandbox::{Census, Limit};
use sys::disk::Space;
use sys::usage::{Usage, UsageError};
use tokio::time::Instant;
use tracing::debug;

mod choice;
mod fenced;
mod watched;

use fenced::Fenced;
use watched::{LastWalk, Watched};

use super::admit::Admitted;
use crate::engine::Engine;
use crate::facility::Occupied;

/// How often the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Bytes of a disk limit for which there may be one more file or folder: what the smallest that is not empty takes.
const BYTES_PER_ENTRY: u64 = 4096;

/// As many as a directive may make however small its limit is.
const LEAST_ENTRIES: u64 = 65_536;

/// Of the files and folders that there can be on the disk, as a share and at the most, so many must be left.
const FREE_SHARE: u64 = 100;
const MOST_FREE: u64 = 50_000;

/// What ended a run that went too far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Breach {
    /// It added more than it may.
    Quota { added: Usage, allowed: Usage },
    /// What it added cannot be told.
    Unmeasurable(String),
    /// The disk is nearly full, whoever filled it.
    Floor { free: u64, min: u64 },
    /// It has hardly any file left to give.
    NoMoreFiles { free: u64, min: u64 },
}

impl Breach {
    /// Whether it is what the directive itself did, not what became of the disk.
    pub(super) fn is_its_own(&self) -> bool {
        matches!(self, Self::Quota { .. } | Self::Unmeasurable(_))
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quota { added, allowed } if added.bytes > allowed.bytes => write!(
                f,
                "ended by its disk limit: it added {} bytes to its facility, limits.disk_mb allows {}",
                added.bytes, allowed.bytes
            ),
            Self::Quota { added, allowed } => write!(
                f,
                "ended by its disk limit: it added {} files and folders to its facility, limits.disk_mb allows {} (one for \
                 each {BYTES_PER_ENTRY} bytes, at least {LEAST_ENTRIES})",
                added.entries, allowed.entries
            ),
            Self::Unmeasurable(why) => write!(f, "ended by its disk limit: {why}"),
            Self::Floor { free, min } => {
                write!(f, "ended: the disk has {free} bytes free, below min_free_bytes ({min})")
            }
            Self::NoMoreFiles { free, min } => write!(
                f,
                "ended: the disk can take only {free} more files and folders, fewer than the {min} that are kept free; \
                 remove some, or set min_free_bytes: 0 where nothing is to be kept free"
            ),
        }
    }
}

/// The facility as the command found it, and what may become of it.
#[derive(Debug)]
pub struct DiskGuard {
    path: PathBuf,
    limit: Option<DiskLimit>,
    min_free: u64,
}

/// A directive's own limit.
#[derive(Debug)]
struct DiskLimit {
    allowed: Usage,
    kept: Kept,
}

/// What keeps it.
#[derive(Debug)]
enum Kept {
    Fence(Fenced),
    /// The fence bounds it, and the watch tells when it went too far.
    Both(#[expect(dead_code, reason = "it stands while it is held")] Fenced, Watched),
    Watch(Watched),
}

impl DiskGuard {
    /// Fences the facility or measures it, where the directive has a disk limit.
    ///
    /// # Errors
    /// It can be neither: a limit that is named and cannot be kept refuses the directive.
    pub(super) async fn begin(engine: &Engine, admitted: &Admitted, occupied: &Occupied) -> Result<Self, String> {
        let limit = DiskLimit::begin(occupied, admitted.disk).await?;
        Ok(Self { path: occupied.path.clone(), limit, min_free: engine.config.min_free_bytes })
    }

    /// Watches another folder that a step of the directive fills. It may become a facility: it is no project by then.
    ///
    /// # Errors
    /// It cannot be measured.
    pub(super) async fn of(engine: &Engine, admitted: &Admitted, folder: &Path) -> Result<Self, String> {
        let limit = match admitted.disk {
            None => None,
            Some(Limit { value: allowed, .. }) => {
                let begun = DiskLimit::watched(folder, allowance(allowed)).await;
                Some(begun.map_err(|error| format!("limits.disk_mb cannot be kept: {error}"))?)
            }
        };
        Ok(Self { path: folder.to_owned(), limit, min_free: engine.config.min_free_bytes })
    }

    /// What keeps the directive's limit, for reports; `None` where it has none.
    pub(super) fn kept_by(&self) -> Option<&'static str> {
        self.limit.as_ref().map(|limit| match limit.kept {
            Kept::Fence(_) | Kept::Both(..) => "project_quota",
            Kept::Watch(_) => "watched",
        })
    }

    /// Resolves when the run has gone too far; never, when it does not.
    pub(super) async fn breach(&self, census: Census) -> Breach {
        let mut last =
            LastWalk { added: Usage::default(), free: self.free(), at: Instant::now(), took: Duration::ZERO };
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let free = self.free();
            if let Some(breach) = free.and_then(|free| below_the_floor(free, self.min_free)) {
                return breach;
            }
            let Some(limit) = &self.limit else { continue };
            let added = match &limit.kept {
                Kept::Fence(fence) => fence.added(),
                Kept::Both(..) | Kept::Watch(_) if !last.next_is_due(limit.allowed, free, Instant::now()) => {
                    continue;
                }
                Kept::Both(_, watched) | Kept::Watch(watched) => {
                    let began = Instant::now();
                    let added = watched.added(census.pids()).await;
                    let added_by_now = added.as_ref().copied().unwrap_or_default();
                    last = LastWalk { added: added_by_now, free, at: Instant::now(), took: began.elapsed() };
                    added
                }
            };
            if let Some(breach) = limit.breached(added) {
                return breach;
            }
        }
    }

    /// The last look, once the command has ended by itself: what was too fast for the others is too much all the same.
    pub(super) async fn last_look(&self) -> Option<Breach> {
        let limit = self.limit.as_ref()?;
        limit.breached(match &limit.kept {
            Kept::Fence(fence) => fence.added(),
            Kept::Both(_, watched) | Kept::Watch(watched) => watched.added(Vec::new()).await,
        })
    }

    /// A file system that cannot be asked is not taken for a full one.
    fn free(&self) -> Option<Space> {
        sys::disk::space(&self.path).ok()
    }
}

/// What keeps the limits of untrusted directives in facilities that are made beneath `dir`: project quotas, or the watch for
/// the reason given.
///
/// # Errors
/// Why they are watched.
pub fn fenced_beneath(dir: &Path) -> Result<(), String> {
    let dir = File::open(dir).map_err(|error| error.to_string())?;
    fenced::possible(dir.as_fd())
}

/// What a limit of so many bytes allows.
fn allowance(bytes: u64) -> Usage {
    Usage { bytes, entries: (bytes / BYTES_PER_ENTRY).max(LEAST_ENTRIES) }
}

/// Whether too little is left. Who keeps no bytes free keeps no files free.
fn below_the_floor(space: Space, min_free: u64) -> Option<Breach> {
    if space.free < min_free {
        return Some(Breach::Floor { free: space.free, min: min_free });
    }
    let min = (space.inodes / FREE_SHARE).min(MOST_FREE);
    (min_free > 0 && space.free_inodes < min).then_some(Breach::NoMoreFiles { free: space.free_inodes, min })
}

impl DiskLimit {
    async fn begin(occupied: &Occupied, asked: Option<Limit>) -> Result<Option<Self>, String> {
        let cannot = |error: &dyn fmt::Display| format!("limits.disk_mb cannot be kept: {error}");
        let Some(allowed) = asked.map(|limit| allowance(limit.value)) else {
            // A facility that cannot be opened: the run itself will tell.
            if let Some(facility) = occupied.is_facility().then(|| occupied.open().ok()).flatten() {
                fenced::take_leftover_back(facility.as_fd());
            }
            return Ok(None);
        };
        let facility = Arc::new(occupied.open().map_err(|error| cannot(&error))?);
        let uid = occupied.owner.uid;
        let kept = match fenced::raise(Arc::clone(&facility), occupied.is_facility(), uid, allowed).await {
            Ok(fence) if fence.tells_exactly() => Kept::Fence(fence),
            Ok(fence) => {
                let watched = Watched::begin(facility).await;
                Kept::Both(fence, watched.map_err(|error| cannot(&error))?)
            }
            Err(why) => {
                debug!(%why, "the disk limit is watched");
                let watched = Watched::begin(facility).await;
                Kept::Watch(watched.map_err(|error| cannot(&error))?)
            }
        };
        Ok(Some(Self { allowed, kept }))
    }

    async fn watched(folder: &Path, allowed: Usage) -> Result<Self, UsageError> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW;
        let folder = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(folder)?;
        let watched = Watched::begin(Arc::new(folder.into())).await?;
        Ok(Self { allowed, kept: Kept::Watch(watched) })
    }

    fn breached(&self, added: Result<Usage, String>) -> Option<Breach> {
        match added {
            Ok(added) if added.bytes > self.allowed.bytes || added.entries > self.allowed.entries => {
                Some(Breach::Quota { added, allowed: self.allowed })
            }
            Ok(_) => None,
            Err(why) => Some(Breach::Unmeasurable(why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_limit_of_bytes_bounds_the_number_of_files() {
        for (bytes, entries) in
            [(0, LEAST_ENTRIES), (256 * MIB, LEAST_ENTRIES), (257 * MIB, 65_792), (4096 * MIB, 1 << 20)]
        {
            assert_eq!(allowance(bytes), Usage { bytes, entries });
        }
        let allowed = allowance(MIB);
        let said = |bytes, entries| Breach::Quota { added: Usage { bytes, entries }, allowed }.to_string();
        assert!(
            said(2 * MIB, 70_000).contains("it added 2097152 bytes to its facility, limits.disk_mb allows 1048576")
        );
        assert!(
            said(MIB, 65_537).contains("it added 65537 files and folders to its facility, limits.disk_mb allows 65536")
        );
    }

    #[test]
    fn a_disk_keeps_some_bytes_and_some_files_free() {
        let space = |free, free_inodes| Space { free, total: 1000 * MIB, free_inodes, inodes: 100_000 };
        assert_eq!(below_the_floor(space(MIB, 1000), MIB), None);
        assert_eq!(below_the_floor(space(MIB - 1, 0), MIB), Some(Breach::Floor { free: MIB - 1, min: MIB }));
        assert_eq!(below_the_floor(space(MIB, 999), MIB), Some(Breach::NoMoreFiles { free: 999, min: 1000 }));
        assert_eq!(below_the_floor(space(0, 0), 0), None, "nothing is kept free");
        // A file system that makes them as they are needed.
        assert_eq!(below_the_floor(Space { free_inodes: 0, inodes: 0, ..space(MIB, 0) }, MIB), None);
        let large = Space { inodes: 1 << 40, ..space(MIB, MOST_FREE - 1) };
        assert_eq!(below_the_floor(large, MIB), Some(Breach::NoMoreFiles { free: MOST_FREE - 1, min: MOST_FREE }));
    }
}
