//! What is known of the host: gathered side by side, each piece bounded.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conduits::{DriverKind, SandboxProfile};
use sandbox::{CgroupLayer, Driver, Drivers, Health, Permissions};

use super::kernel::Kernel;
use super::mothership::{self, Contact};
use super::programs::{Ran, VERSION_TIMEOUT, run};
use crate::config::{Config, ConfigError, ContainerRuntime, Platform};
use crate::credentials::{self, Credentials, InForce};
use crate::rootfs::{self, Wanted};

/// Longest wait for a functional check.
const FUNCTIONAL_TIMEOUT: Duration = Duration::from_secs(20);

/// Longest wait for the server of the pinned root.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

/// Whom to examine.
#[derive(Debug)]
pub struct Subject {
    /// Whose rows to show.
    pub platform: Platform,
    /// The configuration; `Ok(None)`: there is none, and all profiles of the platform count.
    pub config: Result<Option<Config>, ConfigError>,
    /// Where it was looked for, for its row.
    pub config_path: PathBuf,
}

/// Everything the rows are made of.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) platform: Platform,
    pub(super) config: Option<Config>,
    /// The configuration's row: where it was looked for, and what is wrong with it.
    pub(super) config_path: PathBuf,
    pub(super) config_error: Option<String>,
    pub(super) git: Ran,
    pub(super) bwrap: Ran,
    pub(super) socat: Ran,
    pub(super) engine: Ran,
    pub(super) osascript: Ran,
    pub(super) shortcuts: Ran,
    /// What macOS lets scripts do; `Err` says why the driver is not there.
    pub(super) permissions: Result<Permissions, String>,
    pub(super) kernel: Kernel,
    /// What the drivers make limits with, as a run here would get it; `Err` says why they could not be asked.
    pub(super) cgroups: Result<CgroupLayer, String>,
    /// The bwrap driver's health, where it is needed; `Err` says why it could not be asked.
    pub(super) bwrap_health: Option<Result<Health, String>>,
    pub(super) container: Container,
    /// The work_dir, or what there is of its path, and the free bytes there.
    pub(super) disk: Result<(PathBuf, u64), String>,
    /// Whether project quotas keep the disk limits of directives there, or why the facilities are watched instead.
    pub(super) disk_limit: Result<(), String>,
    /// Whether the configured root directory of sandboxes is one.
    pub(super) root_is_there: bool,
    /// The pinned root, where it is wanted.
    pub(super) pinned_root: Option<PinnedRoot>,
    pub(super) credentials: Credentials,
    pub(super) contact: Contact,
    /// Unix seconds.
    pub(super) now: i64,
}

/// How it stands with the pinned root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PinnedRoot {
    /// Unpacked here, whole.
    There(PathBuf),
    /// Not here; it could be fetched now, and has this many bytes where the server says so.
    ToBeFetched { url: String, bytes: Option<u64> },
    /// Not here, and it could not be fetched now.
    OutOfReach { url: String, why: String },
    /// The folder cannot be used.
    Unusable(String),
}

/// What came of running a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Container {
    NotAsked,
    NoImage,
    Works,
    Broken(String),
}

impl Facts {
    pub(super) fn offers(&self, profile: SandboxProfile) -> bool {
        match &self.config {
            Some(config) => config.supported_sandbox_profiles.contains(&profile),
            None => self.platform.profiles().contains(&profile),
        }
    }

    /// Whether some profile is served by bubblewrap.
    pub(super) fn needs_bwrap(&self) -> bool {
        let driver = self.config.as_ref().map_or(DriverKind::Bwrap, |config| config.untrusted_driver);
        self.offers(SandboxProfile::Untrusted) && driver == DriverKind::Bwrap
    }

    pub(super) fn needs_container(&self) -> bool {
        self.offers(SandboxProfile::Trusted)
    }

    /// What runs containers.
    pub(super) fn engine_kind(&self) -> ContainerRuntime {
        self.config.as_ref().map_or(ContainerRuntime::Podman, |config| config.container.runtime)
    }

    /// Its command.
    pub(super) fn engine_name(&self) -> &'static str {
        self.engine_kind().as_str()
    }

    pub(super) fn image(&self) -> &str {
        self.config.as_ref().map_or("ubuntu:24.04", |config| &config.container.image)
    }
}

