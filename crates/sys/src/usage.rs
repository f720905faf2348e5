//! How much a tree takes of its disk.
//!
//! The tree is written to by somebody hostile while it is measured, so nothing is done by path and no link is followed.
//! What cannot be measured is said to be so: a tree too deep or too large is [`UsageError::Unmeasurable`], never small.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

/// Deepest directory that is walked into: each level holds a descriptor.
const MAX_DEPTH: usize = 256;

/// Most entries that are looked at.
const MAX_ENTRIES: usize = 5_000_000;

/// Most files with several links that are told apart; beyond them each link counts.
const MAX_LINKED: usize = 1_000_000;

/// Bytes of a block as `st_blocks` counts them (stat(2)).
const BLOCK: u64 = 512;

/// What a file takes beyond its end. XFS sets space aside there for a file that grows, and gives it back later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeyondTheEnd {
    /// It counts: whoever wants to can take any amount there (fallocate(2)).
    Counts,
    /// It does not: something else bounds it.
    IsLeftOut,
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

/// The bytes that the directory and everything beneath it take of its file system: allocated blocks, so that a sparse file
/// counts what it holds. Other file systems mounted beneath are left out; entries that vanish meanwhile count nothing.
///
/// # Errors
/// [`UsageError`].
pub fn beneath(dir: BorrowedFd<'_>, beyond: BeyondTheEnd) -> Result<u64, UsageError> {
    let top = fstat(dir).map_err(io::Error::from)?;
    let mut bytes = blocks(top.st_blocks);
    let mut linked = HashSet::new();
    let mut seen = 0_usize;
    let mut stack = vec![listing(dir, c".").map_err(io::Error::from)?];
    loop {
        let depth = stack.len();
        let Some(top_dir) = stack.last_mut() else { return Ok(bytes) };
        let Some(entry) = top_dir.read() else {
            stack.pop();
            continue;
        };
        let Ok(entry) = entry else { continue };
        let name = entry.file_name().to_owned();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        seen += 1;
        if seen > MAX_ENTRIES {
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
        bytes = bytes.saturating_add(match beyond {
            BeyondTheEnd::IsLeftOut if FileType::from_raw_mode(stat.st_mode).is_file() => {
                blocks(stat.st_blocks).min(u64::try_from(stat.st_size).unwrap_or(0).next_multiple_of(PAGE))
            }
            _ => blocks(stat.st_blocks),
        });
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

/// The bytes that files take which these processes hold open although no name leads to them any more. A process that is
/// gone or may not be looked at counts nothing.
#[must_use]
pub fn held_unlinked(pids: &[i32], device: u64) -> u64 {
    let mut known = HashSet::new();
    let mut bytes = 0_u64;
    for pid in pids {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in open.flatten() {
            let Ok(meta) = fs::metadata(entry.path()) else { continue };
            if meta.is_file() && meta.nlink() == 0 && meta.dev() == device && known.insert(meta.ino()) {
                bytes = bytes.saturating_add(meta.blocks().saturating_mul(BLOCK));
            }
        }
    }
    bytes
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
        let empty = beneath(dir.fd(), BeyondTheEnd::Counts).unwrap();
        fs::write(tree.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(tree.join("a/b/file"), tree.join("again")).unwrap();
        symlink(root.path(), tree.join("up")).unwrap();
        File::create(tree.join("sparse")).unwrap().set_len(100 << 30).unwrap();
        let added = beneath(dir.fd(), BeyondTheEnd::Counts).unwrap() - empty;
        assert!((MIB..MIB + 64 * 1024).contains(&added), "{added}");
        let left_out = beneath(dir.fd(), BeyondTheEnd::IsLeftOut).unwrap();
        let big = File::options().write(true).open(tree.join("a/b/file")).unwrap();
        rustix::fs::fallocate(&big, rustix::fs::FallocateFlags::KEEP_SIZE, MIB, 3 * MIB).unwrap();
        assert!(beneath(dir.fd(), BeyondTheEnd::Counts).unwrap() - empty >= 4 * MIB);
        assert_eq!(beneath(dir.fd(), BeyondTheEnd::IsLeftOut).unwrap(), left_out);
    }

    #[test]
    fn what_is_too_deep_is_never_small() {
        let root = tempfile::tempdir().unwrap();
        let deep: std::path::PathBuf = std::iter::repeat_n("d", 300).collect();
        fs::create_dir_all(root.path().join(&deep)).unwrap();
        let dir = Beneath::open(root.path()).unwrap();
        assert!(matches!(beneath(dir.fd(), BeyondTheEnd::Counts), Err(UsageError::Unmeasurable(_))));
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
        assert!(held_unlinked(&[own], device) >= named + MIB);
        drop(file);
    }
}
