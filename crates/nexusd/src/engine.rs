//! The engine: everything that is made once and that each directive's line uses. The daemon and `nexusd run` have
//! the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use conduits::{DriverKind, InstanceId, SandboxProfile};
use egress::{AuditError, AuditLog, AuditSettings, EgressCounters, ResolverError, UpstreamError};
use sandbox::{
    ContainerRuntime, ContainerSettings, DarwinSettings, Driver, DriverSettings, Drivers, DriversError, Health,
    HostHelper, ImagePull, Limit, LimitOrigin, Limits, RootSource, Starts,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{self, Config, PullPolicy};
use crate::directive::admit::HostFacts;
use crate::facility::{Facilities, Owner};
use crate::observe::metrics::{EgressSample, Metrics, WorkSource};

mod egress_desk;
pub mod folders;
mod machine;
mod nat64;
mod own_names;

pub use egress_desk::EgressDesk;
use folders::FolderError;
pub use machine::Beyond;
use machine::Machine;

const MIB: u64 = 1024 * 1024;

/// What is made once.
#[derive(Debug)]
pub struct Engine {
    /// The configuration in force.
    pub config: Config,
    /// The drivers of this host.
    pub drivers: Drivers,
    /// bwrap over the host's `/usr` for git steps, where the directives' own root is another one.
    git: Option<Drivers>,
    /// The facilities beneath `work_dir`.
    pub facilities: Facilities,
    /// The way out for all of them.
    pub egress: EgressDesk,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Owner of every task that a directive spawns.
    pub tasks: TaskTracker,
    /// `CYBROS_TERRITORY_ID`.
    pub territory: String,
    /// This start of the daemon.
    pub instance: InstanceId,
    /// Home of the daemon's user: HOME of profile host.
    pub home: String,
    health: Mutex<BTreeMap<DriverKind, Health>>,
    machine: Machine,
    /// The host has no sandboxes.
    is_mac: bool,
}

/// What the engine takes from its surroundings; only `main` reads the environment.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// `PATH`.
    pub search_path: String,
    /// `HOME`.
    pub home: String,
    /// The territory's id, or what stands for it.
    pub territory: String,
    /// What a container engine needs of the daemon's environment.
    pub container_environment: Vec<(String, String)>,
    /// Whether it is a daemon's engine, or a single command's.
    pub starts: Starts,
    /// The machine, as far as the automation of a desktop asks.
    pub darwin: DarwinSettings,
    /// What supervises commands of the host profiles.
    pub host_helper: HostHelper,
}

