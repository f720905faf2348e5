//! `DirectiveSpec`: what is to be run, where and with which rights, validated once and then trusted.
//!
//! Promises: whatever JSON comes in, [`DirectiveSpec::from_value`] gives a specification in which every field is
//! well-formed, or one line that names the first bad field, its value and the mend. Zero values that other servers
//! send for "not set" (`""`, `0`, `null`) equal absence. Unknown fields are ignored, but for the capabilities.
//!
//! Leaves to others: whether the profile is offered, the working directory exists, a limit can be enforced.

mod env_name;
mod read;
mod repo_url;

pub use env_name::{EnvName, EnvNameError};
pub use repo_url::{MAX_REPO_URL_BYTES, RepoScheme, RepoUrl, RepoUrlError};

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

use crate::capability::{CapabilityError, FsCapability, NetCapability};
use crate::ids::{DirectiveId, FacilityId, IdError};
use crate::profile::{SandboxProfile, UnknownName};

/// Where a facility is mounted, and the only value of `facility.mount`.
pub const WORKSPACE_MOUNT: &str = "/workspace";
/// The shell where none is named, on a Mac's desktop and everywhere else.
const AUTOMATION_SHELL: &str = "/bin/zsh";
const PLAIN_SHELL: &str = "/bin/sh";
/// The most bytes of a command, and of one `NAME=value`: Linux's `MAX_ARG_STRLEN` (32 pages of 4 KiB, `execve(2)`)
/// without the ending NUL.
pub const MAX_ARGUMENT_BYTES: usize = 131_071;
/// The most bytes of all of `env` together: half of what `execve(2)` takes under the usual 8 MiB stack.
pub const MAX_ENV_BYTES: usize = 1_048_576;
/// The most patterns of `artifacts.collect`.
pub const MAX_COLLECT: usize = 256;

/// The shell of a directive that names none.
#[must_use]
pub const fn default_shell(profile: SandboxProfile) -> &'static str {
    match profile {
        SandboxProfile::DarwinAutomation => AUTOMATION_SHELL,
        SandboxProfile::Untrusted | SandboxProfile::Trusted | SandboxProfile::Host => PLAIN_SHELL,
    }
}

/// A directive's specification, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectiveSpec {
    /// Which directive.
    pub directive_id: DirectiveId,
    /// Where it works.
    pub facility: FacilityRef,
    /// The isolation asked for; absent means untrusted.
    pub sandbox_profile: SandboxProfile,
    /// The command line for the shell, not empty, without NUL, at most [`MAX_ARGUMENT_BYTES`].
    pub command: String,
    /// Absolute path of the shell; absent means [`default_shell`].
    pub shell: String,
    /// The working directory as it came, without NUL; empty means the workspace. Where it leads is for the sandbox.
    pub cwd: String,
    /// How long it may run, in seconds; `None` (0 or absent) means the daemon's default.
    pub timeout_seconds: Option<u64>,
    /// What it may use.
    pub limits: SpecLimits,
    /// What it may reach; absent means nothing.
    pub net: NetCapability,
    /// What it may read and write; `None` means the whole workspace.
    pub fs: Option<FsCapability>,
    /// What is to be kept of its work.
    pub artifacts: ArtifactSpec,
    /// Plain variables of its environment.
    pub env: BTreeMap<EnvName, String>,
}

/// The facility of a directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FacilityRef {
    /// Which one.
    pub id: FacilityId,
    /// Where it is mounted: [`WORKSPACE_MOUNT`], always.
    pub mount: String,
    /// What an empty facility is filled from.
    pub repo_url: Option<RepoUrl>,
}

/// What a directive may use. `None` (0 or absent) means the daemon's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpecLimits {
    /// Processor time in thousandths of a core (`limits.cpu` on the wire).
    pub cpu_millicores: Option<u64>,
    /// Memory in MiB.
    pub memory_mb: Option<u64>,
    /// What it may add to the facility, in MiB.
    pub disk_mb: Option<u64>,
    /// Output of both streams together, in bytes.
    pub max_output_bytes: Option<u64>,
    /// The diff, in bytes.
    pub max_diff_bytes: Option<u64>,
}

/// What is to be kept of a directive's work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ArtifactSpec {
    /// Glob patterns beneath the workspace.
    pub collect: Vec<String>,
    /// Whether a diff is made even where no repository was named.
    pub always_diff: bool,
}

