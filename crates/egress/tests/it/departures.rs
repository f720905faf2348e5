//! Clients that leave while an origin is silent, and those that only look like it; origins that leave between requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};

use crate::bed::{Bed, Client, Origin, PATIENCE, Setup, read_head};

/// What a silent origin saw.
#[derive(Debug, PartialEq, Eq)]
enum Saw {
    Request,
    End,
}

/// Reads a request, sends `answer`, and then waits for the end of the connection.
async fn silent(answer: &'static [u8]) -> (Origin, mpsc::Receiver<Saw>) {
    let (tell, saw) = mpsc::channel(8);
    let origin = Origin::start(move |mut stream| {
        let tell = tell.clone();
        async move {
            if read_head(&mut stream).await.is_none() {
                return;
            }
            stream.write_all(answer).await.unwrap();
            tell.send(Saw::Request).await.unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.ok();
            assert_eq!(rest, b"");
            tell.send(Saw::End).await.unwrap();
        }
    })
    .await;
    (origin, saw)
}

async fn next(saw: &mut mpsc::Receiver<Saw>) -> Option<Saw> {
    tokio::time::timeout(PATIENCE, saw.recv()).await.expect("in time, and the idle bound is ten minutes")
}

#[tokio::test]
async fn the_origin_is_let_go_at_once_when_the_client_leaves() {
    let get = |to: &str| format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n\r\n");
    let put = |to: &str| format!("PUT http://{to}/ HTTP/1.1\r\nHost: {to}\r\nContent-Length: 9\r\n\r\n");
    let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1234";
    // With part of an answer unread, the client's kernel resets what it closes; without, it only ends its side.
    for (what, request, answer, left) in [
        ("no answer", get as fn(&str) -> String, b"".as_slice(), "HTTP a.test allow OTHER"),
        ("half an answer", get, begun, "HTTP a.test allow OTHER"),
        ("a body under way", put, b"", "HTTP a.test allow OTHER"),
    ] {
        let (origin, mut saw) = silent(answer).await;
        let to = format!("a.test:{}", origin.port);
        let bed = Setup::allowing(&[&to]).start().await;
        let mut client = bed.client().await;
        client.send(request(&to)).await;
        assert_eq!(next(&mut saw).await, Some(Saw::Request), "{what}");
        if !answer.is_empty() {
            client.0.peek(&mut [0]).await.unwrap();
        }
        drop(client);
        assert_eq!(next(&mut saw).await, Some(Saw::End), "{what}");
        let lines = bed.end().await.lines();
        assert_eq!(lines, [left.replace("a.test", &to)], "{what}");
    }
}

