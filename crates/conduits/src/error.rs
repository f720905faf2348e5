//! The body of every answer that is not a success, and the codes in it.

use serde::{Deserialize, Serialize};

use crate::wire::null_default;

/// `{"error": "<code>", "detail": "<text>"}`. Another server's codes may be others: decide by the status.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong, as one of [`code`].
    #[serde(default, deserialize_with = "null_default")]
    pub error: String,
    /// The same for a person, with the value and the mend.
    #[serde(default, deserialize_with = "null_default")]
    pub detail: String,
}

impl ErrorBody {
    /// A body of a code and a text.
    #[must_use]
    pub fn new(error: &str, detail: impl Into<String>) -> Self {
        Self { error: error.to_owned(), detail: detail.into() }
    }
}

/// The error codes of this project's server, each with the status it comes with.
pub mod code {
    /// 401: no usable territory identity.
    pub const UNAUTHORIZED: &str = "unauthorized";
    /// 401: no directive token, or one that was not made here.
    pub const TOKEN_INVALID: &str = "token_invalid";
    /// 401: the directive token has expired.
    pub const TOKEN_EXPIRED: &str = "token_expired";
    /// 403: not the caller's.
    pub const FORBIDDEN: &str = "forbidden";
    /// 403: the territory is disabled.
    pub const TERRITORY_DISABLED: &str = "territory_disabled";
    /// 404: no such thing.
    pub const NOT_FOUND: &str = "not_found";
    /// 405: the path exists, the method does not.
    pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    /// 409: the directive is in a state that the call does not fit.
    pub const STATE_CONFLICT: &str = "state_conflict";
    /// 409: the lease of the token is not the newest one.
    pub const LEASE_LOST: &str = "lease_lost";
    /// 409: said before with another content.
    pub const PAYLOAD_CONFLICT: &str = "payload_conflict";
    /// 409: an idempotency key used before with another request.
    pub const IDEMPOTENCY_CONFLICT: &str = "idempotency_conflict";
    /// 413: the body is larger than the server takes.
    pub const PAYLOAD_TOO_LARGE: &str = "payload_too_large";
    /// 415: the body is not JSON.
    pub const UNSUPPORTED_MEDIA_TYPE: &str = "unsupported_media_type";
    /// 422: a field is missing or wrong.
    pub const INVALID_PARAMETER: &str = "invalid_parameter";
    /// 422: the enrolment token is unknown, expired or used.
    pub const INVALID_ENROLL_TOKEN: &str = "invalid_enroll_token";
    /// 422: the certificate request cannot be signed.
    pub const INVALID_CSR: &str = "invalid_csr";
    /// 422: a chunk over the server's limit.
    pub const CHUNK_TOO_LARGE: &str = "chunk_too_large";
    /// 422: a diff over `limits.max_diff_bytes`.
    pub const DIFF_TOO_LARGE: &str = "diff_too_large";
    /// 429: too many; `Retry-After` says how long to wait.
    pub const RATE_LIMITED: &str = "rate_limited";
    /// 500: the server's fault.
    pub const INTERNAL: &str = "internal";
    /// 503: not now.
    pub const UNAVAILABLE: &str = "unavailable";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bodies_read() {
        let body: ErrorBody = serde_json::from_str(r#"{"error":null,"message":"x"}"#).unwrap();
        assert_eq!(body, ErrorBody::default());
        assert_eq!(
            serde_json::to_string(&ErrorBody::new(code::NOT_FOUND, "no directive d1")).unwrap(),
            r#"{"error":"not_found","detail":"no directive d1"}"#
        );
    }
}
