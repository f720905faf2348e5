//! What has to hold of each parser whatever the bytes: one function a target, which panics where it does not.
//!
//! Shared by the fuzz targets (`fuzz/targets`) and by the test that replays their corpora (`crates/egress/tests/it/corpus.rs`).
//! No parser may panic, and its answer may not depend on how the bytes were split; what more there is stands at each check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use conduits::{AllowEntry, DnsName, HostPattern};
use egress::names::message::{self, Known};
use egress::policy::address::AddressRules;
use egress::policy::nat64;
use egress::wire::body::{BodyError, BodyLength, BodyReader, Piece};
use egress::wire::credential::Credential;
use egress::wire::head::{HeadScanner, MAX_HEAD_BYTES};
use egress::wire::host::{Destination, parse_authority, parse_host, printable};
use egress::wire::request::{self, Request};
use egress::wire::response::{self, Asked};
use egress::wire::{hello, socks};

/// A check.
pub type Check = fn(&[u8]);

/// Every target by name; each has a folder of that name in `fuzz/corpus`.
pub const CHECKS: &[(&str, Check)] = &[
    ("head", head),
    ("request", request),
    ("response", response),
    ("body", body),
    ("host", host),
    ("socks", socks),
    ("hello", hello),
    ("credential", credential),
    ("entry", entry),
    ("address", address),
    ("message", message),
];

/// Longer inputs only cost time: bounds are tested beside the code.
const MAX_INPUT: usize = 4096;

fn cut(data: &[u8]) -> &[u8] {
    &data[..data.len().min(MAX_INPUT)]
}

/// The end of a header block: found or refused at the same byte however the bytes come, and what is found consists of
/// lines that everybody reads alike.
pub fn head(data: &[u8]) {
    let data = cut(data);
    let whole = HeadScanner::default().scan(data);
    let (mut scanner, mut stepwise) = (HeadScanner::default(), Ok(None));
    for end in 1..=data.len() {
        stepwise = scanner.scan(&data[..end]);
        if stepwise != Ok(None) {
            break;
        }
    }
    assert_eq!(stepwise, whole);
    if let Ok(Some(length)) = whole {
        well_formed(&data[..length]);
    }
}

/// An independent statement of what a header block is.
pub fn well_formed(block: &[u8]) {
    let text = block.strip_suffix(b"\r\n").expect("it ends with an empty line");
    let lines: Vec<&[u8]> = split(text, b"\r\n");
    let (last, lines) = lines.split_last().expect("there is one");
    assert!(last.is_empty());
    for (at, line) in lines.iter().enumerate() {
        assert!(!line.is_empty() && !line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        assert!(at == 0 || !matches!(line[0], b' ' | b'\t'));
    }
}

fn split<'a>(mut text: &'a [u8], by: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some(at) = text.windows(by.len()).position(|window| window == by) {
        parts.push(&text[..at]);
        text = &text[at + by.len()..];
    }
    parts.push(text);
    parts
}

fn count(fields: &[httparse::Header<'_>], name: &str) -> usize {
    fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count()
}

/// Fields that concern one hop, whatever `Connection` says.
const HOP: &[&str] =
    &["connection", "proxy-connection", "keep-alive", "proxy-authorization", "proxy-authenticate", "te", "upgrade"];

/// A request: what goes on to the origin is one header block in origin form, of one host, framed in one way.
pub fn request(data: &[u8]) {
    let data = cut(data);
    let Ok(Some(length)) = HeadScanner::default().scan(data) else { return };
    let forward = match request::parse(&data[..length]) {
        Err(error) => return drop(error.to_string()),
        Ok(Request::Connect { to, .. }) => return destination(&to),
        Ok(Request::Forward(forward)) => forward,
    };
    destination(&forward.to);
    well_formed(&forward.head);
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut fields);
    assert_eq!(parsed.parse(&forward.head), Ok(httparse::Status::Complete(forward.head.len())));
    assert!(parsed.path.expect("a path").starts_with('/') && parsed.version == Some(1));
    assert_eq!(parsed.method == Some("HEAD"), forward.is_head);
    assert_ne!(parsed.method, Some("CONNECT"));
    let host = parsed.headers.iter().find(|field| field.name == "Host").expect("a Host").value;
    assert_eq!(parse_authority(host, Some(80)).as_ref(), Ok(&forward.to));
    assert_eq!(count(parsed.headers, "host"), 1);
    assert!(HOP.iter().all(|name| count(parsed.headers, name) == 0));
    let framing = (count(parsed.headers, "content-length"), count(parsed.headers, "transfer-encoding"));
    assert_eq!(
        framing,
        match forward.body {
            BodyLength::None => (0, 0),
            BodyLength::Exact(_) => (1, 0),
            BodyLength::Chunked => (0, 1),
            BodyLength::UntilClose => panic!("no request ends with the connection"),
        }
    );
}

