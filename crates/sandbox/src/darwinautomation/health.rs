//! How the driver is: where its tools are, and what macOS lets them do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use sys::consent::Answers;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::permissions::Permissions;
use super::{DarwinAutomation, NAME};
use crate::Health;

/// How long macOS may take to answer: its functions talk to another process, and have been seen to wait for it.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Reads what macOS allows; `None` where there is nobody to ask.
pub type ConsentReader = fn() -> Option<Answers>;

/// The question to macOS, asked once at a time.
#[derive(Debug)]
pub(super) struct Asking {
    reader: ConsentReader,
    /// Whether a thread waits for an answer still.
    busy: Arc<AtomicBool>,
}

impl Asking {
    pub(super) fn of(reader: ConsentReader) -> Self {
        Self { reader, busy: Arc::default() }
    }

    /// Asks on a thread of its own, which an answer that never comes costs once: not one of the runtime's, whose end would
    /// wait for it.
    async fn ask(&self) -> Permissions {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Permissions::UNKNOWN;
        }
        let (to, answer) = oneshot::channel();
        let (reader, busy) = (self.reader, Arc::clone(&self.busy));
        let started = thread::Builder::new().name("consent".to_owned()).spawn(move || {
            let answers = reader();
            busy.store(false, Ordering::Release);
            // Nobody waits any more where it took too long.
            to.send(answers).unwrap_or_default();
        });
        if started.is_err() {
            self.busy.store(false, Ordering::Release);
            return Permissions::UNKNOWN;
        }
        match timeout(ANSWERS_WITHIN, answer).await {
            Ok(Ok(Some(answers))) => Permissions::of(answers),
            _ => Permissions::UNKNOWN,
        }
    }
}

impl DarwinAutomation {
    /// Where the tools are, and what they may do. A permission that is missing makes the driver no less healthy: many
    /// commands do without, and those that do not are told by macOS itself.
    pub(crate) async fn health(&self) -> Health {
        let permissions = self.permissions().await;
        let mut details: BTreeMap<String, String> =
            self.tools.iter().map(|(name, path)| ((*name).to_owned(), path.display().to_string())).collect();
        for (name, permission) in permissions.named() {
            details.insert(name.to_lowercase().replace(' ', "_"), permission.to_string());
        }
        tracing::debug!(driver = NAME, ?permissions, "asked macOS what is allowed");
        Health { healthy: true, version: String::new(), reason: None, details }
    }

    /// What macOS allows.
    pub(crate) async fn permissions(&self) -> Permissions {
        self.asking.ask().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Permission;

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_waited_for_once() {
        fn never() -> Option<Answers> {
            loop {
                thread::park();
            }
        }
        let asking = Asking::of(never);
        let begun = std::time::Instant::now();
        assert_eq!(asking.ask().await, Permissions::UNKNOWN);
        assert!(begun.elapsed() >= ANSWERS_WITHIN);
        // The thread is at it still: no second one is started, and nobody waits for it.
        let begun = std::time::Instant::now();
        assert_eq!(asking.ask().await, Permissions::UNKNOWN);
        assert!(begun.elapsed() < ANSWERS_WITHIN);
    }

    #[tokio::test]
    async fn every_look_asks_anew() {
        fn granted() -> Option<Answers> {
            Some(Answers { automation: 0, accessibility: true, screen_recording: true })
        }
        let asking = Asking::of(granted);
        for _ in 0..3 {
            assert!(asking.ask().await.named().iter().all(|(_, permission)| *permission == Permission::Granted));
        }
        assert_eq!(Asking::of(|| None).ask().await, Permissions::UNKNOWN);
    }
}
