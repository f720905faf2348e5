//! Refusals and failures as HTTP answers: `{"error": "<code>", "detail": "<text>"}`.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use conduits::{ErrorBody, code};

use crate::refusal::{Fault, Refusal, RefusalKind};
use crate::store::StoreError;

/// Why a handler has no answer to give.
#[derive(Debug)]
pub enum ApiError {
    /// The rules say no.
    Refused(Refusal),
    /// The store failed; the details go to the log, not to the caller.
    Store(StoreError),
    /// Something of ours failed; likewise.
    Internal(String),
}

/// What handlers return.
pub type ApiResult<T> = Result<T, ApiError>;

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(refusal) => Self::Refused(refusal),
            Fault::Store(error) => Self::Store(error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match self {
            Self::Refused(refusal) => refused(refusal),
            Self::Store(StoreError::Stopped) => {
                answer(StatusCode::SERVICE_UNAVAILABLE, code::UNAVAILABLE, "the mothership is shutting down")
            }
            Self::Store(error) => {
                tracing::error!(%error, "a request failed");
                answer(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    code::INTERNAL,
                    "the mothership could not store or read this; its log says why",
                )
            }
            Self::Internal(error) => {
                tracing::error!(%error, "a request failed");
                answer(StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL, "the mothership failed; its log says why")
            }
        }
    }
}

fn refused(refusal: Refusal) -> Response {
    let status = match refusal.kind {
        RefusalKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        RefusalKind::Forbidden => StatusCode::FORBIDDEN,
        RefusalKind::NotFound => StatusCode::NOT_FOUND,
        RefusalKind::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        RefusalKind::Conflict => StatusCode::CONFLICT,
        RefusalKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        RefusalKind::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
    };
    let mut response = answer(status, refusal.code, &refusal.detail);
    match refusal.kind {
        RefusalKind::RateLimited(wait) => {
            // Rounded up: whoever obeys must not come a moment too early.
            let seconds = wait.as_secs() + 1;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        RefusalKind::Unauthenticated => {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}

fn answer(status: StatusCode, error: &str, detail: &str) -> Response {
    (status, Json(ErrorBody::new(error, detail))).into_response()
}
