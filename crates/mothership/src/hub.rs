//! Who waits for what, inside this process.
//!
//! A held poll waits for work, an event stream and a held heartbeat wait for one directive. The store's
//! writer publishes what a committed transaction changed; nobody reads the database on a timer. Wake-ups
//! carry no data: whoever is woken reads the store again, so a wake-up too many costs one query and none
//! is ever lost (both sides keep a permit). Across several instances the same effects would come from
//! the database's notifications.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

/// What a committed transaction changed for those who wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Work may be claimable in this account: by one territory, or by any where none is named.
    Work {
        /// The account whose work it is.
        account: String,
        /// The only territory that could take it, where there is such a one.
        territory: Option<String>,
    },
    /// A territory was disabled: its held requests must end.
    Territory(String),
    /// A directive's state, its cancel flag or its log changed, or it is gone.
    Directive(String),
}

/// The registry of those who wait.
#[derive(Debug, Default)]
pub struct Hub {
    next: AtomicU64,
    pollers: Mutex<HashMap<u64, Poller>>,
    directives: Mutex<HashMap<String, watch::Sender<u64>>>,
}

#[derive(Debug)]
struct Poller {
    account: String,
    territory: String,
    wake: Arc<Notify>,
}

/// A held poll's place in the registry; leaves it when dropped.
#[derive(Debug)]
pub struct PollWait {
    hub: Arc<Hub>,
    id: u64,
    wake: Arc<Notify>,
}

/// A watch on one directive; leaves the registry when dropped.
#[derive(Debug)]
pub struct DirectiveWatch {
    hub: Arc<Hub>,
    id: String,
    changes: Option<watch::Receiver<u64>>,
}

/// The maps hold plain values, which a panic elsewhere cannot leave half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Registers a held poll. Ask the store once more after this and before waiting: what was queued in
    /// between has left no permit.
    #[must_use]
    pub fn poller(self: &Arc<Self>, account: &str, territory: &str) -> PollWait {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let wake = Arc::new(Notify::new());
        locked(&self.pollers).insert(
            id,
            Poller { account: account.to_owned(), territory: territory.to_owned(), wake: Arc::clone(&wake) },
        );
        PollWait { hub: Arc::clone(self), id, wake }
    }

    /// Watches one directive. Read the store after this and before waiting.
    #[must_use]
    pub fn watch(self: &Arc<Self>, directive: &str) -> DirectiveWatch {
        let mut directives = locked(&self.directives);
        let changes = directives.entry(directive.to_owned()).or_insert_with(|| watch::channel(0).0).subscribe();
        DirectiveWatch { hub: Arc::clone(self), id: directive.to_owned(), changes: Some(changes) }
    }

    /// Wakes those whom `effect` concerns.
    pub fn publish(&self, effect: &Effect) {
        match effect {
            Effect::Work { account, territory } => {
                for poller in locked(&self.pollers).values() {
                    let named = territory.as_ref().is_none_or(|t| *t == poller.territory);
                    if poller.account == *account && named {
                        poller.wake.notify_one();
                    }
                }
            }
            Effect::Territory(territory) => {
                for poller in locked(&self.pollers).values() {
                    if poller.territory == *territory {
                        poller.wake.notify_one();
                    }
                }
            }
            Effect::Directive(directive) => {
                if let Some(changes) = locked(&self.directives).get(directive) {
                    changes.send_modify(|version| *version = version.wrapping_add(1));
                }
            }
        }
    }

    /// How many polls are held and how many directives are watched: for tests and metrics.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        (locked(&self.pollers).len(), locked(&self.directives).len())
    }
}

impl PollWait {
    /// Waits for the next wake-up; returns at once when one came since the last call.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }
}

impl Drop for PollWait {
    fn drop(&mut self) {
        locked(&self.hub.pollers).remove(&self.id);
    }
}

impl DirectiveWatch {
    /// Waits for the next change; returns at once when one came since the last call.
    pub async fn changed(&mut self) {
        if let Some(changes) = &mut self.changes {
            // The sender lives in the registry as long as this watch does.
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for DirectiveWatch {
    fn drop(&mut self) {
        let mut directives = locked(&self.hub.directives);
        self.changes = None;
        if directives.get(&self.id).is_some_and(|changes| changes.receiver_count() == 0) {
            directives.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    const SOON: Duration = Duration::from_millis(20);

    fn work(account: &str, territory: Option<&str>) -> Effect {
        Effect::Work { account: account.to_owned(), territory: territory.map(str::to_owned) }
    }

    #[tokio::test]
    async fn work_wakes_those_it_is_for_and_nobody_else() {
        let hub = Arc::new(Hub::default());
        let mine = hub.poller("a", "t1");
        let colleague = hub.poller("a", "t2");
        let stranger = hub.poller("b", "t3");
        hub.publish(&work("a", Some("t1")));
        assert!(timeout(SOON, mine.woken()).await.is_ok());
        assert!(timeout(SOON, colleague.woken()).await.is_err());
        hub.publish(&work("a", None));
        assert!(timeout(SOON, mine.woken()).await.is_ok());
        assert!(timeout(SOON, colleague.woken()).await.is_ok());
        assert!(timeout(SOON, stranger.woken()).await.is_err());
    }

    #[tokio::test]
    async fn a_change_between_two_waits_is_not_lost() {
        let hub = Arc::new(Hub::default());
        let mut watch = hub.watch("d");
        hub.publish(&Effect::Directive("d".to_owned()));
        assert!(timeout(SOON, watch.changed()).await.is_ok());
        assert!(timeout(SOON, watch.changed()).await.is_err());
    }

    #[tokio::test]
    async fn those_who_leave_are_forgotten() {
        let hub = Arc::new(Hub::default());
        let (poll, first, second) = (hub.poller("a", "t"), hub.watch("d"), hub.watch("d"));
        assert_eq!(hub.waiting(), (1, 1));
        drop(first);
        assert_eq!(hub.waiting(), (1, 1));
        drop((poll, second));
        assert_eq!(hub.waiting(), (0, 0));
    }
}
