//! Around every handler: the request is recorded, its identity looked at, a waiting fault strikes.

use axum::body::{Body, to_bytes};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use conduits::headers as names;
use conduits::{ErrorBody, Fingerprint, paths};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::fault::{Endpoint, FaultKind};
use super::ledger::Recorded;
use crate::server::Connection;

/// More than any request of the protocol: a 1 MiB diff in base64 and then some.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// The answer of a refused call.
pub(crate) fn refusal(status: u16, code: &str, detail: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    (status, axum::Json(ErrorBody::new(code, detail))).into_response()
}

fn endpoint(method: &str, path: &str) -> (Endpoint, Option<String>) {
    let fixed = match path {
        paths::ENROLL => Endpoint::Enroll,
        paths::RENEW => Endpoint::Renew,
        paths::TERRITORY_HEARTBEAT => Endpoint::TerritoryHeartbeat,
        paths::POLLS => Endpoint::Poll,
        _ => Endpoint::Other,
    };
    let about = path.strip_prefix("/conduits/v1/directives/").and_then(|rest| rest.split_once('/'));
    let (endpoint, directive) = match about {
        Some((id, "started")) => (Endpoint::Started, Some(id)),
        Some((id, "heartbeat")) => (Endpoint::Heartbeat, Some(id)),
        Some((id, "log_chunks")) => (Endpoint::LogChunk, Some(id)),
        Some((id, "finished")) => (Endpoint::Finished, Some(id)),
        Some((id, "token")) => (Endpoint::Token, Some(id)),
        Some((id, "release")) => (Endpoint::Release, Some(id)),
        _ => (fixed, None),
    };
    let endpoint = if method == "POST" { endpoint } else { Endpoint::Other };
    (endpoint, directive.map(str::to_owned))
}

pub(crate) async fn around(
    State(shared): State<Arc<Shared>>,
    Extension(connection): Extension<Connection>,
    request: Request,
    next: Next,
) -> Response {
    let at = Instant::now();
    let (endpoint, directive) = endpoint(request.method().as_str(), request.uri().path());
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        return refusal(413, "payload_too_large", "more than the stub takes");
    };
    let fingerprint = connection.certificate.as_deref().map(Fingerprint::of_der);
    let recorded = Recorded {
        endpoint,
        path: head.uri.path().to_owned(),
        directive,
        at,
        headers: head.headers.clone(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        connection: connection.number,
        fingerprint,
        status: None,
    };
    let (position, fault) = shared.change(|ledger| {
        ledger.requests.push(recorded);
        (ledger.requests.len() - 1, ledger.faults.next(endpoint))
    });
    let identified = fingerprint.is_some() || head.headers.contains_key(names::TERRITORY_ID);
    let work = async {
        if shared.options.wants_identity && !identified && endpoint != Endpoint::Enroll {
            return refusal(401, "unauthorized", "no client certificate and no X-Nexus-Territory-Id");
        }
        next.run(Request::from_parts(head, Body::from(body))).await
    };
    let answer = with_fault(fault, &connection, work).await;
    let status = answer.status().as_u16();
    shared.change(|ledger| ledger.requests[position].status = Some(status));
    answer
}

async fn with_fault(
    fault: Option<FaultKind>,
    connection: &Connection,
    work: impl Future<Output = Response>,
) -> Response {
    match fault {
        None => work.await,
        Some(FaultKind::Status(status, retry_after)) => {
            let mut answer = refusal(status, "stub_fault", "a fault that the test asked for");
            if let Some(seconds) = retry_after {
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            answer
        }
        Some(FaultKind::DropBefore) => cut(connection).await,
        Some(FaultKind::DropAfter) => {
            drop(work.await);
            cut(connection).await
        }
        Some(FaultKind::Delay(time)) => {
            tokio::time::sleep(time).await;
            work.await
        }
        Some(FaultKind::DelayAnswer(time)) => {
            let answer = work.await;
            tokio::time::sleep(time).await;
            answer
        }
        Some(FaultKind::Garbage) => typed(StatusCode::OK, "application/json", "{\"directives\": [\u{0}"),
        Some(FaultKind::Html) => typed(StatusCode::OK, "text/html", "<html><body>Please sign in</body></html>"),
        Some(FaultKind::BadGateway) => {
            typed(StatusCode::BAD_GATEWAY, "text/html", "<html><body>502 Bad Gateway</body></html>")
        }
        Some(FaultKind::Oversized(bytes)) => {
            axum::Json(json!({"directives": [], "padding": "x".repeat(bytes)})).into_response()
        }
        Some(FaultKind::Hang) => std::future::pending().await,
    }
}

async fn cut(connection: &Connection) -> Response {
    connection.cut();
    std::future::pending().await
}

fn typed(status: StatusCode, kind: &'static str, body: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, kind)], body).into_response()
}

/// The bearer token of a call.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// The seconds of `Prefer: wait=N`.
pub(crate) fn prefers_wait(headers: &HeaderMap) -> Option<u64> {
    conduits::prefer::parse_wait(headers.get(names::PREFER)?.to_str().ok()?)
}
