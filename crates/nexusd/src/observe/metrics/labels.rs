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
