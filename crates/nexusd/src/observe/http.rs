//! `/healthz`, `/readyz` and `/metrics`.
//!
//! Whoever can reach the listener may be hostile: connections are bounded in number, and each request head in time.
//! Nothing here takes a body or changes anything.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::metrics::{CONTENT_TYPE, Metrics};
use super::ready::{ReadyFacts, readiness};
use crate::config::ListenAddr;

/// Connections at a time; a scraper needs one.
const MAX_CONNECTIONS: usize = 64;

/// Longest wait for a request's head, on a fresh or a kept connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);

/// Longest life of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Connections waiting to be accepted.
const BACKLOG: u32 = 128;

/// Pause after an accept that failed, such as for want of descriptors: the failure would otherwise spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("observability.listen_addr {addr}: {}", explain(source))]
pub struct BindError {
    /// As configured.
    pub addr: ListenAddr,
    /// The kernel's answer.
    pub source: std::io::Error,
}

fn explain(source: &std::io::Error) -> String {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => "the port is in use: stop its owner, or choose another".to_owned(),
        std::io::ErrorKind::PermissionDenied => "not permitted: ports below 1024 need root".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => source.to_string(),
    }
}

/// What the endpoints show.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The page.
    pub metrics: Arc<Metrics>,
    /// What readiness depends on.
    pub facts: watch::Receiver<ReadyFacts>,
}

/// Opens the listener. Without a host: IPv6 and IPv4 on one socket, IPv4 alone where the machine has no IPv6.
///
/// # Errors
/// When no candidate can be bound.
pub fn bind(addr: &ListenAddr) -> Result<TcpListener, BindError> {
    let candidates = addr.candidates();
    let mut last = None;
    for candidate in &candidates {
        match listen(*candidate, candidates.len() > 1) {
            Ok(listener) => return Ok(listener),
            // Only a machine without IPv6 falls through to IPv4: a port in use there is an error, not a reason to
            // listen on half of what was asked for.
            Err(error) if candidate.is_ipv6() && has_no_ipv6(&error) => last = Some(error),
            Err(source) => return Err(BindError { addr: *addr, source }),
        }
    }
    let source = last.unwrap_or_else(|| std::io::Error::other("no address to listen on"));
    Err(BindError { addr: *addr, source })
}

fn has_no_ipv6(error: &std::io::Error) -> bool {
    let code = error.raw_os_error();
    [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

fn listen(addr: SocketAddr, both_families: bool) -> std::io::Result<TcpListener> {
    let socket = if addr.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    // A restart must not wait for the last scraper's TIME_WAIT.
    socket.set_reuseaddr(true)?;
    if addr.is_ipv6() {
        // net.ipv6.bindv6only may say otherwise (ipv6(7)).
        rustix::net::sockopt::set_ipv6_v6only(&socket, !both_families)?;
    }
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// Serves until cancelled; returns when the last connection is closed, at most a second later.
pub async fn serve(listener: TcpListener, observed: Observed, cancel: CancellationToken) {
    let service = TowerToHyperService::new(router(observed));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let slot = tokio::select! {
            () = cancel.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            slot = Arc::clone(&slots).acquire_owned() => slot,
        };
        let Ok(slot) = slot else { break };
        let accepted = tokio::select! {
            () = cancel.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let service = service.clone();
                let cancel = cancel.clone();
                connections.spawn(async move {
                    connection(stream, service, cancel).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on observability.listen_addr");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    let drained =
        tokio::time::timeout(Duration::from_secs(1), async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        connections.shutdown().await;
    }
}

async fn connection(stream: TcpStream, service: TowerToHyperService<Router>, cancel: CancellationToken) {
    let mut builder = auto::Builder::new(TokioExecutor::new()).http1_only();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = cancel.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
        () = tokio::time::sleep(CONNECTION_TIMEOUT) => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an observability connection ended badly");
    }
}

/// The endpoints, for any listener.
pub fn router(observed: Observed) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(page))
        .with_state(observed)
}

async fn readyz(State(observed): State<Observed>) -> Response {
    let verdict = readiness(&observed.facts.borrow(), Instant::now());
    match verdict {
        Ok(()) => "ok".into_response(),
        Err(reasons) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", reasons.join("\n"))).into_response()
        }
    }
}

async fn page(State(observed): State<Observed>) -> Response {
    match observed.metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::observe::EgressSample;
    use crate::observe::metrics::WorkSample;

    fn observed() -> (watch::Sender<ReadyFacts>, Observed) {
        let facts = ReadyFacts {
            drivers: vec![(conduits::DriverKind::Host, Ok(()))],
            last_contact: Some(Instant::now()),
            refusal: None,
            certificate_ended: None,
            heartbeat_interval: Duration::from_secs(30),
            drained: false,
            shutting_down: false,
        };
        let (sender, facts) = watch::channel(facts);
        (
            sender,
            Observed {
                metrics: Arc::new(Metrics::new(Arc::new(EgressSample::default), Arc::new(WorkSample::default))),
                facts,
            },
        )
    }

    async fn get(addr: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_three_pages_over_both_families() {
        let listener = bind(&ListenAddr::parse(":0").unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (facts, observed) = observed();
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, observed, cancel.clone()));

        for host in ["127.0.0.1", "::1"] {
            let addr = SocketAddr::new(host.parse().unwrap(), port);
            let answer = get(addr, "/healthz").await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\nok"), "{host}: {answer}");
        }
        let addr = SocketAddr::new("127.0.0.1".parse().unwrap(), port);
        assert!(get(addr, "/readyz").await.starts_with("HTTP/1.1 200"));
        facts.send_modify(|facts| facts.shutting_down = true);
        let answer = get(addr, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.ends_with("not ready\nshutting down\n"), "{answer}");
        let answer = get(addr, "/metrics").await;
        assert!(answer.contains(CONTENT_TYPE) && answer.ends_with("# EOF\n"), "{answer}");
        assert!(get(addr, "/other").await.starts_with("HTTP/1.1 404"));

        // A connection that says nothing does not hold up the end.
        let silent = TcpStream::connect(addr).await.unwrap();
        cancel.cancel();
        tokio::time::timeout(Duration::from_secs(3), tasks.join_next()).await.unwrap();
        drop(silent);
    }

    #[tokio::test]
    async fn a_port_in_use_is_a_clear_error() {
        let first = bind(&ListenAddr::parse("127.0.0.1:0").unwrap()).unwrap();
        let taken = ListenAddr::parse(&first.local_addr().unwrap().to_string()).unwrap();
        let error = bind(&taken).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("observability.listen_addr {taken}: the port is in use: stop its owner, or choose another")
        );
    }

    #[tokio::test]
    async fn silent_connections_are_bounded() {
        let listener = bind(&ListenAddr::parse("127.0.0.1:0").unwrap()).unwrap();
        let addr = listener.local_addr().unwrap();
        let (_facts, observed) = observed();
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, observed, cancel.clone()));
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            silent.push(TcpStream::connect(addr).await.unwrap());
        }
        // The next one waits in the backlog, and is served once another leaves.
        let waiting = get(addr, "/healthz");
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_millis(300), waiting.as_mut()).await.is_err());
        silent.pop();
        assert!(tokio::time::timeout(Duration::from_secs(5), waiting).await.unwrap().starts_with("HTTP/1.1 200"));
        cancel.cancel();
        tokio::time::timeout(Duration::from_secs(3), tasks.join_next()).await.unwrap();
    }
}
