//! Requests to a forward proxy: `CONNECT host:port`, and absolute-form `http://host/path`.
//!
//! A request that is passed on is written anew from what was understood: request line, `Host` and
//! framing are the proxy's own, only end-to-end fields of the client follow. So what the origin
//! reads cannot differ from what was judged here.

use super::body::BodyLength;
use super::head::{MAX_FIELDS, connection_options, is_end_to_end, push_field};
use super::host::{Destination, DestinationError, parse_authority};

/// A request that was understood.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Open a tunnel.
    Connect {
        /// Where to.
        to: Destination,
        /// The value of `Proxy-Authorization`.
        credential: Option<Vec<u8>>,
    },
    /// Pass on one request.
    Forward(Box<Forward>),
}

/// One absolute-form request.
#[derive(Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where to.
    pub to: Destination,
    /// The header block for the origin, with its empty last line.
    pub head: Vec<u8>,
    /// The body that follows.
    pub body: BodyLength,
    /// Whether the method is `HEAD`: the answer has no body.
    pub is_head: bool,
    /// Whether the request may be sent a second time on another connection (RFC 9110, 9.2.2).
    pub is_idempotent: bool,
    /// Whether the client speaks HTTP/1.1 (and so reads chunks and 1xx answers).
    pub is_http11: bool,
    /// Whether the client wants to send more requests on this connection.
    pub keep_alive: bool,
    /// The value of `Proxy-Authorization`.
    pub credential: Option<Vec<u8>>,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not an HTTP/1 request.
    #[error("the request cannot be read as HTTP/1.1 ({0})")]
    Syntax(&'static str),
    /// A destination that is none.
    #[error("{error}")]
    Destination {
        /// What the client asked for, made printable.
        asked: String,
        /// What is wrong with it.
        error: DestinationError,
    },
    /// A scheme that is not passed on.
    #[error("only http:// is passed on; use CONNECT for everything else")]
    Scheme(String),
    /// A request to an origin server instead of a proxy.
    #[error("this is a forward proxy: send an absolute http:// URL or CONNECT host:port")]
    NotAProxyRequest,
    /// Framing that two readers could read differently.
    #[error("ambiguous framing ({0})")]
    Framing(&'static str),
}

/// Reads a header block that [`super::head::HeadScanner`] has delimited.
///
/// # Errors
/// See [`RequestError`].
pub fn parse(block: &[u8]) -> Result<Request, RequestError> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(block) {
        Ok(httparse::Status::Complete(length)) if length == block.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(RequestError::Syntax("more than 128 header fields")),
        Err(httparse::Error::Version) => return Err(RequestError::Syntax("not HTTP/1.0 or HTTP/1.1")),
        _ => return Err(RequestError::Syntax("malformed request line or header field")),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(RequestError::Syntax("incomplete request line"));
    };
    let fields: &[httparse::Header<'_>] = parsed.headers;
    if count(fields, "host") > 1 {
        return Err(RequestError::Framing("more than one Host"));
    }
    let body = body_length(fields, version)?;
    let credential = find(fields, "proxy-authorization").map(<[u8]>::to_vec);
    if method == "CONNECT" {
        if !matches!(body, BodyLength::None | BodyLength::Exact(0)) {
            return Err(RequestError::Framing("a CONNECT request with a body"));
        }
        let to = parse_authority(target.as_bytes(), None).map_err(|error| bad_destination(target.as_bytes(), error))?;
        return Ok(Request::Connect { to, credential });
    }
    let (to, path) = split_absolute(target)?;
    let options = connection_options(fields);
    let keep_alive = version == 1 && !options.iter().any(|option| option == "close");
    let head = rewrite(method, path, &to, fields, &options, body);
    Ok(Request::Forward(Box::new(Forward {
        to,
        head,
        body,
        is_head: method == "HEAD",
        is_idempotent: matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE"),
        is_http11: version == 1,
        keep_alive,
        credential,
    })))
}

fn bad_destination(asked: &[u8], error: DestinationError) -> RequestError {
    RequestError::Destination { asked: super::host::printable(asked), error }
}

/// `http://host[:port][/path][?query]` to the destination and the origin-form target.
fn split_absolute(target: &str) -> Result<(Destination, String), RequestError> {
    let Some((scheme, rest)) = target.split_once("://") else {
        return Err(RequestError::NotAProxyRequest);
    };
    if target.starts_with('/') {
        return Err(RequestError::NotAProxyRequest);
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(RequestError::Scheme(super::host::printable(scheme.as_bytes())));
    }
    // A fragment never travels (RFC 9110, 4.2.5); who sends one may mean it to hide the host.
    if rest.contains('#') {
        return Err(RequestError::Syntax("a fragment in the request target"));
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let to = parse_authority(authority.as_bytes(), Some(80))
        .map_err(|error| bad_destination(authority.as_bytes(), error))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok((to, path))
}

fn rewrite(
    method: &str,
    path: String,
    to: &Destination,
    fields: &[httparse::Header<'_>],
    options: &[String],
    body: BodyLength,
) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    for part in [method, " ", &path, " HTTP/1.1\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
    let host = if to.port == 80 { to.host.to_string() } else { to.to_string() };
    push_field(&mut head, "Host", host.as_bytes());
    for field in fields {
        if is_end_to_end(field.name, options) && !field.name.eq_ignore_ascii_case("host") {
            push_field(&mut head, field.name, field.value);
        }
    }
    match body {
        BodyLength::Exact(bytes) => push_field(&mut head, "Content-Length", bytes.to_string().as_bytes()),
        BodyLength::Chunked => push_field(&mut head, "Transfer-Encoding", b"chunked"),
        BodyLength::None | BodyLength::UntilClose => {}
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The body of a request by RFC 9112, section 6, without any of its repairs.
fn body_length(fields: &[httparse::Header<'_>], version: u8) -> Result<BodyLength, RequestError> {
    let codings = count(fields, "transfer-encoding");
    let lengths = count(fields, "content-length");
    match (codings, lengths) {
        (0, 0) => Ok(BodyLength::None),
        (0, 1) => {
            let value = find(fields, "content-length").and_then(super::response::parse_length);
            value.map(BodyLength::Exact).ok_or(RequestError::Framing("an invalid Content-Length"))
        }
        (1, 0) if version == 0 => Err(RequestError::Framing("Transfer-Encoding in HTTP/1.0")),
        (1, 0) => match find(fields, "transfer-encoding") {
            Some(value) if value.eq_ignore_ascii_case(b"chunked") => Ok(BodyLength::Chunked),
            _ => Err(RequestError::Framing("a Transfer-Encoding other than chunked")),
        },
        (0, _) => Err(RequestError::Framing("more than one Content-Length")),
        (_, 0) => Err(RequestError::Framing("more than one Transfer-Encoding")),
        _ => Err(RequestError::Framing("both Content-Length and Transfer-Encoding")),
    }
}

pub(super) fn count(fields: &[httparse::Header<'_>], name: &str) -> usize {
    fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count()
}

pub(super) fn find<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
