//! The network of one run: its egress proxy, joined to the sandbox by an endpoint value.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use conduits::{DirectiveId, DriverKind, LogStream};
use egress::{
    Credential, DENIAL_QUEUE, Denial, EgressPolicy, EgressSummary, MAX_DENIED_DESTINATIONS, NameSockets, PolicyError,
    PortSocket, Proxy, ProxyListener, ProxyParts, names,
};
use sandbox::{NetworkPath, ProxyAttachment, SandboxSockets};
use sys::netns::{Made, Wanted};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::admit::Admitted;
use crate::config::{Bridge, ContainerNetwork};
use crate::engine::Engine;
use crate::logs::Logs;

/// The line after the last denial that is shown.
const NO_FURTHER_DENIALS: &str =
    "[egress] further denied destinations are not shown here; the audit file has all of them";

/// How long the proxy may take to end its connections after the run.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// The proxy of one run while it serves.
#[derive(Debug)]
pub struct Network {
    cancel: CancellationToken,
    serving: Option<JoinHandle<Option<EgressSummary>>>,
    socket: Option<PathBuf>,
    address: Option<ProxyAddress>,
}

/// Where a proxy on the host's network is found, and by whom: the credential is the run's own.
#[derive(Debug, Clone)]
pub struct ProxyAddress {
    /// For `HTTP_PROXY` and its like.
    pub http: String,
    /// For `ALL_PROXY`.
    pub socks: String,
    /// What of them nobody else is to read.
    pub secret: String,
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
    /// No port for a container's proxy.
    #[error("cannot listen on 127.0.0.1 for the egress proxy of a container: {0}")]
    Port(std::io::Error),
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
            DriverKind::Container => match engine.config.container.network {
                ContainerNetwork::Isolated => Self::serve(engine, id, admitted, logs, Way::inside),
                ContainerNetwork::Host => Self::serve(engine, id, admitted, logs, Way::beside),
            },
            DriverKind::Bwrap | DriverKind::Firecracker => Self::open_in_bwrap(engine, id, admitted, logs),
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
        Self::serve(engine, id, admitted, logs, Way::of_bwrap)
    }

    /// A proxy with the directive's policy, joined to its sandbox in this way.
    fn serve(
        engine: &Engine,
        id: &DirectiveId,
        admitted: &Admitted,
        logs: &Logs,
        way: fn(&Engine, &EgressPolicy) -> Result<Way, NetworkError>,
    ) -> Result<(Self, NetworkPath), NetworkError> {
        let rules = engine.egress.rules().map_err(NetworkError::OwnAddresses)?;
        let policy = EgressPolicy::compile(&admitted.spec.net, &rules, tokio::time::Instant::now())?;
        let Way { coming, path, socket, credential } = way(engine, &policy)?;
        let address = credential.as_ref().zip(coming.port()).map(|(credential, port)| {
            let secret = credential.userinfo();
            let at = format!("{secret}@127.0.0.1:{port}");
            ProxyAddress { http: format!("http://{at}"), socks: format!("socks5h://{at}"), secret }
        });
        let (denials, shown) = mpsc::channel(DENIAL_QUEUE);
        let proxy = Proxy::new(ProxyParts {
            directive_id: id.clone(),
            policy,
            resolver: engine.egress.resolver.clone(),
            upstream: engine.egress.upstream.clone(),
            audit: engine.egress.audit.clone(),
            counters: Arc::clone(&engine.egress.counters),
            denials,
            credential,
        });
        let cancel = CancellationToken::new();
        let own_names_asked = engine.egress.own_names_asked();
        let (logs, until) = (logs.clone(), cancel.clone());
        let serving = engine.tasks.spawn(async move {
            // Before that, a name of the mothership that the configuration does not have would lead to it.
            tokio::select! {
                () = own_names_asked => {}
                () = until.cancelled() => {}
            }
            serve(proxy, coming, shown, logs, until).await
        });
        Ok((Self { cancel, serving: Some(serving), socket, address }, path))
    }

    fn none() -> Self {
        Self { cancel: CancellationToken::new(), serving: None, socket: None, address: None }
    }

    /// Where the proxy is, where that is not 127.0.0.1:9080 inside.
    #[must_use]
    pub fn address(&self) -> Option<&ProxyAddress> {
        self.address.as_ref()
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

/// How a sandbox and its proxy come together.
struct Way {
    coming: Coming,
    path: NetworkPath,
    /// A file that goes with the network.
    socket: Option<PathBuf>,
    /// What the proxy asks for, where others could reach it.
    credential: Option<Credential>,
}

impl Way {
    fn of_bwrap(engine: &Engine, policy: &EgressPolicy) -> Result<Self, NetworkError> {
        let ports = names::served_ports(policy, guest::PROXY_PORT);
        match engine.config.bwrap.bridge {
            Bridge::Builtin if ports.is_empty() => Self::inside(engine, policy),
            Bridge::Builtin => {
                let (to, receive) = oneshot::channel();
                let wanted = Wanted { v4: names::NETWORK_V4, v6: names::NETWORK_V6, service: names::SERVICE, ports };
                Ok(Self::proxied(Coming::WithNames(receive), ProxyAttachment::ListenerWithNames { to, wanted }, None))
            }
            Bridge::Socat => {
                let path = socket_path(&engine.config.bwrap.proxy_socket_dir);
                let fail = |source| NetworkError::Socket { path: path.clone(), source };
                let listener = std::os::unix::net::UnixListener::bind(&path).map_err(fail)?;
                let listener = ProxyListener::from_std_unix(listener).map_err(fail)?;
                let socat = socat_inside(&engine.config.bwrap.socat_path);
                let attachment = ProxyAttachment::Socket { path: path.clone(), socat };
                Ok(Self::proxied(Coming::Here(listener, None), attachment, Some(path)))
            }
        }
    }

    /// The sandbox listens, and its socket comes out.
    fn inside(_: &Engine, _: &EgressPolicy) -> Result<Self, NetworkError> {
        let (send, receive) = oneshot::channel();
        Ok(Self::proxied(Coming::FromSandbox(receive), ProxyAttachment::Listener(send), None))
    }

    /// A port of the host's, for a command that has the host's network: every user of the host could connect to it.
    fn beside(_: &Engine, _: &EgressPolicy) -> Result<Self, NetworkError> {
        let listen = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            let port = listener.local_addr()?.port();
            Ok((ProxyListener::from_std_tcp(listener)?, port))
        };
        let (listener, port) = listen().map_err(NetworkError::Port)?;
        let coming = Coming::Here(listener, Some(port));
        Ok(Self { coming, path: NetworkPath::HostNetwork, socket: None, credential: Some(Credential::generate()) })
    }

    fn proxied(coming: Coming, attachment: ProxyAttachment, socket: Option<PathBuf>) -> Self {
        Self { coming, path: NetworkPath::Proxied(attachment), socket, credential: None }
    }
}

