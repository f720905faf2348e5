//! The self-check of a host: what is there, what works, and the command that mends what does not.
//!
//! ```text
//! facts (run side by side, each bounded) ─▶ rows (pure) ─▶ text in the guide's look, or JSON
//! ```
//!
//! Promises: only what the configuration's profiles need can fail; a row that says a sandbox works has run one;
//! each failure names its mend; nothing is changed on the host; the whole takes seconds, whatever hangs.
//!
//! Leaves to others: the exit code (1 when [`Report::failed`]), and the sandbox that `bwrap_functional` runs, which is
//! the driver's own health check.

mod facts;
mod kernel;
mod mac;
mod mothership;
mod programs;
mod prove;
mod report;
mod rows;
#[cfg(test)]
mod tests;

pub use facts::Subject;
pub use prove::{Proof, prove};
pub use report::{Report, Row, State};

/// Checks the host. `drivers` are those of the daemon, made in a directory that no running daemon uses; the `Err` says
/// why there are none, and the functional check then fails with it.
pub async fn examine(subject: &Subject, drivers: Result<&sandbox::Drivers, String>) -> Report {
    let facts = facts::gather(subject, drivers).await;
    Report { rows: rows::rows(&facts) }
}
