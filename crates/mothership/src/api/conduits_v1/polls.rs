//! `POST /polls`: work for a territory, now or as soon as there is some.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use conduits::poll::MAX_DIRECTIVES_TO_CLAIM;
use conduits::{DirectiveLease, PollAnswer, PollRequest, code, headers, prefer};
use tokio::time::Instant;

use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::request;
use crate::refusal::Refusal;
use crate::server::Peer;
use crate::store::Hangup;
use crate::store::claims::{self, Claim, Leased};
use crate::store::territories::{Caller, Territory, authenticate};
use crate::tickets::Ticket;

/// A poll is held at most this long, whatever it prefers.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Polls of one territory that are held at most: each is woken by each new directive. A daemon has one.
const MOST_HELD: usize = 64;
/// What a poll that does not wait is told to sleep when there is nothing.
const SHORT_POLL_SECONDS: u64 = 2;
/// What held polls are told when the mothership shuts down.
const SHUTDOWN_SECONDS: u64 = 1;

pub(super) async fn poll(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let caller = app.caller(&peer, &headers)?;
    let poll: PollRequest = request::json(body, request::SMALL).await?;
    if !(1..=MAX_DIRECTIVES_TO_CLAIM).contains(&poll.max_directives_to_claim) {
        return Err(Refusal::invalid(
            code::INVALID_PARAMETER,
            format!("max_directives_to_claim is {}; use 1 to {MAX_DIRECTIVES_TO_CLAIM}", poll.max_directives_to_claim),
        )
        .into());
    }
    let mut claim = Claim {
        profiles: poll.supported_sandbox_profiles,
        max: u32::from(poll.max_directives_to_claim),
        claim_id: poll.claim_id.map(|id| id.as_str().to_owned()),
        lease_ttl: app.lease_ttl,
        ticket: None,
        instance: None,
    };
    let (territory, mut leases) = attempt(&app, &caller, &mut claim).await?;
    claim.instance = Some(territory.instance_id.clone());
    let polling = app.presence.polls(&territory.id, &claim.profiles);
    let wait = request::wait(&headers, LONGEST_WAIT).filter(|wait| !wait.is_zero() && polling.beside() < MOST_HELD);
    let mut retry_after = if leases.is_empty() && wait.is_none() { SHORT_POLL_SECONDS } else { 0 };
    let mut held = wait.is_some();
    let is_good = claim.ticket.as_ref().is_none_or(Ticket::is_good);
    if leases.is_empty()
        && is_good
        && let Some(wait) = wait
    {
        leases = hold(&app, &caller, &mut claim, &territory, Instant::now() + wait).await?;
        if leases.is_empty() && app.shutdown.is_cancelled() {
            (held, retry_after) = (false, SHUTDOWN_SECONDS);
        }
    }
    if let Some(ticket) = &claim.ticket {
        ticket.answered();
    }
    let answer = PollAnswer {
        directives: leases.into_iter().map(|leased| lease(&app, &territory, leased)).collect::<ApiResult<_>>()?,
        lease_ttl_seconds: app.lease_ttl.as_secs().max(1),
        retry_after_seconds: Some(retry_after),
        unusable: Vec::new(),
    };
    let mut response = Json(answer).into_response();
    if held {
        response.headers_mut().insert(headers::PREFERENCE_APPLIED, HeaderValue::from_static(prefer::APPLIED_WAIT));
    }
    Ok(response)
}

/// Waits for work until `deadline`. Registers before it asks again, so that nothing queued in between is missed.
async fn hold(
    app: &App,
    caller: &Caller,
    claim: &mut Claim,
    territory: &Territory,
    deadline: Instant,
) -> ApiResult<Vec<Leased>> {
    let place = app.hub.poller(&territory.account_id, &territory.id);
    loop {
        let (now, leases) = attempt(app, caller, claim).await?;
        // A daemon that is still there asks again at once; the one that was replaced is not.
        if !leases.is_empty() || now.instance_id != territory.instance_id {
            return Ok(leases);
        }
        tokio::select! {
            () = app.shutdown.cancelled() => return Ok(Vec::new()),
            () = tokio::time::sleep_until(deadline) => return Ok(Vec::new()),
            () = place.woken() => {}
        }
    }
}

/// One claim. The identity is looked up each time: a territory that is disabled meanwhile gets nothing more. The first one
/// takes the ticket, in the writer's turn, so that claims of the same id are in order.
async fn attempt(app: &App, caller: &Caller, claim: &mut Claim) -> ApiResult<(Territory, Vec<Leased>)> {
    let (caller, mut asked, tickets) = (caller.clone(), claim.clone(), Arc::clone(&app.tickets));
    let (territory, leases, ticket) = app
        .store
        .submit(Hangup::Skip, move |tx| {
            let territory = authenticate(tx.conn(), &caller, tx.now())?;
            if let (Some(id), None) = (&asked.claim_id, &asked.ticket) {
                asked.ticket = Some(tickets.take(&territory.id, id));
            }
            let leases = claims::claim(tx, &territory, &asked)?;
            Ok((territory, leases, asked.ticket))
        })
        .await?;
    claim.ticket = ticket;
    Ok((territory, leases))
}

fn lease(app: &App, territory: &Territory, leased: Leased) -> ApiResult<DirectiveLease> {
    let (directive_id, directive_token) = app.mint(&leased.id, &territory.id, leased.lease_number)?;
    Ok(DirectiveLease { directive_id, directive_token, spec: leased.spec })
}
