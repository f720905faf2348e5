//! The one switch that stops a directive: turned by a cancel, a lost lease, a shutdown, a full disk or a log that is refused.
//! The first reason given is the one reported; a later one may only shorten the grace.

use std::time::Duration;

use sandbox::{Stop, StopReason};
use tokio::sync::watch;

use crate::logs::LogTrouble;

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
        StopReason::LeaseLost | StopReason::DiskFull | StopReason::LogFailed => Duration::ZERO,
    }
}

/// The reason that a log which is not kept gives: the disk's, or one of its own where the disk is not to blame.
pub(super) fn reason_of(trouble: &LogTrouble) -> StopReason {
    match trouble {
        LogTrouble::DiskFull | LogTrouble::Spool(_) => StopReason::DiskFull,
        LogTrouble::Refused(_) | LogTrouble::Output(..) | LogTrouble::ReaderGone => StopReason::LogFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_disk_s_trouble_is_called_the_disk_s() {
        let output = LogTrouble::Output(conduits::LogStream::Stdout, "gone".into());
        for (trouble, reason) in [
            (LogTrouble::DiskFull, StopReason::DiskFull),
            (LogTrouble::Spool("read-only".into()), StopReason::DiskFull),
            (LogTrouble::Refused("422".into()), StopReason::LogFailed),
            (output, StopReason::LogFailed),
            (LogTrouble::ReaderGone, StopReason::LogFailed),
        ] {
            assert_eq!(reason_of(&trouble), reason, "{trouble:?}");
        }
    }

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