#[tokio::test]
async fn a_client_that_has_only_ended_its_side_gets_its_answer() {
    let (go, ended) = (Arc::new(Notify::new()), Duration::from_millis(200));
    let wait = Arc::clone(&go);
    let origin = Origin::start(move |mut stream| {
        let wait = Arc::clone(&wait);
        async move {
            while read_head(&mut stream).await.is_some() {
                wait.notified().await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            }
        }
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    for (version, interim) in [("1.1", "HTTP/1.1 100 Continue\r\n\r\n"), ("1.0", "")] {
        let mut client = bed.client().await;
        client.send(format!("GET http://{to}/ HTTP/{version}\r\nConnection: close\r\n\r\n")).await;
        client.0.shutdown().await.unwrap();
        client.expect(interim).await;
        // Nothing more is said while the origin thinks.
        assert!(tokio::time::timeout(ended, client.0.peek(&mut [0])).await.is_err(), "{version}");
        go.notify_one();
        client.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok").await;
    }
}

async fn attempts_become(bed: &Bed, want: u64, when: &str) {
    let count = || bed.counters.decisions().map(|(.., count)| count).sum::<u64>();
    let began = Instant::now();
    while count() != want {
        assert!(began.elapsed() < PATIENCE, "{when}: {} attempts have ended", count());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_tunnel_ends_when_its_client_is_gone_after_its_half_close() {
    let origin = Origin::start(|mut stream| async move {
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        stream.write_all(b"unread").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    client.0.shutdown().await.unwrap();
    client.0.peek(&mut [0]).await.unwrap();
    drop(client);
    attempts_become(&bed, 1, "gone").await;
}

/// A request that may not be sent twice is not sent to an origin that has left, however lately.
#[tokio::test]
async fn an_origin_that_has_left_is_not_asked_again() {
    let (left, has_left) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (leave, gone) = (Arc::clone(&left), Arc::clone(&has_left));
    let origin = Origin::start(move |mut stream| {
        let (leave, gone) = (Arc::clone(&leave), Arc::clone(&gone));
        async move {
            read_head(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            leave.notified().await;
            drop(stream);
            gone.notify_one();
        }
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    for _ in 0..20 {
        client.send(format!("POST http://{to}/ HTTP/1.1\r\nContent-Length: 0\r\n\r\n")).await;
        client.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        left.notify_one();
        has_left.notified().await;
    }
}

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leaving {
    Close,
    Reset,
}

async fn leave(client: Client, how: Leaving) {
    if matches!(how, Leaving::Reset) {
        rustix::net::sockopt::set_socket_linger(&client.0, Some(Duration::ZERO)).unwrap();
    }
    drop(client);
}

/// Whoever sent something has tried something, and the audit says so; a connection on which nothing came is none.
#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_request_has_made_an_attempt() {
    let http = "HTTP :0 deny OTHER";
    let socks = "SOCKS5 :0 deny OTHER";
    let cases: &[(&[u8], Option<&str>)] = &[
        (b"", None),
        (b"G", Some(http)),
        (b"CONNECT a.test:443 HTTP/1.1\r\nHost:", Some(http)),
        (b"GET http://a.test/ HTTP/1.1\r\n", Some(http)),
        (b"\r\nGET", Some(http)),
        (&[5], Some(socks)),
        (&[5, 2, 0], Some(socks)),
        (&[5, 1, 0], Some(socks)),
        (&[5, 1, 0, 5, 1, 0, 3, 6, b'a'], Some(socks)),
    ];
    for (sent, want) in cases {
        for how in [Leaving::Close, Leaving::Reset] {
            let bed = Setup::allowing(&["a.test:443"]).start().await;
            let mut client = bed.client().await;
            client.send(sent).await;
            leave(client, how).await;
            // A whole denial after it, by which the proxy is alive.
            assert!(bed.talk("GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 400"));
            attempts_become(&bed, 1 + u64::from(want.is_some()), &format!("{sent:?} {how:?}")).await;
            let left = bed.end().await;
            let lines: Vec<String> =
                left.lines().into_iter().filter(|line| !line.ends_with("PROXY_REQUIRED")).collect();
            assert_eq!(lines.first().map(String::as_str), *want, "{sent:?} {how:?}");
        }
    }
}

/// The same on a connection whose first request was whole.
#[tokio::test]
async fn a_second_request_that_is_cut_off_is_an_attempt_too() {
    let origin = Origin::mirror().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    for (sent, attempts) in [("", 1), ("GE", 3)] {
        let mut client = bed.client().await;
        client.send(format!("GET http://{to}/ HTTP/1.1\r\n\r\n")).await;
        client.head().await;
        client.send(sent).await;
        drop(client);
        attempts_become(&bed, attempts, sent).await;
    }
    let lines = bed.end().await.lines();
    let whole = format!("HTTP {to} allow OK");
    assert_eq!(lines, [whole.as_str(), &whole, "HTTP :0 deny OTHER"]);
}

/// The name that a hello carries is not known before it is whole: one that never became so was not allowed.
#[tokio::test]
async fn a_hello_that_is_cut_off_is_refused_however_its_client_leaves() {
    for how in [Leaving::Close, Leaving::Reset] {
        let (origin, mut saw) = telling().await;
        let to = format!("a.test:{}", origin.port);
        let mut setup = Setup::allowing(&[&to]);
        setup.rules.sni_check_ports = vec![origin.port];
        let bed = setup.start().await;
        let mut client = bed.client().await;
        client.tunnel(&to).await;
        client.send([22, 3, 1, 2, 0, 1, 0]).await;
        leave(client, how).await;
        attempts_become(&bed, 1, &format!("{how:?}")).await;
        let left = bed.end().await;
        assert_eq!(left.lines(), [format!("CONNECT {to} deny SNI_MISMATCH")], "{how:?}");
        assert_eq!(left.audit[0]["sni"], "(broken)", "{how:?}");
        assert_eq!(saw.recv().await, Some(Vec::new()), "{how:?}: nothing of it went on");
    }
}

/// An origin that tells all that came on each connection.
async fn telling() -> (Origin, mpsc::Receiver<Vec<u8>>) {
    let (tell, saw) = mpsc::channel(8);
    let origin = Origin::start(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.ok();
            tell.send(all).await.unwrap();
        }
    })
    .await;
    (origin, saw)
}

#[tokio::test]
async fn ten_thousand_that_leave_are_counted_and_shown_once() {
    let bed = Setup::allowing(&["a.test:443"]).start().await;
    let mut lanes = tokio::task::JoinSet::new();
    for lane in 0..8 {
        let proxy = bed.proxy;
        lanes.spawn(async move {
            for round in 0..1250 {
                let mut client = Client(tokio::net::TcpStream::connect(proxy).await.unwrap());
                client.send(if (lane + round) % 2 == 0 { b"CONNECT h.test".as_slice() } else { &[5, 1] }).await;
                client.0.shutdown().await.unwrap();
                // Until the proxy has let go of it.
                client.rest().await;
            }
        });
    }
    lanes.join_all().await;
    attempts_become(&bed, 10_000, "all").await;
    let left = bed.end().await;
    assert_eq!(left.summary.denied, 10_000);
    assert_eq!(left.denials, ["[egress] denied (no destination) (OTHER)"]);
    assert_eq!(left.summary.denied_destinations, ["(no destination)"]);
}
