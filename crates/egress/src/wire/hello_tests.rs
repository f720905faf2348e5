#![allow(clippy::cast_possible_truncation, reason = "lengths of test data")]

use super::*;
use proptest::prelude::*;

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &sized(2, data)].concat()
}

/// `data` with its length in `width` bytes before it.
fn sized(width: usize, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_be_bytes();
    [&length[4 - width..], data].concat()
}

fn sni(name: &[u8]) -> Vec<u8> {
    extension(0, &sized(2, &[&[0], &sized(2, name)[..]].concat()))
}

fn message(extensions: &[u8]) -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &[0], &sized(2, &[0x13, 1]), &sized(1, &[0]), &sized(2, extensions)].concat();
    [&[1][..], &sized(3, &body)].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &sized(2, part)].concat()).collect()
}

fn hello(extensions: &[u8]) -> Vec<u8> {
    records(&message(extensions), 16384)
}

fn names(host: &str, hidden: bool) -> Hello {
    Hello::Names { host: DnsName::parse(host).unwrap(), hidden }
}

#[test]
fn hellos() {
    let ech = extension(EXTENSION_ECH, &[0, 1, 2]);
    let alpn = extension(16, &sized(2, &sized(1, b"h2")));
    let plain = sni(b"Example.com");
    let padding = extension(21, &[0; 9000]);
    assert_eq!(read(&hello(&plain)), Some(names("example.com", false)));
    assert_eq!(read(&hello(&[&alpn[..], &plain, &padding].concat())), Some(names("example.com", false)));
    assert_eq!(read(&hello(&[&ech[..], &plain].concat())), Some(names("example.com", true)));
    assert_eq!(read(&hello(&ech)), Some(Hello::Hidden));
    assert_eq!(read(&hello(&alpn)), Some(Hello::NoName));
    assert_eq!(read(&hello(&[])), Some(Hello::NoName));
    assert_eq!(read(b"GET / HTTP/1.1\r\n"), Some(Hello::NotTls));
    assert_eq!(read(b"SSH-2.0-x"), Some(Hello::NotTls));
    assert_eq!(read(&[0x80, 0x2e, 1, 0, 2]), Some(Hello::NotTls), "SSLv2");
    assert_eq!(read(&[22, 16]), Some(Hello::NotTls));
    assert_eq!(read(&[21, 3, 1, 1]), Some(Hello::NotTls), "no alert is that long");
    assert_eq!(read(b""), None);
    assert_eq!(read(&[22]), None);
}

/// Some servers (Go's) skip a warning before the hello, and look at a record's version no closer than this.
#[test]
fn what_a_server_may_read_past_does_not_hide_the_hello() {
    let named = hello(&sni(b"evil.example"));
    let before = |record: &[u8]| [record, &named].concat();
    let version = |major: u8| {
        let mut bytes = named.clone();
        bytes[1] = major;
        bytes
    };
    let cases = [
        ("a warning", before(&[21, 3, 1, 0, 2, 1, 90])),
        ("a warning of another version", before(&[21, 0, 0, 0, 2, 1, 90])),
        ("a change of ciphers", before(&[20, 3, 1, 0, 1, 1])),
        ("version 0", version(0)),
        ("version 4", version(4)),
        ("version 15", version(15)),
    ];
    for (what, bytes) in cases {
        assert!(matches!(read(&bytes), Some(Hello::Broken(_))), "{what}: {:?}", read(&bytes));
        let parts: Vec<_> = (0..bytes.len()).map(|end| read(&bytes[..end])).filter(Option::is_some).collect();
        assert!(parts.iter().all(|part| matches!(part, Some(Hello::Broken(_)))), "{what}, in parts: {parts:?}");
    }
}

#[test]
fn broken_hellos() {
    let plain = sni(b"example.com");
    let whole = hello(&plain);
    let two_names =
        extension(0, &sized(2, &[&[0], &sized(2, b"a.example")[..], &[0], &sized(2, b"b.example")].concat()));
    let other_type = extension(0, &sized(2, &[&[1], &sized(2, b"a.example")[..]].concat()));
    let mut alert_inside = records(&message(&plain)[..20], 20);
    alert_inside.extend([21, 3, 1, 0, 2, 1, 0]);
    let mut trailing = message(&plain);
    trailing.push(0);
    trailing[3] += 1;
    for (what, bytes) in [
        ("twice the extension", hello(&[plain.clone(), plain.clone()].concat())),
        ("two names", hello(&two_names)),
        ("another type of name", hello(&other_type)),
        ("empty name", hello(&sni(b""))),
        ("an address", hello(&sni(b"127.0.0.1"))),
        ("a NUL in the name", hello(&sni(b"example.com\0.evil.org"))),
        ("extension beyond the end", hello(&plain[..plain.len() - 1])),
        ("bytes after the extensions", records(&trailing, 16384)),
        ("an alert inside", alert_inside),
        ("a server hello", records(&[&[2][..], &message(&plain)[1..]].concat(), 16384)),
        ("an empty record", vec![22, 3, 1, 0, 0]),
        ("a record too long", vec![22, 3, 1, 0x40, 1]),
        ("a hello over 16 KiB", vec![22, 3, 1, 0x40, 0, 1, 0, 0x50, 0]),
    ] {
        assert!(matches!(read(&bytes), Some(Hello::Broken(_))), "{what}: {:?}", read(&bytes));
    }
    let tiny_records = records(&message(&extension(21, &[0; 6000])), 1);
    assert!(
        matches!(read(&tiny_records[..MAX_HELLO_BYTES]), Some(Hello::Broken(_))),
        "never finished within the bound"
    );
    assert_eq!(read(&whole), Some(names("example.com", false)), "control");
}

#[test]
fn every_cut_asks_for_more_and_then_agrees() {
    for size in [1, 2, 3, 7, 50, 16384] {
        let bytes = records(&message(&[extension(16, &[0; 40]), sni(b"example.com")].concat()), size);
        for cut in 0..bytes.len() {
            assert_eq!(read(&bytes[..cut]), None, "{size} {cut}");
        }
        assert_eq!(read(&bytes), Some(names("example.com", false)), "records of {size}");
        let early = [&bytes[..], &[23, 3, 3, 0, 1, 9]].concat();
        assert_eq!(read(&early), Some(names("example.com", false)), "early data after it");
    }
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let record = [&[22, 3, 1][..], &sized(2, &bytes)].concat();
        let split = records(&[&[1][..], &sized(3, &bytes)].concat(), 50);
        for hostile in [&bytes, &record, &split, &hello(&bytes), &hello(&extension(0, &bytes))] {
            // Made of arbitrary bytes, a name that passes is a name all the same.
            if let Some(Hello::Names { host, .. }) = read(hostile) {
                prop_assert!(DnsName::parse(host.as_str()).is_ok());
            }
        }
    }
}
