//! Polling: claims exactly as many directives as there are free slots, and hands each to the line.
//!
//! Every claim carries a fresh `claim_id`; while its answer is lost, the same claim is asked again, so that the
//! server gives the same leases again instead of leaving them to expire. At shutdown a claim that may have been
//! granted is asked for once more and what comes of it is released. Of a server that has not shown yet that it knows
//! claims by their id, an answer that is under way is awaited first: asked again it might lease more.

use std::sync::Arc;
use std::time::Duration;

use conduits::{
    ClaimId, DirectiveLease, FinishedRequest, FinishedStatus, PollAnswer, PollRequest, SandboxProfile, StartedRequest,
};
use rand::RngExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::client::{CallError, Deadline, DirectiveCalls, Held, Mothership, token};
use crate::directive::lease::{BootTime, Lease};
use crate::observe::metrics::{Metrics, PollResult};

mod failing;

use failing::Failing;

/// The most that one poll may ask for, by the protocol.
const MOST_PER_POLL: usize = 5;

/// The longest pause between two polls, whatever the server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Two polls that bring nothing do not follow each other faster, whatever the server says of holding them.
const SHORTEST_BETWEEN: Duration = Duration::from_millis(100);

/// How long the shutdown waits for the answer to a claim that it must give back, and again for giving it back.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(5);

/// How long polls ask to be held until the server has shown that it holds them: shorter than [`GIVE_BACK_WITHIN`].
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// First pause after a failed poll; doubles up to [`LONGEST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_millis(100);

/// Longest pause between two tries while the mothership answers others.
const LONGEST_RETRY: Duration = Duration::from_millis(1500);

/// `artifacts_manifest.reason` of a claim that a server without releases gets back.
const GIVEN_BACK: &str = "nexusd_given_back";

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
    let mut lease_ttl = Duration::MAX;
    loop {
        let most = offer().max_claim.min(MOST_PER_POLL);
        let Some(mut free) = free_slots(slots, stop, most).await else { return };
        let mut settings = offer();
        // A lease is counted from here: held for longer, it may be over when it comes.
        settings.wait = settings.wait.min((lease_ttl / 3).max(FIRST_WAIT));
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
        let asked_at = Instant::now();
        let (asked, polled) = match claim(mothership, &request, &settings, metrics, stop, knows_additions).await {
            Claim::Answered(asked, polled) => (asked, polled),
            Claim::Stopped(late) => return give_back(mothership, &request, late).await,
        };
        knows_additions |= polled.wait_applied;
        for lease in &polled.answer.unusable {
            warn!(index = lease.index, why = %lease.why, "the server gave a lease that names no usable directive");
        }
        let mut wait = pause_after(&polled, settings.backoff);
        if polled.answer.directives.is_empty() {
            wait = wait.max(SHORTEST_BETWEEN.saturating_sub(asked_at.elapsed()));
        }
        let ttl = Duration::from_secs(polled.answer.lease_ttl_seconds);
        lease_ttl = ttl;
        let mut usable = polled.answer.unusable.is_empty();
        let mut too_many = Vec::new();
        for lease in polled.answer.directives {
            if let Err(why) = token::check(&lease.directive_token) {
                // Without a token there is no call about it, not even its release.
                error!(directive = %lease.directive_id, %why, "a lease cannot be used: its directive is not run, and left to expire");
                usable = false;
                continue;
            }
            let Some(slot) = free.pop() else {
                warn!(directive = %lease.directive_id, "the server leased more than was asked for: given back");
                too_many.push(lease);
                continue;
            };
            hand_over(Claimed { lease, clock: Lease::new(ttl, asked), slot });
        }
        drop(free);
        give_all_back(mothership, too_many).await;
        if !usable {
            // A server that gives nothing but such leases gives them at once, for ever.
            wait = wait.max(jittered(settings.backoff));
        }
        if pause(wait, stop).await.is_none() {
            return;
        }
    }
}

/// What came of a claim.
enum Claim {
    /// An answer, and when it was asked for.
    Answered(BootTime, Held<PollAnswer>),
    /// It is time to stop.
    Stopped(Late),
}

/// What a claim came to that nobody will work on.
enum Late {
    /// It was not made.
    Nothing,
    /// Its answer came.
    Answer(PollAnswer),
    /// It may have been granted: no answer came.
    Unknown,
}

