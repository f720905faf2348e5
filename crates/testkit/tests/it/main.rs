//! The test's own tools under test, each with a positive control: a tool that cannot fail shows nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod bed;
mod client;
mod fault_proxy;
mod origins;
mod stub;
