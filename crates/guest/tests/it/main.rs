//! The frames as a stream of hostile bytes, and the helper as an executable.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod frames;
mod helper;
mod probe;
