//! How much a tree takes of its disk.
//!
//! The tree is written to by somebody hostile while it is measured, so nothing is done by path and no link is followed.
//! What cannot be measured is said to be so: a tree too deep or too large is [`UsageError::Unmeasurable`], never small.
//!
//! What a file takes beyond its end counts: whoever wants to can take any amount there (fallocate(2)). XFS sets space aside
//! there by itself for a file that grows, as much again as the file has, and gives it back later: that is not counted.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

use crate::quota;

/// Deepest directory that is walked into: each level holds a descriptor.
const MAX_DEPTH: usize = 256;

/// Most entries that are looked at.
const MAX_ENTRIES: u64 = 5_000_000;

/// Most files with several links that are told apart; beyond them each link counts.
const MAX_LINKED: usize = 1_000_000;

/// Bytes of a block as `st_blocks` counts them (stat(2)).
const BLOCK: u64 = 512;

/// What a tree takes of its file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated bytes.
    pub bytes: u64,
    /// Files, directories, links and all else that has a name, itself not counted.
    pub entries: u64,
}

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// More than is walked.
    #[error("the folder holds {0}, so what it takes of the disk cannot be measured")]
    Unmeasurable(&'static str),
    /// The file system refused.
    #[error("the folder cannot be measured: {0}")]
    Io(#[from] io::Error),
}

/// What the directory and everything beneath it take of its file system. A sparse file counts what it holds, a file with
/// several names once. Other file systems mounted beneath are left out; entries that vanish meanwhile count nothing.
///
/// # Errors
/// [`UsageError`].
pub fn beneath(dir: BorrowedFd<'_>) -> Result<Usage, UsageError> {
    let top = fstat(dir).map_err(io::Error::from)?;
    let grows_ahead = is_xfs(dir)?;
    let mut usage = Usage { bytes: blocks(top.st_blocks), entries: 0 };
    let mut linked = HashSet::new();
    let mut stack = vec![listing(dir, c".").map_err(io::Error::from)?];
    loop {
        let depth = stack.len();
        let Some(top_dir) = stack.last_mut() else { return Ok(usage) };
        let Some(entry) = top_dir.read() else {
            stack.pop();
            continue;
        };
        let Ok(entry) = entry else { continue };
        let name = entry.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        usage.entries += 1;
        if usage.entries > MAX_ENTRIES {
            return Err(UsageError::Unmeasurable("more than 5,000,000 entries"));
        }
        let parent = top_dir.fd().map_err(io::Error::from)?;
        let stat = match statat(parent, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        if stat.st_dev != top.st_dev {
            continue;
        }
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        if !is_dir && stat.st_nlink > 1 && linked.len() < MAX_LINKED && !linked.insert(stat.st_ino) {
            continue;
        }
        let mut taken = blocks(stat.st_blocks);
        let within = up_to_the_end(u64::try_from(stat.st_size).unwrap_or(0));
        if grows_ahead && taken > within && FileType::from_raw_mode(stat.st_mode).is_file() {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            // What cannot be looked at, or is something else by now, counts whole.
            if openat(parent, name.as_c_str(), flags, Mode::empty()).is_ok_and(|file| sets_aside(file.as_fd())) {
                taken = within;
            }
        }
        usage.bytes = usage.bytes.saturating_add(taken);
        if is_dir {
            if depth >= MAX_DEPTH {
                return Err(UsageError::Unmeasurable("folders nested more than 256 deep"));
            }
            match listing(parent, name.as_c_str()) {
                Ok(listing) => stack.push(listing),
                // Gone, or something else by now: the next look sees what it is.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(Errno::ACCESS) => return Err(UsageError::Unmeasurable("a folder that it closed to everybody")),
                Err(errno) => return Err(io::Error::from(errno).into()),
            }
        }
    }
}

/// What files take which these processes hold open although no name leads to them any more. A process that is gone or may
/// not be looked at counts nothing.
#[must_use]
pub fn held_unlinked(pids: &[i32], device: u64) -> Usage {
    let mut known = HashSet::new();
    let mut usage = Usage::default();
    for pid in pids {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in open.flatten() {
            let Ok(meta) = fs::metadata(entry.path()) else { continue };
            if meta.is_file() && meta.nlink() == 0 && meta.dev() == device && known.insert(meta.ino()) {
                usage.bytes = usage.bytes.saturating_add(taken_by(&entry.path(), &meta));
                usage.entries += 1;
            }
        }
    }
    usage
}

/// What one open file takes.
fn taken_by(path: &Path, meta: &fs::Metadata) -> u64 {
    let (taken, within) = (meta.blocks().saturating_mul(BLOCK), up_to_the_end(meta.size()));
    if taken <= within {
        return taken;
    }
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let ahead = file.is_ok_and(|file| is_xfs(file.as_fd()).is_ok_and(|is| is) && sets_aside(file.as_fd()));
    if ahead { within } else { taken }
}

#[cfg(target_os = "linux")]
fn is_xfs(on: BorrowedFd<'_>) -> io::Result<bool> {
    /// `XFS_SUPER_MAGIC` (`linux/magic.h`).
    const XFS: rustix::fs::FsWord = 0x5846_5342;
    Ok(rustix::fs::fstatfs(on)?.f_type == XFS)
}

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
fn is_xfs(_: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(false)
}

/// Whether what a file of an XFS takes beyond its end was set aside by the file system, and not asked for.
fn sets_aside(file: BorrowedFd<'_>) -> bool {
    quota::preallocated(file).is_ok_and(|asked_for| !asked_for)
}

fn up_to_the_end(size: u64) -> u64 {
    size.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
}

/// Whatever a file's end is in is the file's.
const PAGE: u64 = 4096;

fn blocks(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0).saturating_mul(BLOCK)
}

fn listing(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<Dir, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Dir::new(openat(dir.as_fd(), name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::beneath::Beneath;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn blocks_are_counted_once_and_links_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(root.path().join("outside"), vec![1; 4 << 20]).unwrap();
        let dir = Beneath::open(&tree).unwrap();
        let empty = beneath(dir.fd()).unwrap();
        fs::write(tree.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(tree.join("a/b/file"), tree.join("again")).unwrap();
        symlink(root.path(), tree.join("up")).unwrap();
        File::create(tree.join("sparse")).unwrap().set_len(100 << 30).unwrap();
        let full = beneath(dir.fd()).unwrap();
        let added = full.bytes - empty.bytes;
        assert!((MIB..MIB + 64 * 1024).contains(&added), "{added}");
        assert_eq!((empty.entries, full.entries), (2, 6));
        let big = File::options().write(true).open(tree.join("a/b/file")).unwrap();
        rustix::fs::fallocate(&big, rustix::fs::FallocateFlags::KEEP_SIZE, MIB, 3 * MIB).unwrap();
        assert!(beneath(dir.fd()).unwrap().bytes - empty.bytes >= 4 * MIB);
    }

    #[test]
    fn what_is_too_deep_is_never_small() {
        let root = tempfile::tempdir().unwrap();
        let deep: std::path::PathBuf = std::iter::repeat_n("d", 300).collect();
        fs::create_dir_all(root.path().join(&deep)).unwrap();
        let dir = Beneath::open(root.path()).unwrap();
        assert!(matches!(beneath(dir.fd()), Err(UsageError::Unmeasurable(_))));
    }

    #[test]
    fn a_file_without_a_name_counts_while_it_is_held() {
        let root = tempfile::tempdir().unwrap();
        let device = fs::metadata(root.path()).unwrap().dev();
        let path = root.path().join("file");
        let mut file = File::create(&path).unwrap();
        file.write_all(&vec![1; 1 << 20]).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let named = held_unlinked(&[own], device);
        fs::remove_file(&path).unwrap();
        let held = held_unlinked(&[own], device);
        assert!(held.bytes >= named.bytes + MIB && held.entries > named.entries, "{named:?} {held:?}");
        drop(file);
    }
}
