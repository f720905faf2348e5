//! The listener: accepts, shakes hands, and serves HTTP/1.1 and HTTP/2 on each connection.
//!
//! Every wait before a request is complete is bounded, the number of connections too, in all and of one address. Who is at the other
//! end (address, client certificate) is put beside each request as a [`Peer`]; what that is worth is asked
//! of the store at each request, so a revoked territory is out on its kept-alive connections too.

mod guests;
mod quiet;
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
use quiet::Quiet;
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
/// The time for a request's head, and for an idle connection to send the first one and the next one.
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
    let quiet = Quiet::new();
    let requests = quiet.clone();
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let under_way = requests.request();
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
            Ok::<_, Infallible>(under_way.until_sent(response))
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
        () = quiet.lasts(HEAD) => {
            tracing::debug!("a connection was quiet for too long");
            connection.as_mut().graceful_shutdown();
            // A request that came at the last moment is still answered.
            match tokio::time::timeout(DRAIN, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

    fn spoken() -> (DuplexStream, tokio::task::JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let slowly = || async {
            tokio::time::sleep(3 * HEAD).await;
            let last = tokio_stream::once(Ok::<_, Infallible>(Bytes::from_static(b"at last")));
            Body::from_stream(last)
        };
        let slow_body = || async {
            let (pieces, body) = tokio::sync::mpsc::channel(1);
            TaskTracker::new().spawn(async move {
                tokio::time::sleep(3 * HEAD).await;
                pieces.send(Ok::<_, Infallible>(Bytes::from_static(b"at last"))).await
            });
            Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(body))
        };
        let router = Router::new().route("/slow", get(slowly)).route("/live", get(slow_body));
        let peer = Peer { address: ([127, 0, 0, 1], 1).into(), certificate: None };
        let served =
            TaskTracker::new().spawn(async move { speak(theirs, peer, router, &CancellationToken::new()).await });
        (ours, served)
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_let_go() {
        for said in [&b""[..], b"G", b"PRI * HTTP", b"GET / HTTP/1.1\r\nhost: x\r\n", HELLO, &HELLO[..24]] {
            let (mut client, served) = spoken();
            client.write_all(said).await.unwrap();
            let ended = tokio::time::timeout(HEAD + DRAIN + Duration::from_secs(1), served).await;
            assert!(ended.is_ok(), "after {:?}", String::from_utf8_lossy(said));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer_is_not_quiet() {
        for path in ["/slow", "/live"] {
            let (mut client, _served) = spoken();
            let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("at last"), "{path}: {answer}");
        }
    }
}
