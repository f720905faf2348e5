//! A folder of a process's own for the time of one run: `nexusd run` and doctor work there.
//!
//! Promises: closed to everybody else; gone when the value is, whatever modes the command left in it; those of processes
//! that were killed are removed by the next one.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::RunError;

/// How such folders are named, before the process id.
const PREFIX: &str = "nexusd-run-";

/// Where Linux keeps POSIX shared memory: a tmpfs that everybody may make folders in (shm_overview(7)).
const SHARED_MEMORY: &str = "/dev/shm";

/// How deep folders are opened up again that the command closed to itself.
const MAX_DEPTH: usize = 128;

/// Whether a folder is in memory, and programs may be executed from it.
#[cfg(target_os = "linux")]
fn is_executable_memory(folder: &Path) -> bool {
    use rustix::fs::{FsWord, StatVfsMountFlags, statfs, statvfs};
    /// `f_type` of a tmpfs (statfs(2)).
    const TMPFS_MAGIC: FsWord = 0x0102_1994;
    statvfs(folder).is_ok_and(|stat| !stat.f_flag.contains(StatVfsMountFlags::NOEXEC))
        && statfs(folder).is_ok_and(|stat| stat.f_type == TMPFS_MAGIC)
}

/// Other systems have no such place that is there by itself.
#[cfg(not(target_os = "linux"))]
const fn is_executable_memory(_: &Path) -> bool {
    false
}

/// A folder of the run's own that is gone when the value is.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes it beneath `parent`, closed to everybody else.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(parent: &Path) -> Result<Self, RunError> {
        Self::beside(parent, sys::user::effective_uid())
    }

    /// As [`Scratch::new`], for a folder that is going to be `owner`'s: those that he was given by runs that were killed are
    /// removed, too.
    ///
    /// # Errors
    /// As [`Scratch::new`].
    pub fn beside(parent: &Path, owner: u32) -> Result<Self, RunError> {
        remove_abandoned(parent, owner);
        let path = parent.join(format!("{PREFIX}{}-{:016x}", std::process::id(), rand::random::<u64>()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|source| RunError::Folder { what: "make the folder", path: path.clone(), source })?;
        Ok(Self(path))
    }

    /// Makes it in memory where the host has a place for that, else beneath `parent`: state that lives as long as a command
    /// is not written to a disk, where a hundred small files take longer than the sandbox itself.
    ///
    /// # Errors
    /// As [`Scratch::new`].
    pub fn in_memory(parent: &Path) -> Result<Self, RunError> {
        if let Some(shared) = Self::shared_memory()
            && let Ok(scratch) = Self::new(shared)
        {
            return Ok(scratch);
        }
        Self::new(parent)
    }

    /// The host's place for files in memory, where it is one that programs may be executed from: the sandbox's ssh does.
    pub(super) fn shared_memory() -> Option<&'static Path> {
        let shared = Path::new(SHARED_MEMORY);
        is_executable_memory(shared).then_some(shared)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "the run's own folder stays behind");
        }
    }
}

/// Removes what processes left that were killed: folders of this user, or of one to whom this user gives them, named by a
/// process that is no more.
fn remove_abandoned(parent: &Path, given_to: u32) {
    let Ok(listing) = fs::read_dir(parent) else { return };
    for entry in listing.flatten() {
        let name = entry.file_name();
        let dead = name.to_str().and_then(owner_of).is_some_and(|pid| !sys::processes::lives(pid));
        let is_ours = |owner| owner == sys::user::effective_uid() || owner == given_to;
        // Names first: temporary folders are full of others' files.
        if dead && entry.metadata().is_ok_and(|meta| meta.is_dir() && is_ours(meta.uid())) {
            sys::leftover::end_those_of(&entry.path());
            if remove(&entry.path()).is_err() {
                tracing::debug!(folder = %entry.path().display(), "what a killed run left cannot be removed");
            }
        }
    }
}

/// The process that a folder's name names.
fn owner_of(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split_once('-')?.0.parse().ok()
}

/// Nothing of the run is alive any more, so nothing changes meanwhile.
fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(folder, MAX_DEPTH);
            fs::remove_dir_all(folder)
        }
        removed => removed,
    }
}

/// Gives the owner every right to a folder and those beneath it; links are not followed.
fn open_up(folder: &Path, depth: usize) {
    let real = fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir());
    if !real || depth == 0 || fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).is_err() {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        open_up(&entry.path(), depth - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        // Pid 1 lives; a pid above the kernel's highest never does.
        for name in ["nexusd-run-4194999-00", "nexusd-run-1-00", "nexusd-run-", "nexusd-run-x-1", "other-4194999-00"] {
            fs::create_dir_all(dir.path().join(name).join("below")).unwrap();
        }
        let scratch = Scratch::new(dir.path()).unwrap();
        assert!(!dir.path().join("nexusd-run-4194999-00").exists());
        for name in ["nexusd-run-1-00", "nexusd-run-", "nexusd-run-x-1", "other-4194999-00"] {
            assert!(dir.path().join(name).exists(), "{name}");
        }
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }
}
