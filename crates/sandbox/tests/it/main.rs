//! Real sandboxes: what a run may do, what it may not, and what is left of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod bed;
mod confinement;
mod container;
mod darwin;
mod docker;
mod endings;
mod escape;
mod everyday;
mod host;
mod limits;
mod network;
mod output;
mod promises;
mod rootfs;
mod roots;
mod speed;
