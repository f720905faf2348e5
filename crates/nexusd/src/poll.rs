//! Polling: claims exactly as many directives as there are free slots, and hands each to the line.
//!
//! Every claim carries a fresh `claim_id`; while its answer is lost, the same claim is asked again, so that the
//! server gives the same leases again instead of leaving them to expire. At shutdown a claim that may have been
//! granted is asked for once more and what comes of it is released.

use std::sync::Arc;
use std::time::Duration;

use conduits::{ClaimId, DirectiveLease, PollAnswer, PollRequest, SandboxProfile};
use rand::RngExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::client::{CallError, Held, Mothership, token};
use crate::directive::lease::{BootTime, Lease};
use crate::observe::metrics::{Metrics, PollResult};

mod failing;

use failing::Failing;

/// The most that one poll may ask for, by the protocol.
const MOST_PER_POLL: usize = 5;

/// The longest pause between two polls, whatever the server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How long the shutdown waits for the answer to a claim that it must give back.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(5);

/// What polling needs to know.
#[derive(Debug, Clone)]
pub struct PollSettings {
    /// The profiles to ask for: those whose driver is healthy.
    pub profiles: Vec<SandboxProfile>,
    /// `poll.max_directives_to_claim`.
    pub max_claim: usize,
    /// `poll.long_poll_timeout`.
    pub wait: Duration,
    /// `poll.retry_backoff`.
    pub backoff: Duration,
}

/// A directive that was handed to this daemon, with the slot it runs in.
#[derive(Debug)]
pub struct Claimed {
    /// As it came.
    pub lease: DirectiveLease,
    /// Counted from the poll's start.
    pub clock: Lease,
    /// Freed when the directive is over.
    pub slot: OwnedSemaphorePermit,
}

/// Polls until `stop`; `offer` says what to ask for now, `hand_over` takes each directive.
pub async fn poll_until(
    mothership: &Mothership,
    slots: &Arc<Semaphore>,
    metrics: &Metrics,
    stop: &CancellationToken,
    offer: impl Fn() -> PollSettings,
    mut hand_over: impl FnMut(Claimed),
) {
    // A server that knows to hold a poll knows the other additions too: claims that can be asked for again, and release.
    let mut knows_additions = false;
    loop {
        let most = offer().max_claim.min(MOST_PER_POLL);
        let Some(mut free) = free_slots(slots, stop, most).await else { return };
        let settings = offer();
        if settings.profiles.is_empty() {
            // Nothing can run now: a driver's health may return.
            drop(free);
            if pause(settings.backoff, stop).await.is_none() {
                return;
            }
            continue;
        }
        let request = PollRequest {
            supported_sandbox_profiles: settings.profiles.clone(),
            max_directives_to_claim: u8::try_from(free.len()).unwrap_or(1),
            claim_id: Some(ClaimId::generate()),
        };
        let Some((asked, polled)) = claim(mothership, &request, &settings, metrics, stop).await else {
            if knows_additions {
                give_back(mothership, &request).await;
            }
            return;
        };
        knows_additions |= polled.wait_applied;
        for lease in &polled.answer.unusable {
            warn!(index = lease.index, why = %lease.why, "the server gave a lease that names no usable directive");
        }
        let mut wait = pause_after(&polled, settings.backoff);
        let ttl = Duration::from_secs(polled.answer.lease_ttl_seconds);
        let mut usable = polled.answer.unusable.is_empty();
        for lease in polled.answer.directives {
            if let Err(why) = token::check(&lease.directive_token) {
                // Without a token there is no call about it, not even its release.
                error!(directive = %lease.directive_id, %why, "a lease cannot be used: its directive is not run, and left to expire");
                usable = false;
                continue;
            }
            let Some(slot) = free.pop() else {
                warn!(directive = %lease.directive_id, "the server leased more than was asked for: left to expire");
                continue;
            };
            hand_over(Claimed { lease, clock: Lease::new(ttl, asked), slot });
        }
        drop(free);
        if !usable {
            // A server that gives nothing but such leases gives them at once, for ever.
            wait = wait.max(jittered(settings.backoff));
        }
        if pause(wait, stop).await.is_none() {
            return;
        }
    }
}

