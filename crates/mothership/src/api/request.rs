//! Reading requests: bodies within bounds of size and time, JSON or a reason why not.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use conduits::{code, headers, prefer};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::DeserializeOwned;

use super::keys::KeysOnce;
use crate::refusal::{Refusal, RefusalKind};

/// Bodies of ordinary calls.
pub const SMALL: usize = 256 * 1024;
/// Bodies of log chunks: more than a chunk may have, so that one too large is told so exactly.
pub const CHUNK: usize = 1024 * 1024;
/// Bodies of finished reports and new directives: a diff of 8 MiB in base64 and the rest.
pub const LARGE: usize = 12 * 1024 * 1024;
/// A body's time.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The whole body.
///
/// # Errors
/// 413 for more than `limit` bytes, 422 for one that breaks off or takes too long.
pub async fn bytes(body: Body, limit: usize) -> Result<Bytes, Refusal> {
    let broken = |detail: String| Refusal::invalid(code::INVALID_PARAMETER, detail);
    match tokio::time::timeout(BODY_TIME, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::of(
            RefusalKind::TooLarge,
            code::PAYLOAD_TOO_LARGE,
            format!("the body has more than {limit} bytes"),
        )),
        Ok(Err(error)) => Err(broken(format!("the body broke off: {error}"))),
        Err(_) => Err(broken("the body took too long".to_owned())),
    }
}

/// The body as JSON.
///
/// # Errors
/// As [`bytes`], and 422 for what is not the expected JSON.
pub async fn json<T: DeserializeOwned>(body: Body, limit: usize) -> Result<T, Refusal> {
    parse(&bytes(body, limit).await?)
}

/// As [`parse`], for what a person or a program of theirs wrote: each key once.
///
/// # Errors
/// As [`parse`], and 422 for a key that is there twice.
pub fn fields<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let read = parse(bytes)?;
    if !bytes.is_empty() {
        serde_json::from_slice::<KeysOnce>(bytes).map_err(|error| invalid(&error.to_string()))?;
    }
    Ok(read)
}

/// `bytes` as a JSON object; nothing at all reads as an empty one.
///
/// # Errors
/// 422 for what is not the expected JSON.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let text = if bytes.is_empty() { b"{}" } else { bytes };
    // serde would take an array for the fields of a struct in their order.
    if text.trim_ascii_start().first() == Some(&b'[') {
        return Err(invalid("an array is not an object; send the fields by name"));
    }
    serde_json::from_slice(text).map_err(|error| invalid(&error.to_string()))
}

fn invalid(detail: &str) -> Refusal {
    Refusal::invalid(code::INVALID_PARAMETER, format!("the body: {detail}"))
}

/// The seconds of `Prefer: wait=N`, at most `longest`; none where the caller does not wait.
#[must_use]
pub fn wait(request: &HeaderMap, longest: Duration) -> Option<Duration> {
    request
        .get_all(headers::PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .find_map(prefer::parse_wait)
        .map(|seconds| Duration::from_secs(seconds).min(longest))
}
