//! Going out through another proxy: by `CONNECT`, with every name judged here.

use std::sync::{Arc, Mutex};

use egress::UpstreamProxy;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::bed::{Origin, Setup, read_head, refusal, zone};

/// A corporate proxy that notes each request and joins it to the origin whatever name was asked for, or answers `refuse`.
async fn corporate(origin_port: u16, refuse: Option<&'static str>) -> (Origin, Arc<Mutex<Vec<String>>>) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&seen);
    let proxy = Origin::start(move |mut client| {
        let note = Arc::clone(&note);
        async move {
            let Some(head) = read_head(&mut client).await else { return };
            note.lock().unwrap().push(head);
            if let Some(answer) = refuse {
                client.write_all(answer.as_bytes()).await.ok();
                return;
            }
            let mut origin = TcpStream::connect(("127.0.0.1", origin_port)).await.unwrap();
            // The answer in pieces, the last one with what may follow it at once.
            for piece in ["HTTP/1.1 2", "00 Connection established\r\nVia: corp\r\n", "\r\n"] {
                client.write_all(piece.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            tokio::io::copy_bidirectional(&mut client, &mut origin).await.ok();
        }
    })
    .await;
    (proxy, seen)
}

fn through(proxy: &Origin, entries: &[&str], user: Option<(&str, &str)>) -> Setup {
    Setup {
        upstream: Some(UpstreamProxy::new("http", "127.0.0.1", proxy.port, user).unwrap()),
        zone: zone(&[("private.corp.test", &["10.0.0.1"])]),
        ..Setup::allowing(entries)
    }
}

#[tokio::test]
async fn each_protocol_goes_through_it_by_name() {
    let origin = Origin::mirror().await;
    let (proxy, seen) = corporate(origin.port, None).await;
    // No name server here knows it.
    let bed = through(&proxy, &["far.test:80", "far.test:443"], Some(("user", "p@ss"))).start().await;
    let get = "GET http://far.test/x HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert!(bed.talk(get).await.ends_with("\r\n\r\nGET /x HTTP/1.1\r\nHost: far.test\r\n\r\n"));
    let mut client = bed.client().await;
    client.tunnel("far.test:443").await;
    client.send("GET / HTTP/1.1\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK"));
    let mut client = bed.client().await;
    client
        .send([&[5, 1, 0, 5, 1, 0, 3, 8][..], b"far.test", &80_u16.to_be_bytes(), b"GET / HTTP/1.1\r\n\r\n"].concat())
        .await;
    assert_eq!(client.read_exactly(12).await[3], 0);
    assert!(client.head().await.starts_with("HTTP/1.1 200 OK"));
    drop(client);
    let connect = |port: u16| {
        format!(
            "CONNECT far.test:{port} HTTP/1.1\r\nHost: far.test:{port}\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"
        )
    };
    assert_eq!(*seen.lock().unwrap(), [connect(80), connect(443), connect(80)]);
    let left = bed.end().await;
    assert_eq!(left.summary.allowed, 3);
    assert!(left.audit.iter().all(|line| line["resolved_ip"].is_null()), "which address it was is not known here");
}

#[tokio::test]
async fn what_the_origin_says_first_is_the_clients() {
    let origin = Origin::start(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await.ok();
    })
    .await;
    let (proxy, _) = corporate(origin.port, None).await;
    let bed = through(&proxy, &["far.test:22"], None).start().await;
    for _ in 0..5 {
        let mut client = bed.client().await;
        client.tunnel("far.test:22").await;
        client.expect("220 ready\r\n").await;
    }
}

#[tokio::test]
async fn names_are_judged_before_it_is_asked() {
    let origin = Origin::mirror().await;
    let (proxy, seen) = corporate(origin.port, None).await;
    let mut setup = through(&proxy, &["*.corp.test:80", "localhost:80"], None);
    setup.rules.allow_private = Vec::new();
    setup.rules.net_deny = vec!["denied.corp.test:80".parse().unwrap()];
    setup.rules.own_names = vec![("proxy.corp.test".parse().unwrap(), 80)];
    let bed = setup.start().await;
    for (name, reason) in [
        ("other.example", "NOT_IN_ALLOWLIST"),
        ("denied.corp.test", "OTHER"),
        ("proxy.corp.test", "DNS_DENIED"),
        ("private.corp.test", "DNS_DENIED"),
        ("localhost", "DNS_DENIED"),
        ("127.0.0.1", "INVALID_DESTINATION"),
    ] {
        let answer = bed.talk(format!("GET http://{name}/ HTTP/1.1\r\n\r\n")).await;
        assert_eq!(refusal(&answer).1, reason, "{name}: {answer}");
    }
    assert!(seen.lock().unwrap().is_empty());
    let control = bed.talk("GET http://far.corp.test/ HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert!(control.starts_with("HTTP/1.1 200"), "{control}");
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn loopback_that_the_operator_opened_is_this_hosts() {
    let origin = Origin::mirror().await;
    let (proxy, seen) = corporate(1, None).await;
    let bed = through(&proxy, &[&format!("localhost:{}", origin.port)], None).start().await;
    let answer = bed.talk(format!("GET http://localhost:{}/ HTTP/1.1\r\nConnection: close\r\n\r\n", origin.port)).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(seen.lock().unwrap().is_empty());
}

#[tokio::test]
async fn its_refusals_and_its_absence_are_told_as_such() {
    for (answer, words) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "the upstream proxy answered 403"),
        ("HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n", "the upstream proxy answered 407"),
        ("SSH-2.0-x\r\n\r\n", "gave an answer that cannot be read"),
        ("HTTP/1.1 200 OK\n\n", "gave an answer that cannot be read"),
        ("", "closed the connection"),
    ] {
        let (proxy, _) = corporate(1, Some(answer)).await;
        let bed = through(&proxy, &["far.test:443"], None).start().await;
        let got = bed.talk("CONNECT far.test:443 HTTP/1.1\r\n\r\n").await;
        assert_eq!(refusal(&got).0, 502, "{answer:?}: {got}");
        assert!(refusal(&got).2.contains(words), "{answer:?}: {got}");
        assert_eq!(bed.end().await.lines(), ["CONNECT far.test:443 allow OTHER"]);
    }
    let endless = "HTTP/1.1 200 OK\r\nX: ".to_owned() + &"x".repeat(40_000);
    let (proxy, _) = corporate(1, Some(endless.leak())).await;
    let bed = through(&proxy, &["far.test:443"], None).start().await;
    assert_eq!(refusal(&bed.talk("CONNECT far.test:443 HTTP/1.1\r\n\r\n").await).0, 502);
    let mut setup = Setup::allowing(&["far.test:443"]);
    setup.upstream = Some(UpstreamProxy::new("http", "127.0.0.1", 1, None).unwrap());
    let got = setup.start().await.talk("CONNECT far.test:443 HTTP/1.1\r\n\r\n").await;
    assert!(refusal(&got).2.contains("the upstream proxy cannot be reached"), "{got}");
}
