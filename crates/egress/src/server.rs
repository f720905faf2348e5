//! The proxy of one directive: accepts, bounds, and hands each connection to its protocol.
//!
//! Promises: the first byte decides the protocol; a connection that is one too many is told so;
//! every wait has a bound; cancelling ends every connection and returns the summary.
//! Leaves to others: the listener (a value), the policy (a value), showing denials.

mod attempt;
mod departure;
mod exchange;
mod http;
mod names;
mod refuse;
mod session;
mod socks;
mod transparent;
mod tunnel;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use conduits::DirectiveId;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::AuditLog;
use crate::counters::{EgressCounters, EgressSummary};
use crate::denial::{Denial, Denied};
use crate::dial::{Dialer, Resolver, UpstreamProxy};
use crate::names::NameSockets;
use crate::policy::EgressPolicy;
use crate::stream::Stream;
use crate::wire::credential::Credential;
use names::{Bounds, NameService};
use session::Session;

/// Connections over the bound that are told so at once; more than these wait in the backlog's place and are closed.
const MAX_REFUSALS: usize = 32;
/// How long accepting rests when the system has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the end waits for connections to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What the proxy accepts on.
#[derive(Debug)]
pub enum ProxyListener {
    /// TCP, in whatever network namespace the socket was made.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl ProxyListener {
    /// Takes over a listening TCP socket, such as one received from a sandbox.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking or registered with the runtime.
    pub fn from_std_tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener).map(Self::Tcp)
    }

    /// Takes over a listening Unix socket.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking or registered with the runtime.
    pub fn from_std_unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        UnixListener::from_std(listener).map(Self::Unix)
    }

    /// What is sent goes out at once, and clients are asked whether they are there: what is accepted inherits both.
    fn set_up(&self) {
        let Self::Tcp(listener) = self else { return };
        if let Err(error) = rustix::net::sockopt::set_tcp_nodelay(listener, true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
        if let Err(error) = departure::keep_asking(listener) {
            tracing::debug!(%error, "keep-alive not set");
        }
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

/// What a proxy is made of.
#[derive(Debug)]
pub struct ProxyParts {
    /// Whose proxy it is; named in audit lines.
    pub directive_id: DirectiveId,
    /// What the directive may reach.
    pub policy: EgressPolicy,
    /// The daemon's resolver.
    pub resolver: Resolver,
    /// The proxy of the operator's network that everything goes out through, where there is one.
    pub upstream: Option<UpstreamProxy>,
    /// The daemon's audit file.
    pub audit: AuditLog,
    /// The daemon's counters.
    pub counters: Arc<EgressCounters>,
    /// Where first denials of a destination go; a full channel loses them (a bound of
    /// [`DENIAL_QUEUE`](crate::DENIAL_QUEUE) never is).
    pub denials: mpsc::Sender<Denial>,
    /// Asked of every client where the listener is reachable by others on the host.
    pub credential: Option<Credential>,
}

/// What a directive's connections share.
#[derive(Debug)]
struct Shared {
    directive_id: Arc<str>,
    policy: Arc<EgressPolicy>,
    dialer: Dialer,
    audit: AuditLog,
    counters: Arc<EgressCounters>,
    denials: mpsc::Sender<Denial>,
    credential: Option<Credential>,
    totals: Totals,
    denied: Denied,
}

#[derive(Debug, Default)]
struct Totals {
    allowed: AtomicU64,
    denied: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

/// The egress proxy of one directive.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    names: Option<NameSockets>,
}

impl Proxy {
    /// A proxy that is ready to serve.
    #[must_use]
    pub fn new(parts: ProxyParts) -> Self {
        let policy = Arc::new(parts.policy);
        let shared = Shared {
            directive_id: parts.directive_id.as_str().into(),
            dialer: Dialer::new(parts.resolver, Arc::clone(&policy), parts.upstream),
            policy,
            audit: parts.audit,
            counters: parts.counters,
            denials: parts.denials,
            credential: parts.credential,
            totals: Totals::default(),
            denied: Denied::default(),
        };
        Self { shared: Arc::new(shared), names: None }
    }

    /// The same with a name service for programs that know no proxy.
    #[must_use]
    pub fn with_names(self, sockets: NameSockets) -> Self {
        Self { names: Some(sockets), ..self }
    }

    /// Serves until cancelled; then closes every connection and says what was done.
    pub async fn serve(self, listener: ProxyListener, cancel: CancellationToken) -> EgressSummary {
        listener.set_up();
        let connections = TaskTracker::new();
        let slots = Arc::new(Semaphore::new(self.shared.policy.max_connections));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        if let Some(sockets) = self.names {
            let bounds = Bounds { connections: connections.clone(), slots: Arc::clone(&slots), cancel: cancel.clone() };
            if let Err(error) = NameService::start(Arc::clone(&self.shared), bounds, sockets) {
                tracing::error!(directive_id = %self.shared.directive_id, %error, "no name service for this directive");
            }
        }
        loop {
            let client = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok(client) => client,
                    Err(error) => {
                        pause_after(&error).await;
                        continue;
                    }
                },
            };
            let session = Session::new(Arc::clone(&self.shared), client);
            let stop = cancel.clone();
            if let Ok(slot) = Arc::clone(&slots).try_acquire_owned() {
                // A future that another one takes is held twice in that one's state; its box is a pointer.
                let run = Box::pin(session.run());
                connections.spawn(async move {
                    stop.run_until_cancelled(run).await;
                    drop(slot);
                });
                continue;
            }
            self.shared.counters.count_connection_refused();
            if let Ok(slot) = Arc::clone(&refusals).try_acquire_owned() {
                connections.spawn(async move {
                    stop.run_until_cancelled(session.refuse_one_too_many()).await;
                    drop(slot);
                });
            }
        }
        drop(listener);
        connections.close();
        if tokio::time::timeout(CLOSE_TIMEOUT, connections.wait()).await.is_err() {
            tracing::error!(directive_id = %self.shared.directive_id, "egress connections did not end in time");
        }
        self.shared.summary()
    }
}

