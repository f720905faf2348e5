//! The endpoints.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router, middleware as layers};
use conduits::paths::{self, route};
use conduits::{
    DirectiveHeartbeatAnswer, DirectiveLease, EnrollAnswer, EnrollConfig, EnrollRequest, FinishedAnswer,
    LogChunkAnswer, LogChunkRequest, PollAnswer, PollRequest, ReleaseAnswer, RenewAnswer, RenewRequest, StartedAnswer,
    TerritoryHeartbeatAnswer, TerritoryHeartbeatRequest, TerritoryKind, TokenAnswer,
};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

use super::ledger::{Ledger, Refused};
use super::middleware::{around, bearer, prefers_wait, refusal};
use super::{HeldHeartbeat, Shared};

type Stub = State<Arc<Shared>>;

/// The longest that a poll is held, whatever was asked for.
const MAX_WAIT: Duration = Duration::from_secs(60);

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route(paths::ENROLL, post(enroll))
        .route(paths::RENEW, post(renew))
        .route(paths::TERRITORY_HEARTBEAT, post(territory_heartbeat))
        .route(paths::POLLS, post(poll))
        .route(route::STARTED, post(started))
        .route(route::LOG_CHUNKS, post(log_chunk))
        .route(route::FINISHED, post(finished));
    if shared.options.held_heartbeat != HeldHeartbeat::Missing {
        router = router.route(route::HEARTBEAT, post(heartbeat));
    }
    if shared.options.knows_token_recovery {
        router = router.route(route::TOKEN, post(token));
    }
    if shared.options.knows_release {
        router = router.route(route::RELEASE, post(release));
    }
    let absent = || async { refusal(404, "not_found", "no such path") };
    router
        .fallback(absent)
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(layers::from_fn_with_state(Arc::clone(&shared), around))
        .with_state(shared)
}

/// The body as one of the protocol's messages, or the 422 that says why not.
#[expect(clippy::result_large_err, reason = "the error is the answer")]
fn message<T: DeserializeOwned>(body: &[u8]) -> Result<T, Response> {
    serde_json::from_slice(body).map_err(|e| refusal(422, "invalid_parameter", &e.to_string()))
}

fn refused((status, code): Refused) -> Response {
    refusal(status, code, "refused by the stub")
}

