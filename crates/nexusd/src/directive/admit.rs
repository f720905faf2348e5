//! Admission: may this directive run here, and as what? A pure function of the specification and of what
//! the host can do; every refusal is a value that reads as one line.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conduits::{DirectiveSpec, DriverKind, FsCapability, NetMode, SandboxProfile, SpecError};
use sandbox::{CwdError, Limit, Limits, WorkspaceAccess, WorkspaceCwd};

use super::fs_access::{self, AccessError};

/// What this host offers and allows, as far as admission looks at it.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// `supported_sandbox_profiles`.
    pub offered: BTreeSet<SandboxProfile>,
    /// The driver of profile `untrusted`.
    pub untrusted_driver: DriverKind,
    /// Drivers whose health check failed, with the reason.
    pub unhealthy: BTreeMap<DriverKind, String>,
    /// Free bytes on the file system of `work_dir`.
    pub free_bytes: u64,
    /// `min_free_bytes`.
    pub min_free_bytes: u64,
    /// `operator.net_ceiling`.
    pub net_ceiling: NetMode,
    /// `limits.default_timeout`.
    pub default_timeout: Duration,
    /// `limits.max_timeout`.
    pub max_timeout: Duration,
    /// The limits that hold where a directive names none.
    pub default_limits: Limits,
    /// The machine's memory.
    pub memory_bytes: u64,
    /// The machine's processors.
    pub processors: u32,
}

/// A directive that may run, with everything decided that can be decided beforehand.
#[derive(Debug)]
pub struct Admitted {
    /// The specification as asked.
    pub spec: DirectiveSpec,
    /// What will run it.
    pub driver: DriverKind,
    /// Where in the workspace it starts.
    pub cwd: WorkspaceCwd,
    /// What it may do with the workspace.
    pub access: WorkspaceAccess,
    /// Its limits, named and default.
    pub limits: Limits,
    /// Wall time from the release of the command.
    pub timeout: Duration,
}

