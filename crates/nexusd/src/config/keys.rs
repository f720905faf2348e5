//! The table of keys: the one place where a key's name, type, range, default and explanation stand.
//!
//! The reader takes ranges and defaults from it, unknown keys get their suggestion from it, and the example
//! configurations are printed from it.

use std::time;

use super::words::{
    Bridge, ContainerNetwork, ContainerProxyMode, ContainerRuntime, LogFormat, LogLevel, PullPolicy, SniPolicy,
};
use super::{Platform, scalar};

/// One key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Dotted path, such as `poll.long_poll_timeout`.
    pub path: &'static str,
    /// Type and range.
    pub kind: Kind,
    /// What holds where the file is silent.
    pub default: Default,
    /// One line of explanation.
    pub about: &'static str,
}

/// Type and range of a value. Bounds are inclusive.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Text; what it must look like.
    Text(&'static str),
    /// `true` or `false`.
    Flag,
    /// A whole number within bounds.
    Integer(u64, u64),
    /// Bytes within bounds.
    Bytes(u64, u64),
    /// Milliseconds within bounds.
    Duration(u64, u64),
    /// As `Duration`, or 0 with a meaning of its own.
    DurationOrZero(u64, u64),
    /// A file or folder.
    Path,
    /// A program: a path, or a name to find on `PATH`.
    Program,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A list; of what.
    List(&'static str),
    /// A mapping of text to text.
    Map(&'static str),
}

impl Kind {
    /// What is expected, in words.
    #[must_use]
    pub fn words(self) -> String {
        match self {
            Self::Text(what) => what.to_owned(),
            Self::Flag => "true or false".to_owned(),
            Self::Integer(..) => "a whole number".to_owned(),
            Self::Bytes(..) => "a number of bytes".to_owned(),
            Self::Duration(..) | Self::DurationOrZero(..) => "a duration such as 25s".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Program => "a program".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::List(what) => format!("a list of {what}"),
            Self::Map(what) => format!("a mapping of {what}"),
        }
    }

    /// The bounds in words, where there are some.
    #[must_use]
    pub fn range(self) -> Option<String> {
        let show = |millis| scalar::show_duration(time::Duration::from_millis(millis));
        match self {
            Self::Integer(min, max) => Some(format!("{min} to {max}")),
            Self::Bytes(min, max) => Some(format!("{} to {}", scalar::show_bytes(min), scalar::show_bytes(max))),
            Self::Duration(min, max) | Self::DurationOrZero(min @ 0, max) => {
                Some(format!("{} to {}", show(min), show(max)))
            }
            Self::DurationOrZero(min, max) => Some(format!("0, or {} to {}", show(min), show(max))),
            _ => None,
        }
    }
}

/// What holds where the file is silent.
#[derive(Debug, Clone, Copy)]
pub enum Default {
    /// This, as it would be written in the file.
    Yaml(&'static str),
    /// On Linux, and on macOS.
    PerPlatform(&'static str, &'static str),
    /// Computed; in words.
    Computed(&'static str),
}

impl Default {
    /// The text that would stand in the file, where there is one.
    #[must_use]
    pub const fn yaml(self, platform: Platform) -> Option<&'static str> {
        match (self, platform) {
            (Self::Yaml(text), _)
            | (Self::PerPlatform(text, _), Platform::Linux)
            | (Self::PerPlatform(_, text), Platform::Macos) => Some(text),
            (Self::Computed(_), _) => None,
        }
    }
}

const fn key(path: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { path, kind, default: Default::Yaml(default), about }
}

const fn computed(path: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { path, kind, default: Default::Computed(default), about }
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const PIB: u64 = 1 << 50;
const MS: u64 = 1;
const SEC: u64 = 1_000;
const MIN: u64 = 60 * SEC;
const HOUR: u64 = 60 * MIN;
const DAY: u64 = 24 * HOUR;

/// Every key, in the order of the example file.
pub const KEYS: &[Key] = &[
    key("server_url", Kind::Text("a URL"), "\"http://localhost:3000\"", "The mothership. http:// only on loopback."),
    key(
        "territory_id",
        Kind::Text("an id"),
        "\"\"",
        "Needed without a client certificate; else read from territory.json beside it.",
    ),
    key("name", Kind::Text("a name"), "\"nexus\"", "The name shown at the mothership."),
    key("labels", Kind::Map("text to text"), "{}", "Labels sent to the mothership, such as {zone: lab}."),
    key("work_dir", Kind::Path, "\"./facilities\"", "Holds the facilities and the daemon's own state."),
    Key {
        path: "supported_sandbox_profiles",
        kind: Kind::List("profiles"),
        default: Default::PerPlatform("[untrusted]", "[darwin-automation]"),
        about: "What is offered: untrusted, trusted, host (Linux); darwin-automation, host (macOS).",
    },
    computed(
        "max_concurrent_directives",
        Kind::Integer(1, 256),
        "poll.max_directives_to_claim",
        "Directives that run at the same time.",
    ),
    key("tls.ca_file", Kind::Path, "\"\"", "PEM roots to verify the mothership by, instead of the system's."),
    key("tls.client_cert_file", Kind::Path, "\"\"", "This territory's certificate, written by enrolment."),
    key("tls.client_key_file", Kind::Path, "\"\"", "Its private key, readable by its owner alone."),
    key("tls.insecure_skip_verify", Kind::Flag, "false", "Do not verify the mothership. Warned about at every start."),
    key("proxy_url", Kind::Text("a proxy"), "\"\"", "HTTP(S) proxy toward the mothership; empty: the environment's."),
    key(
        "poll.long_poll_timeout",
        Kind::Duration(0, 5 * MIN),
        "\"25s\"",
        "How long the mothership may hold an empty poll.",
    ),
    key(
        "poll.retry_backoff",
        Kind::Duration(10 * MS, 5 * MIN),
        "\"2s\"",
        "Wait after an empty answer that names none.",
    ),
    key("poll.max_directives_to_claim", Kind::Integer(1, 5), "1", "Directives claimed by one poll."),
    key("log.max_output_bytes", Kind::Bytes(KIB, GIB), "2000000", "Bytes shipped of one directive's output."),
    key("log.chunk_bytes", Kind::Bytes(1, 262_144), "16384", "Largest piece that output is shipped in."),
    key("log.flush_interval", Kind::Duration(MS, 10 * SEC), "\"100ms\"", "Longest wait for a fuller piece."),
    key("log_overflow.enabled", Kind::Flag, "true", "Keep output beyond log.max_output_bytes in the facility."),
    key(
        "log_overflow.dir",
        Kind::Text("a folder of the facility"),
        "\".nexus/overflow\"",
        "Where, relative to the facility.",
    ),
    key("log_overflow.max_bytes_per_stream", Kind::Bytes(0, TIB), "52428800", "How much of each stream."),
    key(
        "heartbeat.interval",
        Kind::Duration(100 * MS, 100 * SEC),
        "\"10s\"",
        "Between heartbeats of a running directive.",
    ),
    key(
        "territory_heartbeat.interval",
        Kind::Duration(100 * MS, 5 * MIN),
        "\"30s\"",
        "Between heartbeats of the territory.",
    ),
    key("observability.enabled", Kind::Flag, "false", "Serve /healthz, /readyz and /metrics."),
    key("observability.listen_addr", Kind::Text("an address"), "\":9090\"", "Where; without a host, on every address."),
    key("min_free_bytes", Kind::Bytes(0, PIB), "1073741824", "Free disk space beneath which nothing runs."),
    key("sandbox_user", Kind::Text("a user"), "\"nexus-sandbox\"", "Host user of the sandboxes when nexusd is root."),
    key(
        "operator.net_ceiling",
        Kind::OneOf(&["none", "allowlist", "unrestricted"]),
        "allowlist",
        "The most network any directive may have.",
    ),
    key(
        "operator.net_deny",
        Kind::List("host:port entries"),
        "[]",
        "Destinations refused whatever a directive allows.",
    ),
    key(
        "facility.allow_privilege_mix",
        Kind::Flag,
        "false",
        "Let a more privileged profile run where a less trusted one wrote.",
    ),
    key("log_level", Kind::OneOf(LogLevel::WORDS), "info", "The daemon's own log."),
    key("log_format", Kind::OneOf(LogFormat::WORDS), "auto", "auto: json when standard error is not a terminal."),
    key(
        "shutdown_timeout",
        Kind::DurationOrZero(0, 30 * DAY),
        "\"60s\"",
        "How long a shutdown waits for directives; 0: for ever.",
    ),
    key("untrusted_driver", Kind::OneOf(&["bwrap", "firecracker"]), "bwrap", "What runs the untrusted profile."),
    key("bwrap.bwrap_path", Kind::Program, "\"bwrap\"", "bubblewrap."),
    key("bwrap.socat_path", Kind::Program, "\"socat\"", "socat inside the sandbox; used with bridge: socat alone."),
    key("bwrap.bridge", Kind::OneOf(Bridge::WORDS), "builtin", "What joins a sandbox to its egress proxy."),
    key("bwrap.rootfs_path", Kind::Path, "\"\"", "Root of the sandboxes; empty: rootfs.auto, else the host's /usr."),
    key(
        "bwrap.proxy_socket_dir",
        Kind::Path,
        "\"\"",
        "Folder of the proxies' sockets; empty: .proxy-sockets in work_dir.",
    ),
    key(
        "bwrap.extra_ro_paths",
        Kind::List("folders"),
        "[]",
        "Host tool folders shown read-only in sandboxes, such as /opt.",
    ),
    key("bwrap.tmp_bytes", Kind::Bytes(MIB, TIB), "536870912", "Size of a sandbox's /tmp."),
    key("rootfs.auto", Kind::Flag, "false", "Fetch the pinned Ubuntu 24.04 and use it as root."),
    key("rootfs.cache_dir", Kind::Path, "\"./rootfs-cache\"", "Where it is kept."),
    key(
        "rootfs.amd64.url",
        Kind::Text("a URL"),
        "\"https://cloud-images.ubuntu.com/minimal/releases/noble/release/ubuntu-24.04-minimal-cloudimg-amd64-root.tar.xz\"",
        "The archive for x86-64.",
    ),
    key(
        "rootfs.amd64.sha256",
        Kind::Text("a digest"),
        "\"4119418996553edb37307a5ee3a3bd6d754ab28a37f5df057aa2b6551e87d417\"",
        "What it must hash to.",
    ),
    key(
        "rootfs.arm64.url",
        Kind::Text("a URL"),
        "\"https://cloud-images.ubuntu.com/minimal/releases/noble/release/ubuntu-24.04-minimal-cloudimg-arm64-root.tar.xz\"",
        "The archive for AArch64.",
    ),
    key(
        "rootfs.arm64.sha256",
        Kind::Text("a digest"),
        "\"eb50d09466a96381bd1bd68d2a78f2c55be2b6d0256c5df323a35992c180e8ff\"",
        "What it must hash to.",
    ),
    key("container.runtime", Kind::OneOf(ContainerRuntime::WORDS), "\"podman\"", "What runs the trusted profile."),
    key("container.image", Kind::Text("an image"), "\"ubuntu:24.04\"", "Its image."),
    key("container.proxy_mode", Kind::OneOf(ContainerProxyMode::WORDS), "env", "How a container learns of its proxy."),
    key("container.network", Kind::OneOf(ContainerNetwork::WORDS), "host", "isolated: no network but the proxy."),
    key("container.pull", Kind::OneOf(PullPolicy::WORDS), "never", "Whether the image may be fetched."),
    key("container.run_args", Kind::List("flags"), "[]", "Further flags for the engine, --flag=value each."),
    key("firecracker.firecracker_path", Kind::Program, "\"~/.cybros/bin/firecracker\"", "Firecracker, 1.10 or newer."),
    key(
        "firecracker.jailer_path",
        Kind::Text("auto, off or a path"),
        "auto",
        "auto: beside firecracker_path; off; or a path.",
    ),
    key("firecracker.kernel_path", Kind::Path, "\"~/.cybros/vmlinux\"", "The guest's kernel."),
    key(
        "firecracker.rootfs_image_path",
        Kind::Path,
        "\"~/.cybros/rootfs.ext4\"",
        "The guest's root, made by tools/build-fc-rootfs.sh.",
    ),
    key("firecracker.vcpus", Kind::Integer(1, 32), "2", "Virtual processors of a guest."),
    key("firecracker.mem_size_mib", Kind::Integer(64, 1_048_576), "512", "Memory of a guest, in MiB."),
    key("firecracker.workspace_size_mib", Kind::Integer(16, 16_777_216), "2048", "Largest size of a facility, in MiB."),
    key("firecracker.snapshot", Kind::Flag, "false", "Start guests from a snapshot."),
    key(
        "egress.allow_private",
        Kind::List("address ranges"),
        "[]",
        "Private ranges that sandboxes may reach, such as 10.1.0.0/16.",
    ),
    key(
        "egress.sni_policy",
        Kind::OneOf(SniPolicy::WORDS),
        "audit",
        "A tunnel without a readable server name: noted, or refused.",
    ),
    key(
        "egress.sni_check_ports",
        Kind::List("ports"),
        "[443]",
        "Ports on which the server name must be the destination's.",
    ),
    key("egress.max_connections", Kind::Integer(1, 65_535), "256", "Connections of one directive at a time."),
    key("egress.idle_timeout", Kind::Duration(SEC, DAY), "\"10m\"", "An idle tunnel ends."),
    key(
        "egress.upstream_proxy",
        Kind::Text("a proxy"),
        "\"\"",
        "A corporate proxy that the egress proxy goes out through.",
    ),
    key("egress.ca_bundle", Kind::Path, "\"\"", "PEM roots that are added inside sandboxes."),
    key(
        "limits.default_timeout",
        Kind::Duration(100 * MS, 30 * DAY),
        "\"5m\"",
        "Timeout of a directive that names none.",
    ),
    key("limits.max_timeout", Kind::Duration(100 * MS, 30 * DAY), "\"24h\"", "Longest timeout a directive may name."),
    computed(
        "limits.memory_mb",
        Kind::Integer(16, 16_777_216),
        "80 % of the memory, shared among the slots",
        "Memory of a directive, in MiB.",
    ),
    computed(
        "limits.cpu",
        Kind::Integer(100, 1_024_000),
        "unlimited",
        "Processor time in millicores: 1000 is one core.",
    ),
    key("limits.pids", Kind::Integer(16, 4_194_304), "1024", "Processes and threads of a directive."),
    computed(
        "limits.disk_mb",
        Kind::Integer(1, 1_073_741_824),
        "unlimited",
        "What a directive may add to its facility, in MiB.",
    ),
    key("limits.nofile", Kind::Integer(64, 1_048_576), "4096", "Open files of a process."),
    computed("limits.fsize_mb", Kind::Integer(1, 1_073_741_824), "unlimited", "Largest file, in MiB."),
    key(
        "retention.facility_ttl",
        Kind::DurationOrZero(MIN, 3650 * DAY),
        "0",
        "Remove facilities unused for this long; 0: never.",
    ),
    key(
        "retention.max_total_bytes",
        Kind::Bytes(0, PIB),
        "0",
        "Remove the least recently used above this sum; 0: never.",
    ),
    key("debug_tape.enabled", Kind::Flag, "false", "Record what is said with the mothership, without secrets."),
    key("debug_tape.path", Kind::Path, "\"./nexus-debug-tape.jsonl\"", "Into this file."),
    key("debug_tape.max_bytes", Kind::Bytes(4 * KIB, TIB), "10485760", "How much is kept."),
];

/// The entry of `path`.
#[must_use]
pub fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// Whether `path` is a mapping that holds keys, such as `poll` or `rootfs.amd64`.
pub(super) fn is_section(path: &str) -> bool {
    KEYS.iter().any(|key| key.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// The names that may stand directly in `section` (empty: the file itself), each once.
pub(super) fn names_in(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for key in KEYS {
        let rest = match section {
            "" => Some(key.path),
            _ => key.path.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')),
        };
        let name = rest.map(|rest| rest.split('.').next().unwrap_or(rest));
        if let Some(name) = name.filter(|name| names.last() != Some(name)) {
            names.push(name);
        }
    }
    names
}
