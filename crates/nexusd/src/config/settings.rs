//! The validated configuration, as the rest of the daemon sees it.
//!
//! Field names are the keys of the file. Durations are [`Duration`], sizes are bytes in `u64`, paths are
//! absolute, `~` expanded (a program may be a bare name instead, to be found on `PATH`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use conduits::{AllowEntry, DriverKind, NetMode, SandboxProfile, TerritoryId};
use ipnet::IpNet;

use super::address::{ListenAddr, ProxyUrl, ServerUrl};
use super::words::{
    Bridge, ContainerNetwork, ContainerProxyMode, ContainerRuntime, LogFormat, LogLevel, PullPolicy, SniPolicy,
};

/// Everything the daemon is told by its operator. Built only by validation, so every value is in range.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where the mothership is. `http` only on loopback.
    pub server_url: ServerUrl,
    /// The territory's id where the file names one; see [`super::identity`] for the one in force.
    pub territory_id: Option<TerritoryId>,
    /// The name shown at the mothership; 1 to 128 characters.
    pub name: String,
    /// Labels sent with every territory heartbeat; at most 64.
    pub labels: BTreeMap<String, String>,
    /// Holds the facilities, and the daemon's own state beneath `.nexus`.
    pub work_dir: PathBuf,
    /// The profiles offered in polls, without duplicates, at least one.
    pub supported_sandbox_profiles: Vec<SandboxProfile>,
    /// Directives that run at the same time, 1 to 256.
    pub max_concurrent_directives: usize,
    /// `tls.*`
    pub tls: TlsSettings,
    /// The proxy toward the mothership; `None`: the environment's, if any.
    pub proxy_url: Option<ProxyUrl>,
    /// `poll.*`
    pub poll: PollSettings,
    /// `log.*`: the directives' output.
    pub log: LogSettings,
    /// `log_overflow.*`
    pub log_overflow: LogOverflowSettings,
    /// `heartbeat.*`: of a running directive.
    pub heartbeat: HeartbeatSettings,
    /// `territory_heartbeat.*`
    pub territory_heartbeat: TerritoryHeartbeatSettings,
    /// `observability.*`
    pub observability: ObservabilitySettings,
    /// Free bytes beneath which no directive is admitted and running ones end.
    pub min_free_bytes: u64,
    /// The host user that sandboxes run as when nexusd is root.
    pub sandbox_user: String,
    /// `operator.*`: what no directive may exceed.
    pub operator: OperatorSettings,
    /// `facility.*`
    pub facility: FacilitySettings,
    /// Least severe level of the daemon's own log.
    pub log_level: LogLevel,
    /// Form of the daemon's own log.
    pub log_format: LogFormat,
    /// How long a shutdown waits for running directives; `None`: for ever.
    pub shutdown_timeout: Option<Duration>,
    /// The driver of profile `untrusted`: `Bwrap` or `Firecracker`.
    pub untrusted_driver: DriverKind,
    /// `bwrap.*`
    pub bwrap: BwrapSettings,
    /// `rootfs.*`
    pub rootfs: RootfsSettings,
    /// `container.*`
    pub container: ContainerSettings,
    /// `firecracker.*`
    pub firecracker: FirecrackerSettings,
    /// `egress.*`
    pub egress: EgressSettings,
    /// `limits.*`
    pub limits: LimitSettings,
    /// `retention.*`
    pub retention: RetentionSettings,
    /// `debug_tape.*`
    pub debug_tape: DebugTapeSettings,
    /// What is allowed but deserves a line in the log at every start.
    pub warnings: Vec<Warning>,
}

/// `tls.*`: how the mothership is verified and this territory is identified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsSettings {
    /// PEM roots to verify the mothership by, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM certificate chain of this territory; set exactly when the key is.
    pub client_cert_file: Option<PathBuf>,
    /// PEM private key of this territory.
    pub client_key_file: Option<PathBuf>,
    /// Do not verify the mothership at all. Warned about at every start, never honoured by enrolment.
    pub insecure_skip_verify: bool,
}

/// `poll.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollSettings {
    /// How long the mothership is asked to hold an empty poll; zero asks for an immediate answer.
    pub long_poll_timeout: Duration,
    /// The wait after an empty answer that names none, and the base of error back-off.
    pub retry_backoff: Duration,
    /// Directives claimed by one poll, 1 to 5.
    pub max_directives_to_claim: u8,
}

/// `log.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// Bytes shipped of one directive's output, both streams together.
    pub max_output_bytes: u64,
    /// Largest chunk in bytes, 1 to 262144.
    pub chunk_bytes: usize,
    /// Longest that output is gathered for a fuller chunk.
    pub flush_interval: Duration,
}

