//! The folder that a run works in.
//!
//! Promises: one run at a time in a folder, by a lock that the kernel takes back from who dies; the facility of a daemon is
//! taken as the daemon takes it, so never beside one of its directives; a folder that a person names is never given away.
//! The locks lie outside every folder that a sandbox sees.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use conduits::{FacilityId, SandboxProfile};
use sandbox::Driver;
use sys::lock::LockFile;

use super::{RunError, Scratch};
use crate::engine::Engine;
use crate::facility::{Facilities, Occupied, Owner};

/// A folder that this run alone works in, until the value is dropped.
#[derive(Debug)]
pub(crate) struct Folder {
    /// Where it really is, behind links.
    pub(crate) path: PathBuf,
    _held: Held,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held, not looked at")]
enum Held {
    /// An empty one of the run's own.
    Scratch(Scratch),
    /// The user's.
    Lock(LockFile),
    /// A daemon's.
    Facility(Occupied),
}

/// Takes the folder that was named; else an empty one beneath `temp`, on the disk, for it may be filled.
///
/// # Errors
/// Somebody works there, it is not one that the sandbox could write to, or the file system refused.
pub(crate) async fn take(
    engine: &Engine,
    named: Option<&Path>,
    temp: &Path,
    profile: SandboxProfile,
) -> Result<Folder, RunError> {
    let Some(named) = named else {
        let own = Scratch::beside(temp, engine.drivers.owner(Driver::Bwrap).uid)?;
        let opened = Opened::of(own.path())?;
        opened.settle_owner(engine, profile)?;
        return Ok(Folder { path: opened.real, _held: Held::Scratch(own) });
    };
    let opened = Opened::of(named)?;
    if let Some((work_dir, id)) = daemons(&opened.real) {
        let sandbox = engine.drivers.owner(Driver::Bwrap);
        let sandbox = Owner { uid: sandbox.uid, gid: sandbox.gid };
        let daemon = Owner { uid: sys::user::effective_uid(), gid: sys::user::effective_gid() };
        let facilities = Facilities::new(work_dir, engine.config.facility.allow_privilege_mix, daemon, sandbox);
        let occupied = facilities.occupy(&id, profile).await?;
        return Ok(Folder { path: opened.real, _held: Held::Facility(occupied) });
    }
    let lock = lock(&opened, temp)?;
    opened.settle_owner(engine, profile)?;
    Ok(Folder { path: opened.real, _held: Held::Lock(lock) })
}

/// A folder by descriptor, so that what is looked at is what is locked and what changes its owner, also behind a link.
struct Opened<'a> {
    named: &'a Path,
    folder: fs::File,
    meta: fs::Metadata,
    real: PathBuf,
}

/// Where an open folder really is.
#[cfg(target_os = "linux")]
fn path_of(folder: &fs::File) -> std::io::Result<PathBuf> {
    use std::os::fd::AsRawFd as _;
    fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

/// Where an open folder really is (fcntl(2), `F_GETPATH`).
#[cfg(target_os = "macos")]
fn path_of(folder: &fs::File) -> std::io::Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    Ok(std::ffi::OsString::from_vec(rustix::fs::getpath(folder)?.into_bytes()).into())
}

impl<'a> Opened<'a> {
    fn of(named: &'a Path) -> Result<Self, RunError> {
        let fail = |what| move |source| RunError::Folder { what, path: named.to_owned(), source };
        let directory = rustix::fs::OFlags::DIRECTORY.bits().cast_signed();
        let folder = fs::OpenOptions::new().read(true).custom_flags(directory).open(named);
        let folder = folder.map_err(fail("open --facility"))?;
        let meta = folder.metadata().map_err(fail("read --facility"))?;
        let real = path_of(&folder).map_err(fail("find --facility"))?;
        Ok(Self { named, folder, meta, real })
    }

