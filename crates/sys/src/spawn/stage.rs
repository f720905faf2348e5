//! What happens in a child between its making and its program, as data.

use std::ffi::CString;
use std::os::fd::OwnedFd;

/// A resource limit (setrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Size of a core dump, in bytes.
    Core,
    /// Size of a file, in bytes.
    FileSize,
    /// Open files.
    OpenFiles,
}

/// One step between clone and exec.
#[derive(Debug)]
pub enum Stage {
    /// Enters the mount namespace behind the descriptor (setns(2)), which many children share; needs CAP_SYS_ADMIN and CAP_SYS_CHROOT.
    EnterMountNamespace(std::sync::Arc<OwnedFd>),
    /// Makes a copy of the mount namespace for this process alone (unshare(2)).
    OwnMountNamespace,
    /// Mounts a detached tree on a path (move_mount(2)).
    Attach {
        /// The tree, from [`crate::mount::clone_tree`].
        tree: OwnedFd,
        /// Where.
        at: CString,
    },
    /// Joins the cgroup that this file of it lets in, see [`crate::cgroup::Group::doors`].
    JoinCgroup(OwnedFd),
    /// Sets a limit, soft and hard alike. That of open files is in force from exec on.
    Limit(Resource, u64),
    /// Begins a session and process group of its own: no controlling terminal, no Ctrl-C of the daemon's.
    NewSession,
    /// Gives up the groups and becomes this user for good.
    ChangeUser {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
    },
    /// SIGKILL when the spawning thread ends. After [`Stage::ChangeUser`]: a change of uid takes the request back.
    DieWithParent,
    /// Goes to the directory behind the descriptor.
    WorkingDirectory(OwnedFd),
}

impl Resource {
    /// The highest limit that a child may be given: the daemon's own, where it may not go beyond that.
    #[must_use]
    pub fn ceiling(self) -> u64 {
        use rustix::process::{Resource as Kind, getrlimit};
        if may_raise() {
            return u64::MAX;
        }
        let kind = match self {
            Self::Core => Kind::Core,
            Self::FileSize => Kind::Fsize,
            Self::OpenFiles => Kind::Nofile,
        };
        getrlimit(kind).maximum.unwrap_or(u64::MAX)
    }
}

#[cfg(target_os = "linux")]
fn may_raise() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}

/// Even root is held to what the kernel has for one process.
#[cfg(not(target_os = "linux"))]
const fn may_raise() -> bool {
    false
}

impl Stage {
    /// The step in words, for the error.
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::EnterMountNamespace(_) => "entering the prepared mount namespace",
            Self::OwnMountNamespace => "making a mount namespace",
            Self::Attach { .. } => "mounting into the sandbox's namespace",
            Self::JoinCgroup(_) => "joining the cgroup",
            Self::Limit(Resource::Core, _) => "setting the limit of core dumps",
            Self::Limit(Resource::FileSize, _) => "setting the limit of a file's size",
            Self::Limit(Resource::OpenFiles, _) => "setting the limit of open files",
            Self::NewSession => "making a session",
            Self::ChangeUser { .. } => "changing to the sandbox's user",
            Self::DieWithParent => "asking to die with the daemon",
            Self::WorkingDirectory(_) => "entering the working directory",
        }
    }
}