/// Why the engine cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A folder of the daemon's own.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The drivers.
    #[error(transparent)]
    Drivers(#[from] DriversError),
    /// The resolver.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// The way out through another proxy.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The audit file.
    #[error("cannot open the audit file {path}: {source}", path = .0.path.display(), source = .0.source)]
    Audit(AuditError),
    /// `/proc` does not say how large the machine is.
    #[error("cannot read the machine's memory from /proc/meminfo: {0}")]
    Memory(io::Error),
    /// A limit of the configuration is larger than the machine.
    #[error(transparent)]
    Beyond(#[from] Beyond),
}

impl Engine {
    /// Makes everything; `stop` ends what runs in the background once the last directive is over.
    ///
    /// # Errors
    /// [`EngineError`]; a driver that does not work here is none, its health says so.
    pub async fn new(
        config: Config,
        around: Surroundings,
        metrics: Arc<Metrics>,
        counters: Arc<EgressCounters>,
        stop: &CancellationToken,
    ) -> Result<Self, EngineError> {
        let state = config.state_dir();
        folders::work_dir(&config.work_dir, &state)?;
        let machine = Machine::read().map_err(EngineError::Memory)?;
        if let Some(beyond) = machine.beyond(&config.limits, machine::disk_bytes(&config.work_dir)) {
            return Err(beyond.into());
        }
        folders::own(&state.join("audit"))?;
        folders::sockets(&config.bwrap.proxy_socket_dir)?;
        let settings = driver_settings(&config, &around, &state);
        let git = (settings.root != RootSource::HostUsr)
            .then(|| {
                let runtime_dir = state.join("runtime-git");
                Drivers::new(DriverSettings { root: RootSource::HostUsr, runtime_dir, ..settings.clone() })
            })
            .transpose()?;
        let drivers = Drivers::new(settings)?;
        let tasks = TaskTracker::new();
        let audit = AuditLog::start(AuditSettings::at(state.join("audit/egress.jsonl")), &tasks, stop.clone())
            .await
            .map_err(EngineError::Audit)?;
        let egress = EgressDesk::new(audit, counters, &config, &tasks, stop)?;
        let sandbox = drivers.owner(Driver::Bwrap);
        let daemon = Owner { uid: sys::user::effective_uid(), gid: sys::user::effective_gid() };
        let facilities = Facilities::new(
            config.work_dir.clone(),
            config.facility.allow_privilege_mix,
            daemon,
            Owner { uid: sandbox.uid, gid: sandbox.gid },
        );
        Ok(Self {
            drivers,
            git,
            facilities,
            egress,
            metrics,
            tasks,
            territory: around.territory,
            instance: InstanceId::generate(),
            home: around.home,
            health: Mutex::default(),
            machine,
            is_mac: around.darwin.machine.system == sandbox::Machine::apple_silicon().system,
            config,
        })
    }

    /// What admission looks at, as it is now.
    pub fn facts(&self) -> HostFacts {
        let unhealthy = self
            .health
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(_, health)| !health.healthy)
            .map(|(driver, health)| (*driver, health.reason.clone().unwrap_or_default()))
            .collect();
        let space = sys::disk::space(&self.config.work_dir);
        HostFacts {
            offered: self.config.supported_sandbox_profiles.iter().copied().collect::<BTreeSet<_>>(),
            untrusted_driver: self.config.untrusted_driver,
            unhealthy,
            // A file system that cannot be asked is not taken for a full one: the run itself will tell.
            free_bytes: space.as_ref().map_or(u64::MAX, |space| space.free),
            disk_bytes: space.as_ref().map_or(u64::MAX, |space| space.total),
            default_disk: self.config.limits.disk_mb.map(|mib| Limit::named(mib * MIB)),
            min_free_bytes: self.config.min_free_bytes,
            net_ceiling: self.config.operator.net_ceiling,
            default_timeout: self.config.limits.default_timeout,
            max_timeout: self.config.limits.max_timeout,
            default_limits: self.default_limits(),
            memory_bytes: self.machine.memory_bytes,
            processors: self.machine.processors,
        }
    }

    /// Whether the sandboxes' root is still to come.
    pub fn awaits_root(&self) -> bool {
        self.drivers.awaits_root()
    }

    /// Says why the root is still not there, in the driver's health.
    pub async fn root_awaited(&self, why: String) {
        self.drivers.root_awaited(why);
        self.check_health().await;
    }

    /// Takes the root that was awaited into use.
    ///
    /// # Errors
    /// As [`Drivers::new`].
    pub async fn root_arrived(&self, root: PathBuf) -> Result<(), DriversError> {
        // Mounts are made: a moment, once.
        tokio::task::block_in_place(|| self.drivers.root_arrived(root))?;
        self.check_health().await;
        Ok(())
    }

    /// Whether what a directive may reach is enforced around this driver, or only asked for.
    pub fn enforces_network(&self, driver: DriverKind) -> bool {
        match driver {
            DriverKind::Host | DriverKind::DarwinAutomation => false,
            DriverKind::Container => self.config.container.network == config::ContainerNetwork::Isolated,
            DriverKind::Bwrap | DriverKind::Firecracker => true,
        }
    }

    /// What a git step for a directive of this driver runs in: bwrap, whatever the directive's own is. A Mac has none; what is
    /// in a facility there was written with the daemon's own rights, and git has no more.
    pub fn git_driver(&self, kind: DriverKind) -> Driver {
        if self.is_mac { driver(kind) } else { Driver::Bwrap }
    }

    /// The drivers that git steps run in.
    pub fn git_drivers(&self) -> &Drivers {
        self.git.as_ref().unwrap_or(&self.drivers)
    }

    /// The drivers that the offered profiles need and that this build has.
    pub fn needed_drivers(&self) -> BTreeSet<DriverKind> {
        let needed = self.config.supported_sandbox_profiles.iter().map(|profile| self.config.driver_of(*profile));
        needed.filter(|driver| built(*driver)).collect()
    }

    /// Offered profiles whose driver this build does not have, and that driver: they are never asked for in polls.
    pub fn missing_drivers(&self) -> impl Iterator<Item = (SandboxProfile, DriverKind)> {
        let with_driver = |profile: &SandboxProfile| (*profile, self.config.driver_of(*profile));
        self.config.supported_sandbox_profiles.iter().map(with_driver).filter(|(_, kind)| !built(*kind))
    }

    /// Asks every needed driver how it is, and keeps the answers.
    pub async fn check_health(&self) -> BTreeMap<DriverKind, Health> {
        let mut health = BTreeMap::new();
        for kind in self.needed_drivers() {
            let answer = self.drivers.health(driver(kind)).await;
            self.metrics.set_driver_healthy(kind, answer.healthy);
            health.insert(kind, answer);
        }
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&health);
        health
    }

    /// The health of each needed driver when it was last asked.
    pub fn health(&self) -> BTreeMap<DriverKind, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The profiles whose driver works: what polls ask for.
    pub fn offered_profiles(&self) -> Vec<SandboxProfile> {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let works = |profile: &SandboxProfile| health.get(&self.config.driver_of(*profile)).is_some_and(|h| h.healthy);
        self.config.supported_sandbox_profiles.iter().copied().filter(works).collect()
    }

    /// The version line of a driver, once its health is known.
    pub fn driver_version(&self, driver: DriverKind) -> Option<String> {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.get(&driver).map(|health| health.version.clone()).filter(|version| !version.is_empty())
    }

    /// The digest of the image that a driver runs from, as it was when it was last looked at.
    pub fn image_digest(&self, driver: DriverKind) -> Option<String> {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.get(&driver).and_then(|health| health.details.get("digest").cloned())
    }

    fn default_limits(&self) -> Limits {
        let limits = &self.config.limits;
        let sourced = |limit: config::Sourced<u64>| Limit {
            value: limit.value,
            origin: match limit.origin {
                config::Origin::Named => LimitOrigin::Named,
                config::Origin::Default => LimitOrigin::Default,
            },
        };
        let memory = limits.memory_mb.map_or_else(
            || Limit::default_of(self.config.default_memory_bytes(self.machine.memory_bytes)),
            |mib| Limit::named(mib * MIB),
        );
        Limits {
            memory_bytes: Some(memory),
            cpu_millicores: limits.cpu.map(Limit::named),
            pids: Some(sourced(limits.pids)),
            nofile: Some(sourced(limits.nofile)),
            fsize_bytes: limits.fsize_mb.map(|mib| Limit::named(mib * MIB)),
            tmp_bytes: Some(Limit::default_of(self.config.bwrap.tmp_bytes)),
        }
    }
}