/// An answer: the first byte says what was asked; what goes on to the client is one header block, framed in one way.
pub fn response(data: &[u8]) {
    let Some((first, data)) = cut(data).split_first() else { return };
    let asked = Asked { is_head: first & 1 != 0, is_http11: first & 2 != 0, keep_alive: first & 4 != 0 };
    let Ok(Some(length)) = HeadScanner::default().scan(data) else { return };
    let answer = match response::parse(&data[..length], asked) {
        Err(error) => return drop(error.to_string()),
        Ok(answer) => answer,
    };
    assert!((100..600).contains(&answer.status) && answer.status != 101);
    if answer.head.is_empty() {
        return assert!(answer.status < 200 && !asked.is_http11);
    }
    well_formed(&answer.head);
    let mut fields = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Response::new(&mut fields);
    assert_eq!(parsed.parse(&answer.head), Ok(httparse::Status::Complete(answer.head.len())));
    assert_eq!(parsed.code, Some(answer.status));
    let framing = (count(parsed.headers, "content-length"), count(parsed.headers, "transfer-encoding"));
    assert!(matches!(framing, (0 | 1, 0) | (0, 1)), "{framing:?}");
    assert_eq!(framing.1 == 1, answer.to_client_chunked && answer.status >= 200);
    // A body that a client reads to the end of the connection is followed by that end.
    let has_end = framing != (0, 0) || answer.body == BodyLength::None;
    assert!(has_end || !answer.client_stays);
    assert!(asked.keep_alive || answer.status < 200 || !answer.client_stays);
}

type Body = Result<(Vec<u8>, Vec<u8>, usize), BodyError>;

fn read_body(length: BodyLength, bytes: &[u8], step: usize) -> Body {
    let mut reader = BodyReader::new(length);
    let (mut content, mut at, mut end) = (Vec::new(), 0, 0);
    loop {
        match reader.next(&bytes[at..end])? {
            Piece::Content(count) => {
                assert!(count > 0);
                content.extend_from_slice(&bytes[at..at + count]);
                at += count;
            }
            Piece::Framing(count) => {
                assert!(count > 0);
                at += count;
            }
            Piece::End { consumed, trailers } => return Ok((content, trailers, bytes.len() - at - consumed)),
            Piece::More if end == bytes.len() => return reader.at_end().map(|()| (content, Vec::new(), 0)),
            Piece::More => end = bytes.len().min(end + step),
        }
    }
}

/// A body: the first byte says how it is framed and how the bytes come. What was read, written in chunks, is read again.
pub fn body(data: &[u8]) {
    let Some((first, bytes)) = cut(data).split_first() else { return };
    let length = match first & 3 {
        0 => BodyLength::Exact(u64::from(first >> 2)),
        1 => BodyLength::UntilClose,
        _ => BodyLength::Chunked,
    };
    let whole = read_body(length, bytes, usize::MAX >> 1);
    assert_eq!(read_body(length, bytes, usize::from(first >> 2) + 1), whole);
    let Ok((content, trailers, _)) = whole else { return };
    let mut again = format!("{:x}\r\n", content.len()).into_bytes();
    if content.is_empty() {
        again.clear();
    } else {
        again.extend_from_slice(&content);
        again.extend_from_slice(b"\r\n");
    }
    again.extend_from_slice(b"0\r\n");
    again.extend_from_slice(&trailers);
    again.extend_from_slice(b"\r\n");
    assert_eq!(read_body(BodyLength::Chunked, &again, 7), Ok((content, trailers, 0)));
}

/// A destination is one name in one form, and no address in any spelling.
pub fn destination(to: &Destination) {
    assert_eq!(parse_authority(to.to_string().as_bytes(), None).as_ref(), Ok(to));
    name(&to.host);
    assert_ne!(to.port, 0);
}

