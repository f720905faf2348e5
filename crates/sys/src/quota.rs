//! Project quotas: a bound that the file system itself keeps for the files of one project (ext4, XFS).
//!
//! A project is a number on each file. A directory that hands its own down gives it to whatever is made in it, and the
//! kernel refuses every change of it from within a user namespace, so a sandbox cannot leave its project. Root ignores the
//! limits (CAP_SYS_RESOURCE): they bind who is not root.
//!
//! Everything is done by descriptor (quotactl_fd(2), Linux 5.14 and later); a tree is walked without following links.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, FileType, FsWord, Mode, OFlags, fstat, fstatfs, open, openat};
use rustix::io::Errno;

pub use crate::quota_types::{AssignError, Bounds, Taken};

/// Deepest directory that is walked into: each level holds a descriptor.
const MAX_DEPTH: usize = 256;

/// Most entries that are given a project in one walk.
const MAX_ENTRIES: usize = 5_000_000;

/// Project quotas, among those of users and groups (`linux/quota.h`).
const PROJECTS: u32 = 2;

/// What quotactl(2) is asked for (`linux/quota.h`, `linux/dqblk_xfs.h`).
const GET_QUOTA: u32 = 0x80_0007;
const SET_QUOTA: u32 = 0x80_0008;
const GET_STATE: u32 = ((b'X' as u32) << 8) + 8;

/// The fields of [`Dqblk`] that are set: the limits of space and of inodes (`QIF_BLIMITS`, `QIF_ILIMITS`).
const SPACE_AND_INODES: u32 = 1 | 4;

/// The unit of these limits.
const LIMIT_UNIT: u64 = 1024;

/// `FS_QUOTA_PDQ_ENFD`: limits of projects are enforced.
const PROJECT_LIMITS: u16 = 1 << 5;

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR` (`linux/fs.h`).
const GET_ATTRIBUTES: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
const SET_ATTRIBUTES: libc::Ioctl = 0x401c_5820;

/// `FS_XFLAG_PROJINHERIT`: what is made in the directory is of its project.
const HANDS_DOWN: u32 = 0x200;

/// `struct if_dqblk` (`linux/quota.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Dqblk {
    space_hard: u64,
    space_soft: u64,
    space: u64,
    inodes_hard: u64,
    inodes_soft: u64,
    inodes: u64,
    space_time: u64,
    inodes_time: u64,
    valid: u32,
}

/// `struct fs_quota_statv` of version 1 (`linux/dqblk_xfs.h`): its head, and room for more than the rest.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct State {
    version: i8,
    pad: u8,
    flags: u16,
    rest: [u64; 20],
}

/// `struct fsxattr` (`linux/fs.h`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `FS_XFLAG_PREALLOC`: space was asked for beyond what was written (fallocate(2)).
const PREALLOCATED: u32 = 0x2;

/// `EXT4_SUPER_MAGIC` (`linux/magic.h`).
const EXT4: FsWord = 0xEF53;

/// Whether the file system of `on` keeps the limits of projects now: it is mounted so, and the daemon may know it.
///
/// # Errors
/// It knows no quotas, they are off, or the kernel is older than 5.14.
pub fn enforced(on: BorrowedFd<'_>) -> io::Result<bool> {
    let mut state = State { version: 1, pad: 0, flags: 0, rest: [0; 20] };
    quotactl(on, GET_STATE, 0, &mut state)?;
    Ok(state.flags & PROJECT_LIMITS != 0)
}

/// What a project of the file system of `on` has taken. One that was never used has taken nothing.
///
/// # Errors
/// No quotas of projects there, or no right to look (CAP_SYS_ADMIN).
pub fn taken(on: BorrowedFd<'_>, project: u32) -> io::Result<Taken> {
    let mut quota = Dqblk::default();
    match quotactl(on, GET_QUOTA, project, &mut quota) {
        // XFS has no record of a project without files.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        other => other?,
    }
    let limit = (quota.space_hard > 0 || quota.inodes_hard > 0)
        .then(|| Bounds { bytes: quota.space_hard.saturating_mul(LIMIT_UNIT), inodes: quota.inodes_hard });
    Ok(Taken { bytes: quota.space, inodes: quota.inodes, limit })
}

/// Whether what a project has taken is what its files hold. XFS counts the space, too, that it sets aside beyond the end of a
/// file that grows, and gives back later.
///
/// # Errors
/// fstatfs(2).
pub fn tells_exactly(on: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(fstatfs(on)?.f_type == EXT4)
}

/// Sets the bounds of a project, bytes rounded up to whole KiB, or takes them back.
///
/// # Errors
/// As [`taken`].
pub fn set_limit(on: BorrowedFd<'_>, project: u32, limit: Option<Bounds>) -> io::Result<()> {
    // 0 is no bound.
    let space_hard = limit.map_or(0, |limit| limit.bytes.div_ceil(LIMIT_UNIT).max(1));
    let inodes_hard = limit.map_or(0, |limit| limit.inodes.max(1));
    let mut quota = Dqblk { space_hard, inodes_hard, valid: SPACE_AND_INODES, ..Dqblk::default() };
    quotactl(on, SET_QUOTA, project, &mut quota)
}