/// `log_overflow.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOverflowSettings {
    /// Keep output beyond `log.max_output_bytes` in the facility.
    pub enabled: bool,
    /// Folder of those files, relative to the facility: normal components only.
    pub dir: PathBuf,
    /// Bytes kept of each stream.
    pub max_bytes_per_stream: u64,
}

/// `heartbeat.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatSettings {
    /// Between two heartbeats of a running directive.
    pub interval: Duration,
}

/// `territory_heartbeat.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TerritoryHeartbeatSettings {
    /// Between two heartbeats of the territory, where the mothership does not say otherwise.
    pub interval: Duration,
}

/// `observability.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservabilitySettings {
    /// Serve `/healthz`, `/readyz` and `/metrics`.
    pub enabled: bool,
    /// Where.
    pub listen_addr: ListenAddr,
}

/// `operator.*`: bounds that hold whatever the mothership says.
#[derive(Debug, Clone, PartialEq)]
pub struct OperatorSettings {
    /// The widest network mode a directive may have.
    pub net_ceiling: NetMode,
    /// Destinations that are refused whatever a directive allows. No duplicates.
    pub net_deny: Vec<AllowEntry>,
}

/// `facility.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FacilitySettings {
    /// Let a more privileged profile run in a facility that a less trusted one wrote to.
    pub allow_privilege_mix: bool,
}

/// `bwrap.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BwrapSettings {
    /// bubblewrap: a path, or a name to find on `PATH`.
    pub bwrap_path: PathBuf,
    /// socat as seen inside the sandbox; used with [`Bridge::Socat`] only.
    pub socat_path: PathBuf,
    /// What carries connections from the sandbox to the egress proxy.
    pub bridge: Bridge,
    /// Root directory of the sandbox; `None`: the pinned root, or the host's `/usr`.
    pub rootfs_path: Option<PathBuf>,
    /// Holds the proxies' sockets; `<work_dir>/.proxy-sockets` where the file names none. Short enough for
    /// every socket name in it.
    pub proxy_socket_dir: PathBuf,
    /// Further host folders bound read-only at the same path: absolute, normalised, no secret place.
    pub extra_ro_paths: Vec<PathBuf>,
    /// Size of each tmpfs of a sandbox, in bytes.
    pub tmp_bytes: u64,
}

/// `rootfs.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsSettings {
    /// Fetch and use the pinned Ubuntu root.
    pub auto: bool,
    /// Where unpacked roots are kept.
    pub cache_dir: PathBuf,
    /// The archive for x86-64.
    pub amd64: RootfsArchive,
    /// The archive for AArch64.
    pub arm64: RootfsArchive,
}

/// One pinned root archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsArchive {
    /// `https`, `http` (the digest decides) or `file`: where the archive is. Without userinfo.
    pub url: String,
    /// What it must hash to.
    pub sha256: Sha256Digest,
}

/// The names of the two keys of an archive, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RootfsKeys {
    /// Of its address.
    pub url: &'static str,
    /// Of its digest.
    pub sha256: &'static str,
}

/// `container.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSettings {
    /// Which engine's command line is spoken.
    pub runtime: ContainerRuntime,
    /// The image.
    pub image: String,
    /// How a container learns of its proxy.
    pub proxy_mode: ContainerProxyMode,
    /// Soft (`host`) or hard (`isolated`) network.
    pub network: ContainerNetwork,
    /// Whether the engine may fetch the image.
    pub pull: PullPolicy,
    /// Further arguments of the operator, passed as they are.
    pub run_args: Vec<String>,
}

/// `firecracker.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirecrackerSettings {
    /// The virtual machine monitor.
    pub firecracker_path: PathBuf,
    /// The jailer.
    pub jailer_path: Jailer,
    /// The guest's kernel.
    pub kernel_path: PathBuf,
    /// The guest's root, an ext4 image.
    pub rootfs_image_path: PathBuf,
    /// Virtual processors, 1 to 32.
    pub vcpus: u8,
    /// Guest memory in MiB.
    pub mem_size_mib: u32,
    /// Largest size of a facility's image in MiB.
    pub workspace_size_mib: u64,
    /// Start from a snapshot.
    pub snapshot: bool,
}

