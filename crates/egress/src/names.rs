//! Names for programs that know no proxy.
//!
//! A name that the policy allows gets an address that means it inside this one sandbox and nothing anywhere else; a
//! connection to such an address is judged, dialled and accounted for as if the proxy had been asked for the name
//! (`server::transparent`). Any other name does not exist, and that is said at once. Nobody is asked: what is answered
//! here comes from the policy and a [`table`] alone, and no name leaves the host before a connection to it is allowed.
//!
//! ```text
//!  getaddrinfo ──▶ 127.0.0.1:53 ──▶ message ──▶ policy ──▶ table ──▶ 198.18.1.7, fd6e:6578:7573::107
//!      connect ──▶ 198.18.1.7:5432 ──▶ table ──▶ db.example:5432 ──▶ policy ──▶ dial
//! ```
//! Leaves to others: making the sockets in the sandbox's network, where both prefixes are local.

pub mod message;
pub(crate) mod table;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use crate::policy::EgressPolicy;

/// The sandbox's own address among those that stand for names, and the length of their prefix: a range for measurements
/// between networks (RFC 2544), which nothing on the Internet has.
pub const NETWORK_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 1), 15);
/// The same for IPv6, of the range that everybody may use at home (RFC 4193).
pub const NETWORK_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0xfd6e, 0x6578, 0x7573, 0, 0, 0, 0, 1), 64);
/// Where names are asked for: where a resolver asks that was told nothing.
pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 53);
/// Most ports that are served for one directive. An allowlist that names more has the rest by proxy alone.
pub const MAX_PORTS: usize = 64;

/// The sockets of a name service, made in the sandbox's network.
#[derive(Debug)]
pub struct NameSockets {
    /// Bound to [`SERVICE`].
    pub udp: UdpSocket,
    /// Listens there.
    pub tcp: TcpListener,
    /// A socket for each port of [`served_ports`].
    pub ports: Vec<PortSocket>,
    /// Whether [`NETWORK_V6`] is local there, too, and the sockets of the ports are of that family.
    pub ipv6: bool,
}

/// A TCP socket that does not listen yet: the sandbox's own programs may want the port, and nobody has asked for a name.
#[derive(Debug)]
pub struct PortSocket {
    /// Its port.
    pub port: u16,
    /// The socket.
    pub socket: OwnedFd,
    /// Whether it is bound to its port already.
    pub bound: bool,
}

/// The ports that a directive's name service takes connections on: those that its allowlist names, but for the proxy's own
/// and that of the service. None without an allowlist.
#[must_use]
pub fn served_ports(policy: &EgressPolicy, proxy_port: u16) -> Vec<u16> {
    let is_free = |port: &u16| *port != proxy_port && *port != SERVICE.port();
    policy.named_ports().into_iter().filter(is_free).take(MAX_PORTS).collect()
}

#[cfg(test)]
mod tests {
    use conduits::NetCapability;
    use serde_json::json;

    use super::*;
    use crate::policy::OperatorRules;

    #[test]
    fn the_lowest_ports_are_served_but_for_two() {
        let entries: Vec<String> = (20..100).chain([9080]).map(|port| format!("a.example:{port}")).collect();
        let net = NetCapability::from_value(&json!({"mode": "allowlist", "allow": entries})).unwrap();
        let policy = EgressPolicy::compile(&net, &OperatorRules::default(), tokio::time::Instant::now()).unwrap();
        let expected: Vec<u16> = (20..=84).filter(|port| *port != 53).collect();
        assert_eq!(
            served_ports(&policy, 80),
            expected.iter().copied().filter(|port| *port != 80).chain([85]).collect::<Vec<_>>()
        );
        assert_eq!(served_ports(&policy, 9080), expected);
        assert_eq!(expected.len(), MAX_PORTS);
    }
}