async fn enroll(State(shared): Stub, body: Bytes) -> Response {
    let request: EnrollRequest = match message(&body) {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    let options = &shared.options;
    if request.enroll_token.expose() != options.enroll_token {
        return refusal(422, "invalid_enroll_token", "unknown, expired or used");
    }
    let signed = match (&request.csr_pem, &options.ca) {
        (None, _) => None,
        (Some(_), None) => return refusal(422, "invalid_csr", "this stub has no authority"),
        (Some(csr), Some(ca)) => match ca.sign_request(csr) {
            Ok(certificate) => Some((certificate, ca.pem())),
            Err(why) => return refusal(422, "invalid_csr", &why),
        },
    };
    let (certificate, bundle) = signed.unzip();
    let answer = EnrollAnswer {
        territory_id: options.territory_id.clone(),
        kind: Some(TerritoryKind::Server),
        mtls_client_cert_pem: certificate,
        ca_bundle_pem: bundle,
        config: EnrollConfig {
            poll_interval_seconds: options.retry_after_seconds,
            heartbeat_interval_seconds: options.next_heartbeat_interval_seconds,
            lease_ttl_seconds: Some(options.lease_ttl_seconds),
        },
    };
    (axum::http::StatusCode::CREATED, Json(answer)).into_response()
}

async fn renew(State(shared): Stub, body: Bytes) -> Response {
    let request: RenewRequest = match message(&body) {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    let Some(ca) = &shared.options.ca else { return refusal(404, "not_found", "no such path") };
    match ca.sign_request(&request.csr_pem) {
        Ok(certificate) => {
            Json(RenewAnswer { mtls_client_cert_pem: certificate, ca_bundle_pem: Some(ca.pem()) }).into_response()
        }
        Err(why) => refusal(422, "invalid_csr", &why),
    }
}

async fn territory_heartbeat(State(shared): Stub, body: Bytes) -> Response {
    let request: TerritoryHeartbeatRequest = match message(&body) {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    let options = &shared.options;
    let mut removed_facility_ids = options.removed_facility_ids.clone();
    removed_facility_ids.retain(|id| !request.removed_facility_ids.contains(id));
    Json(TerritoryHeartbeatAnswer {
        ok: true,
        territory_id: Some(options.territory_id.clone()),
        next_heartbeat_interval_seconds: options.next_heartbeat_interval_seconds,
        min_compatible_version: options.min_compatible_version.clone(),
        removed_facility_ids,
        ..TerritoryHeartbeatAnswer::default()
    })
    .into_response()
}

async fn poll(State(shared): Stub, headers: HeaderMap, body: Bytes) -> Response {
    let request: PollRequest = match message(&body) {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    if !(1..=conduits::poll::MAX_DIRECTIVES_TO_CLAIM).contains(&request.max_directives_to_claim) {
        return refusal(422, "invalid_parameter", "max_directives_to_claim: use 1 to 5");
    }
    let options = &shared.options;
    let held = prefers_wait(&headers).filter(|_| options.knows_wait).map(Duration::from_secs);
    let end = Instant::now() + held.unwrap_or_default().min(MAX_WAIT);
    let mut changes = shared.changes.subscribe();
    let claim = request.claim_id.as_ref().filter(|_| options.knows_claim_id);
    let leases = loop {
        changes.borrow_and_update();
        let leases = shared.ledger.lock().unwrap().claim(request.max_directives_to_claim, claim);
        if !leases.is_empty() {
            // Told apart from the look above, so that a waiting poll does not wake itself.
            shared.change(|_| ());
            break leases;
        }
        let waiting = async { while !shared.look(Ledger::has_queued) && changes.changed().await.is_ok() {} };
        if timeout_at(end, waiting).await.is_err() {
            break leases;
        }
    };
    let lease = |(directive_id, directive_token, spec)| DirectiveLease { directive_id, directive_token, spec };
    let answer = PollAnswer {
        retry_after_seconds: options.retry_after_seconds.filter(|_| leases.is_empty()),
        directives: leases.into_iter().map(lease).collect(),
        lease_ttl_seconds: options.lease_ttl_seconds,
        ..PollAnswer::default()
    };
    let applied = held.map(|_| [(conduits::headers::PREFERENCE_APPLIED, conduits::prefer::APPLIED_WAIT)]);
    match applied {
        Some(headers) => (headers, Json(answer)).into_response(),
        None => Json(answer).into_response(),
    }
}

async fn started(State(shared): Stub, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let request = match message(&body) {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    match shared.change(|ledger| ledger.started(&id, bearer(&headers), request)) {
        Ok((state, duplicate, cancel_requested)) => Json(StartedAnswer {
            ok: true,
            directive_id: id.parse().ok(),
            state: Some(state),
            duplicate,
            cancel_requested,
        })
        .into_response(),
        Err(why) => refused(why),
    }
}

async fn heartbeat(State(shared): Stub, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    if let Err(answer) = message::<conduits::DirectiveHeartbeatRequest>(&body) {
        return answer;
    }
    let mut changes = shared.changes.subscribe();
    changes.borrow_and_update();
    let rotate = shared.options.rotates_tokens;
    let (mut cancel_requested, directive_token) =
        match shared.change(|ledger| ledger.heartbeat(&id, bearer(&headers), rotate)) {
            Ok(renewed) => renewed,
            Err(why) => return refused(why),
        };
    let held = prefers_wait(&headers).filter(|_| shared.options.held_heartbeat == HeldHeartbeat::Held);
    if let (Some(seconds), Ok(id)) = (held, id.parse()) {
        let wait = seconds.min(shared.options.lease_ttl_seconds / 3);
        let end = Instant::now() + Duration::from_secs(wait);
        let over = |ledger: &Ledger| {
            let view = ledger.view(&id);
            (view.cancel_requested, view.cancel_requested || view.state.is_terminal())
        };
        let waiting = async { while !shared.look(over).1 && changes.changed().await.is_ok() {} };
        // Either way the answer is what holds now.
        drop(timeout_at(end, waiting).await);
        cancel_requested = shared.look(over).0;
    }
    Json(DirectiveHeartbeatAnswer { cancel_requested, lease_renewed: true, directive_token }).into_response()
}

async fn log_chunk(State(shared): Stub, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let request: LogChunkRequest = match message(&body) {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    let (stream, seq, truncated) = (request.stream, request.seq, request.truncated);
    let accepted_bytes = u64::try_from(request.bytes.len()).unwrap_or(u64::MAX);
    match shared.change(|ledger| ledger.chunk(&id, bearer(&headers), request)) {
        Ok(duplicate) => Json(LogChunkAnswer {
            ok: true,
            directive_id: id.parse().ok(),
            stream: Some(stream),
            seq: Some(seq),
            stored: !duplicate,
            duplicate,
            accepted_bytes,
            truncated,
        })
        .into_response(),
        Err(why) => refused(why),
    }
}

async fn finished(State(shared): Stub, Path(id): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let request = match message(&body) {
        Ok(request) => request,
        Err(answer) => return answer,
    };
    match shared.change(|ledger| ledger.finished(&id, bearer(&headers), request)) {
        Ok((state, duplicate)) => {
            Json(FinishedAnswer { ok: true, directive_id: id.parse().ok(), final_state: Some(state), duplicate })
                .into_response()
        }
        Err(why) => refused(why),
    }
}

async fn token(State(shared): Stub, Path(id): Path<String>, headers: HeaderMap) -> Response {
    match shared.change(|ledger| ledger.recover(&id, bearer(&headers))) {
        Ok(directive_token) => Json(TokenAnswer { directive_token }).into_response(),
        Err(why) => refused(why),
    }
}

async fn release(State(shared): Stub, Path(id): Path<String>, headers: HeaderMap) -> Response {
    match shared.change(|ledger| ledger.release(&id, bearer(&headers))) {
        Ok(()) => Json(ReleaseAnswer {
            ok: true,
            directive_id: id.parse().ok(),
            state: Some(conduits::DirectiveState::Queued),
        })
        .into_response(),
        Err(why) => refused(why),
    }
}
