//! The configuration: a YAML file in, one validated [`Config`] out.
//!
//! ```text
//! bytes ─▶ document (YAML tree with positions) ─▶ reader (expand, type, range) ─▶ rules ─▶ Config
//!                       └───────────────── every problem, collected ────────────────┘
//! ```
//!
//! Promises: every problem of a file is reported at once, each with file, line and column; an unknown
//! key names the nearest known one; nothing here reads the environment, the clock or the network, so the same
//! bytes and [`Surroundings`] always give the same answer; hostile YAML costs bounded time and memory.
//! One table, [`keys::KEYS`], holds each key's type, range, default and explanation: the reader, the
//! suggestions and the example files all come from it.
//!
//! Left to others: whether a named file, program or user exists (doctor and the daemon ask that, because
//! `nexusd enroll` must work before the credentials exist), and whether a driver is built.

mod address;
mod document;
mod example;
mod expand;
mod files;
pub mod identity;
pub mod keys;
mod manual;
mod problem;
mod read;
mod reload;
mod rules;
mod scalar;
mod settings;
mod validate;
mod words;

#[cfg(test)]
mod tests;

pub use address::{ListenAddr, ListenHost, ProxyUrl, ServerUrl};
pub use example::example_config;
pub use files::{ConfigError, ConfigSource, MAX_CONFIG_BYTES, Surroundings};
pub use identity::{Identity, IdentityError, TerritoryRecord};
pub use manual::configuration_page;
pub use problem::{Place, Problem, Problems};
pub use rules::MAX_SOCKET_NAME;
pub use settings::{
    BwrapSettings, Config, ContainerSettings, DebugTapeSettings, EgressSettings, FacilitySettings, FirecrackerSettings,
    HeartbeatSettings, Jailer, LimitSettings, LogOverflowSettings, LogSettings, ObservabilitySettings,
    OperatorSettings, Origin, PollSettings, RetentionSettings, RootfsArchive, RootfsKeys, RootfsSettings, Sha256Digest,
    Sourced, TerritoryHeartbeatSettings, TlsSettings, Warning,
};
pub use words::{
    Bridge, ContainerNetwork, ContainerProxyMode, ContainerRuntime, LogFormat, LogLevel, PullPolicy, SniPolicy,
};

/// The operating system whose rules apply. A value, so that both are tested on either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// Linux, amd64 or arm64.
    Linux,
    /// macOS on Apple Silicon.
    Macos,
}

impl Platform {
    /// The platform this program was built for.
    #[must_use]
    pub const fn current() -> Self {
        if cfg!(target_os = "macos") { Self::Macos } else { Self::Linux }
    }

    /// The sandbox profiles that exist on this platform, most isolated first.
    #[must_use]
    pub const fn profiles(self) -> &'static [conduits::SandboxProfile] {
        use conduits::SandboxProfile::{DarwinAutomation, Host, Trusted, Untrusted};
        match self {
            Self::Linux => &[Untrusted, Trusted, Host],
            Self::Macos => &[DarwinAutomation, Host],
        }
    }

    /// What is said of a profile that this platform does not have.
    #[must_use]
    pub fn lacks(self, profile: conduits::SandboxProfile) -> String {
        let elsewhere = match profile {
            conduits::SandboxProfile::DarwinAutomation => " (it needs macOS on Apple Silicon)",
            _ => "",
        };
        format!("{profile} does not exist on {}{elsewhere}", self.title())
    }

    /// The name for people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Linux => "Linux",
            Self::Macos => "macOS",
        }
    }

    /// The name that the protocol uses.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Macos => "macos",
        }
    }
}

/// A duration as the configuration writes it: `500ms`, `25s`, `1m30s`, `2h`.
///
/// # Errors
/// The end of a sentence that begins with the value.
pub fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    scalar::duration(text)
}