/// Why a specification is refused. Shown, it is one line that names the field, the value and the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A field has another JSON type than it should.
    #[error("{field}: {value} is not {expected}")]
    WrongType {
        /// Path of the field.
        field: String,
        /// The value, shortened.
        value: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A field that must be there is not.
    #[error("{field} is missing: {mend}")]
    Missing {
        /// Path of the field.
        field: String,
        /// What to write.
        mend: &'static str,
    },
    /// A value outside the field's grammar.
    #[error("{field}: {value} {why}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// The value, quoted and shortened.
        value: String,
        /// What is wrong, and what to write.
        why: &'static str,
    },
    /// More than the field may hold.
    #[error("{field} has {size} {unit}; at most {limit} are taken{mend}")]
    TooMuch {
        /// Path of the field.
        field: String,
        /// How much there is.
        size: usize,
        /// `bytes`, `patterns`.
        unit: &'static str,
        /// How much may be.
        limit: usize,
        /// What to do instead, beginning with its separator.
        mend: &'static str,
    },
    /// An id outside the grammar.
    #[error("{field}: {source}")]
    Id {
        /// Path of the field.
        field: &'static str,
        /// What is wrong with it.
        source: IdError,
    },
    /// A profile that does not exist.
    #[error("sandbox_profile: {0}")]
    Profile(UnknownName),
    /// A repository that is not cloned from.
    #[error("facility.repo_url: {0}")]
    RepoUrl(RepoUrlError),
    /// A name of a variable that may not be set.
    #[error("env: {0}")]
    EnvName(EnvNameError),
    /// A capability that does not validate.
    #[error("capabilities.{0}")]
    Capability(CapabilityError),
    /// A reach into the host that the profile does not have.
    #[error(
        "capabilities.{part} reaches outside the workspace, which profile {profile} does not; use workspace selectors, or profile trusted or host"
    )]
    HostPart {
        /// Field and value.
        part: String,
        /// The profile asked for.
        profile: SandboxProfile,
    },
}

impl DirectiveSpec {
    /// Reads a specification. The first fault is the error.
    pub fn from_value(value: &Value) -> Result<Self, SpecError> {
        read::spec(value)
    }

    /// The specification again, defaults left out; reading it gives the same value. Holds the credentials that
    /// `repo_url` may carry.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut facility = json!({"id": self.facility.id, "mount": self.facility.mount});
        if let Some(url) = &self.facility.repo_url {
            facility["repo_url"] = json!(url.expose());
        }
        let mut spec = Map::new();
        spec.insert("directive_id".to_owned(), json!(self.directive_id));
        spec.insert("facility".to_owned(), facility);
        spec.insert("sandbox_profile".to_owned(), json!(self.sandbox_profile));
        spec.insert("command".to_owned(), json!(self.command));
        spec.insert("shell".to_owned(), json!(self.shell));
        spec.insert("cwd".to_owned(), json!(self.cwd));
        if let Some(seconds) = self.timeout_seconds {
            spec.insert("timeout_seconds".to_owned(), json!(seconds));
        }
        spec.insert("limits".to_owned(), self.limits.to_value());
        let mut capabilities = json!({"net": self.net.to_value()});
        if let Some(fs) = &self.fs {
            capabilities["fs"] = fs.to_value();
        }
        spec.insert("capabilities".to_owned(), capabilities);
        spec.insert(
            "artifacts".to_owned(),
            json!({"collect": self.artifacts.collect, "always_diff": self.artifacts.always_diff}),
        );
        let env: BTreeMap<&str, &String> = self.env.iter().map(|(name, value)| (name.as_str(), value)).collect();
        spec.insert("env".to_owned(), json!(env));
        Value::Object(spec)
    }
}

impl SpecLimits {
    fn to_value(self) -> Value {
        let named = [
            ("cpu", self.cpu_millicores),
            ("memory_mb", self.memory_mb),
            ("disk_mb", self.disk_mb),
            ("max_output_bytes", self.max_output_bytes),
            ("max_diff_bytes", self.max_diff_bytes),
        ];
        Value::Object(named.into_iter().filter_map(|(key, limit)| Some((key.to_owned(), json!(limit?)))).collect())
    }
}

#[cfg(test)]
mod tests;
