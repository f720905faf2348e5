//! The system calls from outside, against trees and processes that do not keep still.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod beneath;
mod leftover;
mod mount;
mod netns;
