//! Names that the list does not have, and names that are forbidden though it has them. All of them would lead to the
//! origin that is allowed under another name.

use super::{Attack, Case, Layer};

/// Family, what is asked for, the reason.
const ASKED: &[(&str, &str, &str)] = &[
    ("not listed", "b.test:80", "NOT_IN_ALLOWLIST"),
    ("not listed", "test.test:80", "NOT_IN_ALLOWLIST"),
    ("not listed", "localhost:80", "NOT_IN_ALLOWLIST"),
    ("look-alike", "a.test.evil.test:80", "NOT_IN_ALLOWLIST"),
    ("look-alike", "xa.test:80", "NOT_IN_ALLOWLIST"),
    ("look-alike", "b.a.test:80", "NOT_IN_ALLOWLIST"),
    ("look-alike", "\u{430}.test:80", "NOT_IN_ALLOWLIST"),
    ("wildcard", "wild.test:80", "NOT_IN_ALLOWLIST"),
    ("wildcard", "xwild.test:80", "NOT_IN_ALLOWLIST"),
    ("wildcard", "x.wild.test.b.test:80", "NOT_IN_ALLOWLIST"),
    ("wildcard", "x.wild.test:443", "PORT_NOT_ALLOWED"),
    ("other port", "a.test:8080", "PORT_NOT_ALLOWED"),
    ("other port", "a.test:22", "PORT_NOT_ALLOWED"),
    ("other port", "a.test:65535", "PORT_NOT_ALLOWED"),
    ("operator's list", "denied.test:80", "OTHER"),
    ("operator's list", "DENIED.TEST.:80", "OTHER"),
    ("control plane", "mothership.test:80", "DNS_DENIED"),
    ("control plane", "Mothership.test.:80", "DNS_DENIED"),
    ("alias", "alias.test:80", "OTHER"),
    ("alias", "far-alias.test:80", "OTHER"),
    ("alias", "own-alias.test:80", "DNS_DENIED"),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (family, to, reason) in ASKED {
        let say = format!("CONNECT {to} HTTP/1.1\r\n\r\n").into_bytes();
        cases.push(Case::new(family, format!("CONNECT {to}"), Layer::Names, Attack::Http { say, reason }));
        let say = format!("GET http://{to}/ HTTP/1.1\r\nHost: a.test\r\n\r\n").into_bytes();
        cases.push(Case::new(
            family,
            format!("GET {to} with another Host"),
            Layer::Names,
            Attack::Http { say, reason },
        ));
        let (host, port) = to.split_once(':').unwrap();
        let port = port.parse::<u16>().unwrap().to_be_bytes();
        let say = [&[5, 1, 0, 5, 1, 0, 3, host.len() as u8][..], host.as_bytes(), &port].concat();
        let answer = vec![5, 0, 5, 2, 0, 1, 0, 0, 0, 0, 0, 0];
        // Where the list does not hold that one, the ladder does, and SOCKS says the same of both.
        let layer = if host == "localhost" { Layer::Always } else { Layer::Names };
        cases.push(Case::new(family, format!("SOCKS {to}"), layer, Attack::Socks { say, answer }));
    }
    for second in ["b.test", "denied.test", "127.0.0.1"] {
        let say = format!("GET http://a.test/ HTTP/1.1\r\n\r\nGET http://{second}/ HTTP/1.1\r\n\r\n").into_bytes();
        let layer = if second == "127.0.0.1" { Layer::Always } else { Layer::Names };
        let holds = |answer: &str| {
            answer.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 40")
                && answer.matches("HTTP/1.1 ").count() == 2
        };
        cases.push(Case::new("keep-alive to a second host", second, layer, Attack::Answered { say, holds }));
    }
    cases
}
