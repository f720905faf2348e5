//! The one switch that stops a directive: turned by a cancel, a lost lease, a shutdown or a full disk.
//! The first reason given is the one reported; a later one may only shorten the grace.

use std::time::Duration;

use sandbox::{Stop, StopReason};
use tokio::sync::watch;

/// SIGTERM to SIGKILL after a cancel or a shutdown.
pub const CANCEL_GRACE: Duration = Duration::from_secs(10);

/// Turns one directive off. Cheap to clone; turning it twice is harmless.
#[derive(Debug, Clone)]
pub struct StopSwitch(watch::Sender<Option<Stop>>);

impl Default for StopSwitch {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl StopSwitch {
    /// Asks for the end, for `reason`.
    pub fn stop(&self, reason: StopReason) {
        let grace = grace_of(reason);
        self.0.send_if_modified(|current| match current {
            None => {
                *current = Some(Stop { reason, grace });
                true
            }
            Some(stop) if grace < stop.grace => {
                stop.grace = grace;
                true
            }
            Some(_) => false,
        });
    }

    /// What the driver listens to.
    pub fn watch(&self) -> watch::Receiver<Option<Stop>> {
        self.0.subscribe()
    }

    /// The reason, once there is one.
    pub fn reason(&self) -> Option<StopReason> {
        self.0.borrow().as_ref().map(|stop| stop.reason)
    }

    /// Resolves when the switch is turned.
    pub async fn stopped(&self) -> StopReason {
        let mut watch = self.watch();
        loop {
            if let Some(stop) = watch.borrow_and_update().as_ref() {
                return stop.reason;
            }
            if watch.changed().await.is_err() {
                // The sender is `self`: it outlives this call.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// A lost lease means that the directive may already run elsewhere: no grace.
fn grace_of(reason: StopReason) -> Duration {
    match reason {
        StopReason::Cancel | StopReason::Shutdown => CANCEL_GRACE,
        StopReason::LeaseLost | StopReason::DiskFull => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays_and_grace_only_shrinks() {
        let switch = StopSwitch::default();
        assert_eq!(switch.reason(), None);
        switch.stop(StopReason::Cancel);
        assert_eq!(switch.stopped().await, StopReason::Cancel);
        switch.stop(StopReason::LeaseLost);
        switch.stop(StopReason::Shutdown);
        let stop = (*switch.watch().borrow()).unwrap();
        assert_eq!((stop.reason, stop.grace), (StopReason::Cancel, Duration::ZERO));
    }
}