/// The project of a directory or regular file that is open; 0 is none.
///
/// # Errors
/// The file system has no projects.
pub fn project_of(file: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(attributes(file)?.project)
}

/// Whether somebody asked for space for the file ahead of what he wrote. XFS remembers that.
///
/// # Errors
/// As [`project_of`].
pub fn preallocated(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(attributes(file)?.flags & PREALLOCATED != 0)
}

/// Gives the directory and everything beneath it to a project, from now on whatever is made there, too. What can hold no
/// data (links, pipes, sockets) stays what it is. Other file systems mounted beneath are left out.
///
/// The directory itself comes last: that it is of the project says that the walk was finished once.
///
/// # Errors
/// [`AssignError`]; a part may be the project's by then.
pub fn assign(dir: BorrowedFd<'_>, project: u32) -> Result<(), AssignError> {
    let device = fstat(dir).map_err(io::Error::from)?.st_dev;
    let mut stack = vec![Dir::read_from(dir).map_err(io::Error::from)?];
    let mut seen = 0_usize;
    loop {
        let depth = stack.len();
        let Some(top) = stack.last_mut() else { break };
        let Some(entry) = top.read() else {
            stack.pop();
            continue;
        };
        let name = entry.map_err(io::Error::from)?.file_name().to_owned();
        if matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        seen += 1;
        if seen > MAX_ENTRIES {
            return Err(AssignError::TooLarge("more than 5,000,000 entries"));
        }
        let parent = top.fd().map_err(io::Error::from)?;
        let Some((item, is_dir)) = open_entry(parent, &name, device)? else { continue };
        set_project(item.as_fd(), project, is_dir)?;
        if is_dir {
            if depth >= MAX_DEPTH {
                return Err(AssignError::TooLarge("folders nested more than 256 deep"));
            }
            stack.push(Dir::new(item).map_err(io::Error::from)?);
        }
    }
    Ok(set_project(dir, project, true)?)
}

/// A regular file or directory of the device, and whether it is a directory; `None` for anything else. It is looked at before
/// it is opened: to open a device can have effects, and to open a pipe can wait.
fn open_entry(parent: BorrowedFd<'_>, name: &CStr, device: u64) -> io::Result<Option<(OwnedFd, bool)>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let looked_at = match openat(parent, name, flags, Mode::empty()) {
        Ok(item) => item,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let stat = fstat(&looked_at)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if stat.st_dev != device || !(kind.is_dir() || kind.is_file()) {
        return Ok(None);
    }
    // The same file, whatever its name leads to by now.
    let same = format!("/proc/self/fd/{}", looked_at.as_raw_fd());
    let item = open(same, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    Ok(Some((item, kind.is_dir())))
}

fn set_project(file: BorrowedFd<'_>, project: u32, hands_down: bool) -> io::Result<()> {
    let before = attributes(file)?;
    let flags = if hands_down { before.flags | HANDS_DOWN } else { before.flags };
    if before.project == project && before.flags == flags {
        return Ok(());
    }
    let mut after = Attributes { flags, project, ..before };
    ioctl(file, SET_ATTRIBUTES, &mut after)
}

fn attributes(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    ioctl(file, GET_ATTRIBUTES, &mut attributes)?;
    Ok(attributes)
}

#[allow(unsafe_code)]
fn ioctl(file: BorrowedFd<'_>, request: libc::Ioctl, attributes: &mut Attributes) -> io::Result<()> {
    // SAFETY: both requests read or write one `struct fsxattr`, which `Attributes` is, and keep no pointer to it.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request, std::ptr::from_mut(attributes)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[allow(unsafe_code)]
fn quotactl<T>(on: BorrowedFd<'_>, command: u32, project: u32, data: &mut T) -> io::Result<()> {
    let command = (command << 8) | PROJECTS;
    // SAFETY: each command reads or writes one structure, which its callers here pass: `Dqblk` for the first two, for the last
    // `State`, which is larger than the kernel's of version 1. No pointer to it is kept.
    let done =
        unsafe { libc::syscall(libc::SYS_quotactl_fd, on.as_raw_fd(), command, project, std::ptr::from_mut(data)) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beneath::Beneath;

    #[test]
    fn structures_are_as_large_as_the_kernels() {
        assert_eq!((size_of::<Attributes>(), size_of::<Dqblk>()), (28, 72));
        assert!(size_of::<State>() > 160);
    }

    #[test]
    fn a_file_system_without_quotas_is_no_fence() {
        // In memory: it may know quotas of users, and none of projects.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Beneath::open(dir.path()).unwrap();
        assert!(!enforced(dir.fd()).unwrap_or(false));
        assert!(set_limit(dir.fd(), 7, Some(Bounds { bytes: 1, inodes: 1 })).is_err());
        assert!(taken(dir.fd(), 7).is_err());
    }
}
