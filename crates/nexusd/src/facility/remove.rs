//! Removing facilities that were deleted at the mothership.
//!
//! Promises: never one that a directive has, nor a folder that was no facility here; the facility is gone in one step (its
//! folder is moved to `<work_dir>/.nexus/removed`), what takes long follows. A sandbox wrote the tree, so nothing is done by
//! path: directories are entered by descriptor, links removed and never followed, other file systems left alone, and trees of
//! any depth need a bounded number of descriptors. What a crash leaves in `removed` the next start takes away.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use conduits::FacilityId;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, renameat_with, unlinkat};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::{Facilities, FacilityError};

/// Deepest directory that is walked into; deeper ones are moved up first: each level holds a descriptor.
const MAX_DEPTH: usize = 128;
/// Names that are tried for what is moved.
const NAMES: u32 = 100_000;
/// How often a directory is listed again that had entries left.
const LISTINGS: u32 = 3;

/// What became of a facility that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is not here any more, or never was.
    Gone,
    /// A directive has it now.
    Busy,
}

/// What could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// The folder of removed facilities cannot be read.
    #[error("cannot read the folder of removed facilities: {0}")]
    Folder(#[from] io::Error),
    /// Entries that stay.
    #[error("{count} entries of removed facilities stay, the first is {name:?}: {source}; remove them by hand")]
    Left {
        /// How many.
        count: u64,
        /// The first one's name.
        name: CString,
        /// Why it stays.
        source: io::Error,
    },
}

impl Facilities {
    /// Takes a deleted facility out of the work folder, unless a directive has it. Its files go with
    /// [`Facilities::empty_removed`].
    ///
    /// # Errors
    /// The file system refuses; the facility is as it was.
    pub fn remove(&self, id: &FacilityId) -> Result<Removal, FacilityError> {
        let fail = |what, path: &Path| {
            let path = path.to_owned();
            move |source| FacilityError::Io { id: id.clone(), what, path, source }
        };
        let state = self.work_dir.join(".nexus");
        // Every facility has its mark before its folder: a folder without one is somebody else's.
        let mark = state.join("trust").join(id.as_str());
        if !mark.try_exists().map_err(fail("cannot look for", &mark))? {
            return Ok(Removal::Gone);
        }
        let Ok(_turn) = self.queue(id).try_lock_owned() else { return Ok(Removal::Busy) };
        let lock_path = self.state_folder("locks").map_err(fail("cannot make", &state))?.join(id.as_str());
        let Some(_lock) = sys::lock::LockFile::try_acquire(&lock_path).map_err(fail("cannot lock", &lock_path))? else {
            return Ok(Removal::Busy);
        };
        let path = self.work_dir.join(id.as_str());
        let removed = self.state_folder("removed").map_err(fail("cannot make", &state))?;
        set_aside(&path, &removed, id).map_err(fail("cannot set aside", &path))?;
        // The mark last: until then the facility counts as here, and is asked for again.
        std::fs::remove_file(&lock_path).map_err(fail("cannot remove", &lock_path))?;
        std::fs::remove_file(&mark).map_err(fail("cannot remove", &mark))?;
        Ok(Removal::Gone)
    }

    /// Removes what was set aside, now or by an earlier process, until `stop`. Blocks.
    ///
    /// # Errors
    /// Something stays; the rest is gone.
    pub fn empty_removed(&self, stop: &CancellationToken) -> Result<(), RemoveError> {
        let folder = self.work_dir.join(".nexus/removed");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, &folder, flags, Mode::empty()) {
            Ok(folder) => Walk::beneath(folder).run(stop),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(io::Error::from(errno).into()),
        }
    }
}

/// Moves the folder, whatever stands in its place, under a name that is free.
fn set_aside(path: &Path, removed: &Path, id: &FacilityId) -> io::Result<()> {
    for n in 0..NAMES {
        // No facility id holds a dot.
        match renameat_with(CWD, path, CWD, removed.join(format!("{id}.{n}")), RenameFlags::NOREPLACE) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::EXIST.into())
}

/// A directory that is being emptied.
struct Level {
    listing: Dir,
    name: CString,
    listings: u32,
    /// Something in it stays, so it stays, too, and is not gone through again.
    stays: bool,
}

impl Level {
    fn new(listing: Dir, name: CString) -> Self {
        Self { listing, name, listings: LISTINGS, stays: false }
    }
}

/// What became of an entry.
enum Outcome {
    Gone,
    /// It is a directory, to be emptied first.
    Enter(Level),
    Stays,
}

/// Empties one directory, which itself stays.
struct Walk {
    root: OwnedFd,
    removed: u64,
    moved_up: u32,
    left: u64,
    first: Option<(CString, io::Error)>,
}

impl Walk {
    fn beneath(root: OwnedFd) -> Self {
        Self { root, removed: 0, moved_up: 0, left: 0, first: None }
    }

    fn run(mut self, stop: &CancellationToken) -> Result<(), RemoveError> {
        loop {
            (self.removed, self.left, self.first) = (0, 0, None);
            self.pass(stop)?;
            // What was moved up meanwhile may have been missed by the listing.
            if self.removed == 0 || stop.is_cancelled() {
                break;
            }
        }
        match self.first {
            Some((name, source)) => Err(RemoveError::Left { count: self.left, name, source }),
            None => Ok(()),
        }
    }

