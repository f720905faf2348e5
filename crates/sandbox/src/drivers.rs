//! The drivers of this host, built once per daemon.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::armed::Armed;
use crate::bwrap::{self, Bwrap};
use crate::container::Container;
use crate::darwinautomation::{self, DarwinAutomation, DarwinSettings, Permissions};
use crate::engine::{Engine, OwnDir};
use crate::{CgroupLayer, ContainerSettings, Health, LaunchError, PreparedRun, RunHandle, host};

/// How long a health check's result is used.
const HEALTH_AGE: Duration = Duration::from_secs(15);

/// The same of podman, which takes as long to answer as others to run.
const CONTAINER_HEALTH_AGE: Duration = Duration::from_secs(60);

/// The user that sandboxes run as where the operator names none; it need not exist.
const DEFAULT_USER: &str = "nexus-sandbox";

/// The uid and gid of sandboxes when the daemon is root and the configured user does not exist: beyond what
/// distributions give to people, services and subordinate ranges.
const FALLBACK_UID: u32 = 64_017;

/// A driver of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Driver {
    /// bubblewrap.
    Bwrap,
    /// Podman.
    Container,
    /// A process of the host.
    Host,
    /// The same on a Mac, with the desktop's tools.
    DarwinAutomation,
}

/// Where the root directory of a sandbox comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootSource {
    /// The host's `/usr`, read-only, with a synthetic `/etc`.
    HostUsr,
    /// The top-level entries of this directory, read-only.
    Rootfs(PathBuf),
    /// A directory that is not there yet. Until [`Drivers::root_arrived`] the driver is unhealthy for this reason: no run
    /// gets another root in its place.
    Awaited {
        /// What is being waited for.
        reason: String,
    },
}

/// What the drivers are built from.
#[derive(Clone, Debug)]
pub struct DriverSettings {
    /// A directory of the daemon's own that no sandbox can write: made with mode 0700 when missing.
    pub runtime_dir: PathBuf,
    /// bubblewrap: a path, or a name to look up in `search_path`.
    pub bwrap_path: PathBuf,
    /// The daemon's search path, directories separated by colons.
    pub search_path: String,
    /// The sandbox's root.
    pub root: RootSource,
    /// The user that sandboxes run as when the daemon is root.
    pub sandbox_user: String,
    /// Further host directories that sandboxes see read-only, at the same place.
    pub extra_ro_paths: Vec<PathBuf>,
    /// How many sandboxes will be started.
    pub starts: Starts,
    /// A file of CA certificates, added to the sandbox's own.
    pub ca_bundle: Option<PathBuf>,
    /// Containers, or why there are none.
    pub container: Result<ContainerSettings, String>,
    /// Automation of a Mac's desktop, or why there is none.
    pub darwin: Result<DarwinSettings, String>,
    /// What supervises the runs of the host driver.
    pub host_helper: HostHelper,
    /// Layers that a test leaves out.
    #[cfg(feature = "knockout")]
    pub knockouts: Vec<crate::Knockout>,
}

/// What supervises a process of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHelper {
    /// The embedded helper, which is Linux's.
    Embedded,
    /// This program, which runs [`crate::supervisor`] when it is asked to.
    Program(PathBuf),
}

/// How many sandboxes a set of drivers starts: whether preparing them well pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starts {
    /// A daemon's.
    Many,
    /// A single command's.
    Few,
}

/// Why the drivers cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum DriversError {
    /// A file or directory that every run needs could not be made or read.
    #[error("cannot prepare {path}: {source}")]
    Prepare {
        /// What could not be made.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A path that sandboxes may not see.
    #[error("bwrap.extra_ro_paths: {path} is refused: {reason}")]
    ExtraPath {
        /// The path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The root of a rootfs cannot be read.
    #[error("the sandboxes' root {path} cannot be used: {source}; see bwrap.rootfs_path and rootfs.cache_dir")]
    Rootfs {
        /// The root.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The sandbox's user does not exist, and is not the one that may be missing.
    #[error(
        "sandbox_user {user} does not exist: make it (sudo useradd --system --no-create-home {user}), or leave the key out: \
         sandboxes then run as a uid of their own"
    )]
    UnknownUser {
        /// Its name.
        user: String,
    },
    /// The sandbox's user is root or the daemon itself.
    #[error("sandbox_user {user} has uid {uid}: name an unprivileged user of its own")]
    PrivilegedUser {
        /// Its name.
        user: String,
        /// Its uid.
        uid: u32,
    },
}

/// Who owns a facility's files, so that a driver's commands can write them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// User id on the host.
    pub uid: u32,
    /// Group id on the host.
    pub gid: u32,
}

/// The drivers of this host.
#[derive(Debug)]
pub struct Drivers {
    // Before the engine, whose directory it is made in: dropped first.
    bwrap: RwLock<Prepared>,
    engine: Engine,
    container: Result<Container, String>,
    darwin: Result<DarwinAutomation, String>,
    sandbox_owner: Owner,
    bwrap_health: Mutex<Option<(Instant, Health)>>,
    container_health: Mutex<Option<(Instant, Health)>>,
    darwin_health: Mutex<Option<(Instant, Health)>>,
}

