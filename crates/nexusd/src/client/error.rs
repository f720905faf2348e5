//! How a call to the mothership fails: the status table of the protocol as a type.
//!
//! Promises: every text taken from an answer is bounded and free of control characters, and no secret is in any of them
//! (tokens and bodies of requests are never quoted).

use std::fmt;
use std::time::Duration;

use reqwest::StatusCode;

use super::plain;
use super::reach::MAX_RETRY_AFTER;

/// Longest text that is kept of what a server says, in bytes.
const MAX_SAID_BYTES: usize = 512;

/// What the server said about its refusal: the two fields of an error body, bounded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// The error code; empty when the answer was not an error body.
    pub error: String,
    /// The text for people; for an answer that was not an error body, what came instead.
    pub detail: String,
}

impl Said {
    /// Bounded, printable copies of both texts.
    #[must_use]
    pub fn new(error: &str, detail: &str) -> Self {
        Self { error: bounded(error), detail: bounded(detail) }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.error.is_empty(), self.detail.is_empty()) {
            (true, true) => f.write_str("no reason given"),
            (false, true) => f.write_str(&self.error),
            (true, false) => f.write_str(&self.detail),
            (false, false) => write!(f, "{}: {}", self.error, self.detail),
        }
    }
}

/// Why a call did not do what was asked. What follows from each is the protocol's status table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// 401: identity or token invalid or expired, and the one token recovery did not help.
    #[error("401, identity or token not accepted ({0})")]
    Unauthorized(Said),
    /// 403: the territory is disabled, or the directive is not its own.
    #[error("403, not allowed ({0})")]
    Forbidden(Said),
    /// 404: no such directive (or, for an addition, a server that does not know it).
    #[error("404, not known there ({0})")]
    NotFound(Said),
    /// 409: the lease is gone, or the payload differs from an earlier one.
    #[error("409, in conflict with what the mothership holds ({0})")]
    Conflict(Said),
    /// 422 and every other refusal of the request itself: asking again would not help.
    #[error("{status}, request refused ({said})")]
    Invalid {
        /// The HTTP status.
        status: u16,
        /// What the server said.
        said: Said,
    },
    /// 429: ask again later.
    #[error("429, rate limited ({said})")]
    RateLimited {
        /// The server's `Retry-After`, at most [`MAX_RETRY_AFTER`].
        retry_after: Option<Duration>,
        /// What the server said.
        said: Said,
    },
    /// 5xx, a transport error, a timeout.
    #[error("the mothership is unavailable: {why}")]
    Unavailable {
        /// The server's `Retry-After`, at most [`MAX_RETRY_AFTER`].
        retry_after: Option<Duration>,
        /// What happened.
        why: String,
    },
    /// Nothing was sent: what was to be said cannot be. Asking again would not help, and says nothing of the mothership.
    #[error("not sent: {why}")]
    NotSent {
        /// What cannot be sent, and why not.
        why: String,
    },
    /// An answer that is not of this protocol: HTML, wrong types, too large, about another directive.
    #[error("the mothership's answer makes no sense: {what}")]
    Nonsense {
        /// What was wrong with it.
        what: String,
    },
}

impl CallError {
    /// True when asking again later may help (429, 5xx, transport errors, nonsense).
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::RateLimited { .. } | Self::Unavailable { .. } | Self::Nonsense { .. })
    }

    /// True when work on the directive must stop (401 after recovery, 403, 404, 409).
    #[must_use]
    pub fn ends_the_lease(&self) -> bool {
        matches!(self, Self::Unauthorized(_) | Self::Forbidden(_) | Self::NotFound(_) | Self::Conflict(_))
    }

    /// What the server asked to wait, if it did.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Unavailable { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(super) fn not_sent(why: impl fmt::Display) -> Self {
        Self::NotSent { why: bounded(&why.to_string()) }
    }

    pub(super) fn nonsense(what: impl AsRef<str>) -> Self {
        Self::Nonsense { what: bounded(what.as_ref()) }
    }

    /// A transport failure, with the place that was asked; the rest of the URL is in the caller's words.
    pub(super) fn transport(error: reqwest::Error) -> Self {
        let place = error.url().and_then(|url| Some(format!("{}:{}: ", url.host_str()?, url.port_or_known_default()?)));
        let slow = if error.is_timeout() { "timed out: " } else { "" };
        let mut why = format!("{slow}{}", place.unwrap_or_default());
        if let Some(words) = plain::words(&error) {
            why.push_str(words);
        } else {
            let error = error.without_url();
            why.push_str(&error.to_string());
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                why.push_str(": ");
                why.push_str(&cause.to_string());
                source = cause.source();
            }
        }
        Self::Unavailable { retry_after: None, why: bounded(&why) }
    }

    /// An answer with a status other than 2xx.
    pub(super) fn from_status(status: StatusCode, retry_after: Option<&str>, body: &[u8]) -> Self {
        let said = said_in(body);
        let retry_after = retry_after.and_then(parse_retry_after);
        match status.as_u16() {
            401 => Self::Unauthorized(said),
            403 => Self::Forbidden(said),
            404 => Self::NotFound(said),
            409 => Self::Conflict(said),
            429 => Self::RateLimited { retry_after, said },
            408 | 500..=599 => Self::Unavailable { retry_after, why: format!("status {} ({said})", status.as_u16()) },
            code @ 400..=499 => Self::Invalid { status: code, said },
            code => Self::nonsense(format!("unexpected status {code} ({said})")),
        }
    }
}

