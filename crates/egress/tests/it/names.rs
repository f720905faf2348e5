//! Spellings of destinations, over real sockets in both protocols that carry them as text.

use crate::bed::{Origin, Setup, refusal};

/// Sent as the host of an otherwise allowed request; each is refused before any look-up.
const REFUSED: &[&str] = &[
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "0",
    "0x7f.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "1.2.3.4",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[fe80::1%25lo]",
    "[a.test]",
    "::1",
    "１２７.0.0.1",
    "127。0。0。1",
    "a.test%00",
    "a%2etest",
    "a.test%2f",
    "user@a.test",
    "user:pass@a.test",
    "a.test@b.test",
    "a..test",
    ".a.test",
    "a.test..",
    "-a.test",
    "a_b.test",
    "a.test\\",
    "*.test",
    "a.test\u{2028}",
    "xn--a-ecp.ru\u{200b}\u{0}",
    "a",
    "xn--zzzzzzzzzzzzz99999999.test",
];

#[tokio::test]
async fn every_other_spelling_is_refused() {
    let origin = Origin::mirror().await;
    let bed = Setup::allowing(&[&format!("a.test:{}", origin.port)]).start().await;
    let port = origin.port;
    for host in REFUSED {
        for request in
            [format!("CONNECT {host}:{port} HTTP/1.1\r\n\r\n"), format!("GET http://{host}:{port}/ HTTP/1.1\r\n\r\n")]
        {
            let answer = bed.talk(&request).await;
            let (status, reason, _) = refusal(&answer);
            assert_eq!(status, 400, "{request:?}: {answer}");
            assert!(["INVALID_DESTINATION", "OTHER"].contains(&reason), "{request:?}: {reason}");
        }
        let mut client = bed.client().await;
        client
            .send([&[5, 1, 0, 5, 1, 0, 3, host.len() as u8][..], host.as_bytes(), &port.to_be_bytes()].concat())
            .await;
        let reply = client.rest().await;
        assert!(matches!(reply[..4], [5, 0, 5, 2 | 8]), "{host}: {reply:?}");
    }
    assert!(bed.asked().is_empty());
    let left = bed.end().await;
    assert_eq!((left.summary.allowed, left.summary.denied), (0, 3 * REFUSED.len() as u64));
    assert_eq!(left.audit.len(), 3 * REFUSED.len(), "each has its audit line");
}

#[tokio::test]
async fn spellings_of_the_same_name_are_the_same_destination() {
    let origin = Origin::mirror().await;
    let port = origin.port;
    let bed = Setup::allowing(&[&format!("a.test:{port}"), &format!("xn--bcher-kva.test:{port}")]).start().await;
    for (host, judged) in [
        ("a.test", "a.test"),
        ("A.TEST", "a.test"),
        ("a.test.", "a.test"),
        ("ａ.test", "a.test"),
        ("a。test", "a.test"),
        ("bücher.test", "xn--bcher-kva.test"),
        ("BÜCHER.test", "xn--bcher-kva.test"),
        ("XN--BCHER-KVA.test", "xn--bcher-kva.test"),
    ] {
        let answer = bed.talk(format!("GET http://{host}:{port}/ HTTP/1.1\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.contains(&format!("\r\nHost: {judged}:{port}\r\n")), "{host}: {answer}");
    }
    assert_eq!(bed.end().await.summary.denied, 0);
}

#[tokio::test]
async fn ports_are_read_one_way() {
    let bed = Setup::allowing(&["a.test:443"]).start().await;
    for port in
        ["", "0", "0443", "00443", "+443", "-443", "65979", "443.", "4 43", "0x1bb", "https", "443:443", "４４３"]
    {
        let answer = bed.talk(format!("CONNECT a.test:{port} HTTP/1.1\r\n\r\n")).await;
        assert_eq!(refusal(&answer).0, 400, "{port}: {answer}");
    }
    let answer = bed.talk("CONNECT a.test HTTP/1.1\r\n\r\n").await;
    assert_eq!(refusal(&answer).1, "INVALID_DESTINATION");
}
