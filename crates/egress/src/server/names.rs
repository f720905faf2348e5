//! The name service of a directive: answers questions, and opens the ports on which the names are reached.
//!
//! A port is listened on once a name that is reached on it has been asked for, and not before: the sandbox's own programs
//! may want it, and most tools use the proxy and ask for no name.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use conduits::DnsName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attempt::{Attempt, Method};
use super::{Shared, pause_after};
use crate::denial::MAX_DENIED_DESTINATIONS;
use crate::names::message::{self, Known, MAX_QUERY};
use crate::names::table::Table;
use crate::names::{NameSockets, PortSocket};
use crate::policy::Refusal;
use crate::policy::reason::Reason;
use crate::wire::host::Destination;

/// Connections that ask for names at once.
const MAX_ASKING: usize = 8;
/// How long one of them may take for a question.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted on one port.
const BACKLOG: i32 = 128;

/// What a directive's connections are counted and ended by.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) connections: TaskTracker,
    pub(super) slots: Arc<Semaphore>,
    pub(super) cancel: CancellationToken,
}

/// The service.
#[derive(Debug)]
pub(super) struct NameService {
    pub(super) shared: Arc<Shared>,
    pub(super) bounds: Bounds,
    /// The ports that there are sockets for.
    served: Vec<u16>,
    ipv6: bool,
    table: Mutex<Table>,
    doors: Mutex<BTreeMap<u16, Door>>,
    /// Names and ports whose denial has been told. Asking for a name is no attempt to reach it, so once is enough.
    told: Mutex<HashSet<String>>,
}

/// A port, until it is listened on and after.
#[derive(Debug)]
enum Door {
    Shut { socket: OwnedFd, bound: bool },
    Open,
}

impl NameService {
    /// Starts serving, as tasks that are cancelled with the connections.
    pub(super) fn start(shared: Arc<Shared>, bounds: Bounds, sockets: NameSockets) -> io::Result<()> {
        sockets.udp.set_nonblocking(true)?;
        sockets.tcp.set_nonblocking(true)?;
        let (udp, tcp) = (UdpSocket::from_std(sockets.udp)?, TcpListener::from_std(sockets.tcp)?);
        let served = sockets.ports.iter().map(|port| port.port).collect();
        let shut = |PortSocket { port, socket, bound }| (port, Door::Shut { socket, bound });
        let service = Arc::new(Self {
            shared,
            bounds: bounds.clone(),
            served,
            ipv6: sockets.ipv6,
            table: Mutex::default(),
            doors: Mutex::new(sockets.ports.into_iter().map(shut).collect()),
            told: Mutex::default(),
        });
        let datagrams = Arc::clone(&service);
        let cancel = bounds.cancel.clone();
        bounds.connections.spawn(async move { cancel.run_until_cancelled(datagrams.serve_datagrams(udp)).await });
        let cancel = bounds.cancel.clone();
        bounds.connections.spawn(async move { cancel.run_until_cancelled(service.serve_streams(tcp)).await });
        Ok(())
    }

    async fn serve_datagrams(self: Arc<Self>, socket: UdpSocket) {
        let mut query = vec![0; MAX_QUERY];
        loop {
            match socket.recv_from(&mut query).await {
                Ok((length, peer)) => {
                    let Some(answer) = self.answer(query.get(..length).unwrap_or_default()) else { continue };
                    // A peer that takes no answer asks again.
                    if let Err(error) = socket.try_send_to(&answer, peer) {
                        tracing::trace!(%error, "an answer about a name was not taken");
                    }
                }
                Err(error) => pause_after(&error).await,
            }
        }
    }

