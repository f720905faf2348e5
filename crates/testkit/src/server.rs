//! A small HTTP server on a thread of its own, which can cut a connection in the middle of an answer.

use axum::Router;
use axum::extract::Extension;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// The connection that a request came in on.
#[derive(Clone)]
pub struct Connection {
    /// Its number, from 0.
    pub number: usize,
    /// The client's certificate (DER), where it showed one.
    pub certificate: Option<Arc<[u8]>>,
    cut: CancellationToken,
}

impl Connection {
    /// Cuts the connection: nothing more is written to it. A handler that calls this should then wait for ever.
    pub fn cut(&self) {
        self.cut.cancel();
    }
}

/// A thread with a runtime of its own, ended when dropped.
pub struct ServerThread {
    address: SocketAddr,
    cancel: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl ServerThread {
    /// Runs what `serve` makes of the listener and the token until it ends or the token is cancelled.
    pub(crate) fn start<F>(
        listener: TcpListener,
        serve: impl FnOnce(tokio::net::TcpListener, CancellationToken) -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = ()>,
    {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let thread = std::thread::Builder::new().name(format!("test-server-{}", address.port())).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let stopped = token.clone();
                tokio::select! {
                    () = serve(listener, token) => {}
                    () = stopped.cancelled() => {}
                }
            });
        })?;
        Ok(Self { address, cancel, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it: the listener is closed and every connection cut when this returns.
    pub fn stop(&mut self) {
        self.cancel.cancel();
        if let Some(thread) = self.thread.take() {
            // A panic of the server has been printed; the test that needed it fails at what it waits for.
            drop(thread.join());
        }
    }
}

impl Drop for ServerThread {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Serves the router on the listener; HTTP/1 and HTTP/2, with TLS where a configuration is given. Handlers get the
/// [`Connection`] as an extension.
pub fn serve_http(listener: TcpListener, tls: Option<Arc<ServerConfig>>, router: Router) -> io::Result<ServerThread> {
    ServerThread::start(listener, move |listener, _| accept(listener, tls.map(TlsAcceptor::from), router))
}

async fn accept(listener: tokio::net::TcpListener, tls: Option<TlsAcceptor>, router: Router) {
    let mut connections = JoinSet::new();
    for number in 0.. {
        let Ok((stream, _)) = listener.accept().await else { return };
        connections.spawn(connection(number, stream, tls.clone(), router.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(number: usize, stream: TcpStream, tls: Option<TlsAcceptor>, router: Router) {
    // Answers are small and awaited: without this each would wait for the client's acknowledgement.
    drop(stream.set_nodelay(true));
    let cut = CancellationToken::new();
    let Some(tls) = tls else {
        return speak(stream, Connection { number, certificate: None, cut }, router).await;
    };
    // A client that gives up in the handshake is no matter of the server's.
    let Ok(stream) = tls.accept(stream).await else { return };
    let certificates = stream.get_ref().1.peer_certificates();
    let certificate = certificates.and_then(|chain| chain.first()).map(|certificate| certificate.as_ref().into());
    speak(stream, Connection { number, certificate, cut }, router).await;
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, connection: Connection, router: Router) {
    let cut = connection.cut.clone();
    let service = TowerToHyperService::new(router.layer(Extension(connection)));
    let builder = Builder::new(TokioExecutor::new());
    tokio::select! {
        // How the connection ended shows in what the client got.
        _ended = builder.serve_connection_with_upgrades(TokioIo::new(stream), service) => {}
        () = cut.cancelled() => {}
    }
}

/// A listener on a free port of 127.0.0.1.
#[must_use]
pub fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}
