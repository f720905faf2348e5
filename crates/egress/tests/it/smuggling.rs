//! Requests that two readers could read differently: refused, closed, and nothing reaches the origin.

use crate::bed::{Origin, Setup, refusal};

const SECOND: &str = "GET http://b.test/ HTTP/1.1\r\nHost: b.test\r\n\r\n";

#[tokio::test]
async fn ambiguous_requests_reach_no_origin() {
    let (origin, seen) = Origin::recording().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let cases = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "X: y\n\nGET http://b.test/ HTTP/1.1\r\n\r\n",
        "X: \0y\r\n\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "Content-Length: 5,6\r\n\r\nhello",
        "Content-Length: +5\r\n\r\nhello",
        "Content-Length: 0x5\r\n\r\nhello",
        "Content-Length: 5 \x0b\r\n\r\nhello",
        "Content-Length: 18446744073709551621\r\n\r\nhello",
        "Content_Length : 5\r\n\r\nhello",
        "Host: a.test\r\nHost: b.test\r\n\r\n",
        "Host : b.test\r\n\r\n",
        ": x\r\n\r\n",
        "\x01: x\r\n\r\n",
    ];
    for fields in cases {
        let answer = bed.talk(format!("POST http://{to}/ HTTP/1.1\r\n{fields}{SECOND}")).await;
        assert_eq!(refusal(&answer).0, 400, "{fields:?}: {answer}");
        assert_eq!(answer.matches("X-Nexus-Egress-Reason: ").count(), 1, "one answer, then closed: {answer}");
    }
    assert!(seen.lock().unwrap().is_empty(), "the origin saw {:?}", String::from_utf8_lossy(&seen.lock().unwrap()));
    let control =
        bed.talk(format!("POST http://{to}/ HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")).await;
    assert!(control.starts_with("HTTP/1.1 200"), "{control}");
    let left = bed.end().await;
    assert_eq!(left.summary.denied, cases.len() as u64);
}

#[tokio::test]
async fn a_bad_chunk_cuts_the_exchange() {
    for chunks in [
        "zz\r\nabc\r\n",
        "-1\r\na\r\n",
        "0x1\r\na\r\n",
        "1 \r\na\r\n",
        "1\na\n0\n\n",
        "2\r\nabc\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "10000000000000001\r\na\r\n",
        ";\r\n",
        "1;\nGET /\r\na\r\n",
        "0\r\nbad trailer\r\n\r\n",
    ] {
        let (origin, seen) = Origin::recording().await;
        let to = format!("a.test:{}", origin.port);
        let bed = Setup::allowing(&[&to]).start().await;
        let answer =
            bed.talk(format!("POST http://{to}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{SECOND}")).await;
        assert_eq!((refusal(&answer).0, refusal(&answer).1), (400, "OTHER"), "{chunks:?}: {answer}");
        assert_eq!(answer.matches("X-Nexus-Egress-Reason: ").count(), 1, "{answer}");
        let left = bed.end().await;
        assert_eq!(left.lines(), [format!("HTTP {to} deny OTHER")]);
        let seen = String::from_utf8_lossy(&seen.lock().unwrap()).into_owned();
        assert!(!seen.contains("GET") && !seen.ends_with("0\r\n\r\n"), "{chunks:?}: {seen}");
    }
}

#[tokio::test]
async fn what_is_no_proxy_request_is_refused_at_once() {
    let bed = Setup::allowing(&["a.test:80"]).start().await;
    for (request, reason) in [
        ("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", "PROXY_REQUIRED"),
        ("OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", "PROXY_REQUIRED"),
        ("GET https://a.test/ HTTP/1.1\r\n\r\n", "INVALID_DESTINATION"),
        ("GET ftp://a.test/ HTTP/1.1\r\n\r\n", "INVALID_DESTINATION"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "OTHER"),
        ("GET http://a.test/ HTTP/0.9\r\n\r\n", "OTHER"),
        ("GET http://a.test/\r\n\r\n", "OTHER"),
        ("GET http://a.test/#@b.test HTTP/1.1\r\n\r\n", "OTHER"),
        ("CONNECT a.test:80 HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "OTHER"),
        ("CONNECT a.test:80 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "OTHER"),
        ("CONNECT http://a.test:80 HTTP/1.1\r\n\r\n", "INVALID_DESTINATION"),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03", "OTHER"),
        ("\0\0\0\0", "OTHER"),
        ("\r\n\r\n\r\n", "OTHER"),
    ] {
        let answer = bed.talk(request).await;
        assert_eq!((refusal(&answer).0, refusal(&answer).1), (400, reason), "{request:?}: {answer}");
    }
    assert!(bed.asked().is_empty());
}

#[tokio::test]
async fn an_upgrade_does_not_travel() {
    let origin = Origin::mirror().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let answer = bed
        .talk(format!("GET http://{to}/ HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n"))
        .await;
    assert!(answer.ends_with(&format!("\r\n\r\nGET / HTTP/1.1\r\nHost: {to}\r\n\r\n")), "{answer}");
}
