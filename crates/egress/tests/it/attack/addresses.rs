//! The address ladder: names whose only address is one that no directive may reach. The far side has most of them, and
//! would answer.

use super::ground::{number, numbered};
use super::{Attack, Case, Layer};

fn family(address: &str) -> &'static str {
    match address {
        a if a.starts_with("::ffff:") && !a.starts_with("::ffff:0:") => "mapped",
        a if a.starts_with("::ffff:0:") => "translated",
        a if a.starts_with("64:ff9b:") => "NAT64",
        a if a.starts_with("2002:") => "6to4",
        a if a.starts_with("2001:0:") => "Teredo",
        a if a.contains("5efe") => "ISATAP",
        "::" | "::1" => "IPv6 range",
        a if a.starts_with("::") => "compatible",
        a if a.contains(':') => "IPv6 range",
        _ => "IPv4 range",
    }
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (at, address) in numbered().enumerate() {
        let name = number(at);
        let say = match at % 2 {
            0 => format!("CONNECT {name}:80 HTTP/1.1\r\n\r\n"),
            _ => format!("GET http://{name}/ HTTP/1.1\r\n\r\n"),
        };
        let attack = Attack::Http { say: say.into_bytes(), reason: "DNS_DENIED" };
        cases.push(Case::new(family(address), format!("a name for {address}"), Layer::Addresses, attack));
        // And by SOCKS, which says "not allowed by ruleset".
        let say = [&[5, 1, 0, 5, 1, 0, 3, name.len() as u8][..], name.as_bytes(), &80_u16.to_be_bytes()].concat();
        let attack = Attack::Socks { say, answer: vec![5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0] };
        cases.push(Case::new(family(address), format!("SOCKS to a name for {address}"), Layer::Addresses, attack));
    }
    // The same addresses as literals never come as far as the ladder.
    for address in numbered().filter(|address| address.contains(':')) {
        let say = format!("CONNECT [{address}]:80 HTTP/1.1\r\n\r\n").into_bytes();
        let attack = Attack::Http { say, reason: "INVALID_DESTINATION" };
        cases.push(Case::new(family(address), format!("the literal {address}"), Layer::Always, attack));
        let octets = address.parse::<std::net::Ipv6Addr>().unwrap().octets();
        let say = [&[5, 1, 0, 5, 1, 0, 4][..], &octets, &80_u16.to_be_bytes()].concat();
        let attack = Attack::Socks { say, answer: vec![5, 0, 5, 8, 0, 1, 0, 0, 0, 0, 0, 0] };
        cases.push(Case::new(family(address), format!("SOCKS to the literal {address}"), Layer::Always, attack));
    }
    let say = b"GET http://made.test/ HTTP/1.1\r\n\r\n".to_vec();
    let attack = Attack::Http { say, reason: "DNS_DENIED" };
    cases.push(Case::new("NAT64", "the network's own prefix", Layer::Addresses, attack));
    cases
}
