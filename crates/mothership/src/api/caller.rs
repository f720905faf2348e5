//! Who calls: the territory behind a connection or header, the bearer of a token, the address that is counted.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, header};
use conduits::{Fingerprint, code, headers};
use ipnet::IpNet;

use crate::refusal::Refusal;
use crate::serve::AuthMode;
use crate::server::Peer;
use crate::store::territories::Caller;

/// The territory's identity, as this mode of authentication finds it.
///
/// # Errors
/// 401 where there is none.
pub fn territory(auth: AuthMode, trusted: &[IpNet], peer: &Peer, request: &HeaderMap) -> Result<Caller, Refusal> {
    let by_connection = || peer.certificate.map(Caller::Certificate);
    let by_proxy = || {
        // From anywhere else the header is not refused but nothing: it must not even help to guess.
        if !is_trusted(trusted, peer.address.ip()) {
            return None;
        }
        text(request, headers::CLIENT_CERT_FINGERPRINT)?.parse::<Fingerprint>().ok().map(Caller::Certificate)
    };
    let found = match auth {
        AuthMode::Mtls => by_connection(),
        AuthMode::Header => by_proxy(),
        AuthMode::Either => by_connection().or_else(by_proxy),
        AuthMode::Dev => text(request, headers::TERRITORY_ID).map(|id| Caller::Claimed(id.to_owned())),
    };
    found.ok_or_else(|| {
        let missing = match auth {
            AuthMode::Mtls | AuthMode::Either => {
                "this call needs a client certificate of this mothership; enrol, then present it"
            }
            AuthMode::Header => "this call needs X-Nexus-Client-Cert-Fingerprint from a trusted proxy",
            AuthMode::Dev => "this call needs X-Nexus-Territory-Id",
        };
        Refusal::unauthenticated(code::UNAUTHORIZED, missing)
    })
}

/// The token of `Authorization: Bearer …`.
///
/// # Errors
/// 401 where there is none.
pub fn bearer(request: &HeaderMap) -> Result<&str, Refusal> {
    text(request, header::AUTHORIZATION.as_str())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Refusal::unauthenticated(code::UNAUTHORIZED, "this call needs Authorization: Bearer <token>"))
}

/// The address whose failures are counted: the peer's, or behind trusted proxies the nearest that is none of them.
#[must_use]
pub fn counted_address(trusted: &[IpNet], peer: &Peer, request: &HeaderMap) -> IpAddr {
    let mut nearest = peer.address.ip().to_canonical();
    // A proxy may add its line below those that came: together they are one list (RFC 9110, section 5.3).
    let lines = request.get_all("x-forwarded-for").iter().rev();
    for hop in lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(',')) {
        if !is_trusted(trusted, nearest) {
            break;
        }
        let Some(address) = hop_address(hop.trim()) else { break };
        nearest = address;
    }
    nearest
}

/// The address of a hop; some proxies name its port, too.
fn hop_address(hop: &str) -> Option<IpAddr> {
    hop.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|hop| hop.ip()))
}

fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

fn text<'h>(request: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = request.get_all(name).iter();
    let first = values.next()?.to_str().ok()?;
    // Two identities in one request are none: proxies and we could read different ones.
    values.next().is_none().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINGERPRINT: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn peer(address: &str) -> Peer {
        Peer { address: address.parse().unwrap(), certificate: None }
    }

    fn request(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn the_fingerprint_header_counts_from_trusted_proxies_only() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let colons = "BA:78:16:bf:8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let with = |value| request(&[(headers::CLIENT_CERT_FINGERPRINT, value)]);
        let expected = Caller::Certificate(FINGERPRINT.parse().unwrap());
        let ask = |auth, from: &str, map: &HeaderMap| territory(auth, &trusted, &peer(from), map).ok();
        for auth in [AuthMode::Header, AuthMode::Either] {
            for from in ["10.1.2.3:1", "[::ffff:10.1.2.3]:1"] {
                assert_eq!(ask(auth, from, &with(colons)), Some(expected.clone()));
            }
            assert_eq!(ask(auth, "192.0.2.1:1", &with(FINGERPRINT)), None);
            assert_eq!(ask(auth, "10.1.2.3:1", &with("nonsense")), None);
        }
        let twice = request(&[
            (headers::CLIENT_CERT_FINGERPRINT, FINGERPRINT),
            (headers::CLIENT_CERT_FINGERPRINT, FINGERPRINT),
        ]);
        assert_eq!(ask(AuthMode::Header, "10.1.2.3:1", &twice), None);
        assert_eq!(ask(AuthMode::Mtls, "10.1.2.3:1", &with(FINGERPRINT)), None);
        let claimed = request(&[(headers::TERRITORY_ID, "t1")]);
        assert_eq!(ask(AuthMode::Header, "10.1.2.3:1", &claimed), None);
        assert_eq!(ask(AuthMode::Dev, "127.0.0.1:1", &claimed), Some(Caller::Claimed("t1".to_owned())));
    }

    #[test]
    fn the_counted_address_is_the_nearest_stranger() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let counted = |from: &str, forwarded: &str| {
            let map = request(&[("x-forwarded-for", forwarded)]);
            counted_address(&trusted, &peer(from), &map).to_string()
        };
        assert_eq!(counted("192.0.2.1:1", "1.1.1.1"), "192.0.2.1");
        assert_eq!(counted("10.0.0.1:1", "1.1.1.1, 2.2.2.2, 10.0.0.2"), "2.2.2.2");
        assert_eq!(counted("10.0.0.1:1", "garbage"), "10.0.0.1");
        assert_eq!(counted("10.0.0.1:1", "2.2.2.2:443"), "2.2.2.2");
        let lines = request(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")]);
        assert_eq!(counted_address(&trusted, &peer("10.0.0.1:1"), &lines).to_string(), "2.2.2.2");
    }

    #[test]
    fn a_bearer_is_one_header_with_a_token() {
        assert_eq!(bearer(&request(&[("authorization", "bearer abc")])).ok(), Some("abc"));
        for value in ["abc", "Basic abc", "Bearer ", "Bearer"] {
            assert!(bearer(&request(&[("authorization", value)])).is_err(), "{value}");
        }
    }
}