/// `egress.*`
#[derive(Debug, Clone, PartialEq)]
pub struct EgressSettings {
    /// Ranges opened against the address rules. No duplicates, host bits cleared.
    pub allow_private: Vec<IpNet>,
    /// What happens to a tunnel without a readable server name.
    pub sni_policy: SniPolicy,
    /// Ports on which the server name is checked.
    pub sni_check_ports: Vec<u16>,
    /// Connections of one directive at a time, 1 to 65535.
    pub max_connections: usize,
    /// A tunnel idle for this long ends.
    pub idle_timeout: Duration,
    /// A corporate proxy that the egress proxy goes out through.
    pub upstream_proxy: Option<ProxyUrl>,
    /// A PEM file of further roots that is added inside sandboxes.
    pub ca_bundle: Option<PathBuf>,
}

/// `limits.*`. A limit that the file names is enforced or the directive refused; `None` and
/// [`Origin::Default`] are best effort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSettings {
    /// Timeout of a directive that names none. Never above `max_timeout`.
    pub default_timeout: Duration,
    /// Longest timeout a directive may name.
    pub max_timeout: Duration,
    /// Memory in MiB; `None`: see [`Config::default_memory_bytes`].
    pub memory_mb: Option<u64>,
    /// Processor time in millicores (1000: one core); `None`: unlimited.
    pub cpu: Option<u64>,
    /// Processes and threads of one sandbox.
    pub pids: Sourced<u64>,
    /// MiB that a directive may add to its facility; `None`: unlimited.
    pub disk_mb: Option<u64>,
    /// Open descriptors of one process.
    pub nofile: Sourced<u64>,
    /// Largest file in MiB; `None`: unlimited.
    pub fsize_mb: Option<u64>,
}

/// `retention.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Facilities unused for this long are removed; `None`: never.
    pub facility_ttl: Option<Duration>,
    /// The least recently used facilities are removed above this sum of bytes; `None`: never.
    pub max_total_bytes: Option<u64>,
}

/// `debug_tape.*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugTapeSettings {
    /// Record requests and answers, secrets redacted.
    pub enabled: bool,
    /// Into this file.
    pub path: PathBuf,
    /// Bytes kept before it starts over.
    pub max_bytes: u64,
}

/// Whether the operator named a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The file names it: enforced, or the directive is refused.
    Named,
    /// Built in: best effort.
    Default,
}

/// A value and whether the operator named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sourced<T> {
    /// The value in force.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

/// `firecracker.jailer_path`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Jailer {
    /// The program `jailer` beside `firecracker_path`, where there is one.
    Auto,
    /// Never.
    Off,
    /// This program.
    Path(PathBuf),
}

/// A SHA-256 digest: 64 hexadecimal digits in the file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256Digest(pub [u8; 32]);

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Digest({self})")
    }
}

/// A setting that is allowed and dangerous, or of no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The dotted key.
    pub key: &'static str,
    /// What to know about it, one line.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

impl Config {
    /// `<work_dir>/.nexus`: the daemon's own state, outside every sandbox's reach.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.work_dir.join(".nexus")
    }

    /// The memory bound of a directive that names none where `limits.memory_mb` is unset: 80 % of the
    /// machine's memory shared out among the slots. `total` and the result are in bytes.
    #[must_use]
    pub fn default_memory_bytes(&self, total: u64) -> u64 {
        let slots = u64::try_from(self.max_concurrent_directives.max(1)).unwrap_or(u64::MAX);
        (total / 5).saturating_mul(4) / slots
    }

    /// The driver that serves `profile` under this configuration.
    #[must_use]
    pub fn driver_of(&self, profile: SandboxProfile) -> DriverKind {
        match profile {
            SandboxProfile::Untrusted => self.untrusted_driver,
            SandboxProfile::Trusted => DriverKind::Container,
            SandboxProfile::Host => DriverKind::Host,
            SandboxProfile::DarwinAutomation => DriverKind::DarwinAutomation,
        }
    }

    /// The drivers that the offered profiles need, each once.
    #[must_use]
    pub fn drivers(&self) -> Vec<DriverKind> {
        let mut drivers = Vec::new();
        for profile in &self.supported_sandbox_profiles {
            let driver = self.driver_of(*profile);
            if !drivers.contains(&driver) {
                drivers.push(driver);
            }
        }
        drivers
    }

    /// The archive of the pinned root for this machine's architecture.
    #[must_use]
    pub fn rootfs_archive(&self) -> &RootfsArchive {
        if cfg!(target_arch = "aarch64") { &self.rootfs.arm64 } else { &self.rootfs.amd64 }
    }

    /// The two keys that say which archive that is.
    #[must_use]
    pub const fn rootfs_keys() -> RootfsKeys {
        if cfg!(target_arch = "aarch64") {
            RootfsKeys { url: "rootfs.arm64.url", sha256: "rootfs.arm64.sha256" }
        } else {
            RootfsKeys { url: "rootfs.amd64.url", sha256: "rootfs.amd64.sha256" }
        }
    }
}
