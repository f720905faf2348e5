//! Addresses in the configuration: where the mothership is, where to listen, which proxy to use.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;

/// The mothership's address: `https`, or `http` on loopback; without userinfo, query and fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(Url);

impl ServerUrl {
    /// Parses and checks. The error is the end of a sentence that begins with the value.
    ///
    /// # Errors
    /// When it is no URL, or one that would send identity and results over the network in the clear.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = parse_http_url(text)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must not carry a user or password: identity is tls.* or territory_id".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must not have a query or fragment".to_owned());
        }
        let parsed = Self(url);
        if parsed.0.scheme() == "http" && !parsed.is_loopback() {
            return Err(
                "is plain http off loopback, where anyone on the way could hand out commands: use https".to_owned()
            );
        }
        Ok(parsed)
    }

    /// The URL as given, with a path that ends in no slash.
    #[must_use]
    pub fn as_url(&self) -> &Url {
        &self.0
    }

    /// The address of an endpoint, whose path begins with a slash, beneath any path of the server's own.
    #[must_use]
    pub fn join(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        url
    }

    /// Whether the connection is TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether the host is this very machine: `localhost` or a loopback literal.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.0.host_str() {
            Some(host) if host.eq_ignore_ascii_case("localhost") => true,
            Some(host) => host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse::<IpAddr>()
                .is_ok_and(|address| address.to_canonical().is_loopback()),
            None => false,
        }
    }

    /// The host without brackets, and the port in force.
    #[must_use]
    pub fn host_port(&self) -> (&str, u16) {
        let host = self.0.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        (host, self.0.port_or_known_default().unwrap_or(443))
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

fn parse_http_url(text: &str) -> Result<Url, String> {
    let wrong = "is not a URL, such as https://mothership.example.com";
    // The parser drops tabs and line feeds and trims: what it then reads is not what the operator sees.
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(wrong.to_owned());
    }
    let url = Url::parse(text).map_err(|_| wrong.to_owned())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with https:// or http://".to_owned());
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(wrong.to_owned());
    }
    Ok(url)
}

/// An archive's address: `http` or `https`, without userinfo, or `file` with an absolute path of this machine.
pub(super) fn archive_url(text: &str) -> Result<String, String> {
    if text.starts_with("file:") {
        // Two slashes would make the first folder of the path a host.
        let path = text.strip_prefix("file://").filter(|path| path.starts_with('/'));
        let url = path.and_then(|_| Url::parse(text).ok()).filter(|url| url.to_file_path().is_ok());
        return url
            .map(String::from)
            .ok_or_else(|| "must name an absolute path, such as file:///srv/root.tar.xz".to_owned());
    }
    let url = parse_http_url(text)
        .map_err(|why| if why.starts_with("must begin") { format!("{why}, or with file:///") } else { why })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not carry a user or password".to_owned());
    }
    Ok(url.into())
}

/// An HTTP or HTTPS proxy, perhaps with credentials, which neither `Debug` nor `Display` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

impl ProxyUrl {
    /// Parses and checks. The error never repeats the value.
    ///
    /// # Errors
    /// When it is not an `http` or `https` URL of a host, without path, query and fragment.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "is not a proxy, such as http://proxy.example.com:3128".to_owned();
        let url = parse_http_url(text).map_err(|_| wrong())?;
        let plain = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
        if plain { Ok(Self(url)) } else { Err(wrong()) }
    }

    /// The whole URL with its credentials: for the connection alone.
    #[must_use]
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl fmt::Display for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = if self.0.username().is_empty() && self.0.password().is_none() { "" } else { "***@" };
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{}://{user}{host}", self.0.scheme())?;
        self.0.port().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProxyUrl({self})")
    }
}

/// Where to listen: `:9090` (every address of the machine), `127.0.0.1:9090`, `[::1]:9090`, `localhost:9090`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddr {
    /// Which addresses.
    pub host: ListenHost,
    /// The port; 0 lets the kernel choose.
    pub port: u16,
}

/// The addresses a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenHost {
    /// All, IPv6 and IPv4; IPv4 alone where the machine has no IPv6.
    Any,
    /// This one.
    Address(IpAddr),
}