/// Asks until there is an answer, with the same claim id each time: a lost answer is given again. `None` when it is
/// time to stop, with the claim in the air.
async fn claim(
    mothership: &Mothership,
    request: &PollRequest,
    settings: &PollSettings,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Option<(BootTime, Held<PollAnswer>)> {
    let wait = (!settings.wait.is_zero()).then_some(settings.wait);
    let mut failing = Failing::default();
    loop {
        let asked = BootTime::now();
        let polled = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            polled = mothership.poll(request, wait) => polled,
        };
        metrics.polled(poll_result(&polled));
        match polled {
            Ok(polled) => return Some((asked, polled)),
            Err(error) => {
                failing.again(&error);
                pause(pause_after_error(&error, failing.backoff(settings.backoff)), stop).await?;
            }
        }
    }
}

/// Waits for one free slot and takes up to `most`; `None` when it is time to stop.
async fn free_slots(
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
    most: usize,
) -> Option<Vec<OwnedSemaphorePermit>> {
    let first = tokio::select! {
        biased;
        () = stop.cancelled() => return None,
        first = Arc::clone(slots).acquire_owned() => first.ok()?,
    };
    let mut free = vec![first];
    while free.len() < most
        && let Ok(slot) = Arc::clone(slots).try_acquire_owned()
    {
        free.push(slot);
    }
    Some(free)
}

async fn pause(wait: Duration, stop: &CancellationToken) -> Option<()> {
    if wait.is_zero() {
        return (!stop.is_cancelled()).then_some(());
    }
    tokio::select! {
        () = stop.cancelled() => None,
        () = sleep(wait) => Some(()),
    }
}

/// A server that held the poll, or that gave work, is asked again at once; another says when.
fn pause_after(polled: &Held<PollAnswer>, backoff: Duration) -> Duration {
    if polled.wait_applied || !polled.answer.directives.is_empty() {
        return Duration::ZERO;
    }
    match polled.answer.retry_after_seconds {
        Some(seconds) => jittered(Duration::from_secs(seconds).min(LONGEST_PAUSE)),
        None => jittered(backoff),
    }
}

fn pause_after_error(error: &CallError, backoff: Duration) -> Duration {
    jittered(error.retry_after().unwrap_or(backoff).min(LONGEST_PAUSE))
}

/// Up to a tenth more, so that a fleet does not move in step.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(1.0 + rand::rng().random_range(0.0..0.1))
}

fn poll_result(polled: &Result<Held<PollAnswer>, CallError>) -> PollResult {
    match polled {
        Ok(polled) if polled.answer.directives.is_empty() => PollResult::Empty,
        Ok(_) => PollResult::Directives,
        Err(_) => PollResult::Error,
    }
}

/// The poll in flight when the daemon stops may have been granted: the same claim tells, and is released.
async fn give_back(mothership: &Mothership, request: &PollRequest) {
    match timeout(GIVE_BACK_WITHIN, mothership.poll(request, None)).await {
        Ok(Ok(polled)) => {
            for lease in polled.answer.directives {
                let calls = mothership.directive(lease.directive_id.clone(), lease.directive_token);
                match timeout(GIVE_BACK_WITHIN, calls.release()).await {
                    Ok(Ok(_)) => info!(directive = %lease.directive_id, "released at shutdown"),
                    Ok(Err(error)) => {
                        warn!(directive = %lease.directive_id, %error, "not released at shutdown: its lease will expire");
                    }
                    Err(_) => {
                        warn!(directive = %lease.directive_id, "not released in time at shutdown: its lease will expire");
                    }
                }
            }
        }
        Ok(Err(error)) => warn!(%error, "the last claim could not be asked for again"),
        Err(_) => warn!("the last claim could not be asked for again in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn polled(wait_applied: bool, retry_after_seconds: Option<u64>) -> Held<PollAnswer> {
        Held { answer: PollAnswer { retry_after_seconds, ..PollAnswer::default() }, wait_applied }
    }

    #[test]
    fn an_empty_answer_is_followed_as_the_server_says() {
        let backoff = Duration::from_secs(2);
        let within = |wait: Duration, low: u64, high: f64| {
            assert!(wait >= Duration::from_secs(low) && wait.as_secs_f64() <= high, "{wait:?}");
        };
        assert_eq!(pause_after(&polled(true, Some(9)), backoff), Duration::ZERO);
        within(pause_after(&polled(false, Some(9)), backoff), 9, 9.9);
        within(pause_after(&polled(false, None), backoff), 2, 2.2);
        within(pause_after(&polled(false, Some(86_400)), backoff), 300, 330.0);
        assert_eq!(pause_after(&polled(false, Some(0)), backoff), Duration::ZERO);
    }
}
