//! Requests that two readers could read differently, and requests that are none for a proxy.

use super::{Attack, Case, Holds, Layer};

/// After the attack, what a smuggler would want to have read as a request of its own.
const SECOND: &str = "GET http://a.test/smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Family, fields (and body) of a POST.
const FIELDS: &[(&str, &str)] = &[
    ("length and coding", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("length and coding", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    ("length and coding", "Transfer-Encoding: chunked\r\ncontent-length: 0\r\n\r\n0\r\n\r\n"),
    ("coding", "Transfer-Encoding: chunked\r\nTransfer-encoding: identity\r\n\r\n0\r\n\r\n"),
    ("coding", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("coding", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("coding", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("coding", "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("coding", "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("coding", "Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n"),
    ("coding", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("coding", "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n"),
    ("duplicate length", "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    ("duplicate length", "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("duplicate length", "Content-Length: 5,6\r\n\r\nhello"),
    ("duplicate length", "Content-Length: 5, 5\r\n\r\nhello"),
    ("length", "Content-Length: +5\r\n\r\nhello"),
    ("length", "Content-Length: -5\r\n\r\nhello"),
    ("length", "Content-Length: 0x5\r\n\r\nhello"),
    ("length", "Content-Length: 5_0\r\n\r\nhello"),
    ("length", "Content-Length: \r\n\r\nhello"),
    ("length", "Content-Length: 5 \x0b\r\n\r\nhello"),
    ("length", "Content-Length: 18446744073709551621\r\n\r\nhello"),
    ("obs-fold", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("obs-fold", "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("obs-fold", "X: y\r\n\tContent-Length: 5\r\n\r\nhello"),
    ("bare CR or LF", "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("bare CR or LF", "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("bare CR or LF", "X: y\n\n"),
    ("bare CR or LF", "X: y\r\r\n\r\n"),
    ("bare CR or LF", "X: y\r\n\n"),
    ("NUL in a field", "X: \0y\r\n\r\n"),
    ("NUL in a field", "X\0: y\r\n\r\n"),
    ("duplicate Host", "Host: a.test\r\nHost: b.test\r\n\r\n"),
    ("duplicate Host", "Host: a.test\r\nhost: a.test\r\n\r\n"),
    ("field name", "Host : b.test\r\n\r\n"),
    ("field name", ": x\r\n\r\n"),
    ("field name", "\x01: x\r\n\r\n"),
    ("field name", "no colon\r\n\r\n"),
    ("field name", "a(b): x\r\n\r\n"),
];

const CHUNKS: &[&str] = &[
    "zz\r\nabc\r\n",
    "-1\r\na\r\n",
    "+1\r\na\r\n",
    "0x1\r\na\r\n",
    "1 \r\na\r\n",
    " 1\r\na\r\n",
    "1\na\n0\n\n",
    "1\r\na\n0\r\n\r\n",
    "2\r\nabc\r\n0\r\n\r\n",
    "10000000000000001\r\na\r\n",
    ";\r\n",
    "1;\nGET /\r\na\r\n",
    "1;a=\0\r\na\r\n",
    "0\r\nbad trailer\r\n\r\n",
    "0\r\n Folded: x\r\n\r\n",
];

/// Family, the whole of what is said, the reason.
const NO_REQUESTS: &[(&str, &str, &str)] = &[
    ("origin form", "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "PROXY_REQUIRED"),
    ("origin form", "GET //a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n", "PROXY_REQUIRED"),
    ("origin form", "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", "PROXY_REQUIRED"),
    ("scheme", "GET https://a.test/ HTTP/1.1\r\n\r\n", "INVALID_DESTINATION"),
    ("scheme", "GET ftp://a.test/ HTTP/1.1\r\n\r\n", "INVALID_DESTINATION"),
    ("scheme", "GET file:///etc/passwd HTTP/1.1\r\n\r\n", "INVALID_DESTINATION"),
    ("scheme", "CONNECT http://a.test:80 HTTP/1.1\r\n\r\n", "INVALID_DESTINATION"),
    ("h2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "OTHER"),
    ("h2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12\x04\0\0\0\0\0", "OTHER"),
    ("version", "GET http://a.test/ HTTP/0.9\r\n\r\n", "OTHER"),
    ("version", "GET http://a.test/ HTTP/1.2\r\n\r\n", "OTHER"),
    ("version", "GET http://a.test/ HTTP/3\r\n\r\n", "OTHER"),
    ("version", "GET http://a.test/\r\n\r\n", "OTHER"),
    ("fragment", "GET http://a.test/#@b.test HTTP/1.1\r\n\r\n", "OTHER"),
    ("fragment", "GET http://b.test#.a.test/ HTTP/1.1\r\n\r\n", "OTHER"),
    ("body of a CONNECT", "CONNECT a.test:80 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "OTHER"),
    ("body of a CONNECT", "CONNECT a.test:80 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "OTHER"),
    ("not HTTP", "\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03", "OTHER"),
    ("not HTTP", "\0\0\0\0", "OTHER"),
    ("not HTTP", "\r\n\r\n\r\n", "OTHER"),
    ("not HTTP", "SSH-2.0-x\r\n\r\n", "OTHER"),
    ("request line", "GET  http://a.test/ HTTP/1.1\r\n\r\n", "OTHER"),
    ("request line", "GET\thttp://a.test/ HTTP/1.1\r\n\r\n", "OTHER"),
    ("request line", "G(T http://a.test/ HTTP/1.1\r\n\r\n", "OTHER"),
    ("request line", "GET http://a.test/ x HTTP/1.1\r\n\r\n", "OTHER"),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (family, fields) in FIELDS {
        let say = format!("POST http://a.test/ HTTP/1.1\r\n{fields}{SECOND}").into_bytes();
        cases.push(Case::new(family, format!("{fields:?}"), Layer::Always, Attack::Http { say, reason: "OTHER" }));
    }
    for (family, say, reason) in NO_REQUESTS {
        let attack = Attack::Http { say: say.as_bytes().to_vec(), reason };
        cases.push(Case::new(family, format!("{say:?}"), Layer::Always, attack));
    }
    let large = format!("GET http://a.test/ HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(33_000));
    let many = format!("GET http://a.test/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200));
    let endless = "G".repeat(100_000);
    for (name, say) in [("a field of 33 kB", large), ("200 fields", many), ("no line end", endless)] {
        let attack = Attack::Http { say: say.into_bytes(), reason: "OTHER" };
        cases.push(Case::new("header block", name, Layer::Always, attack));
    }
    for chunks in CHUNKS {
        let say =
            format!("POST http://a.test/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{SECOND}").into_bytes();
        // The origin answers a request by its head alone: what counts is that no second answer comes, and the end.
        let holds = |answer: &str| answer.matches("HTTP/1.1 ").count() == 1;
        cases.push(Case::new("chunk", format!("{chunks:?}"), Layer::Always, Attack::Answered { say, holds }));
    }
    let upgrades: [(&str, Holds); 2] = [
        ("Connection: Upgrade, close\r\nUpgrade: websocket\r\n", |answer| answer.starts_with("HTTP/1.1 200")),
        ("Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n", |answer| {
            answer.starts_with("HTTP/1.1 200")
        }),
    ];
    for (fields, holds) in upgrades {
        let say = format!("GET http://a.test/ HTTP/1.1\r\n{fields}\r\n").into_bytes();
        cases.push(Case::new("upgrade", format!("{fields:?}"), Layer::Always, Attack::Answered { say, holds }));
    }
    cases
}