/// Metrics that ask these counters at each scrape.
pub fn metrics(egress: &Arc<EgressCounters>, work: WorkSource) -> Metrics {
    let egress = Arc::clone(egress);
    let egress = move || EgressSample {
        decisions: egress
            .decisions()
            .map(|(decision, reason, count)| (decision.as_str(), reason.as_str(), count))
            .collect(),
        bytes_up: egress.bytes_up(),
        bytes_down: egress.bytes_down(),
        audit_dropped: egress.audit_dropped(),
        connections_refused: egress.connections_refused(),
    };
    Metrics::new(Arc::new(egress), work)
}

/// The driver of the sandbox crate that implements a kind. Admission refuses the kinds that are not built.
pub fn driver(kind: DriverKind) -> Driver {
    match kind {
        DriverKind::Host => Driver::Host,
        DriverKind::DarwinAutomation => Driver::DarwinAutomation,
        DriverKind::Container => Driver::Container,
        DriverKind::Bwrap | DriverKind::Firecracker => Driver::Bwrap,
    }
}

/// Whether this build has the driver.
pub fn built(kind: DriverKind) -> bool {
    kind != DriverKind::Firecracker
}

/// A limit of the configuration that this machine cannot keep, for who checks the file before anything starts.
pub fn beyond_this_machine(config: &Config) -> Option<Beyond> {
    // A machine that does not say how large it is says so when the daemon starts.
    Machine::read().ok()?.beyond(&config.limits, machine::disk_bytes(&config.work_dir))
}

