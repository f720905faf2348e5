use proptest::prelude::*;

use super::*;

const FOUR: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 7);
const SIX: Ipv6Addr = Ipv6Addr::new(0xfd6e, 0x6578, 0x7573, 0, 0, 0, 0, 0x107);

fn query_of(labels: &[&[u8]], kind: u16, class: u16) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in labels {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend_from_slice(label);
    }
    query.push(0);
    query.extend(kind.to_be_bytes());
    query.extend(class.to_be_bytes());
    query
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
    query_of(&labels, kind, CLASS_IN)
}

/// Knows `db.example` alone.
fn known(host: &DnsName, _: bool) -> Known {
    if host.as_str() == "db.example" { Known::As(FOUR, Some(SIX)) } else { Known::Absent }
}

/// The code, the number of answers, and their data.
fn read(reply: &[u8]) -> (u8, u8, Vec<u8>) {
    let mut at = HEADER;
    if reply[5] == 1 {
        while reply[at] != 0 {
            at += usize::from(reply[at]) + 1;
        }
        at += 5;
    }
    let mut data = Vec::new();
    for _ in 0..reply[7] {
        let length = usize::from(reply[at + 11]);
        data.extend_from_slice(&reply[at + 12..at + 12 + length]);
        at += 12 + length;
    }
    assert_eq!(at, reply.len(), "nothing is left over");
    (reply[3] & 0x0f, reply[7], data)
}

#[test]
fn an_answer_as_bytes() {
    let mut expected = query("db.example", TYPE_A);
    expected[2..12].copy_from_slice(&[0x85, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    expected.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 18, 1, 7]);
    assert_eq!(answer(&query("db.example", TYPE_A), known).unwrap(), expected);
}

/// A name, a type of record, and what is read from the answer.
type Case<'a> = (&'a str, u16, (u8, u8, Vec<u8>));

#[test]
fn what_is_asked_and_what_is_answered() {
    let (four, six) = (FOUR.octets().to_vec(), SIX.octets().to_vec());
    let long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61)].join(".");
    let too_long = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".");
    let cases: &[Case<'_>] = &[
        ("db.example", TYPE_A, (0, 1, four.clone())),
        ("db.example", TYPE_AAAA, (0, 1, six.clone())),
        ("db.example", TYPE_ANY, (0, 2, [four.clone(), six].concat())),
        ("DB.eXample", TYPE_A, (0, 1, four)),
        // Mail exchangers, texts, services, HTTPS records: the name exists, that about it does not.
        ("db.example", 15, (0, 0, vec![])),
        ("db.example", 16, (0, 0, vec![])),
        ("db.example", 33, (0, 0, vec![])),
        ("db.example", 65, (0, 0, vec![])),
        ("other.example", TYPE_A, (3, 0, vec![])),
        ("other.example", TYPE_AAAA, (3, 0, vec![])),
        ("db.example.other", TYPE_A, (3, 0, vec![])),
        ("example", TYPE_A, (3, 0, vec![])),
        // No host's name.
        ("_ldap._tcp.db.example", 33, (3, 0, vec![])),
        ("7.1.18.198.in-addr.arpa", 12, (3, 0, vec![])),
        ("198.18.1.7", TYPE_A, (3, 0, vec![])),
        (&long, TYPE_A, (3, 0, vec![])),
        (&too_long, TYPE_A, (1, 0, vec![])),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(read(&answer(&query(name, *kind), known).unwrap()), *expected, "{name} {kind}");
    }
    let no_six = |_: &DnsName, _: bool| Known::As(FOUR, None);
    assert_eq!(read(&answer(&query("db.example", TYPE_AAAA), no_six).unwrap()), (0, 0, vec![]));
    let unknown = |_: &DnsName, _: bool| Known::Unknown;
    assert_eq!(read(&answer(&query("db.example", TYPE_A), unknown).unwrap()), (2, 0, vec![]));
}

#[test]
fn names_that_text_would_change_are_not_looked_up() {
    let never = |host: &DnsName, _: bool| -> Known { panic!("asked for {host}") };
    let labels: &[&[&[u8]]] = &[
        &[b"db.example"],
        &[b"x.db", b"example"],
        &[b"db\0", b"example"],
        &[b"db ", b"example"],
        &[b"db", b"example."],
        &["d\u{e4}b".as_bytes(), b"example"],
        &[b"\xff", b"example"],
        &[b"*", b"example"],
        &[],
    ];
    for labels in labels {
        let reply = answer(&query_of(labels, TYPE_A, CLASS_IN), never).unwrap();
        assert_eq!(read(&reply), (3, 0, vec![]), "{labels:?}");
    }
}

#[test]
fn garbage_is_refused_or_left_alone() {
    let never = |host: &DnsName, _: bool| -> Known { panic!("asked for {host}") };
    let good = query("db.example", TYPE_A);
    let changed = |at: usize, bytes: &[u8]| {
        let mut query = good.clone();
        query[at..at + bytes.len()].copy_from_slice(bytes);
        query
    };
    // (message, code; None: no answer)
    let cases: Vec<(Vec<u8>, Option<u8>)> = vec![
        (vec![], None),
        (good[..11].to_vec(), None),
        (changed(2, &[0x81]), None), // an answer: none is given, or two servers would talk for ever
        (changed(2, &[0x11]), Some(4)), // opcode 2
        (changed(2, &[0x29]), Some(4)), // an update
        (changed(4, &[0, 0]), Some(1)), // no question
        (changed(4, &[0, 2]), Some(1)), // two
        (changed(4, &[0xff, 0xff]), Some(1)),
        (changed(6, &[0, 1]), Some(1)), // an answer in a question
        (changed(8, &[0, 1]), Some(1)),
        (good[..12].to_vec(), Some(1)), // the question is missing
        (good[..15].to_vec(), Some(1)), // cut in a label
        (good[..good.len() - 1].to_vec(), Some(1)),
        (changed(12, &[0xc0, 0x0c]), Some(1)), // a pointer to itself
        (changed(12, &[64]), Some(1)),
        (changed(12, &[0xff]), Some(1)),
        (query_of(&[b"db", b"example"], TYPE_A, 3), Some(5)), // another class
    ];
    for (message, code) in cases {
        let got = answer(&message, never).map(|reply| reply[3] & 0x0f);
        assert_eq!(got, code, "{message:?}");
    }
    // What a resolver adds behind the question changes nothing.
    let mut with_options = changed(10, &[0, 1]);
    with_options.extend([0, 0, 41, 0x10, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(read(&answer(&with_options, known).unwrap()).1, 1);
}

proptest! {
    /// Whatever comes: no panic, and an answer is one to the same question and no longer than a datagram may be.
    #[test]
    fn any_bytes_get_an_answer_of_their_own_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..600), fix in any::<bool>()) {
        let mut bytes = bytes;
        if fix && bytes.len() > HEADER {
            bytes[2..HEADER].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
        if let Some(reply) = answer(&bytes, |_, _| Known::As(FOUR, Some(SIX))) {
            prop_assert!(reply.len() <= 512);
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            prop_assert_eq!(reply[2] & 0x80, 0x80);
        }
    }

    /// A name of the policy's alphabet comes out as it went in.
    #[test]
    fn names_come_through(labels in proptest::collection::vec("[a-z][a-z0-9]{0,20}", 2..6)) {
        let name = labels.join(".");
        let mut seen = None;
        answer(&query(&name, TYPE_A), |host, wants| { seen = Some((host.to_string(), wants)); Known::Absent });
        prop_assert_eq!(seen, Some((name, true)));
    }
}