/// The bubblewrap driver as it is now.
#[derive(Debug)]
enum Prepared {
    /// Ready, or why it cannot work here.
    Done(Result<Arc<Bwrap>, String>),
    /// Its root is on its way.
    Awaits { settings: Box<DriverSettings>, reason: String },
}

impl Drivers {
    /// Prepares what is the same for every run.
    ///
    /// # Errors
    /// A file or directory could not be made, or the settings are wrong. A driver that cannot work here is no error: its
    /// health says so, and its launches are refused with the reason.
    pub fn new(settings: DriverSettings) -> Result<Self, DriversError> {
        let own_dir = OwnDir::make(&settings.runtime_dir)?;
        let sandbox_owner = sandbox_owner(&settings.sandbox_user)?;
        let container = Container::prepare(&settings, sandbox_owner, own_dir.path());
        let darwin = DarwinAutomation::prepare(&settings);
        let host_helper = settings.host_helper.clone();
        // First, for what its sandboxes start in is made meanwhile.
        let bwrap = match &settings.root {
            RootSource::Awaited { reason } => {
                let reason = reason.clone();
                Prepared::Awaits { settings: Box::new(settings), reason }
            }
            _ => Prepared::Done(Bwrap::prepare(&settings, sandbox_owner, own_dir.path())?.map(Arc::new)),
        };
        let engine = Engine::new(own_dir, host_helper)?;
        Ok(Self {
            bwrap: RwLock::new(bwrap),
            engine,
            container,
            darwin,
            sandbox_owner,
            bwrap_health: Mutex::new(None),
            container_health: Mutex::new(None),
            darwin_health: Mutex::new(None),
        })
    }

    /// Whether the root is still to come.
    #[must_use]
    pub fn awaits_root(&self) -> bool {
        matches!(*self.bwrap.read().unwrap_or_else(PoisonError::into_inner), Prepared::Awaits { .. })
    }

    /// Says anew why the root that is awaited is not there. Nothing where none is awaited any more.
    pub fn root_awaited(&self, why: String) {
        if let Prepared::Awaits { reason, .. } = &mut *self.bwrap.write().unwrap_or_else(PoisonError::into_inner) {
            *reason = why;
        }
    }

    /// Takes the root that was awaited into use. Nothing where none is awaited any more.
    ///
    /// # Errors
    /// As [`Drivers::new`]; the root is still awaited then.
    pub fn root_arrived(&self, rootfs: PathBuf) -> Result<(), DriversError> {
        let mut bwrap = self.bwrap.write().unwrap_or_else(PoisonError::into_inner);
        if let Prepared::Awaits { settings, .. } = &*bwrap {
            let settings = DriverSettings { root: RootSource::Rootfs(rootfs), ..(**settings).clone() };
            let prepared = Bwrap::prepare(&settings, self.sandbox_owner, self.engine.own_dir())?;
            *bwrap = Prepared::Done(prepared.map(Arc::new));
        }
        Ok(())
    }

    /// Who must own a facility for this driver's commands to write there.
    #[must_use]
    pub fn owner(&self, driver: Driver) -> Owner {
        match driver {
            Driver::Bwrap | Driver::Container => self.sandbox_owner,
            Driver::Host | Driver::DarwinAutomation => {
                Owner { uid: sys::user::effective_uid(), gid: sys::user::effective_gid() }
            }
        }
    }

    /// Puts a run together: whatever can be refused about it is refused here.
    ///
    /// # Errors
    /// The run cannot be started as asked for; nothing of it is left.
    pub fn arm(&self, driver: Driver, run: PreparedRun) -> Result<Armed, LaunchError> {
        match driver {
            Driver::Bwrap => self.bwrap()?.arm(&self.engine, run),
            Driver::Container => self.container()?.arm(&self.engine, run),
            Driver::Host => host::arm(&self.engine, host::NAME, run),
            Driver::DarwinAutomation => self.darwin()?.arm(&self.engine, run),
        }
    }

    /// Starts a run: its process exists, its sandbox is being set up, its command waits.
    ///
    /// # Errors
    /// Its process could not be made; nothing of it is left.
    pub async fn start(&self, armed: Armed) -> Result<RunHandle, LaunchError> {
        armed.start(self.engine.spawner()).await
    }

    /// The health of a driver, at most 15 s old.
    pub async fn health(&self, driver: Driver) -> Health {
        let mut health = match driver {
            Driver::Host => Health {
                healthy: true,
                version: String::new(),
                reason: None,
                details: std::collections::BTreeMap::new(),
            },
            Driver::Bwrap => self.bwrap_health().await,
            Driver::Container => return self.container_health().await,
            Driver::DarwinAutomation => self.darwin_health().await,
        };
        let cgroups = self.engine.cgroups();
        let text =
            if cgroups.missing().is_empty() { cgroups.controllers().join("+") } else { cgroups.missing().to_owned() };
        health.details.insert("cgroups".to_owned(), format!("{:?}: {text}", cgroups.version()));
        health
    }