    /// Goes once through the whole tree, depth first.
    fn pass(&mut self, stop: &CancellationToken) -> io::Result<()> {
        let mut stack = vec![Level::new(listing(self.root.as_fd())?, CString::default())];
        while let Some(top) = stack.last_mut() {
            if stop.is_cancelled() {
                return Ok(());
            }
            let outcome = match top.listing.read() {
                Some(Ok(entry)) if matches!(entry.file_name().to_bytes(), b"." | b"..") => continue,
                Some(Ok(entry)) => {
                    let (name, deep) = (entry.file_name().to_owned(), stack.len() >= MAX_DEPTH);
                    self.entry(&stack, name, deep)
                }
                Some(Err(errno)) => return Err(errno.into()),
                None => {
                    let Some(level) = stack.pop() else { break };
                    self.leave(&stack, level)
                }
            };
            match outcome {
                Outcome::Gone => {}
                Outcome::Enter(level) => stack.push(level),
                Outcome::Stays => {
                    if let Some(parent) = stack.last_mut() {
                        parent.stays = true;
                    }
                }
            }
        }
        Ok(())
    }

    /// Removes an entry of the topmost directory.
    fn entry(&mut self, stack: &[Level], name: CString, deep: bool) -> Outcome {
        let Some(top) = stack.last() else { return Outcome::Gone };
        let parent = match top.listing.fd() {
            Ok(parent) => parent,
            Err(errno) => return self.stays(name, errno),
        };
        match unlinkat(parent, &name, AtFlags::empty()) {
            Ok(()) => self.removed += 1,
            Err(Errno::NOENT) => {}
            // A directory: EISDIR, and EPERM by POSIX.
            Err(Errno::ISDIR | Errno::PERM) if deep => {
                if let Err(errno) = self.move_up(parent, &name) {
                    return self.stays(name, errno);
                }
            }
            Err(Errno::ISDIR | Errno::PERM) => {
                match open_to_empty(parent, &name).and_then(|dir| listing(dir.as_fd())) {
                    Ok(listing) => return Outcome::Enter(Level::new(listing, name)),
                    // No directory after all, but what may not be removed.
                    Err(Errno::NOTDIR) => return self.stays(name, Errno::PERM),
                    Err(errno) => return self.stays(name, errno),
                }
            }
            Err(errno) => return self.stays(name, errno),
        }
        Outcome::Gone
    }

    /// Removes a directory that was gone through; once more where entries are left that a listing may have missed.
    fn leave(&mut self, stack: &[Level], mut level: Level) -> Outcome {
        // The root itself stays.
        let Some(top) = stack.last() else { return Outcome::Gone };
        if level.stays {
            return Outcome::Stays;
        }
        match top.listing.fd().and_then(|parent| unlinkat(parent, &level.name, AtFlags::REMOVEDIR)) {
            Ok(()) => self.removed += 1,
            Err(Errno::NOENT) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST) if level.listings > 0 => {
                level.listing.rewind();
                level.listings -= 1;
                return Outcome::Enter(level);
            }
            Err(errno) => return self.stays(level.name, errno),
        }
        Outcome::Gone
    }

    fn move_up(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        // Its `..` changes with the move, so it must be one that its owner may write to.
        drop(open_to_empty(parent, name)?);
        for _ in 0..NAMES {
            self.moved_up = self.moved_up.wrapping_add(1);
            match renameat_with(parent, name, &self.root, format!("deep.{}", self.moved_up), RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
                Ok(()) => {
                    self.removed += 1;
                    return Ok(());
                }
            }
        }
        Err(Errno::EXIST)
    }

    fn stays(&mut self, name: CString, errno: Errno) -> Outcome {
        self.left += 1;
        self.first.get_or_insert_with(|| (name, errno.into()));
        Outcome::Stays
    }
}

fn listing(dir: BorrowedFd<'_>) -> Result<Dir, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Dir::new(rustix::fs::openat(dir, c".", flags, Mode::empty())?)
}

#[cfg(target_os = "linux")]
/// Opens a directory of the same file system, no link followed, and makes it one whose entries its owner may remove.
fn open_to_empty(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    use rustix::fs::{ResolveFlags, openat2};
    use std::os::fd::AsRawFd as _;
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let open = |flags: OFlags| {
        let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat2(parent, name, flags, Mode::empty(), resolve)
    };
    let dir = open(OFlags::PATH)?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&dir)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        // A descriptor that only names the directory takes no fchmod, and a path would have to be trusted.
        rustix::fs::chmodat(CWD, format!("/proc/self/fd/{}", dir.as_raw_fd()), Mode::RWXU, AtFlags::empty())?;
    }
    open(OFlags::RDONLY)
}

/// The same without openat2: what another user could put in its place meanwhile is nobody's here, where every facility is the
/// daemon's own user's.
#[cfg(not(target_os = "linux"))]
fn open_to_empty(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_dev != rustix::fs::fstat(parent)?.st_dev {
        return Err(Errno::XDEV);
    }
    let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
    if is_dir && !Mode::from_raw_mode(stat.st_mode).contains(Mode::RWXU) {
        rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests;