fn name(host: &DnsName) {
    let text = host.as_str();
    assert_eq!(DnsName::parse(text).as_ref(), Ok(host));
    assert!(text.parse::<IpAddr>().is_err() && text.len() <= 253);
    let is_number = |label: &str| {
        let hex = label.strip_prefix("0x");
        (!label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit()))
            || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    assert!(!is_number(text.rsplit('.').next().unwrap_or_default()), "{text}");
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    assert!(text.split('.').all(|label| !label.is_empty() && label.len() <= 63 && label.bytes().all(plain)), "{text}");
}

/// `host:port` as clients spell it.
pub fn host(data: &[u8]) {
    let data = cut(data);
    for default in [None, Some(80)] {
        match parse_authority(data, default) {
            Ok(to) => destination(&to),
            Err(error) => drop(error.to_string()),
        }
    }
    if let Ok(host) = parse_host(data) {
        name(&host);
        // The dot at the end and the case are the only liberties of a name that is plain already.
        if data.is_ascii() {
            let text = String::from_utf8_lossy(data).to_ascii_lowercase();
            assert_eq!(text.strip_suffix('.').unwrap_or(&text), host.as_str());
        }
    }
    let shown = printable(data);
    assert!(shown.len() <= 255 && shown.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
}

/// Once a message is whole or wrong, more bytes change nothing.
pub fn settles<T: PartialEq + std::fmt::Debug>(data: &[u8], parse: impl Fn(&[u8]) -> Option<T>) {
    let mut settled = None;
    for end in 0..=data.len() {
        let now = parse(&data[..end]);
        assert!(settled.is_none() || settled == now, "{settled:?} became {now:?}");
        settled = now;
    }
}

/// The messages of SOCKS5.
pub fn socks(data: &[u8]) {
    let data = &data[..data.len().min(600)];
    settles(data, |bytes| {
        socks::greeting(bytes).map(|found| found.map(|(methods, used)| (methods.to_vec(), used))).transpose()
    });
    settles(data, |bytes| {
        let owned = |(user, password, used): (&[u8], &[u8], usize)| (user.to_vec(), password.to_vec(), used);
        socks::password(bytes).map(|found| found.map(owned)).transpose()
    });
    settles(data, |bytes| socks::request(bytes).transpose());
    match socks::request(data) {
        Ok(Some((to, used))) => {
            destination(&to);
            assert!(used <= data.len());
        }
        Ok(None) => {}
        Err(error) => {
            assert_ne!(socks::reply_to(&error), socks::Reply::Succeeded);
            drop(error.to_string());
        }
    }
}

/// The TLS hello; what is read as a name is one.
pub fn hello(data: &[u8]) {
    let data = &data[..data.len().min(1024)];
    settles(data, hello::read);
    if let Some(found) = hello::read(data) {
        if let hello::Hello::Names { host, .. } = &found {
            name(host);
        }
        assert!(found.note().is_ascii());
    }
}

/// A credential that is not the one does not pass.
pub fn credential(data: &[u8]) {
    let known = Credential::generate();
    assert!(!known.admits_basic(data));
    let (user, password) = data.split_at(data.len() / 2);
    assert!(!known.admits(user, password));
}

/// An entry of an allowlist: read as it is written, and covering what it names.
pub fn entry(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(cut(data)) else { return };
    let Ok(entry) = text.parse::<AllowEntry>() else { return };
    assert_eq!(entry.to_string().parse::<AllowEntry>().as_ref(), Ok(&entry));
    match &entry.host {
        HostPattern::Exact(host) => {
            name(host);
            assert!(entry.matches(host, entry.port));
        }
        HostPattern::Wildcard(suffix) => {
            name(suffix);
            assert!(!entry.matches(suffix, entry.port));
            if let Ok(beneath) = DnsName::parse(&format!("x.{suffix}")) {
                assert!(entry.matches(&beneath, entry.port));
            }
        }
    }
}

/// Addresses: 16 bytes are the one that is judged, what follows are NAT64 answers of 16 bytes. An address that passes
/// carries none that would not.
pub fn address(data: &[u8]) {
    let mut sixes = data.chunks_exact(16).map(|bytes| Ipv6Addr::from(<[u8; 16]>::try_from(bytes).expect("16 bytes")));
    let Some(six) = sixes.next() else { return };
    let answers: Vec<Ipv6Addr> = sixes.take(8).collect();
    let prefixes = nat64::prefixes(&answers);
    assert!(prefixes.len() <= nat64::MAX_PREFIXES);
    let network: Vec<ipnet::Ipv6Net> = prefixes;
    let rules = AddressRules { nat64_prefixes: network.clone().into(), ..AddressRules::default() };
    let passes = |ip: IpAddr| rules.judge(SocketAddr::new(ip, 443)).is_ok();
    let [.., a, b, c, d] = six.octets();
    let last = IpAddr::from([a, b, c, d]);
    if passes(six.into()) {
        let groups = six.segments();
        let carries_last = six.to_ipv4_mapped().is_some()
            || groups[..6] == [0x64, 0xff9b, 0, 0, 0, 0]
            || network.iter().any(|prefix| prefix.prefix_len() == 96 && prefix.contains(&six));
        assert!(!carries_last || passes(last), "{six} passes, {last} does not");
        let o = six.octets();
        assert!(groups[0] != 0x2002 || passes(IpAddr::from([o[2], o[3], o[4], o[5]])), "{six}");
        assert!(!six.is_loopback() && !six.is_unspecified() && !six.is_multicast() && !six.is_unique_local());
    }
    // Without any prefix of its own a network allows no less.
    let plain = AddressRules::default();
    assert!(!passes(six.into()) || plain.judge(SocketAddr::new(six.into(), 443)).is_ok());
}

/// A question about a name: the first byte says what is known of it. What is answered is about that question, says what is
/// known and nothing else, and nothing is asked of names that no host has.
pub fn message(data: &[u8]) {
    let Some((first, query)) = cut(data).split_first() else { return };
    let (four, six) = (Ipv4Addr::new(198, 18, 1, 7), Ipv6Addr::new(0xfd6e, 0, 0, 0, 0, 0, 0, 0x107));
    let known = match first & 3 {
        0 => Known::Absent,
        1 => Known::As(four, Some(six)),
        2 => Known::As(four, None),
        _ => Known::Unknown,
    };
    let mut asked = None;
    let answer = message::answer(query, |host, wants_address| {
        asked = Some((host.clone(), wants_address));
        known
    });
    let Some(answer) = answer else {
        assert!(asked.is_none() && (query.len() < 12 || query[2] & 0x80 != 0));
        return;
    };
    let word = |at: usize| u16::from_be_bytes([answer[at], answer[at + 1]]);
    let (questions, records) = (word(4), usize::from(word(6)));
    assert!(answer[..2] == query[..2] && answer[2] & 0x80 != 0 && questions <= 1 && (word(8), word(10)) == (0, 0));
    assert!(message::answer(&answer, |_, _| panic!("an answer is not answered")).is_none());
    let (labels, mut at) = if questions == 0 { (Vec::new(), 12) } else { labels(query) };
    let question = if questions == 0 { at } else { at + 4 };
    assert_eq!(answer[12..question], query[12..question]);
    let kind = if questions == 0 { 0 } else { u16::from_be_bytes([query[at], query[at + 1]]) };
    let mut told = Vec::new();
    at = question;
    for _ in 0..records {
        let length = usize::from(u16::from_be_bytes([answer[at + 10], answer[at + 11]]));
        let record = u16::from_be_bytes([answer[at + 2], answer[at + 3]]);
        assert!(
            answer[at..at + 2] == [0xc0, 12] && answer[at + 4..at + 6] == [0, 1] && (kind == 255 || kind == record)
        );
        told.push((record, answer[at + 12..at + 12 + length].to_vec()));
        at += 12 + length;
    }
    assert_eq!(at, answer.len());
    let (wants_four, wants_six) = (matches!(kind, 1 | 255), matches!(kind, 28 | 255));
    let code = answer[3] & 15;
    let Some((host, wants_address)) = asked else { return assert!(code != 0 && told.is_empty()) };
    name(&host);
    assert_eq!(labels.join(&b'.').to_ascii_lowercase(), host.as_str().as_bytes());
    assert_eq!(wants_address, wants_four || wants_six);
    let (expected, addresses) = match known {
        Known::Absent => (3, Vec::new()),
        Known::Unknown => (2, Vec::new()),
        Known::As(four, six) => {
            let four = Some((1, four.octets().to_vec())).filter(|_| wants_four);
            let six = six.map(|six| (28, six.octets().to_vec())).filter(|_| wants_six);
            (0, four.into_iter().chain(six).collect())
        }
    };
    assert_eq!((code, told), (expected, addresses));
}

/// The labels of the first question, and where they end.
fn labels(query: &[u8]) -> (Vec<Vec<u8>>, usize) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(query[at + 1..end].to_vec());
        at = end;
    }
    (labels, at + 1)
}

const _: () = assert!(MAX_INPUT < MAX_HEAD_BYTES);