/// The drivers that doctor's functional checks run in, with their state in a folder of its own.
///
/// # Errors
/// Why there are none.
pub fn doctors_drivers(config: Option<&Config>, around: &Surroundings, folder: &Path) -> Result<Drivers, String> {
    let built_in = config.is_none().then(|| Config::built_in(config::Platform::current(), &|_| None));
    let mut built_in = built_in.transpose().map_err(|error| error.to_string())?;
    if let Some(built_in) = &mut built_in {
        // Where nothing is configured yet, whatever could be is looked at.
        built_in.supported_sandbox_profiles.push(SandboxProfile::Trusted);
    }
    let config = config.or(built_in.as_ref()).ok_or("there is no configuration")?;
    let mut settings = driver_settings(config, around, folder);
    if matches!(settings.root, RootSource::Awaited { .. }) {
        // Whether bubblewrap works here does not depend on the root, which has a row of its own.
        settings.root = RootSource::HostUsr;
    }
    Drivers::new(settings).map_err(|error| error.to_string())
}

fn driver_settings(config: &Config, around: &Surroundings, state: &Path) -> DriverSettings {
    DriverSettings {
        runtime_dir: state.join("runtime"),
        bwrap_path: config.bwrap.bwrap_path.clone(),
        search_path: around.search_path.clone(),
        root: crate::rootfs::source(config),
        sandbox_user: config.sandbox_user.clone(),
        extra_ro_paths: config.bwrap.extra_ro_paths.clone(),
        starts: around.starts,
        ca_bundle: config.egress.ca_bundle.clone(),
        container: container_settings(config, around),
        darwin: darwin_settings(config, around),
        host_helper: around.host_helper.clone(),
    }
}

/// The machine as the driver takes it, or why there is none.
fn darwin_settings(config: &Config, around: &Surroundings) -> Result<DarwinSettings, String> {
    if config.supported_sandbox_profiles.contains(&SandboxProfile::DarwinAutomation) {
        Ok(around.darwin)
    } else {
        Err("profile darwin-automation is not in supported_sandbox_profiles".to_owned())
    }
}

/// `container.*` as the driver takes it, or why there is none.
fn container_settings(config: &Config, around: &Surroundings) -> Result<ContainerSettings, String> {
    let container = &config.container;
    if !config.supported_sandbox_profiles.contains(&SandboxProfile::Trusted) {
        return Err("profile trusted is not in supported_sandbox_profiles".to_owned());
    }
    Ok(ContainerSettings {
        runtime: match container.runtime {
            config::ContainerRuntime::Podman => ContainerRuntime::Podman,
            config::ContainerRuntime::Docker => ContainerRuntime::Docker,
        },
        program: container.runtime.as_str().into(),
        image: container.image.clone(),
        pull: match container.pull {
            PullPolicy::Never => ImagePull::Never,
            PullPolicy::Missing => ImagePull::Missing,
            PullPolicy::Always => ImagePull::Always,
        },
        run_args: container.run_args.clone(),
        environment: around.container_environment.clone(),
    })
}