impl Shared {
    fn summary(&self) -> EgressSummary {
        let (allowed, denied) = (self.totals.allowed.load(Relaxed), self.totals.denied.load(Relaxed));
        EgressSummary {
            attempts: allowed + denied,
            allowed,
            denied,
            bytes_up: self.totals.bytes_up.load(Relaxed),
            bytes_down: self.totals.bytes_down.load(Relaxed),
            denied_destinations: self.denied.list(),
        }
    }
}

/// A connection that ended before it was accepted is nobody's trouble; a lack of descriptors passes.
async fn pause_after(error: &io::Error) {
    let is_exhausted = !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted);
    if is_exhausted {
        tracing::warn!(%error, "the egress proxy cannot accept a connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle tunnel costs its task and two sockets: what is only needed on the way there is boxed.
    #[tokio::test]
    async fn the_task_of_a_connection_is_small() {
        let folder = tempfile::tempdir().unwrap();
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let settings = crate::audit::AuditSettings::at(folder.path().join("a.jsonl"));
        let net = conduits::NetCapability::from_value(&serde_json::json!({"mode": "none"})).unwrap();
        let proxy = Proxy::new(ProxyParts {
            directive_id: "d".parse().unwrap(),
            policy: EgressPolicy::compile(&net, &crate::OperatorRules::default(), tokio::time::Instant::now()).unwrap(),
            resolver: Resolver::with_nameservers(&["127.0.0.1:1".parse().unwrap()]).unwrap(),
            upstream: None,
            audit: AuditLog::start(settings, &tasks, cancel.clone()).await.unwrap(),
            counters: Arc::default(),
            denials: mpsc::channel(1).0,
            credential: None,
        });
        let (client, _peer) = tokio::net::UnixStream::pair().unwrap();
        let session = Session::new(proxy.shared, Stream::Unix(client));
        let bytes = std::mem::size_of_val(&session.run());
        assert!(bytes <= 3072, "{bytes} bytes");
    }
}
