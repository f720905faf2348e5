//! Facilities: the persistent folders that directives work in.
//!
//! Promises: one directive at a time in a facility (a queue inside this process, a lock file against
//! every other one), a folder that belongs to the uid that will work in it, and no run in a folder that
//! a less trusted profile has written to, unless the operator allows that mix. The lock and the mark of
//! trust stand in `<work_dir>/.nexus`, where no sandbox can reach them.

mod remove;
pub mod retention;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use conduits::{FacilityId, SandboxProfile};
use tokio::sync::OwnedMutexGuard;

pub use remove::{Removal, RemoveError};

/// The uid and gid that isolated runs have on the host, where they differ from the daemon's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id on the host.
    pub uid: u32,
    /// Group id on the host.
    pub gid: u32,
}

/// All facilities beneath one work folder.
#[derive(Debug)]
pub struct Facilities {
    work_dir: PathBuf,
    allow_privilege_mix: bool,
    daemon: Owner,
    sandbox: Owner,
    queues: Mutex<HashMap<FacilityId, Arc<tokio::sync::Mutex<()>>>>,
}

/// A facility that this run alone may use, until the value is dropped.
#[derive(Debug)]
pub struct Occupied {
    /// The folder on the host.
    pub path: PathBuf,
    /// Nothing was in it (`.nexus` not counted).
    pub empty: bool,
    /// Whose it is.
    pub owner: Owner,
    /// Facilities are held, folders of the user's own are not.
    held: Option<Held>,
}

/// A facility's lock and its turn. When it was last held is what its retention goes by.
#[derive(Debug)]
struct Held {
    lock: sys::lock::LockFile,
    _turn: OwnedMutexGuard<()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.lock.touch() {
            tracing::warn!(%error, "when a facility was last used cannot be noted");
        }
    }
}

/// Why a facility cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FacilityError {
    /// Another process holds its lock.
    #[error("facility {id} is in use by another process (it holds {lock}); wait for it or stop it", lock = lock.display())]
    Busy {
        /// The facility.
        id: FacilityId,
        /// The lock file.
        lock: PathBuf,
    },
    /// A less trusted profile wrote there.
    #[error(
        "facility {id} was written to by profile `{marked}`, which is less trusted than `{asked}`: what it left there could \
         run with more rights than it had; use another facility, or set facility.allow_privilege_mix: true"
    )]
    PrivilegeMix {
        /// The facility.
        id: FacilityId,
        /// The least trusted profile that wrote there.
        marked: SandboxProfile,
        /// The profile of this run.
        asked: SandboxProfile,
    },
    /// What stands at the facility's path is no folder.
    #[error("facility {id}: {path} is not a directory; remove it or choose another facility id", path = path.display())]
    NotADirectory {
        /// The facility.
        id: FacilityId,
        /// Its path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("facility {id}: {what} {path}: {source}", path = path.display())]
    Io {
        /// The facility.
        id: FacilityId,
        /// What was being done.
        what: &'static str,
        /// To which path.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl Occupied {
    /// A folder of the user's own, for `nexusd run`: nobody else is kept out of it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn folder(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        let owner = Owner { uid: meta.uid(), gid: meta.gid() };
        Ok(Self { path: path.to_owned(), empty: is_empty(path)?, owner, held: None })
    }

    /// Whether it is a facility beneath `work_dir`, not a folder of the user's own.
    pub fn is_facility(&self) -> bool {
        self.held.is_some()
    }

    /// The folder itself, for work beneath it by descriptor.
    ///
    /// # Errors
    /// It cannot be opened, or is a link by now.
    pub fn open(&self) -> io::Result<OwnedFd> {
        Ok(fs::OpenOptions::new().read(true).custom_flags(folder_flags()).open(&self.path)?.into())
    }
}

impl Facilities {
    /// Facilities beneath `work_dir`; `daemon` owns those of unconfined profiles, `sandbox` the others.
    pub fn new(work_dir: PathBuf, allow_privilege_mix: bool, daemon: Owner, sandbox: Owner) -> Self {
        Self { work_dir, allow_privilege_mix, daemon, sandbox, queues: Mutex::default() }
    }