/// `Retry-After` as seconds or as an HTTP date (RFC 9110, 10.2.3), cut to [`MAX_RETRY_AFTER`].
fn parse_retry_after(text: &str) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // A number too long for u64 is a very long wait.
        let seconds = text.parse::<u64>().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
    }
    let until = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = until.duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(wait).unwrap_or(Duration::ZERO).min(MAX_RETRY_AFTER))
}

fn said_in(body: &[u8]) -> Said {
    #[derive(serde::Deserialize)]
    struct Loose {
        error: Option<String>,
        detail: Option<String>,
    }
    match serde_json::from_slice::<Loose>(body) {
        Ok(loose) => Said::new(loose.error.as_deref().unwrap_or(""), loose.detail.as_deref().unwrap_or("")),
        // A page says nothing that its status does not, and much of it.
        Err(_) if body.trim_ascii_start().first() == Some(&b'<') => {
            Said::new("", "a page of HTML, which no mothership sends: see what answers at server_url")
        }
        Err(_) => Said::new("", &String::from_utf8_lossy(body.get(..MAX_SAID_BYTES).unwrap_or(body))),
    }
}

/// At most [`MAX_SAID_BYTES`], with control characters shown as spaces so that no answer can forge a line of our log.
pub(super) fn bounded(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_SAID_BYTES));
    for c in text.trim().chars() {
        if out.len() + c.len_utf8() > MAX_SAID_BYTES {
            out.push('…');
            break;
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, retry_after: Option<&str>, body: &str) -> CallError {
        CallError::from_status(StatusCode::from_u16(status).unwrap(), retry_after, body.as_bytes())
    }

    #[test]
    fn the_status_table() {
        let body = r#"{"error":"lease_gone","detail":"leased to another"}"#;
        let said = Said { error: "lease_gone".into(), detail: "leased to another".into() };
        assert_eq!(of(401, None, body), CallError::Unauthorized(said.clone()));
        assert_eq!(of(403, None, body), CallError::Forbidden(said.clone()));
        assert_eq!(of(404, None, body), CallError::NotFound(said.clone()));
        assert_eq!(of(409, None, body), CallError::Conflict(said.clone()));
        assert_eq!(of(422, None, body), CallError::Invalid { status: 422, said: said.clone() });
        assert_eq!(of(413, None, body), CallError::Invalid { status: 413, said: said.clone() });
        assert_eq!(
            of(429, Some("7"), body),
            CallError::RateLimited { retry_after: Some(Duration::from_secs(7)), said }
        );
        let why = "status 503 (lease_gone: leased to another)".to_owned();
        assert_eq!(of(503, Some("99999"), body), CallError::Unavailable { retry_after: Some(MAX_RETRY_AFTER), why });
        assert!(matches!(of(302, None, ""), CallError::Nonsense { .. }));
    }

    #[test]
    fn retry_after_forms() {
        assert_eq!(parse_retry_after("0"), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("99999999999999999999999"), Some(MAX_RETRY_AFTER));
        assert_eq!(parse_retry_after("soon"), None);
        assert_eq!(parse_retry_after("-1"), None);
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let in_a_minute = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60);
        let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&in_a_minute).unwrap();
        let wait = parse_retry_after(&date).unwrap();
        assert!(wait > Duration::from_secs(57) && wait <= Duration::from_secs(60), "{wait:?}");
    }

    #[test]
    fn what_a_server_says_is_bounded_and_printable() {
        let page = "\n <!DOCTYPE html>\n<html>\n<body>Bad gateway</body>\n</html>";
        let CallError::Unavailable { why, .. } = of(502, None, page) else { panic!("not a 502") };
        assert_eq!(why, "status 502 (a page of HTML, which no mothership sends: see what answers at server_url)");
        let text = format!("gone\r\n\x1b[31m{}", "x".repeat(10_000));
        let CallError::NotFound(said) = of(404, None, &text) else { panic!("not a 404") };
        assert!(said.detail.len() <= MAX_SAID_BYTES + '…'.len_utf8());
        assert!(!said.detail.chars().any(char::is_control));
        assert!(said.error.is_empty());
    }
}
