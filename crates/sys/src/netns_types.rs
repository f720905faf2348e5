//! What [`netns`](crate::netns) takes and gives, which is the same on every system.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

/// What is set up in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// An address of the namespace's loopback device, and the length of the prefix that becomes local with it.
    pub v4: (Ipv4Addr, u8),
    /// The same for IPv6.
    pub v6: (Ipv6Addr, u8),
    /// Where a UDP socket is bound, and a TCP socket listens.
    pub service: SocketAddrV4,
    /// TCP ports that a socket each is made for, at most `netns::MAX_PORTS`.
    pub ports: Vec<u16>,
}

/// The sockets. All are close-on-exec and non-blocking.
#[derive(Debug)]
pub struct Made {
    /// Bound to [`Wanted::service`].
    pub udp: OwnedFd,
    /// Listens there.
    pub tcp: OwnedFd,
    /// One for each of [`Wanted::ports`], in their order.
    pub ports: Vec<PortSocket>,
    /// Whether the IPv6 prefix is local there, too; where it is not, the sockets of the ports are IPv4 ones.
    pub ipv6: bool,
}

/// A TCP socket that neither listens nor is connected.
#[derive(Debug)]
pub struct PortSocket {
    /// Its port.
    pub port: u16,
    /// Where the namespace has IPv6, a socket of that family that takes IPv4 as well.
    pub socket: OwnedFd,
    /// Whether it is bound: below `netns::FIRST_FREE_PORT`, where that takes a capability.
    pub bound: bool,
}

/// Why there are no sockets.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub struct NetnsError {
    /// What was done.
    pub step: &'static str,
    /// The kernel's reason.
    pub source: io::Error,
}
