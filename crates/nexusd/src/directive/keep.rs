//! Keeping the lease while a directive runs: heartbeats that renew lease and token and bring the cancel.

use std::time::Duration;

use conduits::DirectiveHeartbeatRequest;
use jiff::Timestamp;
use sandbox::StopReason;
use serde_json::Map;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::lease::{BootTime, Lease};
use super::report::MothershipDesk;
use super::stop::StopSwitch;
use crate::client::CallError;

/// A directive that is over sooner than this costs no heartbeat at all.
const FIRST_HEARTBEAT_AFTER: Duration = Duration::from_millis(100);

/// How long to wait after a heartbeat that failed for a passing reason, where the server does not say.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// No two heartbeats follow each other faster.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// Sends heartbeats until the lease is lost or the future dropped; turns `stop` on a cancel and on the loss.
pub async fn keep_lease(desk: &MothershipDesk, stop: &StopSwitch) {
    let lease = &desk.lease;
    // The answer is held for at most a third of the lease, so that two lost ones still leave time.
    let hold = desk.heartbeat.min(lease.ttl() / 3);
    sleep(FIRST_HEARTBEAT_AFTER).await;
    let mut token = desk.calls.token_generation();
    loop {
        desk.calls.mothership().up().await;
        let sent = (Instant::now(), BootTime::now());
        let request =
            DirectiveHeartbeatRequest { progress: Map::new(), last_output_seq: None, now: Some(Timestamp::now()) };
        match desk.calls.heartbeat(&request, Some(hold)).await {
            Ok(held) => {
                if token != desk.calls.token_generation()
                    && let Some(started) = desk.started.get()
                {
                    token = desk.calls.token_generation();
                    desk.outbox.renewed(&desk.calls, started).await;
                }
                let answer = held.answer;
                if answer.lease_renewed {
                    lease.renew(sent.1);
                }
                if answer.cancel_requested {
                    stop.stop(StopReason::Cancel);
                }
                // A server that held the answer is asked again at once; one that did not, at the interval.
                sleep_until(next_beat(sent.0, hold, held.wait_applied && !answer.cancel_requested)).await;
            }
            // The end is being reported: a heartbeat that was held meanwhile is told so.
            Err(error) if error.ends_the_lease() && !*desk.running.borrow() => return,
            Err(error) if error.ends_the_lease() => {
                warn!(%error, "the lease is lost: the run is killed");
                stop.stop(StopReason::LeaseLost);
                return;
            }
            Err(error) => {
                desk.metrics.heartbeat_errors.inc();
                debug!(%error, "a heartbeat failed");
                sleep(pause_after(&error, hold, lease.left(BootTime::now()))).await;
            }
        }
    }
}

/// After an answer that was held the next call goes out at once (a server that only says that it held it is not asked without a
/// pause); after a cancel nothing more can come of asking.
fn next_beat(sent: Instant, hold: Duration, at_once: bool) -> Instant {
    if at_once { sent + SHORTEST_PAUSE.min(hold) } else { sent + hold }
}

/// The server's `Retry-After`, but never so long that the lease runs out over it.
fn pause_after(error: &CallError, hold: Duration, left: Duration) -> Duration {
    error.retry_after().map_or(AFTER_FAILURE.min(hold), |asked| asked.min(left / 2)).max(SHORTEST_PAUSE)
}

/// Without an accepted heartbeat for the lease's whole time somebody else may have been given the directive.
pub async fn expire(lease: &Lease, stop: &StopSwitch) {
    loop {
        let left = lease.left(BootTime::now());
        if left.is_zero() {
            warn!("no heartbeat was accepted for the lease's time: the run is killed");
            stop.stop(StopReason::LeaseLost);
            return;
        }
        // Re-read at least every second: the timer's clock stands still while the machine sleeps.
        sleep(left.min(Duration::from_secs(1))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Said;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_it_held_a_heartbeat_and_did_not_is_not_asked_without_a_pause() {
        let (sent, hold) = (Instant::now(), Duration::from_secs(10));
        let wait = |at_once| next_beat(sent, hold, at_once) - sent;
        assert_eq!([wait(true), wait(false)], [SHORTEST_PAUSE, hold]);
    }

    #[test]
    fn retry_after_is_obeyed_within_the_lease() {
        let seconds = Duration::from_secs;
        let limited =
            |after: Option<u64>| CallError::RateLimited { retry_after: after.map(seconds), said: Said::default() };
        let pause = |after, left| pause_after(&limited(after), seconds(10), seconds(left));
        assert_eq!(pause(Some(20), 300), seconds(20));
        assert_eq!(pause(Some(300), 290), seconds(145), "asked again while there is a lease to renew");
        assert_eq!(pause(None, 300), AFTER_FAILURE);
        assert_eq!(pause(Some(0), 300), SHORTEST_PAUSE);
        assert_eq!(pause_after(&limited(None), Duration::from_millis(300), seconds(1)), Duration::from_millis(300));
    }
}
