//! The system calls that Nexus makes: the one library crate with unsafe code.
//!
//! Promises: what is unsafe is small, stands beside the invariant that makes it sound, and has a safe surface. Every
//! descriptor that is made here is close-on-exec. Nothing here knows what a directive or a sandbox is.
//!
//! Leaves to others: policy. The one piece of policy is the table of [`seccomp`], which is data.

pub mod beneath;
pub mod cgroup;
pub mod consent;
pub mod disk;
#[cfg(not(target_os = "linux"))]
mod elsewhere;
pub mod facts;
pub mod fdpass;
#[cfg(target_os = "linux")]
pub mod idmap;
mod kill;
pub mod leftover;
pub mod lock;
pub mod machine;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "linux")]
pub mod memfd;
#[cfg(target_os = "linux")]
pub mod memory;
#[cfg(target_os = "linux")]
pub mod mount;
#[cfg(target_os = "linux")]
pub mod netns;
mod netns_types;
#[cfg(target_os = "linux")]
pub mod owner;
pub mod pipe;
pub mod processes;
#[cfg(target_os = "linux")]
pub mod quota;
mod quota_types;
#[cfg(target_os = "linux")]
pub mod seccomp;
pub mod spawn;
pub mod usage;
pub mod user;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::{memfd, memory, mount, netns, owner, quota};
