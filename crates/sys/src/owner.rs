//! Handing a tree over to another owner.
//!
//! The tree was written by somebody hostile, so nothing is done by path: every entry is opened without following links,
//! looked at through its descriptor, and changed through the same one. A file with several links is left alone: its
//! other name may be a file outside that its owner wants to get.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid, chownat, fstat, openat};
use rustix::io::Errno;

/// Deepest directory that is walked into: each level holds a descriptor.
pub const MAX_DEPTH: usize = 256;

/// What a walk did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandedOver {
    /// Entries that changed owner.
    pub changed: u64,
    /// Entries that were theirs already.
    pub kept: u64,
    /// Files with several links, left alone.
    pub linked: u64,
    /// Directories deeper than [`MAX_DEPTH`] or on another file system, left alone.
    pub skipped: u64,
}

/// Gives the directory and all beneath it to `uid` and `gid`. Setuid bits of files are cleared by the kernel on the way.
///
/// # Errors
/// The owner of an entry cannot be changed (chown(2)), or a directory cannot be read. Entries that vanish meanwhile are no error.
pub fn hand_over(dir: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<HandedOver> {
    let device = fstat(dir)?.st_dev;
    let mut done = HandedOver::default();
    let mut stack = vec![listing(dir)?];
    while let Some(top) = stack.last_mut() {
        let Some(entry) = top.read() else {
            stack.pop();
            continue;
        };
        let name: CString = entry?.file_name().to_owned();
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        let Some(item) = open_entry(top.fd()?, &name)? else { continue };
        let stat = fstat(&item)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        if stat.st_dev != device || (is_dir && stack.len() >= MAX_DEPTH) {
            done.skipped += 1;
        } else if !is_dir && stat.st_nlink > 1 {
            done.linked += 1;
        } else {
            give(item.as_fd(), uid, gid, &mut done)?;
            if is_dir {
                stack.push(listing(item.as_fd())?);
            }
        }
    }
    // Last: by the directory's owner callers see whether the walk was ever finished.
    give(dir, uid, gid, &mut done)?;
    Ok(done)
}

/// The entry itself, never what it links to; `None` when it has gone.
fn open_entry(dir: BorrowedFd<'_>, name: &CString) -> io::Result<Option<OwnedFd>> {
    match openat(dir, name.as_c_str(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A directory for reading: the descriptor that it was looked at through (O_PATH) cannot be read itself.
fn listing(dir: BorrowedFd<'_>) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(Dir::new(openat(dir, c".", flags, Mode::empty())?)?)
}

/// Changes the owner of what the descriptor stands for, where it differs.
fn give(item: BorrowedFd<'_>, uid: u32, gid: u32, done: &mut HandedOver) -> io::Result<()> {
    let stat = fstat(item)?;
    if stat.st_uid == uid && stat.st_gid == gid {
        done.kept += 1;
        return Ok(());
    }
    chownat(item, c"", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
    done.changed += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;
    use crate::beneath::Beneath;

    #[test]
    fn links_out_of_the_tree_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let (outside, tree) = (root.path().join("outside"), root.path().join("tree"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(&outside, "x").unwrap();
        std::fs::write(tree.join("a/b/file"), "x").unwrap();
        std::fs::hard_link(&outside, tree.join("hard")).unwrap();
        symlink(&outside, tree.join("soft")).unwrap();
        symlink(root.path(), tree.join("up")).unwrap();
        let me = (crate::user::effective_uid(), crate::user::effective_gid());
        let (uid, gid) = if me.0 == 0 { (64_321, 64_321) } else { me };
        let dir = Beneath::open(&tree).unwrap();
        let done = hand_over(dir.fd(), uid, gid).unwrap();
        assert_eq!((done.changed + done.kept, done.linked, done.skipped), (6, 1, 0));
        for path in ["", "a", "a/b", "a/b/file", "soft", "up"] {
            assert_eq!(std::fs::symlink_metadata(tree.join(path)).unwrap().uid(), uid, "{path:?}");
        }
        for path in [root.path(), &outside] {
            assert_eq!(std::fs::metadata(path).unwrap().uid(), me.0, "{path:?}");
        }
        assert_eq!(hand_over(dir.fd(), uid, gid).unwrap().changed, 0);
    }
}
