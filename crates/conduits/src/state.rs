//! The states of a directive, how it may end, and its two output streams.

use serde::{Deserialize, Serialize};

use crate::profile::named;

/// Where a directive stands.
///
/// ```text
/// awaiting_approval -> queued <-> leased -> running -> succeeded | failed | canceled | timed_out
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DirectiveState {
    /// A person must approve it first.
    AwaitingApproval,
    /// Waits for a territory.
    Queued,
    /// A territory holds it, and has not yet reported a start.
    Leased,
    /// The command runs.
    Running,
    /// Ended with exit code 0.
    Succeeded,
    /// Ended otherwise, or was refused, or its territory was lost.
    Failed,
    /// Ended by request.
    Canceled,
    /// Ended by its time limit.
    TimedOut,
}

named!(DirectiveState, "directive state", {
    AwaitingApproval => "awaiting_approval",
    Queued => "queued",
    Leased => "leased",
    Running => "running",
    Succeeded => "succeeded",
    Failed => "failed",
    Canceled => "canceled",
    TimedOut => "timed_out",
});

impl DirectiveState {
    /// Whether the directive has ended and never changes again.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled | Self::TimedOut)
    }
}

/// How a directive ended, as `finished` reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum FinishedStatus {
    /// Exit code 0.
    Succeeded,
    /// Any other end of the command, or a refusal before it.
    Failed,
    /// Ended by request.
    Canceled,
    /// Ended by its time limit.
    TimedOut,
}

named!(FinishedStatus, "finished status", {
    Succeeded => "succeeded",
    Failed => "failed",
    Canceled => "canceled",
    TimedOut => "timed_out",
});

impl From<FinishedStatus> for DirectiveState {
    fn from(status: FinishedStatus) -> Self {
        match status {
            FinishedStatus::Succeeded => Self::Succeeded,
            FinishedStatus::Failed => Self::Failed,
            FinishedStatus::Canceled => Self::Canceled,
            FinishedStatus::TimedOut => Self::TimedOut,
        }
    }
}

/// One of the two output streams; each has a sequence of chunks of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum LogStream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2, and what nexusd itself says about the directive.
    Stderr,
}

named!(LogStream, "log stream", {
    Stdout => "stdout",
    Stderr => "stderr",
});

impl LogStream {
    /// 0 for stdout, 1 for stderr: for arrays of two.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_ends_are_terminal_and_nothing_else() {
        let terminal: Vec<&str> = DirectiveState::ALL.iter().filter(|s| s.is_terminal()).map(|s| s.as_str()).collect();
        assert_eq!(terminal, ["succeeded", "failed", "canceled", "timed_out"]);
    }

    #[test]
    fn a_status_is_the_state_of_the_same_name() {
        for status in FinishedStatus::ALL {
            assert_eq!(DirectiveState::from(*status).as_str(), status.as_str());
        }
    }

    #[test]
    fn streams_index_an_array_of_two() {
        assert_eq!(LogStream::ALL.iter().map(|s| s.index()).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(serde_json::from_str::<LogStream>("\"stderr\"").unwrap(), LogStream::Stderr);
        assert!(serde_json::from_str::<LogStream>("\"STDERR\"").is_err());
    }
}
