//! Answers of origins, as hostile as requests: an allowed host may still try to make the client
//! read something that the proxy did not see.

use super::body::BodyLength;
use super::head::{MAX_FIELDS, connection_options, is_end_to_end, push_field};
use super::request::{count, find};

/// What the answer's reading depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The request's method is `HEAD`.
    pub is_head: bool,
    /// The client speaks HTTP/1.1.
    pub is_http11: bool,
    /// The client connection stays open after this answer if the answer allows it.
    pub keep_alive: bool,
}

/// An answer that was understood.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// The status, 100..=599.
    pub status: u16,
    /// The header block for the client, with its empty last line. Empty for an interim answer to
    /// a client that does not know them (HTTP/1.0).
    pub head: Vec<u8>,
    /// The body that follows, as the origin frames it.
    pub body: BodyLength,
    /// Whether content goes to the client in chunks.
    pub to_client_chunked: bool,
    /// Whether the client connection can carry another request afterwards.
    pub client_stays: bool,
    /// Whether the origin's connection can.
    pub origin_stays: bool,
}

/// Why an answer cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Not HTTP/1.
    #[error("the origin's answer cannot be read as HTTP/1.1 ({0})")]
    Syntax(&'static str),
    /// Framing that two readers could read differently.
    #[error("the origin's answer has ambiguous framing ({0})")]
    Framing(&'static str),
    /// `101`, though no upgrade was passed on.
    #[error("the origin switched protocols without being asked")]
    Upgrade,
}

/// Reads a header block that [`super::head::HeadScanner`] has delimited.
///
/// # Errors
/// See [`ResponseError`].
pub fn parse(block: &[u8], asked: Asked) -> Result<Response, ResponseError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    match parsed.parse(block) {
        Ok(httparse::Status::Complete(length)) if length == block.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(ResponseError::Syntax("more than 128 header fields")),
        _ => return Err(ResponseError::Syntax("malformed status line or header field")),
    }
    let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
        return Err(ResponseError::Syntax("incomplete status line"));
    };
    let reason = parsed.reason.unwrap_or_default();
    let fields: &[httparse::Header<'_>] = parsed.headers;
    let options = connection_options(fields);
    match status {
        101 => return Err(ResponseError::Upgrade),
        100..=199 => return Ok(interim(status, reason, fields, &options, asked)),
        200..=599 => {}
        _ => return Err(ResponseError::Syntax("a status outside 100 to 599")),
    }
    let body = body_length(fields, version, status, asked.is_head)?;
    // A body without length reaches an HTTP/1.1 client in chunks, so that a cut connection shows;
    // one of HTTP/1.0 reads until the end.
    let has_body_of_no_length = matches!(body, BodyLength::Chunked | BodyLength::UntilClose);
    let to_client_chunked = has_body_of_no_length && asked.is_http11;
    let client_stays = asked.keep_alive && (to_client_chunked || !has_body_of_no_length);
    let origin_stays =
        version == 1 && body != BodyLength::UntilClose && !options.iter().any(|option| option == "close");
    let mut head = status_line(status, reason);
    for field in fields.iter().filter(|field| is_end_to_end(field.name, &options)) {
        push_field(&mut head, field.name, field.value);
    }
    let length = find(fields, "content-length").and_then(parse_length);
    match (body, length) {
        (BodyLength::Exact(bytes), _) => push_field(&mut head, "Content-Length", bytes.to_string().as_bytes()),
        // The length an answer to GET would have had (RFC 9110, 8.6).
        (BodyLength::None, Some(bytes)) if asked.is_head || status == 304 => {
            push_field(&mut head, "Content-Length", bytes.to_string().as_bytes());
        }
        _ if to_client_chunked => push_field(&mut head, "Transfer-Encoding", b"chunked"),
        _ => {}
    }
    if !client_stays {
        push_field(&mut head, "Connection", b"close");
    }
    head.extend_from_slice(b"\r\n");
    Ok(Response { status, head, body, to_client_chunked, client_stays, origin_stays })
}

fn interim(status: u16, reason: &str, fields: &[httparse::Header<'_>], options: &[String], asked: Asked) -> Response {
    let mut head = Vec::new();
    if asked.is_http11 {
        head = status_line(status, reason);
        for field in fields.iter().filter(|field| is_end_to_end(field.name, options)) {
            push_field(&mut head, field.name, field.value);
        }
        head.extend_from_slice(b"\r\n");
    }
    Response { status, head, body: BodyLength::None, to_client_chunked: false, client_stays: true, origin_stays: true }
}

fn status_line(status: u16, reason: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} {reason}\r\n").into_bytes()
}

/// The body of an answer by RFC 9112, section 6.3.
fn body_length(
    fields: &[httparse::Header<'_>],
    version: u8,
    status: u16,
    is_head: bool,
) -> Result<BodyLength, ResponseError> {
    let codings = count(fields, "transfer-encoding");
    let lengths = count(fields, "content-length");
    if codings > 0 && lengths > 0 {
        return Err(ResponseError::Framing("both Content-Length and Transfer-Encoding"));
    }
    if codings > 1 || (codings == 1 && version == 0) {
        return Err(ResponseError::Framing("more than one Transfer-Encoding, or one in HTTP/1.0"));
    }
    // Several lengths are tolerated where they agree: some origins send the field twice.
    let mut length = None;
    for field in fields.iter().filter(|field| field.name.eq_ignore_ascii_case("content-length")) {
        let value = parse_length(field.value).ok_or(ResponseError::Framing("an invalid Content-Length"))?;
        if length.is_some_and(|other| other != value) {
            return Err(ResponseError::Framing("differing Content-Length fields"));
        }
        length = Some(value);
    }
    let is_chunked = match find(fields, "transfer-encoding") {
        None => false,
        Some(value) if value.eq_ignore_ascii_case(b"chunked") => true,
        Some(_) => return Err(ResponseError::Framing("a Transfer-Encoding other than chunked")),
    };
    Ok(if is_head || matches!(status, 204 | 304) {
        BodyLength::None
    } else if is_chunked {
        BodyLength::Chunked
    } else {
        length.map_or(BodyLength::UntilClose, BodyLength::Exact)
    })
}

/// A `Content-Length` value: decimal digits alone, no sign, no list, no overflow.
pub(super) fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
