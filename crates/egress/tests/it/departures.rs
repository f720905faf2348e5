//! Clients that leave while an origin is silent, and those that only look like it; origins that leave between requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Notify, mpsc};

use crate::bed::{Bed, Origin, PATIENCE, Setup, read_head};

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

async fn allowed_becomes_one(bed: &Bed) {
    let count = || bed.counters.decisions().map(|(.., count)| count).sum::<u64>();
    let began = Instant::now();
    while count() != 1 {
        assert!(began.elapsed() < PATIENCE, "{} attempts have ended", count());
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
    allowed_becomes_one(&bed).await;
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
