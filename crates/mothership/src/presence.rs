//! Which territories ask for work, and for which profiles: what this process has seen of their polls.
//!
//! In memory alone: a poll comes every few seconds, and after a restart all of them come again at once. A territory whose
//! slots are all taken does not poll; its heartbeat says that it runs something.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conduits::SandboxProfile;
use serde_json::Value;

use crate::clock::{Clock, Micros};
use crate::store::territories::TerritoryView;

/// A territory that polled this recently asks for work; those that do not wait sleep between polls.
const LATELY: Duration = Duration::from_secs(60);
/// A territory whose heartbeat is this old is not there; they come every 30 s.
const ALIVE: Duration = Duration::from_secs(90);

/// The polls of all territories.
#[derive(Debug)]
pub struct Presence {
    clock: Clock,
    polls: Mutex<HashMap<String, Polls>>,
}

/// What is known of one territory's polls.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Polls {
    held: usize,
    last: Micros,
    profiles: Vec<SandboxProfile>,
}

/// A poll that is being answered or held.
#[derive(Debug)]
pub struct Polling {
    presence: Arc<Presence>,
    territory: String,
    beside: usize,
}

impl Polling {
    /// How many polls of this territory there were already.
    #[must_use]
    pub fn beside(&self) -> usize {
        self.beside
    }
}

impl Presence {
    /// Of a process that has just started.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, polls: Mutex::default() }
    }

    /// Takes note of a poll, until the value is dropped.
    #[must_use]
    pub fn polls(self: &Arc<Self>, territory: &str, profiles: &[SandboxProfile]) -> Polling {
        let now = self.clock.now();
        let mut known = self.known();
        let polls = known.entry(territory.to_owned()).or_insert(Polls { held: 0, last: now, profiles: Vec::new() });
        let beside = polls.held;
        polls.held += 1;
        polls.profiles = profiles.to_vec();
        Polling { presence: Arc::clone(self), territory: territory.to_owned(), beside }
    }

    /// Adds what is known here to what the store knows.
    pub fn complete(&self, view: &mut TerritoryView) {
        let polls = self.known().get(&view.id).cloned();
        let now = self.clock.now();
        view.last_poll_at = polls.as_ref().map(|polls| if polls.held > 0 { now } else { polls.last }.rfc3339());
        view.available_profiles = available(view, polls.as_ref(), now);
    }

    /// The map holds plain values, which a panic elsewhere cannot leave half changed.
    fn known(&self) -> MutexGuard<'_, HashMap<String, Polls>> {
        self.polls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Polling {
    fn drop(&mut self) {
        if let Some(polls) = self.presence.known().get_mut(&self.territory) {
            polls.held = polls.held.saturating_sub(1);
            polls.last = self.presence.clock.now();
        }
    }
}

/// The profiles of which the territory would take a directive soon, as far as is known.
fn available(view: &TerritoryView, polls: Option<&Polls>, now: Micros) -> Vec<SandboxProfile> {
    if view.disabled_at.is_some() {
        return Vec::new();
    }
    if let Some(polls) = polls
        && (polls.held > 0 || polls.last.plus(LATELY) >= now)
    {
        return polls.profiles.clone();
    }
    let runs = view.last_heartbeat.pointer("/runtime_status/running_directives").and_then(Value::as_u64);
    let is_alive = view.last_seen.is_some_and(|seen| seen.plus(ALIVE) >= now);
    if !is_alive || runs.unwrap_or(0) == 0 {
        return Vec::new();
    }
    let offered = view.last_heartbeat.pointer("/capacity/supported_profiles").and_then(Value::as_array);
    offered.into_iter().flatten().filter_map(|name| name.as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use SandboxProfile::{Host, Untrusted};
    use serde_json::json;

    const NOW: Micros = Micros(1_000_000_000);

    fn ago(seconds: u64) -> Micros {
        NOW.minus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_territory_is_there_while_it_polls_or_is_busy() {
        let polled = |held, seconds| Some(Polls { held, last: ago(seconds), profiles: vec![Host] });
        let cases = [
            // Polls, disabled, last seen, running.
            (polled(1, 500), false, None, 0, vec![Host]),
            (polled(0, 60), false, None, 0, vec![Host]),
            (polled(0, 61), false, Some(ago(1)), 0, vec![]),
            (polled(0, 61), false, Some(ago(90)), 1, vec![Untrusted]),
            (None, false, Some(ago(90)), 1, vec![Untrusted]),
            (None, false, Some(ago(91)), 1, vec![]),
            (None, false, None, 1, vec![]),
            (polled(1, 0), true, Some(ago(0)), 1, vec![]),
        ];
        for (polls, disabled, last_seen, running, expected) in cases {
            let view = TerritoryView {
                disabled_at: disabled.then(String::new),
                last_seen,
                last_heartbeat: json!({
                    "capacity": { "supported_profiles": ["untrusted", "gvisor"] },
                    "runtime_status": { "running_directives": running },
                }),
                ..TerritoryView::default()
            };
            assert_eq!(available(&view, polls.as_ref(), NOW), expected, "{polls:?} {disabled} {last_seen:?} {running}");
        }
    }

    #[test]
    fn a_poll_counts_while_it_is_held_and_a_while_after() {
        let presence = Arc::new(Presence::new(Clock::start()));
        let shown = |presence: &Arc<Presence>| {
            let mut view = TerritoryView { id: "t".to_owned(), ..TerritoryView::default() };
            presence.complete(&mut view);
            (view.last_poll_at.is_some(), view.available_profiles)
        };
        assert_eq!(shown(&presence), (false, vec![]));
        let (first, second) = (presence.polls("t", &[Host]), presence.polls("t", &[Host, Untrusted]));
        assert_eq!((first.beside(), second.beside()), (0, 1));
        drop(first);
        assert_eq!(shown(&presence), (true, vec![Host, Untrusted]));
        drop(second);
        assert_eq!(shown(&presence), (true, vec![Host, Untrusted]));
        assert_eq!(presence.known()["t"].held, 0);
    }
}
