//! How a run ended, and the exit code that is reported for it.

use std::time::Duration;

/// Why a run is stopped from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Somebody canceled the directive.
    Cancel,
    /// The lease is lost.
    LeaseLost,
    /// The daemon shuts down.
    Shutdown,
    /// The disk, or the directive's share of it, is full.
    DiskFull,
    /// The output can no longer be delivered.
    LogFailed,
}

/// An order to stop: SIGTERM to everything in the sandbox, `grace`, then SIGKILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Why.
    pub reason: StopReason,
    /// How long the run may take to end by itself. A later order with less grace shortens the wait.
    pub grace: Duration,
}

/// What ended a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The command's own exit.
    Exited,
    /// A signal that neither a stop nor a limit sent.
    Signal(i32),
    /// The run's timeout.
    TimedOut,
    /// An order to stop.
    Stopped(StopReason),
    /// The memory limit.
    OutOfMemory,
    /// The sandbox itself failed; the text says how.
    Engine(String),
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// What ended it.
    pub ended: EndedBy,
    /// The exit code to report, see [`exit_code`].
    pub code: i32,
    /// What it used.
    pub usage: Usage,
    /// How often a process was refused because the run had as many as it may have, where its cgroup counts that.
    pub pids_refused: Option<u64>,
    /// How many of its processes were killed because memory ran out, where its cgroup counts that.
    pub oom_kills: Option<u64>,
    /// One more sentence for whoever reads the log, such as that the pids limit was hit.
    pub note: Option<String>,
}

/// What a run used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// From release to the end.
    pub wall: Duration,
    /// Processor time in user mode: of all processes where the run had a cgroup of version 2, else of those that the helper
    /// waited for.
    pub user: Duration,
    /// Processor time in the kernel, of the same.
    pub system: Duration,
    /// Peak memory in bytes: of the whole run where it had a memory cgroup, else of its largest process.
    pub peak_rss_bytes: u64,
}

/// How the command itself went, where it got so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// The exit code that is reported: the command's own; 128+N when a signal killed it; 124 on timeout; the command's own
/// code, or 137 where it had to be killed, after a stop; 125 when the disk quota ended it; 137 when its log was refused; 1 when
/// the sandbox failed.
///
/// `own` is the command's own code in the shell's convention (128+N for a signal); `None` when it was killed by force
/// before it ended, or never ran.
#[must_use]
pub fn exit_code(ended: &EndedBy, own: Option<i32>) -> i32 {
    match ended {
        EndedBy::Exited => own.unwrap_or(1),
        EndedBy::Signal(signal) => 128 + signal,
        EndedBy::TimedOut => 124,
        EndedBy::Stopped(StopReason::DiskFull) => 125,
        // Whatever the command made of the signal, its code is not that of its work.
        EndedBy::Stopped(StopReason::LogFailed) => 137,
        EndedBy::Stopped(_) => own.unwrap_or(137),
        EndedBy::OutOfMemory => own.filter(|&code| code != 0).unwrap_or(137),
        EndedBy::Engine(_) => 1,
    }
}

impl CommandStatus {
    /// The code in the shell's convention.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        use EndedBy::{Engine, Exited, OutOfMemory, Signal, Stopped, TimedOut};
        let table: &[(EndedBy, Option<i32>, i32)] = &[
            (Exited, Some(0), 0),
            (Exited, Some(3), 3),
            (Exited, Some(126), 126),
            (Exited, Some(127), 127),
            (Exited, None, 1),
            (Signal(9), Some(137), 137),
            (Signal(15), Some(143), 143),
            (Signal(11), None, 139),
            (TimedOut, Some(0), 124),
            (TimedOut, Some(143), 124),
            (TimedOut, None, 124),
            (Stopped(StopReason::Cancel), Some(0), 0),
            (Stopped(StopReason::Cancel), Some(143), 143),
            (Stopped(StopReason::Cancel), None, 137),
            (Stopped(StopReason::LeaseLost), None, 137),
            (Stopped(StopReason::Shutdown), Some(143), 143),
            (Stopped(StopReason::DiskFull), Some(0), 125),
            (Stopped(StopReason::DiskFull), None, 125),
            (Stopped(StopReason::LogFailed), Some(0), 137),
            (Stopped(StopReason::LogFailed), None, 137),
            (OutOfMemory, Some(137), 137),
            (OutOfMemory, Some(2), 2),
            (OutOfMemory, Some(0), 137),
            (OutOfMemory, None, 137),
            (Engine("x".into()), None, 1),
            (Engine("x".into()), Some(0), 1),
        ];
        for (ended, own, expected) in table {
            assert_eq!(exit_code(ended, *own), *expected, "{ended:?} {own:?}");
        }
    }
}
