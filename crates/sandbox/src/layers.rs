//! What is really in force around a run: reported when the directive starts, and shown by doctor.

use std::fmt;

/// The layers of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layers {
    /// Name of the driver: `bwrap`, `container`, `host` or `darwin-automation`.
    pub driver: &'static str,
    /// Namespaces of the run's own, in the order they are listed in namespaces(7). Empty: the host's.
    pub namespaces: Vec<&'static str>,
    /// Whether a system-call filter is in force.
    pub seccomp: bool,
    /// Whether no-new-privs is set.
    pub no_new_privs: bool,
    /// The Landlock ABI whose rules are in force; `None` where the kernel has none.
    pub landlock_abi: Option<u32>,
    /// The uid on the host that the command runs as.
    pub uid: u32,
    /// Whether that is another uid than the daemon's.
    pub separate_uid: bool,
    /// The cgroup of the run.
    pub cgroup: CgroupLayer,
    /// The way to the network.
    pub network: NetworkLayer,
    /// Each limit that was asked for, and what enforces it.
    pub limits: Vec<LimitLayer>,
    /// Digest of the image that it runs from, where that is known.
    pub image: Option<String>,
}

/// Whether the run has a cgroup of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupLayer {
    /// Version 2, with these controllers.
    V2(Vec<String>),
    /// Version 1, with these controllers.
    V1(Vec<String>),
    /// None, and why.
    None(String),
}

/// The way to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkLayer {
    /// The run's own network; the egress proxy accepts on the sandbox's own socket.
    ProxyListener,
    /// The run's own network; socat forwards to the egress proxy's socket.
    ProxySocat,
    /// The run's own network, without any way out.
    Isolated,
    /// The host's network.
    Host,
}

/// One limit of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitLayer {
    /// `memory_bytes`, `cpu_millicores`, `pids`, `nofile`, `fsize_bytes`, `tmp_bytes`.
    pub name: &'static str,
    /// The value asked for, in the unit of the name; less, where the daemon itself is held to less.
    pub value: u64,
    /// `cgroup`, `rlimit`, `tmpfs`; `None`: not in force.
    pub by: Option<&'static str>,
}

impl NetworkLayer {
    /// A short name for reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProxyListener => "proxy",
            Self::ProxySocat => "proxy-socat",
            Self::Isolated => "none",
            Self::Host => "host",
        }
    }
}

impl CgroupLayer {
    /// `v1`, `v2` or `none`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::V2(_) => "v2",
            Self::V1(_) => "v1",
            Self::None(_) => "none",
        }
    }
}

impl fmt::Display for Layers {
    /// One line, for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespaces = if self.namespaces.is_empty() { "none".to_owned() } else { self.namespaces.join("+") };
        let landlock = self.landlock_abi.map_or_else(|| "none".to_owned(), |abi| format!("abi {abi}"));
        write!(
            f,
            "driver={} namespaces={namespaces} seccomp={} landlock={landlock} uid={} cgroup={} network={}",
            self.driver,
            if self.seccomp { "on" } else { "off" },
            self.uid,
            self.cgroup.as_str(),
            self.network.as_str(),
        )?;
        let missing: Vec<&str> =
            self.limits.iter().filter(|limit| limit.by.is_none()).map(|limit| limit.name).collect();
        if missing.is_empty() { Ok(()) } else { write!(f, " not-in-force={}", missing.join(",")) }
    }
}