/// Asks until there is an answer, with the same claim id each time: a lost answer is given again.
async fn claim(
    mothership: &Mothership,
    request: &PollRequest,
    settings: &PollSettings,
    metrics: &Metrics,
    stop: &CancellationToken,
    knows_additions: bool,
) -> Claim {
    let longest = if knows_additions { settings.wait } else { settings.wait.min(FIRST_WAIT) };
    let wait = (!longest.is_zero()).then_some(longest);
    let mut retry = FIRST_RETRY;
    let late = |unanswered| if unanswered { Late::Unknown } else { Late::Nothing };
    let mut unanswered = false;
    let mut failing = Failing::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Claim::Stopped(late(unanswered)),
            () = mothership.up() => {}
        }
        let asked = BootTime::now();
        let mut poll = std::pin::pin!(mothership.poll(request, wait));
        let polled = tokio::select! {
            biased;
            () = stop.cancelled() => {
                if knows_additions {
                    return Claim::Stopped(Late::Unknown);
                }
                return Claim::Stopped(match timeout(GIVE_BACK_WITHIN, poll).await {
                    Ok(Ok(polled)) => Late::Answer(polled.answer),
                    Ok(Err(_)) | Err(_) => Late::Unknown,
                });
            }
            polled = &mut poll => polled,
            // A connection may be dead without saying so: others find out first, and this poll is asked again.
            () = mothership.reach().changed_from(false), if knows_additions => {
                unanswered = true;
                continue;
            }
        };
        metrics.polled(poll_result(&polled));
        match polled {
            Ok(polled) => return Claim::Answered(asked, polled),
            Err(error) => {
                failing.again(&error);
                unanswered |= matches!(error, CallError::Unavailable { .. } | CallError::Nonsense { .. });
                let wait = pause_after_error(&error, failing.backoff(settings.backoff), retry);
                if pause(wait, stop).await.is_none() {
                    return Claim::Stopped(late(unanswered));
                }
                retry = (retry * 2).min(LONGEST_RETRY);
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

/// A server that fails is asked again soon, in the rhythm of all other calls; one that refuses, in its own time.
fn pause_after_error(error: &CallError, backoff: Duration, retry: Duration) -> Duration {
    let unasked = match error {
        CallError::Unavailable { .. } | CallError::Nonsense { .. } => retry.min(backoff),
        _ => backoff,
    };
    // "At once" is not obeyed for ever.
    jittered(error.retry_after().map_or(unasked, |asked| asked.max(retry)).min(LONGEST_PAUSE))
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
async fn give_back(mothership: &Mothership, request: &PollRequest, late: Late) {
    let answer = match late {
        Late::Nothing => return,
        Late::Answer(answer) => answer,
        Late::Unknown => {
            let again = || mothership.poll(request, None);
            match mothership.with_retry(Deadline::within(GIVE_BACK_WITHIN), again).await {
                Ok(polled) => polled.answer,
                Err(error) => {
                    warn!(%error, "the last claim could not be asked for again: what it may have leased will expire");
                    return;
                }
            }
        }
    };
    give_all_back(mothership, answer.directives).await;
}

async fn give_all_back(mothership: &Mothership, leases: Vec<DirectiveLease>) {
    for lease in leases {
        let calls = mothership.directive(lease.directive_id.clone(), lease.directive_token);
        match give_one_back(&calls).await {
            Ok(()) => info!(directive = %lease.directive_id, "given back"),
            Err(error) => warn!(directive = %lease.directive_id, %error, "not given back: its lease will expire"),
        }
    }
}

/// Releases a lease; a server that does not know releases is told that nothing will come of it.
async fn give_one_back(calls: &DirectiveCalls) -> Result<(), CallError> {
    let (mothership, within) = (calls.mothership(), || Deadline::within(GIVE_BACK_WITHIN));
    match mothership.with_retry(within(), || calls.release()).await {
        // Released already, by a call whose answer was lost.
        Ok(_) | Err(CallError::Conflict(_)) => return Ok(()),
        Err(CallError::NotFound(_)) => {}
        Err(error) => return Err(error),
    }
    let started = StartedRequest::default();
    mothership.with_retry(within(), || calls.started(&started)).await?;
    let mut finished = FinishedRequest::new(FinishedStatus::Failed);
    finished.artifacts_manifest.insert("reason".into(), GIVEN_BACK.into());
    mothership.with_retry(within(), || calls.finished(&finished)).await.map(drop)
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

    #[test]
    fn a_failure_is_followed_soon_and_a_refusal_in_its_own_time() {
        let (backoff, retry) = (Duration::from_secs(2), Duration::from_millis(400));
        let down = |after: Option<u64>| CallError::Unavailable {
            retry_after: after.map(Duration::from_secs),
            why: String::new(),
        };
        let limited = |after: Option<u64>| CallError::RateLimited {
            retry_after: after.map(Duration::from_secs),
            said: crate::client::Said::default(),
        };
        for (error, expected) in [
            (down(None), 0.4),
            (down(Some(7)), 7.0),
            (limited(None), 2.0),
            (limited(Some(900)), 300.0),
            (limited(Some(0)), 0.4),
            (CallError::Forbidden(crate::client::Said::default()), 2.0),
        ] {
            let wait = pause_after_error(&error, backoff, retry).as_secs_f64();
            assert!(wait >= expected && wait <= expected * 1.1, "{error}: {wait}");
        }
    }
}
