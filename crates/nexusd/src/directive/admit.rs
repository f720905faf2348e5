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
    /// `limits.disk_mb`, in bytes.
    pub default_disk: Option<Limit>,
    /// The size of the file system of `work_dir`.
    pub disk_bytes: u64,
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
    /// Bytes that it may add to its facility.
    pub disk: Option<Limit>,
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
    if !crate::engine::built(driver) {
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
    let disk = disk(&spec, host)?;
    let limits = limits(&spec, host, disk)?;
    let cwd = WorkspaceCwd::parse(&spec.cwd)?;
    let access = match &spec.fs {
        None => WorkspaceAccess::ReadWrite,
        Some(fs) => access(fs, profile)?,
    };
    Ok(Admitted { driver, cwd, access, limits, disk, timeout, spec })
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

fn disk(spec: &DirectiveSpec, host: &HostFacts) -> Result<Option<Limit>, Refusal> {
    let Some(asked) = spec.limits.disk_mb else { return Ok(host.default_disk) };
    if asked.saturating_mul(MIB) > host.disk_bytes {
        return Err(Refusal::MoreThanTheMachine { field: "limits.disk_mb", asked, has: host.disk_bytes / MIB });
    }
    Ok(Some(Limit::named(asked * MIB)))
}

fn limits(spec: &DirectiveSpec, host: &HostFacts, disk: Option<Limit>) -> Result<Limits, Refusal> {
    let mut limits = host.default_limits;
    if let Some((tmp, disk)) = limits.tmp_bytes.as_mut().zip(disk) {
        // What the sandbox holds in memory instead of on the disk is bounded by the same number.
        tmp.value = tmp.value.min(disk.value);
    }
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
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            offered: [SandboxProfile::Untrusted].into(),
            untrusted_driver: DriverKind::Bwrap,
            unhealthy: BTreeMap::new(),
            free_bytes: 100 * MIB,
            min_free_bytes: 10 * MIB,
            net_ceiling: NetMode::Allowlist,
            default_timeout: Duration::from_secs(300),
            max_timeout: Duration::from_secs(3600),
            default_limits: Limits { tmp_bytes: Some(Limit::default_of(512 * MIB)), ..Limits::default() },
            default_disk: None,
            disk_bytes: 1000 * MIB,
            memory_bytes: 2048 * MIB,
            processors: 2,
        }
    }

    fn spec(fields: &Value) -> DirectiveSpec {
        let mut spec = json!({ "directive_id": "d", "facility": { "id": "f" }, "command": "true" });
        for (name, value) in fields.as_object().unwrap() {
            spec[name] = value.clone();
        }
        DirectiveSpec::from_value(&spec).unwrap()
    }

    fn verdict(fields: &Value, host: &HostFacts) -> Result<Admitted, String> {
        admit(spec(fields), host).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn what_is_asked_for_and_nothing_more() {
        let plain = verdict(&json!({}), &host()).unwrap();
        assert_eq!((plain.driver, plain.timeout, plain.disk), (DriverKind::Bwrap, Duration::from_secs(300), None));
        assert_eq!((plain.limits, plain.access), (host().default_limits, WorkspaceAccess::ReadWrite));
        let limits = json!({ "memory_mb": 64, "cpu": 1500, "disk_mb": 20 });
        let asked = verdict(&json!({ "limits": limits, "timeout_seconds": 7 }), &host()).unwrap();
        assert_eq!(asked.timeout, Duration::from_secs(7));
        assert_eq!(asked.limits.memory_bytes, Some(Limit::named(64 * MIB)));
        assert_eq!(asked.limits.cpu_millicores, Some(Limit::named(1500)));
        assert_eq!(asked.disk, Some(Limit::named(20 * MIB)));
        // What is held in memory instead of on the disk has the same bound.
        assert_eq!(asked.limits.tmp_bytes, Some(Limit::default_of(20 * MIB)));
        let configured = HostFacts { default_disk: Some(Limit::named(MIB)), ..host() };
        assert_eq!(verdict(&json!({}), &configured).unwrap().disk, Some(Limit::named(MIB)));
    }

    #[test]
    fn refusals_say_what_and_why() {
        let sick = HostFacts { unhealthy: [(DriverKind::Bwrap, "no user namespaces".to_owned())].into(), ..host() };
        let full = HostFacts { free_bytes: 10 * MIB - 1, ..host() };
        let no_mac = HostFacts {
            offered: [SandboxProfile::DarwinAutomation].into(),
            unhealthy: [(DriverKind::DarwinAutomation, "it needs macOS on Apple Silicon".to_owned())].into(),
            ..host()
        };
        let unrestricted = json!({ "capabilities": { "net": { "mode": "unrestricted" } } });
        let cases = [
            (
                json!({ "sandbox_profile": "host" }),
                host(),
                "profile `host` is not offered by this nexusd (offered: untrusted)",
            ),
            (
                json!({ "sandbox_profile": "darwin-automation" }),
                no_mac,
                "needs the driver `darwin-automation`, which does not work on this host: it needs macOS on Apple Silicon",
            ),
            (
                json!({}),
                HostFacts { untrusted_driver: DriverKind::Firecracker, ..host() },
                "needs the driver `firecracker`",
            ),
            (json!({}), sick, "does not work on this host: no user namespaces"),
            (json!({}), full, "below min_free_bytes"),
            (unrestricted, host(), "above operator.net_ceiling (`allowlist`)"),
            (json!({ "timeout_seconds": 3601 }), host(), "timeout_seconds 3601 is above limits.max_timeout (3600 s)"),
            (
                json!({ "limits": { "memory_mb": 2049 } }),
                host(),
                "limits.memory_mb 2049 is more than this machine has (2048)",
            ),
            (json!({ "limits": { "cpu": 2001 } }), host(), "limits.cpu 2001 is more than this machine has (2000)"),
            (
                json!({ "limits": { "disk_mb": 1001 } }),
                host(),
                "limits.disk_mb 1001 is more than this machine has (1000)",
            ),
            (json!({ "cwd": "../.." }), host(), "../.."),
        ];
        for (fields, facts, reason) in cases {
            let text = verdict(&fields, &facts).map(drop).expect_err(reason);
            assert!(text.contains(reason), "{fields}: {text}");
        }
        // Controls: at the very bounds it is admitted.
        let edge = json!({ "timeout_seconds": 3600, "limits": { "memory_mb": 2048, "cpu": 2000, "disk_mb": 1000 } });
        verdict(&edge, &HostFacts { free_bytes: 10 * MIB, ..host() }).unwrap();
    }
}
