//! `POST /directives/{id}/…`: a territory's reports about what it holds.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use conduits::directive::MAX_CHUNK_BYTES;
use conduits::{
    DirectiveHeartbeatAnswer, DirectiveHeartbeatRequest, FinishedAnswer, FinishedRequest, LogChunkAnswer,
    LogChunkRequest, ReleaseAnswer, StartedAnswer, StartedRequest, TokenAnswer, code, headers, prefer,
};
use tokio::time::Instant;

use super::Proof;
use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::extract::Path;
use crate::api::request;
use crate::refusal::{Refusal, RefusalKind};
use crate::server::Peer;
use crate::store::logs::{self, NewChunk};
use crate::store::reports::{self, Reported};
use crate::token::Expiry;

pub(super) async fn started(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<StartedAnswer>> {
    let proof = Proof::of(&app, &peer, &headers, &id, Expiry::Enforced)?;
    let report: StartedRequest = request::json(body, request::SMALL).await?;
    let (directive_id, ttl) = (proof.directive.clone(), app.lease_ttl);
    let reported = app
        .store
        .write(move |tx| {
            let directive = proof.held(tx)?;
            reports::started(tx, &directive, &report, ttl)
        })
        .await?;
    Ok(Json(StartedAnswer {
        ok: true,
        directive_id: Some(directive_id),
        state: Some(reported.state),
        duplicate: reported.duplicate,
        cancel_requested: reported.cancel_requested,
    }))
}

pub(super) async fn heartbeat(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    let proof = Proof::of(&app, &peer, &headers, &id, Expiry::Enforced)?;
    let _progress: DirectiveHeartbeatRequest = request::json(body, request::SMALL).await?;
    let wait = request::wait(&headers, app.lease_ttl / 3).filter(|wait| !wait.is_zero());
    // Watched before the lease is renewed, so that a cancel in between is seen.
    let mut changes = app.hub.watch(proof.directive.as_str());
    let deadline = Instant::now() + wait.unwrap_or_default();
    let mut reported = renew(&app, &proof).await?;
    while wait.is_some() && !reported.cancel_requested {
        tokio::select! {
            () = app.shutdown.cancelled() => break,
            () = tokio::time::sleep_until(deadline) => break,
            () = changes.changed() => reported = look(&app, &proof).await?,
        }
    }
    let lid = proof.lid.unwrap_or_default();
    let (_, token) = app.mint(proof.directive.as_str(), proof.territory.as_str(), lid)?;
    let mut response = Json(DirectiveHeartbeatAnswer {
        cancel_requested: reported.cancel_requested,
        lease_renewed: true,
        directive_token: Some(token),
    })
    .into_response();
    if wait.is_some() {
        response.headers_mut().insert(headers::PREFERENCE_APPLIED, HeaderValue::from_static(prefer::APPLIED_WAIT));
    }
    Ok(response)
}

async fn renew(app: &App, proof: &Proof) -> ApiResult<Reported> {
    let (proof, ttl) = (proof.clone(), app.lease_ttl);
    Ok(app
        .store
        .write(move |tx| {
            let directive = proof.held(tx)?;
            reports::heartbeat(tx, &directive, ttl)
        })
        .await?)
}

/// Looks again after a change: the same questions as at the start of the heartbeat, without renewing. Every chunk of
/// output is such a change, so the writer is left alone.
async fn look(app: &App, proof: &Proof) -> ApiResult<Reported> {
    let (proof, now) = (proof.clone(), app.store.clock().now());
    Ok(app.store.read(move |conn| reports::running(&proof.held_at(conn, now)?)).await?)
}

pub(super) async fn log_chunk(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<LogChunkAnswer>> {
    let proof = Proof::of(&app, &peer, &headers, &id, Expiry::Enforced)?;
    let chunk: LogChunkRequest = request::json(body, request::CHUNK).await.map_err(|refusal| {
        let why = format!("the body is larger than any chunk, {MAX_CHUNK_BYTES} bytes are allowed; send smaller ones");
        invalid_where_too_large(refusal, code::CHUNK_TOO_LARGE, why)
    })?;
    if chunk.bytes.len() > MAX_CHUNK_BYTES {
        return Err(Refusal::invalid(
            code::CHUNK_TOO_LARGE,
            format!("the chunk has {} bytes, {MAX_CHUNK_BYTES} are allowed; send smaller ones", chunk.bytes.len()),
        )
        .into());
    }
    let (directive_id, stream, seq) = (proof.directive.clone(), chunk.stream, chunk.seq);
    let accepted = app
        .store
        .write(move |tx| {
            let directive = proof.held(tx)?;
            let chunk = NewChunk { stream, seq, bytes: chunk.bytes, truncated: chunk.truncated };
            logs::append(tx, &directive, &chunk)
        })
        .await?;
    Ok(Json(LogChunkAnswer {
        ok: true,
        directive_id: Some(directive_id),
        stream: Some(stream),
        seq: Some(seq),
        stored: accepted.stored,
        duplicate: accepted.duplicate,
        accepted_bytes: accepted.bytes,
        truncated: accepted.truncated,
    }))
}

/// The protocol knows no 413: what is larger than a body may be is larger than its parameter may be.
fn invalid_where_too_large(refusal: Refusal, code: &'static str, why: String) -> Refusal {
    match refusal.kind {
        RefusalKind::TooLarge => Refusal::invalid(code, why),
        _ => refusal,
    }
}

pub(super) async fn finished(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<FinishedAnswer>> {
    let proof = Proof::of(&app, &peer, &headers, &id, Expiry::Enforced)?;
    let report: FinishedRequest = request::json(body, request::LARGE).await.map_err(|refusal| {
        let why = "the report is larger than any diff may be; cut the diff and set diff_truncated".to_owned();
        invalid_where_too_large(refusal, code::DIFF_TOO_LARGE, why)
    })?;
    let directive_id = proof.directive.clone();
    let reported = app
        .store
        .write(move |tx| {
            let directive = proof.held(tx)?;
            reports::finished(tx, &directive, &report)
        })
        .await?;
    Ok(Json(FinishedAnswer {
        ok: true,
        directive_id: Some(directive_id),
        final_state: Some(reported.state),
        duplicate: reported.duplicate,
    }))
}

/// A fresh token for the same lease, for a daemon that was cut off longer than its token lived.
pub(super) async fn token(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Json<TokenAnswer>> {
    let proof = Proof::of(&app, &peer, &headers, &id, Expiry::Forgiven)?;
    let asked = proof.clone();
    app.store.write(move |tx| asked.held(tx)).await?;
    let lid = proof.lid.unwrap_or_default();
    let (_, directive_token) = app.mint(proof.directive.as_str(), proof.territory.as_str(), lid)?;
    Ok(Json(TokenAnswer { directive_token }))
}

pub(super) async fn release(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Json<ReleaseAnswer>> {
    let proof = Proof::of(&app, &peer, &headers, &id, Expiry::Enforced)?;
    let directive_id = proof.directive.clone();
    let state = app
        .store
        .write(move |tx| {
            let directive = proof.held(tx)?;
            reports::release(tx, &directive)
        })
        .await?;
    Ok(Json(ReleaseAnswer { ok: true, directive_id: Some(directive_id), state: Some(state) }))
}
