//! Where to listen, and the names that the server's certificate is for.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use rustls_pki_types::DnsName;
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// Where to listen: `:3000` (every address of the machine), `127.0.0.1:3000`, `[::1]:3000` or `localhost:3000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// On every address, IPv6 and IPv4; on IPv4 alone where the machine has no IPv6.
    Everywhere(u16),
    /// On this one.
    At(SocketAddr),
}

/// A text that is no address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address to listen on; write :3000 (every address), 127.0.0.1:3000 or [::1]:3000")]
pub struct ListenError(String);

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let wrong = || ListenError(text.to_owned());
        let port = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse::<u16>().map_err(|_| wrong()),
            false => Err(wrong()),
        };
        match text.rsplit_once(':') {
            Some(("" | "*", digits)) => Ok(Self::Everywhere(port(digits)?)),
            Some(("localhost", digits)) => Ok(Self::At((Ipv4Addr::LOCALHOST, port(digits)?).into())),
            _ => text.parse().map(Self::At).map_err(|_| wrong()),
        }
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::At(address)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere(port) => write!(f, ":{port}"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl Listen {
    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        matches!(self, Self::At(address) if address.ip().to_canonical().is_loopback())
    }

    /// Binds it.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn bind(&self) -> io::Result<TcpListener> {
        match *self {
            Self::At(address) => TcpListener::bind(address).await,
            Self::Everywhere(port) => match everywhere(port) {
                Err(error) if has_no_ipv6(&error) => TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await,
                bound => bound,
            },
        }
    }

    /// The address by which clients on this machine reach what was bound to `bound`.
    #[must_use]
    pub fn from_here(&self, bound: SocketAddr) -> SocketAddr {
        let ip = match (self, bound.ip()) {
            (Self::Everywhere(_), _) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            (Self::At(_), IpAddr::V4(ip)) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            (Self::At(_), IpAddr::V6(ip)) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            (Self::At(_), ip) => ip,
        };
        SocketAddr::new(ip, bound.port())
    }
}

fn everywhere(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    // A restart does not wait for the last one's connections to be forgotten.
    socket.set_reuseaddr(true)?;
    // net.ipv6.bindv6only may say otherwise (ipv6(7)).
    rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
    socket.bind((Ipv6Addr::UNSPECIFIED, port).into())?;
    socket.listen(BACKLOG)
}

fn has_no_ipv6(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [rustix::io::Errno::AFNOSUPPORT, rustix::io::Errno::ADDRNOTAVAIL].iter().any(|no| code == Some(no.raw_os_error()))
}

/// A further name of the server, for its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerName {
    /// A DNS name, perhaps with a leading `*.`.
    Dns(String),
    /// An address.
    Address(IpAddr),
}

/// A text that no certificate can be for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a DNS name nor an IP address; write one, such as mothership.example.com or 192.0.2.1")]
pub struct ServerNameError(String);

impl FromStr for ServerName {
    type Err = ServerNameError;

    fn from_str(text: &str) -> Result<Self, ServerNameError> {
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = inner.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        match DnsName::try_from(name.strip_prefix("*.").unwrap_or(&name)) {
            Ok(_) => Ok(Self::Dns(name)),
            Err(_) => Err(ServerNameError(text.to_owned())),
        }
    }
}

/// The names and addresses that the certificate of a server at `bound` is for: this machine's, and those it is told.
#[must_use]
pub fn certificate_names(host: Option<&str>, further: &[ServerName], bound: SocketAddr) -> (Vec<String>, Vec<IpAddr>) {
    let mut names = vec!["localhost".to_owned()];
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    if !bound.ip().is_unspecified() {
        addresses.push(bound.ip());
    }
    // A host may be called what no certificate can carry.
    let host = host.and_then(|host| host.parse().ok());
    for name in further.iter().chain(&host) {
        match name {
            ServerName::Dns(name) => names.push(name.clone()),
            ServerName::Address(address) => addresses.push(*address),
        }
    }
    names.sort();
    names.dedup();
    addresses.sort();
    addresses.dedup();
    (names, addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_to_listen_on() {
        let at = |text: &str| Some(Listen::At(text.parse().unwrap()));
        for (text, expected) in [
            (":3000", Some(Listen::Everywhere(3000))),
            ("*:0", Some(Listen::Everywhere(0))),
            ("0.0.0.0:3000", at("0.0.0.0:3000")),
            ("[::]:3000", at("[::]:3000")),
            ("localhost:1", at("127.0.0.1:1")),
            ("[::1]:1", at("[::1]:1")),
            ("3000", None),
            (":", None),
            (":65536", None),
            (":+1", None),
            ("::1:3000", None),
            ("example.com:3000", None),
            ("", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
        assert_eq!(Listen::Everywhere(3000).to_string(), ":3000");
    }

    #[test]
    fn only_loopback_is_loopback() {
        for (text, expected) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            (":1", false),
            ("0.0.0.0:1", false),
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().is_loopback(), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn everywhere_is_reached_by_ipv4() {
        let listen: Listen = ":0".parse().unwrap();
        let listener = listen.bind().await.unwrap();
        let here = listen.from_here(listener.local_addr().unwrap());
        assert!(here.ip().is_loopback() && here.is_ipv4(), "{here}");
        let (client, accepted) = tokio::join!(tokio::net::TcpStream::connect(here), listener.accept());
        assert_eq!(client.unwrap().local_addr().unwrap().port(), accepted.unwrap().1.port());
    }

    #[test]
    fn names_that_a_certificate_can_carry() {
        for (text, expected) in [
            ("mothership.example.com", Some("mothership.example.com")),
            ("Mothership.Example.COM.", Some("mothership.example.com")),
            ("*.example.com", Some("*.example.com")),
            ("my_service", Some("my_service")),
            ("a b", None),
            ("", None),
            (".", None),
            ("a..b", None),
            ("-a.example", None),
            ("https://a.example", None),
            ("a.example:3000", None),
            ("a.*.example", None),
            ("münchen.example", None),
            ("a\n", None),
        ] {
            let expected = expected.map(|name| ServerName::Dns(name.to_owned()));
            assert_eq!(text.parse().ok(), expected, "{text}");
        }
        for text in ["192.0.2.1", "2001:db8::1", "[2001:db8::1]"] {
            assert!(matches!(text.parse(), Ok(ServerName::Address(_))), "{text}");
        }
        let further = ["b.example".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        let (names, addresses) = certificate_names(Some("no name"), &further, "10.0.0.1:1".parse().unwrap());
        assert_eq!(names, ["b.example", "localhost"]);
        assert_eq!(addresses.len(), 4);
    }
}
