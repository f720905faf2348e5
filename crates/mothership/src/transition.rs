//! The states of a directive as a pure table: which event leads where.
//!
//! ```text
//!   awaiting_approval        ┌── requeue ──┐
//!          │                 ▼             │
//!          │              queued ─claim─► leased ─start─► running
//!          │                 │             │                 │
//!        cancel           cancel      finish(s)      finish(s), lost
//!          ▼                 ▼             ▼                 ▼
//!       canceled          canceled     succeeded  failed  canceled  timed_out
//! ```
//!
//! A requeued directive whose cancel was asked for meanwhile is canceled instead. A report on a terminal
//! directive is not an event: `store::reports` compares it with what was recorded.

use conduits::{DirectiveState, FinishedStatus};

/// What may happen to a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A territory takes it.
    Claim,
    /// Its territory reports that it runs.
    Start,
    /// Its territory reports its end.
    Finish(FinishedStatus),
    /// It goes back to the queue: released, its lease over, or its daemon replaced before it ran.
    Requeue {
        /// Whether somebody asked for its cancel meanwhile.
        cancel_requested: bool,
    },
    /// The territory that ran it is gone: no heartbeat for the lease's time, or a new daemon without it.
    Lost,
    /// A user asks for its end.
    Cancel,
}

/// What an event does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The directive is now in this state.
    To(DirectiveState),
    /// The state stays; whoever holds the lease is told that a cancel is asked for.
    Signal,
    /// Nothing changes, and that is fine: it is so already.
    Same,
    /// The state does not allow it.
    Refused,
}

/// What `event` does to a directive in `state`.
#[must_use]
pub fn step(state: DirectiveState, event: Event) -> Step {
    use DirectiveState as S;
    match (state, event) {
        (S::Queued, Event::Claim) => Step::To(S::Leased),
        (S::Leased, Event::Start) => Step::To(S::Running),
        (S::Leased | S::Running, Event::Finish(status)) => Step::To(status.into()),
        (S::Leased, Event::Requeue { cancel_requested: true }) | (S::AwaitingApproval | S::Queued, Event::Cancel) => {
            Step::To(S::Canceled)
        }
        (S::Leased, Event::Requeue { cancel_requested: false }) => Step::To(S::Queued),
        (S::Running, Event::Lost) => Step::To(S::Failed),
        (S::Leased | S::Running, Event::Cancel) => Step::Signal,
        (S::Running, Event::Start) => Step::Same,
        (state, Event::Start | Event::Cancel) if state.is_terminal() => Step::Same,
        _ => Step::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DirectiveState as S;
    use Step::{Refused, Same, Signal, To};

    #[test]
    fn the_whole_table() {
        const EVENTS: [Event; 7] = [
            Event::Claim,
            Event::Start,
            Event::Finish(FinishedStatus::TimedOut),
            Event::Requeue { cancel_requested: false },
            Event::Requeue { cancel_requested: true },
            Event::Lost,
            Event::Cancel,
        ];
        let end = [Refused, Same, Refused, Refused, Refused, Refused, Same];
        let table: [(S, [Step; 7]); 8] = [
            (S::AwaitingApproval, [Refused, Refused, Refused, Refused, Refused, Refused, To(S::Canceled)]),
            (S::Queued, [To(S::Leased), Refused, Refused, Refused, Refused, Refused, To(S::Canceled)]),
            (S::Leased, [Refused, To(S::Running), To(S::TimedOut), To(S::Queued), To(S::Canceled), Refused, Signal]),
            (S::Running, [Refused, Same, To(S::TimedOut), Refused, Refused, To(S::Failed), Signal]),
            (S::Succeeded, end),
            (S::Failed, end),
            (S::Canceled, end),
            (S::TimedOut, end),
        ];
        for (state, expected) in table {
            let found = EVENTS.map(|event| step(state, event));
            assert_eq!(found, expected, "{}", state.as_str());
        }
    }

    #[test]
    fn every_status_ends_a_running_directive_as_itself() {
        for status in FinishedStatus::ALL {
            assert_eq!(step(S::Running, Event::Finish(*status)), To((*status).into()));
        }
    }
}
