//! The listener: accepts, shakes hands, and serves HTTP/1.1 and HTTP/2 on each connection.
//!
//! Every wait before a request is complete is bounded, the number of connections too, in all and of one address. Who is at the other
//! end (address, client certificate) is put beside each request as a [`Peer`]; what that is worth is asked
//! of the store at each request, so a revoked territory is out on its kept-alive connections too.

mod guests;
pub mod tls;
mod unread;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use conduits::Fingerprint;
use guests::{Guest, Guests};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 4096;
/// A TLS handshake's time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The time for a request's head, and for an idle connection to send the next one.
const HEAD: Duration = Duration::from_secs(75);
/// How long connections may finish what they do after a shutdown was asked for.
const DRAIN: Duration = Duration::from_secs(10);
/// Pause after a failed accept, when descriptors are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The address that the connection comes from.
    pub address: SocketAddr,
    /// The verified client certificate, where one was shown.
    pub certificate: Option<Fingerprint>,
}

/// How a connection is spoken.
#[derive(Debug, Clone)]
pub enum Transport {
    /// TLS with this configuration.
    Tls(Arc<rustls::ServerConfig>),
    /// Plain text: development on loopback.
    Plain,
}

/// Serves `router` on `listener` until `shutdown`, then lets running requests end. Connections of `proxies` are not counted by
/// their address.
pub async fn serve(
    listener: TcpListener,
    transport: Transport,
    proxies: Vec<IpNet>,
    router: Router,
    shutdown: CancellationToken,
) {
    let tracker = TaskTracker::new();
    let guests = Guests::new(CONNECTIONS, proxies);
    let turns = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &turns) => accepted,
        };
        match accepted {
            Ok((stream, address, turn)) => {
                let Some(guest) = guests.admit(address.ip()) else {
                    tracing::debug!(%address, "this address has too many connections");
                    continue;
                };
                let turn = Turn { _turn: turn, guest };
                tracker.spawn(connection(stream, address, transport.clone(), router.clone(), shutdown.clone(), turn));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::warn!("some connections were cut at shutdown");
    }
}

/// A connection's place among all, and among those of its address.
struct Turn {
    _turn: OwnedSemaphorePermit,
    guest: Guest,
}

async fn accept(
    listener: &TcpListener,
    turns: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let turn = Arc::clone(turns).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    Ok((stream, address, turn))
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    transport: Transport,
    router: Router,
    shutdown: CancellationToken,
    mut turn: Turn,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    match transport {
        Transport::Plain => {
            turn.guest.is_in();
            let peer = Peer { address, certificate: None };
            speak(stream, peer, router, &shutdown).await;
        }
        Transport::Tls(config) => {
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    turn.guest.is_in();
                    let certificate = stream
                        .get_ref()
                        .1
                        .peer_certificates()
                        .and_then(<[_]>::first)
                        .map(|leaf| Fingerprint::of_der(leaf));
                    let peer = Peer { address, certificate };
                    speak(stream, peer, router, &shutdown).await;
                }
                Ok(Err(error)) => tracing::debug!(%address, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "TLS handshake took too long"),
            }
        }
    }
    drop(turn);
}

async fn speak<S>(stream: S, peer: Peer, router: Router, shutdown: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(64);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64).keep_alive_interval(Duration::from_secs(30));
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let router = router.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        let (request, body) = unread::hold(request);
        async move {
            let response = match router.oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
            if let Some(body) = body {
                body.drain().await;
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}
