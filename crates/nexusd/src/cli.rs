//! The command line: arguments in, one [`Invocation`] out.
//!
//! Two styles lead to the same place: the deployment guide's flags with one dash (`-config x -doctor`, as the
//! earlier implementation had them) and subcommands (`nexusd doctor --config x`). [`argv`] makes the first look
//! like the second's flags; everything after that is one parser.
//!
//! Promises: pure, so every form is tested without a process; a mistyped flag is named with the nearest real one;
//! nothing after `--` is looked at. Leaves to `main`: doing what the invocation says, printing, the exit code.

pub mod argv;
mod flags;
mod invocation;
mod manual;

#[cfg(test)]
mod tests;

pub use flags::{command, completions};
pub(crate) use invocation::quote;
pub use invocation::{EnrollArgs, Invocation, RunArgs, TokenSource, Usage, parse};
pub use manual::manual_pages;

/// The version alone, as the protocol carries it.
pub const NEXUS_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that was built, where the build named one in `NEXUS_COMMIT`.
pub const NEXUS_COMMIT: Option<&str> = option_env!("NEXUS_COMMIT");

/// The day of that commit, likewise in `NEXUS_DATE`.
const NEXUS_DATE: Option<&str> = option_env!("NEXUS_DATE");

/// What `-version` prints: `nexusd 0.1.0`, with the commit and its day in brackets where they are known.
#[must_use]
pub fn version_line() -> String {
    match (NEXUS_COMMIT, NEXUS_DATE) {
        (Some(commit), Some(date)) => format!("nexusd {NEXUS_VERSION} ({commit}, {date})"),
        (Some(commit), None) => format!("nexusd {NEXUS_VERSION} ({commit})"),
        (None, _) => format!("nexusd {NEXUS_VERSION}"),
    }
}
