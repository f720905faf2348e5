//! Answers of an allowed origin that try to make the client, or the next request, read something else.

use super::ground::ODD;
use super::{Attack, Case, Holds, Layer};

fn cut_off(answer: &str) -> bool {
    refused(answer) || (answer.starts_with("HTTP/1.1 200") && !answer.ends_with("0\r\n\r\n"))
}

fn refused(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 502") && answer.contains("X-Nexus-Egress-Reason: OTHER\r\n")
}

/// Family, the origin's bytes, what has to hold of what the client reads.
type Row = (&'static str, &'static str, Holds);

const ANSWERS: &[Row] = &[
    ("ambiguous answer", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", refused),
    (
        "ambiguous answer",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        refused,
    ),
    ("ambiguous answer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", refused),
    ("ambiguous answer", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", refused),
    ("ambiguous answer", "HTTP/1.1 200 OK\nContent-Length: 1\n\na", refused),
    ("ambiguous answer", "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", refused),
    ("ambiguous answer", "HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", refused),
    ("no answer", "SSH-2.0-x\r\n\r\n", refused),
    ("no answer", "", refused),
    ("no answer", "HTTP/1.1 200 OK\r\nContent-", refused),
    ("no answer", "HTTP/1.1 999 No\r\n\r\n", refused),
    ("upgrade", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\nbytes", refused),
    ("interim answers", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", |answer| {
        answer == "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
    }),
    (
        "interim answers",
        "HTTP/1.1 103 Hints\r\nConnection: X-A\r\nX-A: 1\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\n\r\n",
        |answer| answer == "HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No\r\nConnection: close\r\n\r\n",
    ),
    (
        "interim answers",
        "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        |answer| answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"),
    ),
    ("truncated answer", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", |answer| {
        answer == "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nabc"
    }),
    ("truncated answer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", cut_off),
    ("truncated answer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n0\r\n\r\n", cut_off),
    ("truncated answer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc\r\n0\r\n\r\n", cut_off),
    (
        "two answers",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        |answer| answer.ends_with("\r\n\r\nok"),
    ),
    ("two answers", "HTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", |answer| {
        !answer.contains("evil")
    }),
    ("redirect", "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", |answer| {
        answer.starts_with("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n")
    }),
    ("redirect", "HTTP/1.1 307 Again\r\nLocation: http://b.test/\r\nContent-Length: 0\r\n\r\n", |answer| {
        answer.starts_with("HTTP/1.1 307 Again\r\n")
    }),
    (
        "hop by hop",
        "HTTP/1.1 200 OK\r\nConnection: X-A, Content-Length\r\nX-A: 1\r\nProxy-Authenticate: Basic\r\nContent-Length: 1\r\n\r\nx",
        |answer| answer == "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx",
    ),
    (
        "hop by hop",
        "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=9\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\nx",
        |answer| answer == "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx",
    ),
];

pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (family, bytes, holds) in ANSWERS {
        let path: String = bytes.bytes().map(|byte| format!("{byte:02x}")).collect();
        let say = format!("GET http://a.test:{ODD}/{path} HTTP/1.1\r\nConnection: close\r\n\r\n").into_bytes();
        cases.push(Case::new(family, format!("{bytes:?}"), Layer::Always, Attack::Answered { say, holds: *holds }));
    }
    cases
}
