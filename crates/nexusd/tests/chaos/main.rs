//! Nothing lost, nothing twice, whatever fails: a real control plane, a real daemon and real sandboxes, with faults between
//! them and the processes killed. `make test` runs a part; `make chaos` (`NEXUS_CHAOS=full`) the whole figures.
//!
//! What is true is said by the commands themselves: each writes when it began, how many bytes of what digest it printed,
//! and when it ended, to a file in its facility ([`oracle`]). Every run ends with the same questions ([`bed::Bed::settled`]).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    missing_docs
)]

mod bed;
mod clocks;
mod disk;
mod drains;
mod kills;
mod mothership;
mod oracle;
mod storm;
mod wall;

/// How many of something: the part of `make test`, or the whole figure of `make chaos`.
pub(crate) fn figure(part: usize, whole: usize) -> usize {
    if std::env::var("NEXUS_CHAOS").is_ok_and(|value| value == "full") { whole } else { part }
}
