//! The Conduits v1 contract: what `nexusd` and the control plane say to each other, and the grammars that both
//! must read alike.
//!
//! Promises: every type here is a plain value; parsing never panics and never widens what was asked for; a value
//! that exists is valid; texts of errors are one line that names the field, the offending value and the mend.
//! There is no I/O, no clock but in the `generate` functions of the ids, and no runtime.
//!
//! Leaves to others: what the daemon does with an answer (`nexusd`), what the server stores (`mothership`), what
//! an allowlist entry means for a connection (`egress`), whether a path exists (`sandbox`).
//!
//! Receivers are lenient where the protocol says so: unknown fields are ignored and `null` equals absent. The two
//! capability documents are the exception: there an unknown field is an error, for a restriction that was not
//! understood must not be dropped.

pub mod canonical;
pub mod capability;
pub mod directive;
pub mod enroll_token;
pub mod error;
pub mod fingerprint;
pub mod headers;
pub mod ids;
pub mod paths;
pub mod poll;
pub mod prefer;
pub mod profile;
pub mod schema;
pub mod spec;
pub mod state;
pub mod territory;
mod text;
pub mod token;
mod wire;

pub use canonical::{canonical_json, finished_digest};
pub use capability::{
    AllowEntry, CapabilityError, DnsName, EntryError, FsCapability, HostPattern, NameError, NetCapability, NetMode,
    NetPreset, Selector, SelectorError,
};
pub use directive::{
    DirectiveHeartbeatAnswer, DirectiveHeartbeatRequest, FinishedAnswer, FinishedRequest, LogChunkAnswer,
    LogChunkRequest, ReleaseAnswer, StartedAnswer, StartedRequest, TokenAnswer,
};
pub use enroll_token::{EnrollToken, EnrollTokenError};
pub use error::{ErrorBody, code};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use ids::{AccountId, ClaimId, DirectiveId, FacilityId, IdError, InstanceId, TerritoryId};
pub use poll::{DirectiveLease, PollAnswer, PollRequest, UnusableLease};
pub use profile::{DriverKind, SandboxProfile, UnknownName};
pub use spec::{
    ArtifactSpec, DirectiveSpec, EnvName, EnvNameError, FacilityRef, RepoUrl, RepoUrlError, SpecError, SpecLimits,
};
pub use state::{DirectiveState, FinishedStatus, LogStream};
pub use territory::{
    Capacity, DriverHealth, EnrollAnswer, EnrollConfig, EnrollRequest, RenewAnswer, RenewRequest, RuntimeStatus,
    TerritoryHeartbeatAnswer, TerritoryHeartbeatRequest, TerritoryKind,
};
pub use token::{DirectiveClaims, DirectiveToken};
