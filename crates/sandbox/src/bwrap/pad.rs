//! The mount namespace that a root daemon's sandboxes start in: it holds what bubblewrap itself needs, and their root.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sys::facts::KernelFacts;
use sys::mount::{Building, Entry, Namespace, NamespaceError};

use super::root::Root;
use crate::DriversError;

/// Where things are in it.
pub(super) const ROOT: &str = "/pad/root";
pub(super) const WORKSPACE: &str = "/pad/workspace";
pub(super) const SOCKET: &str = "/pad/proxy.sock";

/// The namespace, made in the background from the start: whoever needs it first waits for the rest of it.
#[derive(Debug)]
pub(super) struct Pad {
    building: Mutex<Option<Building>>,
    made: OnceLock<Result<Arc<OwnedFd>, String>>,
}

impl Pad {
    /// Begins to make it. The outer error is that there is no place for it; the inner text says why it cannot be made here.
    pub(super) fn begin(stage: &Path, root: &Root, program: &Path) -> Result<Result<Self, String>, DriversError> {
        std::fs::create_dir_all(stage).map_err(|source| DriversError::Prepare { path: stage.to_owned(), source })?;
        let building = match sys::mount::namespace(stage, wanted(root, program)) {
            Ok(building) => Mutex::new(Some(building)),
            Err(error) => return Ok(Err(cannot_mount(&error, &KernelFacts::read().release))),
        };
        Ok(Ok(Self { building, made: OnceLock::new() }))
    }

    /// The namespace, or why there is none.
    pub(super) fn made(&self) -> Result<Arc<OwnedFd>, String> {
        let finish = || {
            let building = self.building.lock().unwrap_or_else(PoisonError::into_inner).take();
            let made = building.ok_or("nothing is made")?.made();
            made.map(Arc::new).map_err(|error| cannot_mount(&error, &KernelFacts::read().release))
        };
        self.made.get_or_init(finish).clone()
    }
}

/// Why a root daemon's sandboxes have nothing to start in, and what mends that.
fn cannot_mount(error: &NamespaceError, kernel: &str) -> String {
    use std::io::ErrorKind::{PermissionDenied, Unsupported};
    match error.source.kind() {
        Unsupported => format!(
            "the kernel ({kernel}) is too old for a root daemon's sandboxes ({error}): boot Linux 5.12 or later, or run nexusd \
             as an ordinary user"
        ),
        PermissionDenied => format!(
            "the daemon is root without the right to mount ({error}): run it with CAP_SYS_ADMIN, or as an ordinary user"
        ),
        _ => format!("what the sandboxes of a root daemon start in cannot be made: {error}"),
    }
}

/// The prepared mount namespace: what bubblewrap itself needs, and the sandboxes' root.
fn wanted(root: &Root, program: &Path) -> Namespace {
    let tree = |source: &Path, at: PathBuf| Entry::Tree { source: source.to_owned(), at };
    let mut own = vec![tree(Path::new("/proc"), "/proc".into())];
    // One mount for bubblewrap and the sandboxes where both have the host's: it reads each again at every mount it makes.
    let usr = Path::new("/usr");
    own.push(if root.shows(usr) {
        Entry::Link { at: usr.to_owned(), target: Path::new(ROOT).join("usr") }
    } else {
        tree(usr, usr.to_owned())
    });
    // The device nodes that bubblewrap hands on, without what else is mounted in /dev.
    own.push(Entry::Bind { source: "/dev".into(), at: "/dev".into() });
    for name in ["bin", "sbin", "lib", "lib32", "lib64"] {
        let path = Path::new("/").join(name);
        match std::fs::read_link(&path) {
            Ok(target) => own.push(Entry::Link { at: path, target }),
            Err(_) if path.is_dir() => own.push(tree(&path, path.clone())),
            Err(_) => {}
        }
    }
    // A copy: what is missing in an old one is looked for in the usual folders.
    if let Ok(cache) = std::fs::read("/etc/ld.so.cache") {
        own.push(Entry::File { at: "/etc/ld.so.cache".into(), content: cache.into(), mode: 0o444 });
    }
    if !program.starts_with("/usr") && !["/bin", "/sbin"].iter().any(|dir| program.starts_with(dir)) {
        own.push(Entry::Bind { source: program.to_owned(), at: program.to_owned() });
    }
    // bubblewrap builds the new root on /tmp.
    own.push(Entry::Directory("/tmp".into()));
    own.push(Entry::Directory(WORKSPACE.into()));
    own.push(Entry::File { at: SOCKET.into(), content: (&[]).into(), mode: 0o444 });
    let sealed_at = Path::new(ROOT);
    Namespace { own, sealed_at: sealed_at.to_owned(), sealed: super::root::place::in_memory(root, sealed_at) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_root_from_mounting_is_told_apart() {
        use rustix::io::Errno;
        let said = |errno: Errno| {
            let source = errno.into();
            cannot_mount(&NamespaceError { step: "sealing", path: "/x".into(), source }, "5.10.0-28-amd64")
        };
        for (errno, part) in [
            (Errno::NOSYS, "the kernel (5.10.0-28-amd64) is too old"),
            (Errno::PERM, "run it with CAP_SYS_ADMIN"),
            (Errno::ACCESS, "run it with CAP_SYS_ADMIN"),
            (Errno::NOSPC, "cannot be made: sealing /x: No space left on device"),
        ] {
            assert!(said(errno).contains(part), "{}", said(errno));
        }
    }
}