    /// Removes what containers left whose end was not orderly. A daemon's health checks do that; who asks for none does this.
    pub async fn tidy(&self) {
        if let Ok(container) = &self.container {
            container.sweep(&self.engine).await;
        }
    }

    /// What this host's cgroups offer, for doctor and reports.
    #[must_use]
    pub fn cgroups(&self) -> CgroupLayer {
        let cgroups = self.engine.cgroups();
        let controllers = cgroups.controllers().into_iter().map(str::to_owned).collect();
        match cgroups.version() {
            sys::cgroup::Version::Two => CgroupLayer::V2(controllers),
            sys::cgroup::Version::One => CgroupLayer::V1(controllers),
            sys::cgroup::Version::None => CgroupLayer::None(cgroups.missing().to_owned()),
        }
    }

    async fn bwrap_health(&self) -> Health {
        let bwrap = match self.prepared() {
            Ok(bwrap) => bwrap,
            Err(reason) => return Health::without(reason),
        };
        // Whoever asks meanwhile waits for the same result.
        let mut known = self.bwrap_health.lock().await;
        if let Some((at, health)) = &*known
            && at.elapsed() < HEALTH_AGE
        {
            return health.clone();
        }
        let health = bwrap.health(&self.engine).await;
        *known = Some((Instant::now(), health.clone()));
        health
    }

    async fn container_health(&self) -> Health {
        let container = match &self.container {
            Ok(container) => container,
            Err(reason) => return Health::without(reason.clone()),
        };
        let mut known = self.container_health.lock().await;
        if let Some((at, health)) = &*known
            && at.elapsed() < CONTAINER_HEALTH_AGE
        {
            return health.clone();
        }
        let health = container.health(&self.engine).await;
        *known = Some((Instant::now(), health.clone()));
        health
    }

    async fn darwin_health(&self) -> Health {
        let darwin = match &self.darwin {
            Ok(darwin) => darwin,
            Err(reason) => return Health::without(reason.clone()),
        };
        let mut known = self.darwin_health.lock().await;
        if let Some((at, health)) = &*known
            && at.elapsed() < HEALTH_AGE
        {
            return health.clone();
        }
        let health = darwin.health().await;
        *known = Some((Instant::now(), health.clone()));
        health
    }

    /// What macOS lets the commands of darwin-automation do.
    ///
    /// # Errors
    /// Why that driver is not there.
    pub async fn permissions(&self) -> Result<Permissions, String> {
        Ok(self.darwin.as_ref().map_err(Clone::clone)?.permissions().await)
    }

    /// Folders in which commands of this driver find its tools, besides the usual ones.
    pub fn tool_folders(&self, driver: Driver) -> impl Iterator<Item = &Path> {
        let darwin = self.darwin.as_ref().ok().filter(|_| driver == Driver::DarwinAutomation);
        darwin.into_iter().flat_map(DarwinAutomation::folders)
    }

    fn darwin(&self) -> Result<&DarwinAutomation, LaunchError> {
        let unavailable =
            |reason: &String| LaunchError::Unavailable { driver: darwinautomation::NAME, reason: reason.clone() };
        self.darwin.as_ref().map_err(unavailable)
    }

    fn container(&self) -> Result<&Container, LaunchError> {
        self.container
            .as_ref()
            .map_err(|reason| LaunchError::Unavailable { driver: crate::container::NAME, reason: reason.clone() })
    }

    fn bwrap(&self) -> Result<Arc<Bwrap>, LaunchError> {
        self.prepared().map_err(|reason| LaunchError::Unavailable { driver: bwrap::NAME, reason })
    }

    fn prepared(&self) -> Result<Arc<Bwrap>, String> {
        match &*self.bwrap.read().unwrap_or_else(PoisonError::into_inner) {
            Prepared::Done(done) => done.clone().and_then(|bwrap| bwrap.lacks().map_or(Ok(bwrap), Err)),
            Prepared::Awaits { reason, .. } => Err(reason.clone()),
        }
    }
}

/// The user that sandboxes run as.
fn sandbox_owner(name: &str) -> Result<Owner, DriversError> {
    let (uid, gid) = (sys::user::effective_uid(), sys::user::effective_gid());
    if uid != 0 {
        return Ok(Owner { uid, gid });
    }
    let passwd = |source| DriversError::Prepare { path: "/etc/passwd".into(), source };
    let number = name.parse::<u32>().ok();
    let user = number.map_or_else(|| sys::user::by_name(name), sys::user::by_uid).map_err(passwd)?;
    match user {
        Some(user) if user.uid == 0 || user.gid == 0 => {
            Err(DriversError::PrivilegedUser { user: user.name, uid: user.uid })
        }
        Some(user) => Ok(Owner { uid: user.uid, gid: user.gid }),
        // A number need not be anybody's; the group is then of the same number.
        None if number.is_some_and(|number| number > 0) => {
            let id = number.unwrap_or(FALLBACK_UID);
            Ok(Owner { uid: id, gid: id })
        }
        None if name == DEFAULT_USER => Ok(Owner { uid: FALLBACK_UID, gid: FALLBACK_UID }),
        None => Err(DriversError::UnknownUser { user: name.to_owned() }),
    }
}
