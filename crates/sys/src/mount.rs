//! Mount namespaces that are made once and entered often.
//!
//! A sandbox of a root daemon starts in a namespace that holds nothing but what it may be built from: there is no path
//! in it to the daemon's files, so those may stay closed to the sandbox's user, and the kernel has few mounts to copy.

#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_bind_recursive, mount_change, move_mount, open_tree, unmount,
};

/// What a tmpfs may take beside its entries' content.
const SPARE_BYTES: usize = 256 * 1024;
const SPARE_INODES: usize = 1024;

/// How often sealing is tried, and the pause between two attempts.
const SEAL_ATTEMPTS: u32 = 500;
const SEAL_PAUSE: Duration = Duration::from_millis(2);

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
    /// A file of the namespace's own.
    File {
        /// Where it is.
        at: PathBuf,
        /// What it says.
        content: Cow<'static, [u8]>,
        /// Its permissions.
        mode: u32,
    },
    /// A file of the namespace's own, shown in another place too.
    Again {
        /// Where it was put.
        from: PathBuf,
        /// Where it is shown.
        at: PathBuf,
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

/// A mount namespace to be made, as a value.
#[derive(Clone, Debug, Default)]
pub struct Namespace {
    /// What its root holds: a small tmpfs with these entries, and nothing else of the host.
    pub own: Vec<Entry>,
    /// Where a second tmpfs is, for somebody to take as a root of his own: read-only with all that is mounted in it, its
    /// setuid bits and devices without effect.
    pub sealed_at: PathBuf,
    /// What that one holds, given relative to the namespace's root.
    pub sealed: Vec<Entry>,
}

/// A mount namespace that a thread is making. Where it is dropped the thread is waited for: nothing goes on unseen.
#[derive(Debug)]
pub struct Building {
    stage: PathBuf,
    thread: Option<JoinHandle<Result<OwnedFd, NamespaceError>>>,
}

/// Begins to make a mount namespace. `stage` is an empty directory that its root is built on. Needs CAP_SYS_ADMIN.
///
/// # Errors
/// There is no thread to be had.
pub fn namespace(stage: &Path, wanted: Namespace) -> Result<Building, NamespaceError> {
    let (stage, here) = (stage.to_owned(), stage.to_owned());
    // A thread of its own enters the namespace and ends; the descriptor keeps it.
    let thread = std::thread::Builder::new().name("mounts".to_owned()).spawn(move || build(&here, &wanted));
    let thread = Some(thread.map_err(failed("starting a thread for", &stage))?);
    Ok(Building { stage, thread })
}

impl Building {
    /// Waits for the namespace: some milliseconds, or as long as the kernel takes to mount.
    ///
    /// # Errors
    /// A mount was refused.
    pub fn made(mut self) -> Result<OwnedFd, NamespaceError> {
        let panicked = || Err(failed("building in", &self.stage)(io::Error::other("the thread panicked")));
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_else(panicked)
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // Nobody wants the namespace any more, and a thread that panicked has said so.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn build(stage: &Path, wanted: &Namespace) -> Result<OwnedFd, NamespaceError> {
    // SAFETY: no memory is passed. The thread gives up sharing its root and directory with the others, which it owns alone.
    if unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) } != 0 {
        return Err(failed("making a mount namespace for", stage)(io::Error::last_os_error()));
    }
    // Also this thread's own now. The mount points are looked up by whoever enters, whatever the daemon keeps to itself.
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    // Slave: what the host mounts later in a bound tree is seen here, nothing from here is seen by the host.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave).map_err(|errno| failed("detaching", Path::new("/"))(errno.into()))?;
    fill(stage, stage, &wanted.own)?;
    let sealed = place(stage, &wanted.sealed_at);
    std::fs::create_dir_all(&sealed).map_err(failed("making", &sealed))?;
    fill(stage, &sealed, &wanted.sealed)?;
    seal(&sealed, libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV, Below::Too)?;
    seal(stage, libc::MOUNT_ATTR_RDONLY, Below::Not)?;
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

/// Mounts a tmpfs as large as its entries need, and puts them there.
fn fill(root: &Path, tmpfs: &Path, entries: &[Entry]) -> Result<(), NamespaceError> {
    let page = 4096;
    let bytes: usize = entries.iter().map(|entry| entry.bytes().next_multiple_of(page)).sum();
    // Folders above an entry are made as well; each is a page at most where it has many names.
    let options = format!("mode=0755,size={},nr_inodes={}", bytes + SPARE_BYTES, entries.len() * 4 + SPARE_INODES);
    let options = CString::new(options).map_err(|error| failed("mounting a tmpfs on", tmpfs)(error.into()))?;
    mount("tmpfs", tmpfs, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .map_err(|errno| failed("mounting a tmpfs on", tmpfs)(errno.into()))?;
    entries.iter().try_for_each(|entry| make(root, entry))
}

/// Whether what is mounted below is meant too.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    Too,
    Not,
}

/// Makes a mount read-only and more (mount_setattr(2), Linux 5.12). A process that another thread forked while a file was
/// written here holds that file open until it executes its program, and the kernel refuses for so long.
fn seal(at: &Path, attributes: u64, below: Below) -> Result<(), NamespaceError> {
    for _ in 0..SEAL_ATTEMPTS {
        match set_attributes(at, attributes, below) {
            Err(NamespaceError { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => {
                #[expect(clippy::disallowed_methods, reason = "the thread is its own and has nothing else to do")]
                std::thread::sleep(SEAL_PAUSE);
            }
            sealed => return sealed,
        }
    }
    set_attributes(at, attributes, below)
}

fn set_attributes(at: &Path, attributes: u64, below: Below) -> Result<(), NamespaceError> {
    let path = c_path(at).map_err(failed("setting attributes of", at))?;
    let attributes = libc::mount_attr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = if below == Below::Too { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is null-terminated, the struct is as large as said, and both live across the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(failed("sealing", at)(io::Error::last_os_error())) }
}

fn make(root: &Path, entry: &Entry) -> Result<(), NamespaceError> {
    match entry {
        Entry::Directory(at) => std::fs::create_dir_all(place(root, at)).map_err(failed("making", at)),
        Entry::Link { at, target } => {
            let place = place(root, at);
            with_parent(&place, || std::os::unix::fs::symlink(target, &place)).map_err(failed("linking", at))
        }
        Entry::File { at, content, mode } => {
            let place = place(root, at);
            with_parent(&place, || write(&place, content, *mode)).map_err(failed("writing", at))
        }
        Entry::Again { from, at } => {
            let (source, place) = (place(root, from), place(root, at));
            mount_point(&source, &place)?;
            mount_bind(&source, place).map_err(|errno| failed("binding", from)(errno.into()))
        }
        Entry::Tree { source, at } => {
            mount_point(source, &place(root, at))?;
            mount_bind_recursive(source, place(root, at)).map_err(|errno| failed("binding", source)(errno.into()))
        }
        Entry::Bind { source, at } => {
            mount_point(source, &place(root, at))?;
            mount_bind(source, place(root, at)).map_err(|errno| failed("binding", source)(errno.into()))
        }
    }
}

fn place(root: &Path, at: &Path) -> PathBuf {
    root.join(at.strip_prefix("/").unwrap_or(at))
}

/// Makes what is at `place`; the folder above it where that is missing, as it seldom is.
fn with_parent(place: &Path, make: impl Fn() -> io::Result<()>) -> io::Result<()> {
    match make() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            place.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            make()
        }
        made => made,
    }
}

/// A new file; the mask of this thread takes nothing of `mode` but the right of others to write.
fn write(place: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::File::options().write(true).create_new(true).mode(mode).open(place)?.write_all(content)
}

impl Entry {
    /// What it takes of the file system's size.
    fn bytes(&self) -> usize {
        match self {
            Self::File { content, .. } => content.len(),
            // A long target takes a page.
            Self::Link { target, .. } => target.as_os_str().len(),
            _ => 0,
        }
    }
}

/// A directory or an empty file, as the source asks for; one that exists in an earlier tree is used.
fn mount_point(source: &Path, place: &Path) -> Result<(), NamespaceError> {
    let kind = std::fs::metadata(source).map_err(failed("looking at", source))?;
    if kind.is_dir() {
        return std::fs::create_dir_all(place).map_err(failed("making", place));
    }
    make_parent(place)?;
    if !place.exists() {
        std::fs::write(place, "").map_err(failed("making", place))?;
    }
    Ok(())
}

fn make_parent(place: &Path) -> Result<(), NamespaceError> {
    place.parent().map_or(Ok(()), |parent| std::fs::create_dir_all(parent).map_err(failed("making", parent)))
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
