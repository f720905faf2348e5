//! The labels: each a closed set, so that the number of series is bounded.

use prometheus_client::encoding::EncodeLabelSet;

/// One label with one of a closed set of values.
macro_rules! label {
    ($(#[$outer:meta])* $name:ident { $($field:ident),+ }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub(super) struct $name { $(pub(super) $field: &'static str),+ }
    };
}

label! {
    /// `status`
    StatusLabel { status }
}
label! {
    /// `driver`
    DriverLabel { driver }
}
label! {
    /// `driver`, `profile`
    RunLabel { driver, profile }
}
label! {
    /// `result`
    ResultLabel { result }
}
label! {
    /// `call`
    CallLabel { call }
}
label! {
    /// `decision`, `reason`
    DecisionLabel { decision, reason }
}
label! {
    /// `direction`
    DirectionLabel { direction }
}

/// How a poll ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollResult {
    /// With directives.
    Directives,
    /// Without.
    Empty,
    /// It failed.
    Error,
}

impl PollResult {
    pub(super) const ALL: [Self; 3] = [Self::Directives, Self::Empty, Self::Error];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Directives => "directives",
            Self::Empty => "empty",
            Self::Error => "error",
        }
    }
}

/// A call to the mothership that may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `polls`
    Poll,
    /// `territories/heartbeat`
    TerritoryHeartbeat,
    /// `started`
    Started,
    /// `heartbeat` of a directive
    Heartbeat,
    /// `log_chunks`
    LogChunk,
    /// `finished`
    Finished,
    /// `token`
    Token,
    /// `release`
    Release,
    /// `territories/renew`
    Renew,
}

impl Call {
    pub(super) const ALL: [Self; 9] = [
        Self::Poll,
        Self::TerritoryHeartbeat,
        Self::Started,
        Self::Heartbeat,
        Self::LogChunk,
        Self::Finished,
        Self::Token,
        Self::Release,
        Self::Renew,
    ];

    /// The label's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::TerritoryHeartbeat => "territory_heartbeat",
            Self::Started => "started",
            Self::Heartbeat => "heartbeat",
            Self::LogChunk => "log_chunk",
            Self::Finished => "finished",
            Self::Token => "token",
            Self::Release => "release",
            Self::Renew => "renew",
        }
    }
}
