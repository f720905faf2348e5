//! The sandbox drivers: a [`PreparedRun`] in, an [`Exit`] out.
//!
//! Promises: the command reaches the sandbox as data and is never pasted into a script; it runs only after
//! [`RunHandle::release`]; whatever way a run ends, everything it started is dead before [`RunHandle::wait`]
//! returns; a layer of the isolation that could not be put in force is an error or is named in [`Layers`],
//! never silently missing.
//!
//! Leaves to others: what a directive is and whether it is admitted, the egress proxy behind
//! [`ProxyAttachment`], and reading the pipes whose write ends it is given.
//!
//! ```text
//!  arm ──► start ──► ready ──► release ──► wait ──► Exit
//!            │         │                     ▲
//!            └─────────┴── abandon           └── Stop (cancel, lease lost, shutdown, disk full)
//! ```

mod armed;
#[cfg(target_os = "linux")]
mod bwrap;
#[cfg(not(target_os = "linux"))]
#[path = "bwrap/elsewhere.rs"]
mod bwrap;
mod container;
mod control;
mod cwd;
mod darwinautomation;
mod drivers;
mod engine;
mod environment;
mod exit;
mod finding;
mod handle;
mod health;
mod host;
mod knockout;
mod layers;
mod limits;
mod outlet;
mod process;
pub mod rootfs;
mod run;
pub mod supervisor;

pub use armed::Armed;
pub use container::{ContainerRuntime, ContainerSettings, ImagePull};
pub use cwd::{CwdError, WorkspaceCwd};
pub use darwinautomation::{ConsentReader, DarwinSettings, Machine, Permission, Permissions};
pub use drivers::{Driver, DriverSettings, Drivers, DriversError, HostHelper, Owner, RootSource, Starts};
pub use environment::{BaseEnvironment, Environment, EnvironmentError, ProxyVariables};
pub use exit::{EndedBy, Exit, Stop, StopReason, Usage, exit_code};
pub use handle::{LaunchError, READY_TIMEOUT, RunHandle};
pub use health::Health;
#[cfg(feature = "knockout")]
pub use knockout::Knockout;
pub use layers::{CgroupLayer, Layers, LimitLayer, NetworkLayer};
pub use limits::{Limit, LimitOrigin, Limits};
pub use outlet::SandboxSockets;
pub use run::{
    CommandLine, CommandLineError, NetworkPath, PreparedRun, ProxyAttachment, RunName, RunNameError, Selected,
    Workspace, WorkspaceAccess, WorkspaceFiles,
};
pub use sys::cgroup::Census;
pub use sys::consent::Answers as ConsentAnswers;
