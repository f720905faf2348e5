//! Servers that a directive, a proxy or a client talks to: HTTP and TLS ones that keep what they were asked, and raw
//! TCP ones that are slow, silent, half-closed or rude. Every connection has a bounded life.

mod tcp;

pub use tcp::{TcpBehaviour, TcpOrigin};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use rustls::ServerConfig;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::server::{Connection, ServerThread, loopback, serve_http};

/// The largest request body that is kept.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// The longest that `/slow` waits.
const MAX_SLOW: Duration = Duration::from_secs(60);

/// A request as the origin saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The request target: path and query.
    pub target: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// The number of the connection.
    pub connection: usize,
}

#[derive(Default)]
struct Kept {
    seen: Mutex<Vec<Seen>>,
}

/// An HTTP origin; with a TLS configuration an https one. By path:
///
/// - `/echo`: the request's body again
/// - `/bytes/N`: N bytes `x`
/// - `/slow/MS`: `slow` after that many milliseconds
/// - `/status/CODE`: that status
/// - `/cut`: the connection is cut without an answer
/// - anything else: `origin ` and the path
pub struct HttpOrigin {
    kept: Arc<Kept>,
    server: ServerThread,
    tls: bool,
}

impl HttpOrigin {
    /// Plain HTTP on a free port of 127.0.0.1.
    #[must_use]
    pub fn start() -> Self {
        Self::start_on(loopback(), None)
    }

    /// On a listener, such as one in another network namespace.
    #[must_use]
    pub fn start_on(listener: TcpListener, tls: Option<Arc<ServerConfig>>) -> Self {
        let kept = Arc::<Kept>::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&kept));
        let is_tls = tls.is_some();
        Self { kept, server: serve_http(listener, tls, router).unwrap(), tls: is_tls }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// A URL of it by address.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address())
    }

    /// What it was asked so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.kept.seen.lock().unwrap().clone()
    }
}

async fn answer(
    State(kept): State<Arc<Kept>>,
    Extension(connection): Extension<Connection>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    kept.seen.lock().unwrap().push(Seen {
        method: head.method.to_string(),
        target,
        headers: head.headers,
        body: body.to_vec(),
        connection: connection.number,
    });
    let path = head.uri.path();
    let number = |prefix: &str| path.strip_prefix(prefix).and_then(|text| text.parse::<usize>().ok());
    if path == "/echo" {
        return Body::from(body).into_response();
    }
    if path == "/cut" {
        connection.cut();
        return std::future::pending().await;
    }
    if let Some(count) = number("/bytes/") {
        return "x".repeat(count).into_response();
    }
    if let Some(milliseconds) = number("/slow/") {
        let asked = Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX));
        tokio::time::sleep(asked.min(MAX_SLOW)).await;
        return "slow".into_response();
    }
    if let Some(code) = number("/status/") {
        let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
        return status.unwrap_or(StatusCode::BAD_REQUEST).into_response();
    }
    format!("origin {path}").into_response()
}