    /// Waits for the facility's turn, takes its lock, makes it where it does not exist, and sees to its owner.
    ///
    /// # Errors
    /// [`FacilityError`]; nothing is held or changed for long where it is returned.
    pub async fn occupy(&self, id: &FacilityId, profile: SandboxProfile) -> Result<Occupied, FacilityError> {
        let turn = self.turn(id).await;
        let path = self.work_dir.join(id.as_str());
        let fail = |what, path: &Path| {
            let path = path.to_owned();
            move |source| FacilityError::Io { id: id.clone(), what, path, source }
        };

        let lock_path = self.state_folder("locks").map_err(fail("cannot make", &self.work_dir))?.join(id.as_str());
        let file = match sys::lock::LockFile::try_acquire(&lock_path).map_err(fail("cannot lock", &lock_path))? {
            Some(file) => file,
            None => return Err(FacilityError::Busy { id: id.clone(), lock: lock_path }),
        };

        self.admit_profile(id, profile)?;
        let owner = self.owner_for(profile);
        make_folder(&path, owner).map_err(fail("cannot make", &path))?;
        let meta = fs::symlink_metadata(&path).map_err(fail("cannot read", &path))?;
        if !meta.is_dir() {
            return Err(FacilityError::NotADirectory { id: id.clone(), path });
        }
        if meta.uid() != owner.uid {
            hand_over_folder(&path, owner.uid, owner.gid).map_err(fail("cannot hand over", &path))?;
        }
        let empty = is_empty(&path).map_err(fail("cannot list", &path))?;
        Ok(Occupied { path, empty, owner, held: Some(Held { lock: file, _turn: turn }) })
    }

    /// The queue of one facility: runs wait here in the order in which they asked.
    async fn turn(&self, id: &FacilityId) -> OwnedMutexGuard<()> {
        self.queue(id).lock_owned().await
    }

    fn queue(&self, id: &FacilityId) -> Arc<tokio::sync::Mutex<()>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|_, queue| Arc::strong_count(queue) > 1);
        Arc::clone(queues.entry(id.clone()).or_default())
    }

    fn owner_for(&self, profile: SandboxProfile) -> Owner {
        match profile {
            SandboxProfile::Untrusted | SandboxProfile::Trusted => self.sandbox,
            SandboxProfile::Host | SandboxProfile::DarwinAutomation => self.daemon,
        }
    }

    /// Refuses a profile above the facility's mark, and lowers the mark before a lower one runs.
    fn admit_profile(&self, id: &FacilityId, profile: SandboxProfile) -> Result<(), FacilityError> {
        let folder = self.state_folder("trust").map_err(|source| FacilityError::Io {
            id: id.clone(),
            what: "cannot make",
            path: self.work_dir.clone(),
            source,
        })?;
        let path = folder.join(id.as_str());
        let io = |what| {
            let (id, path) = (id.clone(), path.clone());
            move |source| FacilityError::Io { id, what, path, source }
        };
        let marked = match fs::read_to_string(&path) {
            Ok(text) => Some(text.trim().parse::<SandboxProfile>().unwrap_or(SandboxProfile::Untrusted)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(io("cannot read the trust mark")(error)),
        };
        match mark_after(marked, profile, self.allow_privilege_mix) {
            Mark::Keep => Ok(()),
            Mark::Write => write_mark(&path, profile).map_err(io("cannot write the trust mark")),
            Mark::Refuse(marked) => Err(FacilityError::PrivilegeMix { id: id.clone(), marked, asked: profile }),
        }
    }

    fn state_folder(&self, name: &str) -> io::Result<PathBuf> {
        let folder = self.work_dir.join(".nexus").join(name);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        Ok(folder)
    }
}

/// What becomes of a facility's mark when `asked` wants to run there.
#[derive(Debug, PartialEq, Eq)]
enum Mark {
    Keep,
    Write,
    Refuse(SandboxProfile),
}

fn mark_after(marked: Option<SandboxProfile>, asked: SandboxProfile, allow_mix: bool) -> Mark {
    match marked {
        None => Mark::Write,
        Some(marked) if asked.trust_rank() < marked.trust_rank() => Mark::Write,
        Some(marked) if asked.trust_rank() > marked.trust_rank() && !allow_mix => Mark::Refuse(marked),
        Some(_) => Mark::Keep,
    }
}

