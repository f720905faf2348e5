//! Which poll may still claim under a claim's id: only the newest one, and none once the claim has been answered.
//!
//! A claim is one question with one answer. A daemon that lost its connection, or that shuts down, asks again with the same id
//! and then trusts that nothing more is leased under it; but its first poll may still be held here, its end unseen (a
//! proxy, a network that vanished), or arrive late. Without this such a poll would take work for nobody.
//!
//! In memory alone: a restart ends every poll anyway.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An answered claim is remembered for longer than any request is under way.
const REMEMBERED: Duration = Duration::from_secs(300);
/// Old ones are looked for this often, for it means a look at all of them.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How many are known before those that were answered are forgotten early.
const MOST: usize = 65_536;

/// The claims of all territories.
#[derive(Debug, Default)]
pub struct Tickets {
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    known: HashMap<(String, String), Known>,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    turn: u64,
    answered: bool,
    at: Instant,
}

/// A poll's right to claim.
#[derive(Debug, Clone)]
pub struct Ticket {
    tickets: Arc<Tickets>,
    claim: (String, String),
    turn: u64,
}

impl Tickets {
    /// Of a poll that just came; every earlier one of the same claim loses its right.
    #[must_use]
    pub fn take(self: &Arc<Self>, territory: &str, claim_id: &str) -> Ticket {
        let now = Instant::now();
        let claim = (territory.to_owned(), claim_id.to_owned());
        let mut book = self.book();
        let crowded = book.known.len() >= MOST;
        if crowded || book.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_EVERY) {
            book.looked = Some(now);
            book.known.retain(|_, claim| {
                let is_old = now.saturating_duration_since(claim.at) >= REMEMBERED;
                let may_go = is_old || (crowded && claim.answered);
                !may_go
            });
        }
        let entry = book.known.entry(claim.clone()).or_insert(Known { turn: 0, answered: false, at: now });
        entry.turn += 1;
        entry.at = now;
        Ticket { tickets: Arc::clone(self), claim, turn: entry.turn }
    }

    /// The book holds plain values, which a panic elsewhere cannot leave half changed.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Whether this poll may take work.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.tickets.book().known.get(&self.claim).is_some_and(|known| known.turn == self.turn && !known.answered)
    }

    /// The claim has its answer: the same again is all that it gets from here on.
    pub fn answered(&self) {
        let mut book = self.tickets.book();
        if let Some(known) = book.known.get_mut(&self.claim).filter(|known| known.turn == self.turn) {
            known.answered = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_poll_of_a_claim_may_take_work_and_none_after_the_answer() {
        let tickets = Arc::new(Tickets::default());
        let (first, other, stranger) = (tickets.take("t", "c"), tickets.take("t", "d"), tickets.take("u", "c"));
        assert!(first.is_good() && other.is_good() && stranger.is_good());
        let second = tickets.take("t", "c");
        assert_eq!((first.is_good(), second.is_good()), (false, true));
        first.answered();
        assert!(second.is_good(), "an overtaken poll settles nothing");
        second.answered();
        assert!(!second.is_good() && !tickets.take("t", "c").is_good(), "answered once and for all");
        assert!(other.is_good() && stranger.is_good());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let tickets = Arc::new(Tickets::default());
        for number in 0..=MOST {
            tickets.take("t", &number.to_string()).answered();
        }
        assert!(tickets.book().known.len() <= MOST);
    }
}
