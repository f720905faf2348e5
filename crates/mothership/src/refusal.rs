//! Why a request is not done, independent of HTTP.
//!
//! The store and the rules answer with these values; `api::error` alone maps them to status codes. The
//! code is contract (clients branch on it), the detail is for people and never carries a secret.

use std::borrow::Cow;
use std::time::Duration;

use conduits::code;

use crate::store::StoreError;

/// The sort of refusal: one per status code of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// Who calls is not known, or no longer (401).
    Unauthenticated,
    /// Who calls is known and may not (403).
    Forbidden,
    /// There is no such thing, or not for this caller (404).
    NotFound,
    /// The thing's state does not allow it (409).
    Conflict,
    /// More than the server takes in one request (413).
    TooLarge,
    /// A parameter is invalid (422).
    Invalid,
    /// The route does not take this method (405).
    MethodNotAllowed,
    /// Too often; try again after this long (429).
    RateLimited(Duration),
}

/// A refusal: what sort, the contractual code, and a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Decides the status code.
    pub kind: RefusalKind,
    /// The `error` field.
    pub code: &'static str,
    /// The `detail` field: what was wrong, with which value, and what to do.
    pub detail: Cow<'static, str>,
}

impl Refusal {
    /// 401: the caller's identity or token is missing, wrong or expired.
    pub fn unauthenticated(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(RefusalKind::Unauthenticated, code, detail)
    }

    /// 403: the caller may not.
    pub fn forbidden(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(RefusalKind::Forbidden, code, detail)
    }

    /// 404: no such thing for this caller.
    pub fn not_found(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(RefusalKind::NotFound, code::NOT_FOUND, detail)
    }

    /// 409: the state does not allow it.
    pub fn conflict(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(RefusalKind::Conflict, code, detail)
    }

    /// 422: an invalid parameter.
    pub fn invalid(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::of(RefusalKind::Invalid, code, detail)
    }

    /// A refusal of any sort.
    pub fn of(kind: RefusalKind, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, code, detail: detail.into() }
    }
}

/// Why a job of the store gave no value: a refusal is an expected outcome, a store error is not.
#[derive(Debug)]
pub enum Fault {
    /// The rules say no; nothing was changed.
    Refused(Refusal),
    /// The store failed; nothing was changed.
    Store(StoreError),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}