/// The mark must be on disk before the less trusted run can write anything: it is renamed into place whole.
fn write_mark(path: &Path, profile: SandboxProfile) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // No facility id holds a dot, so this name belongs to nobody else.
    name.push(".new");
    let fresh = path.with_file_name(name);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    writeln!(file, "{}", profile.as_str())?;
    file.sync_data()?;
    fs::rename(&fresh, path)
}

fn make_folder(path: &Path, owner: Owner) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) if rustix::process::geteuid().is_root() => {
            std::os::unix::fs::lchown(path, Some(owner.uid), Some(owner.gid))
        }
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives a folder and all in it to `uid` and `gid`: by descriptor, links never followed, for a sandbox may have
/// written the tree.
///
/// # Errors
/// An entry's owner cannot be changed.
pub fn hand_over_folder(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let folder = fs::OpenOptions::new().read(true).custom_flags(folder_flags()).open(path)?;
    sys::owner::hand_over(folder.as_fd(), uid, gid).map(drop)
}

fn folder_flags() -> i32 {
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
    flags.bits().cast_signed()
}

fn is_empty(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        if entry?.file_name() != ".nexus" {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> Owner {
        Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    fn id(text: &str) -> FacilityId {
        text.parse().unwrap()
    }

    #[test]
    fn marks_only_ever_sink() {
        use SandboxProfile::{Host, Trusted, Untrusted};
        let cases = [
            (None, Host, false, Mark::Write),
            (None, Untrusted, false, Mark::Write),
            (Some(Host), Untrusted, false, Mark::Write),
            (Some(Host), Host, false, Mark::Keep),
            (Some(Untrusted), Untrusted, false, Mark::Keep),
            (Some(Untrusted), Trusted, false, Mark::Refuse(Untrusted)),
            (Some(Untrusted), Host, false, Mark::Refuse(Untrusted)),
            (Some(Trusted), Host, false, Mark::Refuse(Trusted)),
            (Some(Untrusted), Host, true, Mark::Keep),
        ];
        for (marked, asked, allow, expected) in cases {
            assert_eq!(mark_after(marked, asked, allow), expected, "{marked:?} then {asked:?}, allowed {allow}");
        }
    }

    #[tokio::test]
    async fn a_less_trusted_visit_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let facilities = Facilities::new(dir.path().into(), false, me(), me());
        drop(facilities.occupy(&id("f"), SandboxProfile::Host).await.unwrap());
        drop(facilities.occupy(&id("f"), SandboxProfile::Untrusted).await.unwrap());
        let error = facilities.occupy(&id("f"), SandboxProfile::Host).await.unwrap_err();
        assert!(matches!(error, FacilityError::PrivilegeMix { .. }), "{error}");
        let lenient = Facilities::new(dir.path().into(), true, me(), me());
        drop(lenient.occupy(&id("f"), SandboxProfile::Host).await.unwrap());
    }

    #[tokio::test]
    async fn one_run_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let facilities = Arc::new(Facilities::new(dir.path().into(), false, me(), me()));
        let first = facilities.occupy(&id("f"), SandboxProfile::Untrusted).await.unwrap();
        let other = facilities.occupy(&id("g"), SandboxProfile::Untrusted).await.unwrap();
        let waiting = facilities.clone();
        let mut second = Box::pin(async move { waiting.occupy(&id("f"), SandboxProfile::Untrusted).await });
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut second).await;
        assert!(early.is_err(), "the second run got in beside the first");
        drop(first);
        assert!(second.await.unwrap().empty);
        drop(other);
    }

    #[tokio::test]
    async fn another_process_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let one = Facilities::new(dir.path().into(), false, me(), me());
        let two = Facilities::new(dir.path().into(), false, me(), me());
        let held = one.occupy(&id("f"), SandboxProfile::Untrusted).await.unwrap();
        assert!(matches!(two.occupy(&id("f"), SandboxProfile::Untrusted).await, Err(FacilityError::Busy { .. })));
        drop(held);
        two.occupy(&id("f"), SandboxProfile::Untrusted).await.unwrap();
    }

    #[tokio::test]
    async fn a_link_is_no_facility() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("f")).unwrap();
        let facilities = Facilities::new(dir.path().into(), false, me(), me());
        let error = facilities.occupy(&id("f"), SandboxProfile::Untrusted).await.unwrap_err();
        assert!(matches!(error, FacilityError::NotADirectory { .. }), "{error}");
    }
}