pub(super) async fn gather(subject: &Subject, drivers: Result<&Drivers, String>) -> Facts {
    let config = subject.config.as_ref().ok().and_then(Option::as_ref);
    let disk = free_space(config.map_or(Path::new("."), |config| &config.work_dir));
    let disk_limit = disk.clone().and_then(|(there, _)| crate::directive::disk::fenced_beneath(&there));
    let mut facts = Facts {
        platform: subject.platform,
        config: config.cloned(),
        config_path: subject.config_path.clone(),
        config_error: subject.config.as_ref().err().map(ToString::to_string),
        git: Ran::Missing,
        bwrap: Ran::Missing,
        socat: Ran::Missing,
        engine: Ran::Missing,
        osascript: Ran::Missing,
        shortcuts: Ran::Missing,
        permissions: Err("not asked".to_owned()),
        kernel: Kernel::read(),
        cgroups: drivers.clone().map(Drivers::cgroups),
        bwrap_health: None,
        container: Container::NotAsked,
        disk,
        disk_limit,
        root_is_there: config.and_then(|c| c.bwrap.rootfs_path.as_ref()).is_some_and(|root| root.join("usr").is_dir()),
        pinned_root: None,
        credentials: config.map_or(Credentials::None, |config| credentials::read(&in_force(config).files)),
        contact: Contact::NotAsked("no configuration file".to_owned()),
        now: jiff::Timestamp::now().as_second(),
    };
    if subject.platform == Platform::Macos {
        let version = VERSION_TIMEOUT;
        (facts.git, facts.osascript, facts.shortcuts, facts.permissions) = tokio::join!(
            run(OsStr::new("git"), &["--version"], version),
            run(OsStr::new("osascript"), &["-e", "return"], version),
            run(OsStr::new("shortcuts"), &["help"], version),
            permissions(drivers),
        );
        return facts;
    }
    let bwrap = config.map_or(OsStr::new("bwrap"), |config| config.bwrap.bwrap_path.as_os_str());
    let socat = config.map_or(OsStr::new("socat"), |config| config.bwrap.socat_path.as_os_str());
    let engine = OsStr::new(facts.engine_name());
    let (needs_bwrap, needs_container) = (facts.needs_bwrap(), facts.needs_container());
    (
        facts.git,
        facts.bwrap,
        facts.socat,
        facts.engine,
        facts.bwrap_health,
        facts.container,
        facts.contact,
        facts.pinned_root,
    ) = tokio::join!(
        run(OsStr::new("git"), &["--version"], VERSION_TIMEOUT),
        run(bwrap, &["--version"], VERSION_TIMEOUT),
        run(socat, &["-V"], VERSION_TIMEOUT),
        run(engine, &["--version"], VERSION_TIMEOUT),
        health(needs_bwrap, drivers.clone()),
        container(needs_container, drivers.clone()),
        contact(config, facts.config_error.is_some()),
        pinned_root(config),
    );
    facts
}

/// What macOS allows, where the driver is there.
async fn permissions(drivers: Result<&Drivers, String>) -> Result<Permissions, String> {
    drivers?.permissions().await
}

/// Whether the root is there, else whether it could be fetched: one byte is asked for.
async fn pinned_root(config: Option<&Config>) -> Option<PinnedRoot> {
    let wanted = Wanted::of(config.filter(|config| rootfs::is_wanted(config))?);
    match wanted.find() {
        Ok(Some(root)) => return Some(PinnedRoot::There(root)),
        Ok(None) => {}
        Err(error) => return Some(PinnedRoot::Unusable(error.to_string())),
    }
    let asked = rootfs::reachable(&wanted, REACH_TIMEOUT).await;
    let url = wanted.url;
    Some(match asked {
        Ok(bytes) => PinnedRoot::ToBeFetched { url, bytes },
        Err(why) => PinnedRoot::OutOfReach { url, why },
    })
}

async fn health(needed: bool, drivers: Result<&Drivers, String>) -> Option<Result<Health, String>> {
    if !needed {
        return None;
    }
    let drivers = match drivers {
        Ok(drivers) => drivers,
        Err(why) => return Some(Err(why)),
    };
    let health = tokio::time::timeout(FUNCTIONAL_TIMEOUT, drivers.health(Driver::Bwrap)).await;
    Some(health.map_err(|_| format!("no answer within {} s", FUNCTIONAL_TIMEOUT.as_secs())))
}

/// Runs a container as directives get them, if the image is there: nothing is fetched.
async fn container(needed: bool, drivers: Result<&Drivers, String>) -> Container {
    if !needed {
        return Container::NotAsked;
    }
    let drivers = match drivers {
        Ok(drivers) => drivers,
        Err(why) => return Container::Broken(why),
    };
    let health = match tokio::time::timeout(FUNCTIONAL_TIMEOUT, drivers.health(Driver::Container)).await {
        Ok(health) => health,
        Err(_) => return Container::Broken(format!("no answer within {} s", FUNCTIONAL_TIMEOUT.as_secs())),
    };
    match health.reason {
        None => Container::Works,
        Some(why) if ["image not known", "No such image"].iter().any(|words| why.contains(words)) => Container::NoImage,
        Some(why) if why.contains(" is not found: ") => Container::NotAsked,
        Some(why) => Container::Broken(why),
    }
}

async fn contact(config: Option<&Config>, broken: bool) -> Contact {
    match config {
        Some(config) => mothership::ask(config).await,
        None if broken => Contact::NotAsked("the configuration is not valid".to_owned()),
        None => Contact::NotAsked("no configuration file".to_owned()),
    }
}

/// The TLS files that a daemon of this configuration would use now.
pub(super) fn in_force(config: &Config) -> InForce {
    credentials::in_force(config, &config.state_dir(), jiff::Timestamp::now().as_second())
}

/// Free bytes where `dir` is, or will be made.
fn free_space(dir: &Path) -> Result<(PathBuf, u64), String> {
    let dir = std::path::absolute(dir).map_err(|error| error.to_string())?;
    let there = dir.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let space = sys::disk::space(there).map_err(|error| format!("{}: {error}", there.display()))?;
    Ok((there.to_path_buf(), space.free))
}
