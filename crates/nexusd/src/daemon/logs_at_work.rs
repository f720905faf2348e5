//! The logs that are being shipped, by directive. A log may outlive its run, and another lease of the same directive has its own
//! in the same place: so the earlier one has an owner who can end it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use conduits::DirectiveId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, warn};

use crate::logs;

/// How long the log of a lease that is over may take to leave its place to the next one's.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// What works on one log.
#[derive(Debug, Clone)]
pub(crate) struct LogAtWork {
    /// Ends it at once; what it has not shipped stays in its spool.
    pub(crate) stop: CancellationToken,
    /// Its tasks.
    pub(crate) tasks: TaskTracker,
}

#[derive(Debug, Default)]
pub(super) struct LogsAtWork(Mutex<BTreeMap<DirectiveId, LogAtWork>>);

impl LogsAtWork {
    /// A log that is going to be shipped, until `give_up`.
    pub(super) fn begin(&self, id: &DirectiveId, give_up: &CancellationToken) -> LogAtWork {
        let log = LogAtWork { stop: give_up.child_token(), tasks: TaskTracker::new() };
        self.all().insert(id.clone(), log.clone());
        log
    }

    /// The log of a directive, where there is one at work.
    pub(super) fn of(&self, id: &DirectiveId) -> Option<LogAtWork> {
        self.all().get(id).cloned()
    }

    /// Waits for the end of a log whose directive is over: a mothership that is slow to take it may take long.
    pub(super) async fn over(&self, id: &DirectiveId, log: &LogAtWork) {
        log.tasks.close();
        log.tasks.wait().await;
        let mut all = self.all();
        if all.get(id).is_some_and(|known| TaskTracker::ptr_eq(&known.tasks, &log.tasks)) {
            all.remove(id);
        }
    }

    /// Ends the log of an earlier lease and makes room for the next one's.
    pub(super) async fn make_room(&self, id: &DirectiveId, spool: &Path) {
        let earlier = self.all().remove(id);
        if let Some(log) = earlier {
            log.stop.cancel();
            log.tasks.close();
            if tokio::time::timeout(ENDS_WITHIN, log.tasks.wait()).await.is_err() {
                error!(directive = %id, "the log of a lease that is over is still at work: the new one's may not be whole");
            }
        }
        let dir = spool.to_path_buf();
        let cleared = tokio::task::spawn_blocking(move || logs::clear(&dir)).await;
        if let Err(error) = cleared.unwrap_or_else(|error| Err(error.into())) {
            warn!(directive = %id, spool = %spool.display(), %error, "the spool of a lease that is over stays behind");
        }
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<DirectiveId, LogAtWork>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
