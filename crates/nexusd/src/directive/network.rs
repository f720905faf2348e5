//! The network of one run: its egress proxy, joined to the sandbox by an endpoint value.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conduits::{DirectiveId, DriverKind, LogStream};
use egress::{
    DENIAL_QUEUE, Denial, EgressPolicy, EgressSummary, NameSockets, PolicyError, PortSocket, Proxy, ProxyListener,
    ProxyParts, names,
};
use sandbox::{NetworkPath, ProxyAttachment, SandboxSockets};
use sys::netns::{Made, Wanted};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::admit::Admitted;
use crate::config::Bridge;
use crate::engine::Engine;
use crate::logs::Logs;

/// How long the proxy may take to end its connections after the run.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// The proxy of one run while it serves.
#[derive(Debug)]
pub struct Network {
    cancel: CancellationToken,
    serving: Option<JoinHandle<Option<EgressSummary>>>,
    socket: Option<PathBuf>,
}

/// Why a run has no way to its network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The capability is more than the operator allows.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The host's own addresses are not known, and no directive may reach them.
    #[error("cannot read the host's own addresses, which no directive may reach: {0}; nexusd needs /proc")]
    OwnAddresses(std::io::Error),
    /// No socket for socat.
    #[error("cannot make the egress proxy's socket {path}: {source}; see bwrap.proxy_socket_dir", path = path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Network {
    /// The network of the directive's own driver, and what the driver is told of it.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn open(
        engine: &Engine,
        id: &DirectiveId,
        admitted: &Admitted,
        logs: &Logs,
    ) -> Result<(Self, NetworkPath), NetworkError> {
        match admitted.driver {
            // Nothing is enforced there, and `started` says so.
            DriverKind::Host | DriverKind::DarwinAutomation => Ok((Self::none(), NetworkPath::HostNetwork)),
            DriverKind::Bwrap | DriverKind::Firecracker | DriverKind::Container => {
                Self::open_in_bwrap(engine, id, admitted, logs)
            }
        }
    }

    /// The directive's network in a bwrap sandbox, whatever its own driver is: for steps of ours such as a clone.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn open_in_bwrap(
        engine: &Engine,
        id: &DirectiveId,
        admitted: &Admitted,
        logs: &Logs,
    ) -> Result<(Self, NetworkPath), NetworkError> {
        let rules = engine.egress.rules().map_err(NetworkError::OwnAddresses)?;
        let policy = EgressPolicy::compile(&admitted.spec.net, &rules, tokio::time::Instant::now())?;
        let ports = names::served_ports(&policy, guest::PROXY_PORT);
        let (denials, shown) = mpsc::channel(DENIAL_QUEUE);
        let proxy = Proxy::new(ProxyParts {
            directive_id: id.clone(),
            policy,
            resolver: engine.egress.resolver.clone(),
            upstream: engine.egress.upstream.clone(),
            audit: engine.egress.audit.clone(),
            counters: Arc::clone(&engine.egress.counters),
            denials,
            credential: None,
        });
        let cancel = CancellationToken::new();
        let (listener, attachment, socket) = match engine.config.bwrap.bridge {
            Bridge::Builtin if ports.is_empty() => {
                let (send, receive) = oneshot::channel();
                (Coming::FromSandbox(receive), ProxyAttachment::Listener(send), None)
            }
            Bridge::Builtin => {
                let (to, receive) = oneshot::channel();
                let wanted = Wanted { v4: names::NETWORK_V4, v6: names::NETWORK_V6, service: names::SERVICE, ports };
                (Coming::WithNames(receive), ProxyAttachment::ListenerWithNames { to, wanted }, None)
            }
            Bridge::Socat => {
                let path = socket_path(&engine.config.bwrap.proxy_socket_dir);
                let fail = |source| NetworkError::Socket { path: path.clone(), source };
                let listener = std::os::unix::net::UnixListener::bind(&path).map_err(fail)?;
                let listener = ProxyListener::from_std_unix(listener).map_err(fail)?;
                let socat = socat_inside(&engine.config.bwrap.socat_path);
                (Coming::Here(listener), ProxyAttachment::Socket { path: path.clone(), socat }, Some(path))
            }
        };
        let own_names_asked = engine.egress.own_names_asked();
        let (logs, until) = (logs.clone(), cancel.clone());
        let serving = engine.tasks.spawn(async move {
            // Before that, a name of the mothership that the configuration does not have would lead to it.
            tokio::select! {
                () = own_names_asked => {}
                () = until.cancelled() => {}
            }
            serve(proxy, listener, shown, logs, until).await
        });
        Ok((Self { cancel, serving: Some(serving), socket }, NetworkPath::Proxied(attachment)))
    }

    fn none() -> Self {
        Self { cancel: CancellationToken::new(), serving: None, socket: None }
    }

    /// Ends the proxy and every connection through it; what it counted, where there was one.
    pub async fn close(mut self) -> Option<EgressSummary> {
        self.cancel.cancel();
        let serving = self.serving.take()?;
        match tokio::time::timeout(CLOSE_WITHIN, serving).await {
            Ok(Ok(summary)) => summary,
            Ok(Err(error)) => {
                warn!(%error, "an egress proxy ended badly");
                None
            }
            Err(_) => {
                warn!("an egress proxy did not end in time");
                None
            }
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.cancel.cancel();
        if let Some(socket) = &self.socket
            && let Err(error) = std::fs::remove_file(socket)
        {
            warn!(socket = %socket.display(), %error, "the egress proxy's socket stays behind");
        }
    }
}

