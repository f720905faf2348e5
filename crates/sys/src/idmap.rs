//! Mounts that show the files of one user as another's (mount_setattr(2), `MOUNT_ATTR_IDMAP`, Linux 5.12).
//!
//! What is written through such a mount is the first one's again. File systems have to know of it: ext4, XFS and btrfs do.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::pipe::pipe;

/// User and group of one, in the initial namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// A user namespace in which `own` stand for `shown`: what a mount is mapped by. Nobody runs in it. Needs root.
///
/// # Errors
/// No user namespace can be made, or it may not be mapped so.
pub fn mapping(own: Ids, shown: Ids) -> io::Result<OwnedFd> {
    let hold = pipe()?;
    let write_end = hold.write.as_raw_fd();
    let read_end = hold.read.as_raw_fd();
    let flags = libc::c_long::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
    // SAFETY: a plain fork, into a memory and a user namespace of its own; the child makes nothing but raw system calls on its
    // own stack until it ends, so no lock that another thread held matters. It ends with the parent: the pipe closes.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    if pid == 0 {
        let mut byte = 0_u8;
        // SAFETY: the byte lives across the call; the descriptors are this process's copies.
        unsafe {
            libc::close(write_end);
            libc::read(read_end, (&raw mut byte).cast(), 1);
            libc::_exit(0)
        }
    }
    let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0).ok_or_else(io::Error::last_os_error)?;
    let made = write_map(pid, "uid_map", own.uid, shown.uid)
        .and_then(|()| write_map(pid, "gid_map", own.gid, shown.gid))
        .and_then(|()| File::open(format!("/proc/{pid}/ns/user")));
    drop(hold);
    // SAFETY: a child of ours that nobody else waits for; no status is asked for.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
    made.map(OwnedFd::from)
}

fn write_map(pid: i32, file: &str, own: u32, shown: u32) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/{file}"))?;
    file.write_all(format!("{own} {shown} 1\n").as_bytes())
}

/// Maps the topmost mount of a detached tree that nobody has used yet, from [`crate::mount::clone_tree`].
///
/// # Errors
/// The file system does not know of mapped mounts (EINVAL), or the kernel does not (ENOSYS).
pub fn map(tree: impl AsFd, mapping: impl AsFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(mapping.as_fd().as_raw_fd()).unwrap_or(u64::MAX),
    };
    // SAFETY: the path is null-terminated, the struct is as large as said, and both live across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