    /// A folder that the person at the terminal names is never given away: handing over `/` or `/etc` would hand the host
    /// to the sandbox's uid. Only an empty one of root's changes its owner, itself alone; everything else is refused with
    /// the command that whoever means it can run.
    fn settle_owner(&self, engine: &Engine, profile: SandboxProfile) -> Result<(), RunError> {
        let fail = |what| move |source| RunError::Folder { what, path: self.named.to_owned(), source };
        let (owner, sandbox) = (self.meta.uid(), engine.drivers.owner(Driver::Bwrap));
        let confined = matches!(profile, SandboxProfile::Untrusted | SandboxProfile::Trusted);
        let shared = owner == sandbox.uid;
        if !confined
            && shared
            && sandbox.uid != sys::user::effective_uid()
            && !engine.config.facility.allow_privilege_mix
        {
            return Err(RunError::PrivilegeMix { path: self.named.to_owned(), profile });
        }
        if !confined || shared {
            return Ok(());
        }
        let listing =
            rustix::fs::Dir::read_from(&self.folder).map_err(|errno| fail("read --facility")(errno.into()))?;
        let empty = listing.flatten().all(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."));
        if owner != 0 || !empty {
            return Err(RunError::Owner { path: self.named.to_owned(), owner, sandbox: sandbox.uid });
        }
        let given = std::os::unix::fs::fchown(&self.folder, Some(sandbox.uid), Some(sandbox.gid));
        given.map_err(fail("hand over --facility"))
    }
}

/// The work_dir and the id, where the folder is a facility of a daemon of this user. Judged by folders that nobody else
/// could have made: locks are written to there.
fn daemons(real: &Path) -> Option<(PathBuf, FacilityId)> {
    let work_dir = real.parent()?;
    let id = real.file_name()?.to_str()?.parse().ok()?;
    let state = work_dir.join(".nexus");
    let is_one = is_ours(work_dir, 0o022) && is_ours(&state, 0o022) && state.join("nexusd.lock").is_file();
    is_one.then(|| (work_dir.to_owned(), id))
}

/// A lock of the folder by what it is, not by a path: two names of one folder are one lock.
fn lock(opened: &Opened<'_>, temp: &Path) -> Result<LockFile, RunError> {
    let fail = |what, path: &Path| {
        let path = path.to_owned();
        move |source| RunError::Folder { what, path, source }
    };
    let parent = Scratch::shared_memory().unwrap_or(temp);
    let folder = parent.join(format!("nexusd-locks-{}", sys::user::effective_uid()));
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(fail("make the folder of locks", &folder)(error));
        }
        _ if is_ours(&folder, 0o077) => {}
        _ => {
            let error = io::Error::other("it is somebody else's, or open to others; remove it");
            return Err(fail("use the folder of locks", &folder)(error));
        }
    }
    let path = folder.join(format!("{:x}-{:x}", opened.meta.dev(), opened.meta.ino()));
    match LockFile::try_acquire(&path).map_err(fail("lock --facility by", &path))? {
        Some(lock) => Ok(lock),
        None => {
            let holder = fs::read_to_string(&path).unwrap_or_default();
            let holder = Some(holder.trim()).filter(|pid| !pid.is_empty()).unwrap_or("unknown").to_owned();
            Err(RunError::InUse { path: opened.named.to_owned(), holder })
        }
    }
}

/// A folder itself, not a link to one, of this user, without these rights for others.
fn is_ours(folder: &Path, none_of: u32) -> bool {
    fs::symlink_metadata(folder)
        .is_ok_and(|meta| meta.is_dir() && meta.uid() == sys::user::effective_uid() && meta.mode() & none_of == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_daemon_s_facility_is_known_by_folders_of_this_user() {
        let dir = tempfile::tempdir().unwrap();
        let (facility, state) = (dir.path().join("f-1"), dir.path().join(".nexus"));
        fs::create_dir(&facility).unwrap();
        assert_eq!(daemons(&facility), None, "no daemon ever worked there");
        fs::create_dir(&state).unwrap();
        fs::write(state.join("nexusd.lock"), "1\n").unwrap();
        assert_eq!(daemons(&facility), Some((dir.path().to_owned(), "f-1".parse().unwrap())));
        assert_eq!(daemons(&state), None, "its own state is none");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(daemons(&facility), None, "anybody could have written there");
    }

    #[test]
    fn two_names_of_one_folder_are_one_lock() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, link) = (dir.path().join("f"), dir.path().join("l"));
        fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink("f", &link).unwrap();
        let held = lock(&Opened::of(&folder).unwrap(), dir.path()).unwrap();
        let error = lock(&Opened::of(&link).unwrap(), dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by nexusd, process {}", std::process::id())), "{error}");
        lock(&Opened::of(dir.path()).unwrap(), dir.path()).unwrap();
        drop(held);
        lock(&Opened::of(&link).unwrap(), dir.path()).unwrap();
    }
}