/// Where the proxy's listener comes from.
enum Coming {
    FromSandbox(oneshot::Receiver<TcpListener>),
    /// With the sockets of the name service.
    WithNames(oneshot::Receiver<SandboxSockets>),
    Here(ProxyListener),
}

async fn serve(
    proxy: Proxy,
    coming: Coming,
    mut shown: mpsc::Receiver<Denial>,
    logs: Logs,
    cancel: CancellationToken,
) -> Option<EgressSummary> {
    let came = cancel.run_until_cancelled(came(proxy, coming, &logs)).await?;
    let (proxy, listener) = match came? {
        (proxy, Ok(listener)) => (proxy, listener),
        (_, Err(error)) => {
            warn!(%error, "a sandbox's listening socket cannot be served");
            return None;
        }
    };
    let show = async {
        while let Some(denial) = shown.recv().await {
            logs.notice(LogStream::Stderr, &denial.to_string()).await;
        }
    };
    // The proxy holds the sending side: the lines end with it.
    let (summary, ()) = tokio::join!(proxy.serve(listener, cancel), show);
    Some(summary)
}

/// The proxy and what it accepts on, once that is there; `None` where the sandbox ended before.
async fn came(proxy: Proxy, coming: Coming, logs: &Logs) -> Option<(Proxy, io::Result<ProxyListener>)> {
    match coming {
        Coming::Here(listener) => Some((proxy, Ok(listener))),
        Coming::FromSandbox(receive) => Some((proxy, ProxyListener::from_std_tcp(receive.await.ok()?))),
        Coming::WithNames(receive) => {
            let SandboxSockets { proxy: listener, names } = receive.await.ok()?;
            let proxy = match names {
                Ok(made) => proxy.with_names(name_sockets(made)),
                Err(error) => {
                    warn!(%error, "no name service in a sandbox");
                    let line = format!("[egress] no name service here ({error}): only what uses the proxy gets out");
                    logs.notice(LogStream::Stderr, &line).await;
                    proxy
                }
            };
            Some((proxy, ProxyListener::from_std_tcp(listener)))
        }
    }
}

/// The sockets as the proxy takes them.
fn name_sockets(made: Made) -> NameSockets {
    let port = |made: sys::netns::PortSocket| PortSocket { port: made.port, socket: made.socket, bound: made.bound };
    NameSockets {
        udp: made.udp.into(),
        tcp: made.tcp.into(),
        ports: made.ports.into_iter().map(port).collect(),
        ipv6: made.ipv6,
    }
}

/// Short and random: the path of a Unix socket has at most 107 bytes, and nobody should guess it.
fn socket_path(folder: &Path) -> PathBuf {
    folder.join(format!("{:016x}", rand::random::<u64>()))
}

/// `bwrap.socat_path` as the sandbox sees it: a bare name is looked for where packages put it.
fn socat_inside(path: &Path) -> PathBuf {
    if path.is_absolute() { path.to_owned() } else { Path::new("/usr/bin").join(path) }
}