/// Where the proxy's listener comes from.
enum Coming {
    FromSandbox(oneshot::Receiver<TcpListener>),
    /// With the sockets of the name service.
    WithNames(oneshot::Receiver<SandboxSockets>),
    /// It is there, on this port of the host's where it is one.
    Here(ProxyListener, Option<u16>),
}

impl Coming {
    fn port(&self) -> Option<u16> {
        match self {
            Self::Here(_, port) => *port,
            Self::FromSandbox(_) | Self::WithNames(_) => None,
        }
    }
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
        let mut count = 0;
        while let Some(denial) = shown.recv().await {
            logs.notice(LogStream::Stderr, &denial.to_string()).await;
            count += 1;
            if count == MAX_DENIED_DESTINATIONS {
                logs.notice(LogStream::Stderr, NO_FURTHER_DENIALS).await;
            }
        }
    };
    // The proxy holds the sending side: the lines end with it.
    let (summary, ()) = tokio::join!(proxy.serve(listener, cancel), show);
    Some(summary)
}

/// The proxy and what it accepts on, once that is there; `None` where the sandbox ended before.
async fn came(proxy: Proxy, coming: Coming, logs: &Logs) -> Option<(Proxy, io::Result<ProxyListener>)> {
    match coming {
        Coming::Here(listener, _) => Some((proxy, Ok(listener))),
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