impl ListenAddr {
    /// Parses. The error is the end of a sentence that begins with the value.
    ///
    /// # Errors
    /// When it is none of the forms above. Names other than `localhost` are not looked up.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "is not an address to listen on: write :9090, 127.0.0.1:9090 or [::1]:9090".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = if digits { port.parse().map_err(|_| wrong())? } else { return Err(wrong()) };
        let host = match host {
            "" | "*" | "[::]" => ListenHost::Any,
            "localhost" => ListenHost::Address(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            _ => {
                let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
                let address = match inner {
                    Some(inner) => inner.parse::<Ipv6Addr>().map(IpAddr::V6).map_err(|_| wrong())?,
                    None => host.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| wrong())?,
                };
                ListenHost::Address(address)
            }
        };
        Ok(Self { host, port })
    }

    /// The socket addresses to try, in order: the first that can be bound is used. The first of two is IPv6,
    /// to be opened for IPv4 too.
    #[must_use]
    pub fn candidates(&self) -> Vec<SocketAddr> {
        let addresses = match self.host {
            ListenHost::Any => vec![IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            ListenHost::Address(address) => vec![address],
        };
        addresses.into_iter().map(|address| SocketAddr::new(address, self.port)).collect()
    }

    /// Whether anyone who can reach the machine can reach the listener.
    #[must_use]
    pub fn is_open_to_the_network(&self) -> bool {
        match self.host {
            ListenHost::Any => true,
            ListenHost::Address(address) => !address.to_canonical().is_loopback(),
        }
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            ListenHost::Any => write!(f, ":{}", self.port),
            ListenHost::Address(address) => SocketAddr::new(address, self.port).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only() {
        for text in [
            "http://localhost:3000",
            "http://127.0.0.1",
            "http://127.9.9.9:1",
            "http://[::1]:3000",
            "http://[::ffff:127.0.0.1]:3000",
            "https://mothership.example.com",
            "https://10.0.0.1:8443/base",
        ] {
            assert!(ServerUrl::parse(text).is_ok(), "{text}");
        }
        for text in [
            "http://mothership.example.com",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "http://0.0.0.0:3000",
            "http://[::]:3000",
            "http://127.0.0.1.example.com",
            "ftp://localhost",
            "localhost:3000",
            "https://",
            "",
            "https://user:pw@host",
            "https://host?x=1",
            "https://host#f",
            "https://ho st",
            "https://host\n",
            "http://127.0.0.1@evil.example",
        ] {
            assert!(ServerUrl::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn endpoints_are_joined_beneath_a_base_path() {
        let plain = ServerUrl::parse("https://m.example/").unwrap();
        assert_eq!(plain.join("/conduits/v1/polls").as_str(), "https://m.example/conduits/v1/polls");
        let based = ServerUrl::parse("https://m.example/nexus/").unwrap();
        assert_eq!(based.join("/conduits/v1/polls").as_str(), "https://m.example/nexus/conduits/v1/polls");
        assert_eq!(based.to_string(), "https://m.example/nexus");
        assert_eq!(plain.host_port(), ("m.example", 443));
    }

    #[test]
    fn archives_come_from_the_network_or_from_a_file() {
        for text in
            ["https://a.example/x.tar.xz", "http://10.0.0.1:8080/x?y=1", "file:///srv/x.tar.xz", "file:///a%20b"]
        {
            assert_eq!(archive_url(text).as_deref(), Ok(text));
        }
        for text in [
            "ftp://a.example/x",
            "/srv/x.tar.xz",
            "file://srv/x.tar.xz",
            "file:srv/x",
            "file:/srv/x",
            "file://",
            "https://user:pw@a.example/x",
            "https://",
            "",
        ] {
            assert!(archive_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_proxy_never_shows_its_credentials() {
        let proxy = ProxyUrl::parse("http://user:hunter2@proxy.example:3128").unwrap();
        assert_eq!(
            format!("{proxy} {proxy:?}"),
            "http://***@proxy.example:3128 ProxyUrl(http://***@proxy.example:3128)"
        );
        assert_eq!(proxy.expose().password(), Some("hunter2"));
        for text in ["proxy:3128", "socks5://p", "http://p/path", "http://u:hunter2@"] {
            assert!(!ProxyUrl::parse(text).unwrap_err().contains(text), "{text}");
        }
    }

    #[test]
    fn listen_addresses() {
        let table: [(&str, Option<&[&str]>); 12] = [
            (":9090", Some(&["[::]:9090", "0.0.0.0:9090"])),
            ("[::]:9090", Some(&["[::]:9090", "0.0.0.0:9090"])),
            ("*:9090", Some(&["[::]:9090", "0.0.0.0:9090"])),
            ("0.0.0.0:0", Some(&["0.0.0.0:0"])),
            ("localhost:1", Some(&["127.0.0.1:1"])),
            ("[::1]:9090", Some(&["[::1]:9090"])),
            ("::1:9090", None),
            ("9090", None),
            (":", None),
            (":65536", None),
            (":+1", None),
            ("example.com:80", None),
        ];
        for (text, expected) in table {
            let found = ListenAddr::parse(text).ok();
            let found = found.map(|a| a.candidates().iter().map(ToString::to_string).collect::<Vec<_>>());
            let expected = expected.map(|list| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
            assert_eq!(found, expected, "{text}");
        }
        assert!(!ListenAddr::parse("127.0.0.1:1").unwrap().is_open_to_the_network());
        assert!(ListenAddr::parse(":1").unwrap().is_open_to_the_network());
    }
}