/// Why a directive does not run here.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The specification itself is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The profile is not in `supported_sandbox_profiles`.
    #[error(
        "profile `{asked}` is not offered by this nexusd (offered: {offered}); add it to supported_sandbox_profiles where that is meant"
    )]
    NotOffered {
        /// The profile of the directive.
        asked: SandboxProfile,
        /// The configured ones.
        offered: String,
    },
    /// The profile's driver is no part of this build.
    #[error("profile `{profile}` needs the driver `{driver}`, which this build of nexusd does not have")]
    NoDriver {
        /// The profile of the directive.
        profile: SandboxProfile,
        /// The driver it needs.
        driver: DriverKind,
    },
    /// The driver does not work here now.
    #[error("profile `{profile}` needs the driver `{driver}`, which does not work on this host: {reason}")]
    Unhealthy {
        /// The profile of the directive.
        profile: SandboxProfile,
        /// The driver it needs.
        driver: DriverKind,
        /// What the health check said.
        reason: String,
    },
    /// Too little space for any run.
    #[error(
        "the disk of work_dir has {free} bytes free, below min_free_bytes ({min}); free some space or lower min_free_bytes"
    )]
    DiskLow {
        /// Free bytes.
        free: u64,
        /// Bytes asked for by the configuration.
        min: u64,
    },
    /// Longer than the operator allows.
    #[error("timeout_seconds {asked} is above limits.max_timeout ({max} s) of this nexusd")]
    TimeoutTooLong {
        /// Seconds asked for.
        asked: u64,
        /// Seconds allowed.
        max: u64,
    },
    /// More network than the operator allows.
    #[error("capabilities.net mode `{asked}` is above operator.net_ceiling (`{ceiling}`) of this nexusd")]
    NetAboveCeiling {
        /// The mode of the directive.
        asked: NetMode,
        /// The highest one allowed.
        ceiling: NetMode,
    },
    /// A limit that the machine could never reach.
    #[error("{field} {asked} is more than this machine has ({has})")]
    MoreThanTheMachine {
        /// The field of the specification.
        field: &'static str,
        /// The value asked for.
        asked: u64,
        /// What there is, in the same unit.
        has: u64,
    },
    /// A limit that nothing here can hold to.
    #[error(
        "limits.disk_mb cannot be enforced by this nexusd yet, so a directive that names it is refused; leave it out"
    )]
    DiskLimit,
    /// The working directory leaves the workspace.
    #[error(transparent)]
    Cwd(#[from] CwdError),
    /// `capabilities.fs` asks for what the profile does not give.
    #[error(transparent)]
    Access(#[from] AccessError),
}

const MIB: u64 = 1024 * 1024;

/// Decides. The order of the checks is the order of what an operator would want to be told first.
///
/// # Errors
/// The [`Refusal`] whose text goes to the directive's stderr.
pub fn admit(spec: DirectiveSpec, host: &HostFacts) -> Result<Admitted, Refusal> {
    let profile = spec.sandbox_profile;
    if !host.offered.contains(&profile) {
        let offered = host.offered.iter().map(|profile| profile.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Refusal::NotOffered { asked: profile, offered });
    }
    let driver = driver_of(profile, host.untrusted_driver);
    if !matches!(driver, DriverKind::Bwrap | DriverKind::Host) {
        return Err(Refusal::NoDriver { profile, driver });
    }
    if let Some(reason) = host.unhealthy.get(&driver) {
        return Err(Refusal::Unhealthy { profile, driver, reason: reason.clone() });
    }
    if host.free_bytes < host.min_free_bytes {
        return Err(Refusal::DiskLow { free: host.free_bytes, min: host.min_free_bytes });
    }
    if spec.net.mode > host.net_ceiling {
        return Err(Refusal::NetAboveCeiling { asked: spec.net.mode, ceiling: host.net_ceiling });
    }
    let timeout = timeout(spec.timeout_seconds, host)?;
    let limits = limits(&spec, host)?;
    let cwd = WorkspaceCwd::parse(&spec.cwd)?;
    let access = match &spec.fs {
        None => WorkspaceAccess::ReadWrite,
        Some(fs) => access(fs, profile)?,
    };
    Ok(Admitted { driver, cwd, access, limits, timeout, spec })
}

/// The one driver of a profile. Nothing ever falls back to a weaker one.
pub fn driver_of(profile: SandboxProfile, untrusted: DriverKind) -> DriverKind {
    match profile {
        SandboxProfile::Untrusted => untrusted,
        SandboxProfile::Trusted => DriverKind::Container,
        SandboxProfile::Host => DriverKind::Host,
        SandboxProfile::DarwinAutomation => DriverKind::DarwinAutomation,
    }
}

fn access(fs: &FsCapability, profile: SandboxProfile) -> Result<WorkspaceAccess, AccessError> {
    fs_access::workspace_access(fs, profile)
}

fn timeout(asked: Option<u64>, host: &HostFacts) -> Result<Duration, Refusal> {
    match asked {
        None => Ok(host.default_timeout.min(host.max_timeout)),
        Some(seconds) if Duration::from_secs(seconds) > host.max_timeout => {
            Err(Refusal::TimeoutTooLong { asked: seconds, max: host.max_timeout.as_secs() })
        }
        Some(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

fn limits(spec: &DirectiveSpec, host: &HostFacts) -> Result<Limits, Refusal> {
    let mut limits = host.default_limits;
    if let Some(asked) = spec.limits.memory_mb {
        if asked.saturating_mul(MIB) > host.memory_bytes {
            return Err(Refusal::MoreThanTheMachine { field: "limits.memory_mb", asked, has: host.memory_bytes / MIB });
        }
        limits.memory_bytes = Some(Limit::named(asked * MIB));
    }
    if let Some(asked) = spec.limits.cpu_millicores {
        let has = u64::from(host.processors) * 1000;
        if asked > has {
            return Err(Refusal::MoreThanTheMachine { field: "limits.cpu", asked, has });
        }
        limits.cpu_millicores = Some(Limit::named(asked));
    }
    if spec.limits.disk_mb.is_some() {
        return Err(Refusal::DiskLimit);
    }
    Ok(limits)
}