    async fn serve_streams(self: Arc<Self>, listener: TcpListener) {
        let asking = Arc::new(Semaphore::new(MAX_ASKING));
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            };
            // One too many is closed: a resolver asks again.
            let Ok(place) = Arc::clone(&asking).try_acquire_owned() else { continue };
            let (service, cancel) = (Arc::clone(&self), self.bounds.cancel.clone());
            self.bounds.connections.spawn(async move {
                if let Some(Err(error)) = cancel.run_until_cancelled(service.serve_stream(stream)).await {
                    tracing::trace!(%error, "a connection that asked for names ended");
                }
                drop(place);
            });
        }
    }

    /// Each message is preceded by its length (RFC 1035, 4.2.2).
    async fn serve_stream(self: Arc<Self>, mut stream: TcpStream) -> io::Result<()> {
        let mut query = vec![0; MAX_QUERY];
        loop {
            let asked = async {
                let length = usize::from(stream.read_u16().await?);
                let query = query.get_mut(..length).ok_or(io::ErrorKind::InvalidData)?;
                stream.read_exact(query).await?;
                let Some(answer) = self.answer(query) else { return Err(io::ErrorKind::InvalidData.into()) };
                let mut bytes = u16::try_from(answer.len()).unwrap_or(0).to_be_bytes().to_vec();
                bytes.extend(answer);
                stream.write_all(&bytes).await
            };
            timeout(QUESTION_TIMEOUT, asked).await.map_err(|_| io::ErrorKind::TimedOut)??;
        }
    }

    fn answer(self: &Arc<Self>, query: &[u8]) -> Option<Vec<u8>> {
        message::answer(query, |host, wants_address| self.look_up(host, wants_address))
    }

    /// What is said of a name: nothing but what the policy and the table know.
    fn look_up(self: &Arc<Self>, host: &DnsName, wants_address: bool) -> Known {
        let ports = match self.shared.policy.judge_name(host, &self.served, Instant::now()) {
            Ok(ports) => ports,
            Err(refusal) => {
                if wants_address {
                    self.tell(host, 0, &refusal);
                }
                return Known::Absent;
            }
        };
        if !wants_address {
            return Known::As(Ipv4Addr::UNSPECIFIED, None);
        }
        // Every one is tried: a port that a program of the sandbox's has taken is told, the others serve.
        let opened: Vec<bool> = ports.iter().map(|port| self.open(host, *port)).collect();
        if !opened.contains(&true) {
            return Known::Unknown;
        }
        let addresses = self.table.lock().unwrap_or_else(PoisonError::into_inner).addresses(host);
        match addresses {
            Some((four, six)) => Known::As(four, Some(six).filter(|_| self.ipv6)),
            None => {
                let why = "more names were looked up than one directive may have; use the proxy for further ones";
                self.tell(host, 0, &Refusal::new(Reason::Other, why));
                Known::Unknown
            }
        }
    }

    /// Listens on a port, unless it does already; `false` where somebody in the sandbox has the port.
    fn open(self: &Arc<Self>, host: &DnsName, port: u16) -> bool {
        let mut doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(door @ Door::Shut { .. }) = doors.get_mut(&port) else { return doors.contains_key(&port) };
        let Door::Shut { socket, bound } = std::mem::replace(door, Door::Open) else { return true };
        match listen(socket, bound, self.ipv6, port) {
            Ok(listener) => {
                let (service, cancel) = (Arc::clone(self), self.bounds.cancel.clone());
                let accepting = async move { cancel.run_until_cancelled(service.accept(listener)).await };
                self.bounds.connections.spawn(accepting);
                true
            }
            Err((socket, bound, error)) => {
                *door = Door::Shut { socket, bound };
                drop(doors);
                tracing::debug!(port, %error, "a port of the name service cannot be listened on");
                let why = format!(
                    "a program in the sandbox has port {port}; use the proxy, or another port for that program"
                );
                self.tell(host, port, &Refusal::new(Reason::Other, why));
                false
            }
        }
    }

    /// Notes a denial once, as far as there is room to remember it.
    fn tell(&self, host: &DnsName, port: u16, refusal: &Refusal) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MAX_DENIED_DESTINATIONS || !told.insert(format!("{host}:{port}")) {
            return;
        }
        drop(told);
        let mut attempt = match port {
            0 => Attempt::unreadable(&self.shared, Method::Dns, host.as_str(), refusal.reason),
            port => Attempt::at(&self.shared, Method::Dns, &Destination { host: host.clone(), port }),
        };
        attempt.deny(refusal);
    }

    /// The name that an address of the sandbox's stands for.
    pub(super) fn name(&self, address: IpAddr) -> Option<DnsName> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).name(address).cloned()
    }
}

/// The socket as a listener, or back again, with whether it is bound by now.
fn listen(socket: OwnedFd, bound: bool, ipv6: bool, port: u16) -> Result<TcpListener, (OwnedFd, bool, io::Error)> {
    if !bound {
        let any = if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        if let Err(errno) = rustix::net::bind(&socket, &SocketAddr::new(any, port)) {
            return Err((socket, false, errno.into()));
        }
    }
    if let Err(errno) = rustix::net::listen(&socket, BACKLOG) {
        return Err((socket, true, errno.into()));
    }
    let again = match socket.try_clone() {
        Ok(again) => again,
        Err(error) => return Err((socket, true, error)),
    };
    let listener = std::net::TcpListener::from(socket);
    listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener)).map_err(|error| (again, true, error))
}
