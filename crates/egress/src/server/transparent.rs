//! Connections of programs that know no proxy, to an address that stands for a name.
//!
//! Nothing is said on them but what the origin says: a refusal is a reset, and its reason is in the audit and on the
//! directive's stderr.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};

use super::attempt::{Attempt, Method};
use super::departure;
use super::names::NameService;
use super::pause_after;
use super::session::Session;
use super::tunnel;
use crate::policy::reason::Reason;
use crate::stream::Stream;
use crate::wire::host::Destination;

/// What the address of a connection's near end stands for.
enum Meant {
    Name(Destination),
    /// Nothing: the program was told no such address.
    Nothing(SocketAddr),
    /// The sandbox itself. The port is open on every address, and nobody is there on this one.
    Itself,
}

impl NameService {
    /// Takes the connections of one port.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        if let Err(error) = departure::keep_asking(&listener) {
            tracing::debug!(%error, "keep-alive not set");
        }
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    pause_after(&error).await;
                    continue;
                }
            };
            let Ok(slot) = Arc::clone(&self.bounds.slots).try_acquire_owned() else {
                self.shared.counters.count_connection_refused();
                reset(&stream);
                continue;
            };
            let meant = self.meant(&stream);
            let session = Session::new(Arc::clone(&self.shared), Stream::tcp(stream));
            let cancel = self.bounds.cancel.clone();
            self.bounds.connections.spawn(async move {
                cancel.run_until_cancelled(session.transparent(meant)).await;
                drop(slot);
            });
        }
    }

    fn meant(&self, stream: &TcpStream) -> Meant {
        let Ok(local) = stream.local_addr() else { return Meant::Itself };
        let address = local.ip().to_canonical();
        match self.name(address) {
            Some(host) => Meant::Name(Destination { host, port: local.port() }),
            None if address.is_loopback() || is_own(address) => Meant::Itself,
            None => Meant::Nothing(SocketAddr::new(address, local.port())),
        }
    }
}

/// Whether it is the address that the sandbox's own connections come from.
fn is_own(address: IpAddr) -> bool {
    address == crate::names::NETWORK_V4.0 || address == crate::names::NETWORK_V6.0
}

impl Session {
    async fn transparent(self, meant: Meant) {
        let shared = Arc::clone(&self.shared);
        let to = match meant {
            Meant::Name(to) => to,
            Meant::Nothing(address) => {
                drop(Attempt::unreadable(&shared, Method::Tcp, &address.to_string(), Reason::InvalidDestination));
                return reset(&self.client);
            }
            Meant::Itself => return reset(&self.client),
        };
        let mut attempt = Attempt::at(&shared, Method::Tcp, &to);
        match self.open(&mut attempt, &to).await {
            Err(_) => reset(&self.client),
            Ok(origin) => tunnel::carry(&shared, &mut attempt, &to, (&self.client, Vec::new()), &origin).await,
        }
    }
}

/// Makes the end of the connection a reset: a program that was refused should not read an orderly end.
fn reset(stream: &impl std::os::fd::AsFd) {
    if let Err(error) = sockopt::set_socket_linger(stream, Some(Duration::ZERO)) {
        tracing::debug!(%error, "SO_LINGER not set");
    }
}
