//! Mount namespaces that are made once and entered often.
//!
//! A sandbox of a root daemon starts in a namespace that holds nothing but what it may be built from: there is no path
//! in it to the daemon's files, so those may stay closed to the sandbox's user, and the kernel has few mounts to copy.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_bind_recursive, mount_change, move_mount, open_tree, unmount,
};

/// One entry of a namespace, its place given relative to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A directory.
    Directory(PathBuf),
    /// A symbolic link.
    Link {
        /// Where it is.
        at: PathBuf,
        /// What it says.
        target: PathBuf,
    },
    /// A directory of the host, with all that is mounted in it.
    Tree {
        /// On the host.
        source: PathBuf,
        /// Where it is.
        at: PathBuf,
    },
    /// A directory or file of the host, without what is mounted in it.
    Bind {
        /// On the host.
        source: PathBuf,
        /// Where it is.
        at: PathBuf,
    },
}

/// Why a namespace could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{step} {path}: {source}")]
pub struct NamespaceError {
    /// What was done.
    pub step: &'static str,
    /// To what.
    pub path: PathBuf,
    /// The kernel's reason.
    pub source: io::Error,
}

/// A copy of the mounts at a directory, attached nowhere (open_tree(2)). Needs CAP_SYS_ADMIN.
///
/// # Errors
/// As open_tree(2).
pub fn clone_tree(dir: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(dir, c"", flags)?)
}

/// Attaches a detached tree to a path of this thread's namespace.
///
/// # Errors
/// As move_mount(2).
pub fn attach(tree: impl AsFd, at: &Path) -> io::Result<()> {
    Ok(move_mount(tree, c"", rustix::fs::CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Makes a mount namespace whose root is a small read-only tmpfs with these entries, and nothing else of the host.
/// `stage` is an empty directory that the root is built on. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// A mount was refused.
pub fn namespace(stage: &Path, entries: Vec<Entry>) -> Result<OwnedFd, NamespaceError> {
    let stage = stage.to_owned();
    // A thread of its own enters the namespace and ends; the descriptor keeps it.
    let built = std::thread::scope(|scope| scope.spawn(|| build(&stage, &entries)).join());
    built.unwrap_or_else(|_| Err(failed("building in", &stage)(io::Error::other("the thread panicked"))))
}

fn build(stage: &Path, entries: &[Entry]) -> Result<OwnedFd, NamespaceError> {
    // SAFETY: no memory is passed. The thread gives up sharing its root and directory with the others, which it owns alone.
    if unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) } != 0 {
        return Err(failed("making a mount namespace for", stage)(io::Error::last_os_error()));
    }
    // Also this thread's own now. The mount points are looked up by whoever enters, whatever the daemon keeps to itself.
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    // Slave: what the host mounts later in a bound tree is seen here, nothing from here is seen by the host.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave).map_err(|errno| failed("detaching", Path::new("/"))(errno.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", stage, "tmpfs", flags, c"mode=0755,size=256k,nr_inodes=1024")
        .map_err(|errno| failed("mounting a tmpfs on", stage)(errno.into()))?;
    for entry in entries {
        make(stage, entry)?;
    }
    let own = rustix::fs::open(
        "/proc/thread-self/ns/mnt",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|errno| failed("opening", Path::new("/proc/thread-self/ns/mnt"))(errno.into()))?;
    // The new root is put over the old one, which is then taken away from below it (pivot_root(2), "." on ".").
    std::env::set_current_dir(stage).map_err(failed("entering", stage))?;
    // SAFETY: both paths are static and null-terminated.
    if unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) } != 0 {
        return Err(failed("making a root of", stage)(io::Error::last_os_error()));
    }
    unmount(".", UnmountFlags::DETACH).map_err(|errno| failed("leaving", Path::new("/"))(errno.into()))?;
    Ok(own)
}

fn make(root: &Path, entry: &Entry) -> Result<(), NamespaceError> {
    let place = |at: &Path| root.join(at.strip_prefix("/").unwrap_or(at));
    match entry {
        Entry::Directory(at) => std::fs::create_dir_all(place(at)).map_err(failed("making", at)),
        Entry::Link { at, target } => std::os::unix::fs::symlink(target, place(at)).map_err(failed("linking", at)),
        Entry::Tree { source, at } => {
            mount_point(source, &place(at))?;
            mount_bind_recursive(source, place(at)).map_err(|errno| failed("binding", source)(errno.into()))
        }
        Entry::Bind { source, at } => {
            mount_point(source, &place(at))?;
            mount_bind(source, place(at)).map_err(|errno| failed("binding", source)(errno.into()))
        }
    }
}

/// A directory or an empty file, as the source asks for; one that exists in an earlier tree is used.
fn mount_point(source: &Path, place: &Path) -> Result<(), NamespaceError> {
    let kind = std::fs::metadata(source).map_err(failed("looking at", source))?;
    if kind.is_dir() {
        return std::fs::create_dir_all(place).map_err(failed("making", place));
    }
    if let Some(parent) = place.parent() {
        std::fs::create_dir_all(parent).map_err(failed("making", parent))?;
    }
    if !place.exists() {
        std::fs::write(place, "").map_err(failed("making", place))?;
    }
    Ok(())
}

fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NamespaceError {
    let path = path.to_owned();
    move |source| NamespaceError { step, path, source }
}

/// A path as the stages of a start take it.
///
/// # Errors
/// It has a NUL byte.
pub fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}
