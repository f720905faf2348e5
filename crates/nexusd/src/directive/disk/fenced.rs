//! The fence: a project quota of the file system around one facility.
//!
//! Each facility that ever had one is a project of its own, and stays it: its number stands on the facility's folder
//! and on whatever is in it, so it is neither kept elsewhere nor shared. The limit is there while a directive runs,
//! and taken back when the fence is dropped. One that a killed daemon left is taken back before the next directive.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use sys::quota::{self, Bounds, Taken};
use sys::usage::Usage;
use tracing::{debug, warn};

use super::choice::{self, Choice, FIRST_PROJECT, Facts, PROJECTS};

/// Room beyond what is allowed. Who goes too far comes to a stop in it, and can so be told from who has just taken all of it.
/// XFS refuses up to 4 MiB of a write at once (1024 pages), so what stands at the stop may be that much less than the limit.
const ROOM: u64 = 8 << 20;

/// The same for files and directories.
const ROOM_INODES: u64 = 1024;

/// A limit that nothing reaches: it says that a number is taken, before the first file says so.
const CLAIMED: Bounds = Bounds { bytes: 1 << 60, inodes: 1 << 60 };

/// How many numbers are looked at for a free one.
const TRIES: u32 = 64;

/// One number at a time is chosen: between the look that finds it free and the claim nobody else may.
static CHOOSING: Mutex<()> = Mutex::new(());

/// The fence around a facility while its directive runs.
#[derive(Debug)]
pub(super) struct Fenced {
    facility: Arc<OwnedFd>,
    project: u32,
    before: Usage,
}

/// Puts the fence up, or says why the facility has to be watched instead. A facility's first fence walks over all its files.
pub(super) async fn raise(
    facility: Arc<OwnedFd>,
    persistent: bool,
    uid: u32,
    allowed: Usage,
) -> Result<Fenced, String> {
    let raise = move || {
        let facts = facts(facility.as_fd(), persistent, uid);
        let (project, new) = match choice::choose(&facts) {
            Choice::Watch(why) => return Err(why),
            Choice::Fence { project } => (project, false),
            Choice::NewFence => (claim(facility.as_fd(), rand::random())?, true),
        };
        let mut fence = Fenced { facility, project, before: Usage::default() };
        if new {
            let assigned = quota::assign(fence.facility.as_fd(), project);
            assigned.map_err(|error| format!("its files could not be made a project: {error}"))?;
        }
        let on = fence.facility.as_fd();
        fence.before = quota::taken(on, project).map(usage).map_err(|error| error.to_string())?;
        let limit = Bounds {
            bytes: fence.before.bytes + allowed.bytes + ROOM,
            inodes: fence.before.entries + allowed.entries + ROOM_INODES,
        };
        quota::set_limit(on, project, Some(limit)).map_err(|error| error.to_string())?;
        Ok(fence)
    };
    tokio::task::spawn_blocking(raise).await.unwrap_or_else(|error| Err(error.to_string()))
}

/// Whether a new facility in this folder would have a fence, or why not.
pub(super) fn possible(folder: BorrowedFd<'_>) -> Result<(), String> {
    // A facility is a project of its own, whatever the folder around it is.
    match choice::choose(&Facts { project: Ok(0), ..facts(folder, true, u32::MAX) }) {
        Choice::Watch(why) => Err(why),
        Choice::Fence { .. } | Choice::NewFence => Ok(()),
    }
}

/// Takes back a limit that a killed daemon left on the facility's project.
pub(super) fn take_leftover_back(facility: BorrowedFd<'_>) {
    let Some(project) = quota::project_of(facility).ok().filter(|project| choice::is_ours(*project)) else { return };
    match quota::taken(facility, project) {
        Ok(Taken { limit: Some(_), .. }) => take_back(facility, project),
        Ok(_) => {}
        // Nothing is enforced where nobody may look.
        Err(error) => debug!(project, %error, "the facility's project quota cannot be read"),
    }
}

fn usage(taken: Taken) -> Usage {
    Usage { bytes: taken.bytes, entries: taken.inodes }
}

fn take_back(on: BorrowedFd<'_>, project: u32) {
    if let Err(error) = quota::set_limit(on, project, None) {
        warn!(project, %error, "the limit of a project quota could not be taken back: the next directive there tries again");
    }
}

fn facts(facility: BorrowedFd<'_>, persistent: bool, uid: u32) -> Facts {
    Facts {
        persistent,
        as_root: uid == 0,
        by_root: sys::user::effective_uid() == 0,
        enforced: quota::enforced(facility).map_err(|error| error.to_string()),
        project: quota::project_of(facility).map_err(|error| error.to_string()),
    }
}

/// Finds a number that nobody uses, from a random one on (other daemons on the same file system do not know of each other),
/// and claims it.
fn claim(on: BorrowedFd<'_>, random: u32) -> Result<u32, String> {
    let _one_at_a_time = CHOOSING.lock().unwrap_or_else(PoisonError::into_inner);
    for offset in 0..TRIES {
        let project = FIRST_PROJECT + random.wrapping_add(offset) % PROJECTS;
        let taken = quota::taken(on, project).map_err(|error| error.to_string())?;
        if taken == (Taken { bytes: 0, inodes: 0, limit: None }) {
            quota::set_limit(on, project, Some(CLAIMED)).map_err(|error| error.to_string())?;
            return Ok(project);
        }
    }
    Err(format!("{TRIES} project numbers are all taken"))
}

impl Fenced {
    /// Whether [`Fenced::added`] is what the directive has added. Where it is not, the fence bounds it all the same.
    pub(super) fn tells_exactly(&self) -> bool {
        quota::tells_exactly(self.facility.as_fd()).unwrap_or(false)
    }

    /// What the facility takes more than before. A file without a name counts as long as it is held.
    pub(super) fn added(&self) -> Result<Usage, String> {
        let now = quota::taken(self.facility.as_fd(), self.project).map(usage).map_err(|error| error.to_string())?;
        Ok(Usage {
            bytes: now.bytes.saturating_sub(self.before.bytes),
            entries: now.entries.saturating_sub(self.before.entries),
        })
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        take_back(self.facility.as_fd(), self.project);
    }
}
