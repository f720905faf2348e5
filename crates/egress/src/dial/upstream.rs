//! A proxy of the operator's network that everything goes out through (`egress.upstream_proxy`), by `CONNECT`.
//!
//! Promises: it is asked only for names that the policy has allowed; its answer is read to the last byte of its header
//! block and not one further, so that what the origin sends first is the client's; every wait is bounded.
//! Leaves to others: which addresses a name has behind it. The upstream proxy resolves, so its own rules count there.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{DialError, Resolver, race};
use crate::wire::head::HeadScanner;
use crate::wire::host::Destination;

/// How long it may take to answer a `CONNECT`: it has to resolve and dial meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of an answer is looked at in one go.
const PEEK_BYTES: usize = 2048;
/// Fields of an answer.
const MAX_FIELDS: usize = 64;

/// An upstream proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamProxy {
    host: String,
    port: u16,
    authorization: Option<String>,
}

/// No upstream proxy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// The scheme.
    #[error("egress.upstream_proxy must be an http:// URL: proxies that are spoken to in TLS are not supported")]
    Scheme,
    /// Host or port.
    #[error("egress.upstream_proxy must have a host and a port other than 0")]
    Host,
}

/// What went wrong with it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamFailure {
    #[error("cannot be reached: {0}")]
    Unreached(Box<DialError>),
    #[error("closed the connection instead of answering")]
    Closed,
    #[error("gave an answer that cannot be read")]
    Unreadable,
    #[error("answered {0}")]
    Refused(u16),
    #[error("did not answer in time")]
    TimedOut,
}

impl UpstreamProxy {
    /// From the parts of its URL; user and password as they are, not percent-encoded.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub fn new(scheme: &str, host: &str, port: u16, user: Option<(&str, &str)>) -> Result<Self, UpstreamError> {
        if scheme != "http" {
            return Err(UpstreamError::Scheme);
        }
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() || port == 0 {
            return Err(UpstreamError::Host);
        }
        let authorization =
            user.map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        Ok(Self { host: host.to_owned(), port, authorization })
    }

    /// Its host as configured, without brackets, and its port: what directives must not reach themselves.
    #[must_use]
    pub fn host_port(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// A tunnel through it to `to`.
    pub(super) async fn connect(&self, resolver: &Resolver, to: &Destination) -> Result<TcpStream, UpstreamFailure> {
        let unreached = |error: DialError| UpstreamFailure::Unreached(Box::new(error));
        let addresses = self.addresses(resolver).await.map_err(unreached)?;
        let mut stream = race::connect(&addresses).await.map_err(unreached)?.stream;
        match tokio::time::timeout(ANSWER_TIMEOUT, self.ask(&mut stream, to)).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(UpstreamFailure::TimedOut),
        }
    }

    async fn addresses(&self, resolver: &Resolver) -> Result<Vec<SocketAddr>, DialError> {
        let addresses = match self.host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => resolver.lookup_as_configured(&self.host).await?,
        };
        Ok(addresses.into_iter().map(|address| SocketAddr::new(address, self.port)).collect())
    }

    async fn ask(&self, stream: &mut TcpStream, to: &Destination) -> Result<(), UpstreamFailure> {
        let authorization =
            self.authorization.as_ref().map_or_else(String::new, |value| format!("Proxy-Authorization: {value}\r\n"));
        let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{authorization}\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|_| UpstreamFailure::Closed)?;
        let block = head(stream).await?;
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut fields);
        match (parsed.parse(&block), parsed.code) {
            (Ok(httparse::Status::Complete(_)), Some(200..=299)) => Ok(()),
            (Ok(httparse::Status::Complete(_)), Some(code)) => Err(UpstreamFailure::Refused(code)),
            _ => Err(UpstreamFailure::Unreadable),
        }
    }
}

/// The header block of an answer. What follows it stays in the socket.
async fn head(stream: &mut TcpStream) -> Result<Vec<u8>, UpstreamFailure> {
    let mut block = Vec::new();
    let mut scanner = HeadScanner::default();
    let mut peeked = vec![0; PEEK_BYTES];
    loop {
        let count = stream.peek(&mut peeked).await.map_err(|_| UpstreamFailure::Closed)?;
        if count == 0 {
            return Err(UpstreamFailure::Closed);
        }
        let before = block.len();
        block.extend_from_slice(&peeked[..count]);
        let found = scanner.scan(&block).map_err(|_| UpstreamFailure::Unreadable)?;
        let consumed = found.unwrap_or(block.len()) - before;
        stream.read_exact(&mut peeked[..consumed]).await.map_err(|_| UpstreamFailure::Closed)?;
        if let Some(length) = found {
            block.truncate(length);
            return Ok(block);
        }
    }
}

impl fmt::Debug for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamProxy").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_upstream_proxy() {
        let proxy = UpstreamProxy::new("http", "[2001:db8::1]", 3128, Some(("user", "hunter2"))).unwrap();
        assert_eq!(proxy.host_port(), ("2001:db8::1", 3128));
        assert!(!format!("{proxy:?}").contains(&STANDARD.encode("user:hunter2")));
        assert_eq!(UpstreamProxy::new("https", "p", 1, None), Err(UpstreamError::Scheme));
        assert_eq!(UpstreamProxy::new("http", "", 1, None), Err(UpstreamError::Host));
        assert_eq!(UpstreamProxy::new("http", "p", 0, None), Err(UpstreamError::Host));
    }
}
