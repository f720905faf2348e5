//! Spellings of hosts: what is no name in the one form that everybody reads alike is refused before anything is asked.

use super::{Attack, Case, Layer};

/// Family, spelling.
const SPELLINGS: &[(&str, &str)] = &[
    ("IPv4 spelling", "127.0.0.1"),
    ("IPv4 spelling", "127.0.0.1."),
    ("IPv4 spelling", "127.1"),
    ("IPv4 spelling", "127.0.1"),
    ("IPv4 spelling", "0"),
    ("IPv4 spelling", "0.0.0.0"),
    ("IPv4 spelling", "2130706433"),
    ("IPv4 spelling", "0x7f000001"),
    ("IPv4 spelling", "0x7f.1"),
    ("IPv4 spelling", "0X7F.0.0.1"),
    ("IPv4 spelling", "017700000001"),
    ("IPv4 spelling", "0177.0.0.1"),
    ("IPv4 spelling", "00000177.0.0.1"),
    ("IPv4 spelling", "127.0.0.0x1"),
    ("IPv4 spelling", "93.184.216.34"),
    ("IPv4 spelling", "a.test.127.1"),
    ("full-width", "\u{ff11}27.0.0.1"),
    ("full-width", "127\u{3002}0\u{3002}0\u{3002}1"),
    ("full-width", "\u{2460}\u{2461}\u{2466}.0.0.1"),
    ("IPv6 literal", "[::1]"),
    ("IPv6 literal", "[::]"),
    ("IPv6 literal", "[0:0:0:0:0:0:0:1]"),
    ("IPv6 literal", "::1"),
    ("zone id", "[fe80::1%25lo]"),
    ("zone id", "[fe80::1%lo]"),
    ("bracket junk", "[a.test]"),
    ("bracket junk", "[a.test"),
    ("bracket junk", "a.test]"),
    ("bracket junk", "[]"),
    ("bracket junk", "[::1]a.test"),
    ("bracket junk", "[v1.a]"),
    ("percent", "a%2etest"),
    ("percent", "a.test%00"),
    ("percent", "%61.test"),
    ("percent", "a.test%2f@b.test"),
    ("userinfo", "user@a.test"),
    ("userinfo", "user:pass@a.test"),
    ("userinfo", "a.test@b.test"),
    ("userinfo", "a.test%40b.test"),
    ("dots", "a..test"),
    ("dots", ".a.test"),
    ("dots", "a.test.."),
    ("dots", "."),
    ("dots", ".."),
    ("label", "-a.test"),
    ("label", "a-.test"),
    ("label", "a_b.test"),
    ("label", "*.test"),
    ("label", "a"),
    ("IDN", "xn--a-ecp.ru\u{200b}"),
    ("IDN", "xn--zzzzzzzzzzzzz99999999.test"),
    ("IDN", "xn--.test"),
    ("IDN", "a.te\u{ad}st\u{200d}\u{2028}"),
    ("IDN", "a\u{338}.t\u{2488}est"),
    ("separator", "a.test\\"),
    ("separator", "a.test\\@b.test"),
    ("separator", "a.test;b.test"),
    ("separator", "a.test,b.test"),
    ("separator", "\"a.test\""),
];

/// Bytes that only SOCKS can carry in a name; in a request line they are refused as such.
const BYTES: &[(&str, &[u8])] = &[
    ("NUL", b"a.test\0"),
    ("NUL", b"a.test\0.b.test"),
    ("NUL", b"\0"),
    ("control", b"a.test\r\nHost: b.test"),
    ("control", b"a.te\tst"),
    ("control", b"a.test\x7f"),
    ("control", b" a.test"),
    ("not UTF-8", b"a.test\xff"),
    ("not UTF-8", b"\xc0\xae.test"),
    ("not UTF-8", b"a.test\xe3\x80"),
];

pub(super) fn cases() -> Vec<Case> {
    let always = Layer::Always;
    let mut cases = Vec::new();
    let long_label = format!("{}.test", "a".repeat(64));
    let long_name = format!("{}test", "a.".repeat(126));
    let longer = format!("{}test", "\u{fc}.".repeat(600));
    let long = [("over-long", long_label.as_str()), ("over-long", &long_name), ("over-long", &longer)];
    for (family, host) in SPELLINGS.iter().copied().chain(long) {
        let shown: String = host.chars().take(40).collect();
        let say = format!("CONNECT {host}:80 HTTP/1.1\r\n\r\n").into_bytes();
        cases.push(Case::new(
            family,
            format!("CONNECT {shown:?}"),
            always,
            Attack::Http { say, reason: "INVALID_DESTINATION" },
        ));
        let say = format!("GET http://{host}:80/ HTTP/1.1\r\n\r\n").into_bytes();
        cases.push(Case::new(
            family,
            format!("GET {shown:?}"),
            always,
            Attack::Http { say, reason: "INVALID_DESTINATION" },
        ));
        if host.len() < 256 {
            cases.push(socks(family, host.as_bytes()));
        }
    }
    for (family, host) in BYTES {
        cases.push(socks(family, host));
        let say = [b"CONNECT ", *host, b":80 HTTP/1.1\r\n\r\n"].concat();
        cases.push(Case::new(
            family,
            format!("CONNECT {:?}", host.escape_ascii().to_string()),
            always,
            Attack::Http { say, reason: "OTHER" },
        ));
    }
    for port in ["", "0", "080", "+80", "-80", "65616", "80.", "8 0", "0x50", "http", "80:80", "\u{ff18}0"] {
        let say = format!("CONNECT a.test:{port} HTTP/1.1\r\n\r\n").into_bytes();
        let reason = if port == "8 0" { "OTHER" } else { "INVALID_DESTINATION" };
        cases.push(Case::new("port", format!("{port:?}"), always, Attack::Http { say, reason }));
    }
    cases
}

fn socks(family: &'static str, host: &[u8]) -> Case {
    let say = [&[5, 1, 0, 5, 1, 0, 3, host.len() as u8][..], host, &80_u16.to_be_bytes()].concat();
    let is_address = is_address(host);
    let answer = [&[5, 0, 5, if is_address { 8 } else { 2 }][..], &[0, 1, 0, 0, 0, 0, 0, 0]].concat();
    Case::new(
        family,
        format!("SOCKS {:?}", host.escape_ascii().to_string()),
        Layer::Always,
        Attack::Socks { say, answer },
    )
}

/// Whether SOCKS answers that it takes no addresses, and not that it does not take this name.
fn is_address(host: &[u8]) -> bool {
    use egress::wire::host::{DestinationError, parse_host};
    matches!(parse_host(host), Err(DestinationError::IpLiteral))
}
