//! Tunnels by `CONNECT`.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bed::{Client, Origin, PATIENCE, Setup, refusal};

#[tokio::test]
async fn bytes_pass_both_ways_and_are_accounted() {
    let origin = Origin::echo().await;
    let bed = Setup::allowing(&[&format!("a.test:{}", origin.port)]).start().await;
    let mut client = bed.client().await;
    client.tunnel(&format!("a.test:{}", origin.port)).await;
    client.send("hello").await;
    client.expect("hello").await;
    drop(client);
    let mut left = bed.end().await;
    assert_eq!((left.summary.attempts, left.summary.allowed, left.summary.denied), (1, 1, 0));
    assert_eq!((left.summary.bytes_up, left.summary.bytes_down), (5, 5));
    let line = left.audit.remove(0);
    assert_eq!(line["directive_id"], "d-1");
    assert_eq!(line["resolved_ip"], "127.0.0.1");
    assert_eq!((&line["bytes_up"], &line["bytes_down"]), (&5.into(), &5.into()));
    assert!(line["ts"].as_str().unwrap().ends_with('Z'));
    assert!(left.audit.is_empty() && left.denials.is_empty());
}

#[tokio::test]
async fn bytes_sent_along_with_the_request_arrive() {
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.send(format!("CONNECT {to} HTTP/1.1\r\n\r\nearly data")).await;
    client.expect("HTTP/1.1 200 Connection established\r\n\r\nearly data").await;
}

#[tokio::test]
async fn a_request_byte_by_byte() {
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    for byte in format!("CONNECT {to} HTTP/1.1\r\nX: y\r\n\r\nz").bytes() {
        client.send([byte]).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    client.expect("HTTP/1.1 200 Connection established\r\n\r\nz").await;
}

#[tokio::test]
async fn the_clients_half_close_reaches_the_origin_and_its_answer_comes_back() {
    let origin = Origin::start(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(format!("got {}", all.len()).as_bytes()).await.unwrap();
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    client.send("12345").await;
    client.0.shutdown().await.unwrap();
    assert_eq!(client.rest_text().await, "got 5");
}

#[tokio::test]
async fn the_origins_half_close_reaches_the_client_and_its_bytes_still_go_out() {
    let (tell, told) = tokio::sync::oneshot::channel();
    let tell = std::sync::Arc::new(std::sync::Mutex::new(Some(tell)));
    let origin = Origin::start(move |mut stream| {
        let tell = std::sync::Arc::clone(&tell);
        async move {
            stream.write_all(b"bye").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            tell.lock().unwrap().take().unwrap().send(all).unwrap();
        }
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    assert_eq!(client.rest_text().await, "bye");
    client.send("after the end").await;
    client.0.shutdown().await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap(), b"after the end");
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_origins_connection() {
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let origin = Origin::start(move |mut stream| {
        let tell = tell.clone();
        async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.ok();
            tell.send(all.len()).await.unwrap();
        }
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    drop(client);
    assert_eq!(tokio::time::timeout(PATIENCE, told.recv()).await.unwrap(), Some(0));
    assert_eq!(bed.end().await.summary.attempts, 1);
}

/// Big enough that both the copying and the splicing half of the relay move it, in both directions at once.
#[tokio::test]
async fn megabytes_arrive_unchanged() {
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    let sent: Vec<u8> = (0..20_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let Client(stream) = client;
    let (mut read, mut write) = stream.into_split();
    let (wrote, got) = tokio::join!(
        async {
            write.write_all(&sent).await.unwrap();
            write.shutdown().await.unwrap();
        },
        async {
            let mut got = Vec::new();
            tokio::time::timeout(PATIENCE, read.read_to_end(&mut got)).await.unwrap().unwrap();
            got
        }
    );
    let () = wrote;
    assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    let summary = bed.end().await.summary;
    assert_eq!((summary.bytes_up, summary.bytes_down), (20_000_000, 20_000_000));
}

#[tokio::test]
async fn an_origin_that_refuses_or_does_not_exist_is_told_apart_from_a_denial() {
    let bed = Setup::allowing(&["a.test:1", "nowhere.test:443"]).start().await;
    let answer = bed.talk("CONNECT a.test:1 HTTP/1.1\r\n\r\n").await;
    let (status, reason, body) = refusal(&answer);
    assert_eq!((status, reason), (502, "OTHER"));
    assert!(body.contains("could not reach a.test:1") && body.contains("refused"), "{body}");
    let answer = bed.talk("CONNECT nowhere.test:443 HTTP/1.1\r\n\r\n").await;
    let (status, _, body) = refusal(&answer);
    assert_eq!(status, 502);
    assert!(body.contains("does not exist"), "{body}");
    let left = bed.end().await;
    assert_eq!(left.lines(), ["CONNECT a.test:1 allow OTHER", "CONNECT nowhere.test:443 allow OTHER"]);
    assert!(left.denials.is_empty());
}

#[tokio::test]
async fn stopping_the_proxy_closes_open_tunnels_and_accounts_for_them() {
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    client.send("x").await;
    client.expect("x").await;
    let left = bed.end().await;
    assert_eq!(client.rest().await, b"");
    assert_eq!(left.lines(), [format!("CONNECT {to} allow OK")]);
    assert_eq!(left.audit[0]["bytes_up"], 1);
}

#[tokio::test]
async fn a_unix_listener_serves_the_same() {
    use egress::{AuditLog, AuditSettings, EgressPolicy, Proxy, ProxyListener, ProxyParts, Resolver};
    let origin = Origin::echo().await;
    let to = format!("localhost:{}", origin.port);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.sock");
    let tasks = tokio_util::task::TaskTracker::new();
    let cancel = tokio_util::sync::CancellationToken::new();
    let net = conduits::NetCapability::from_value(&serde_json::json!({"mode": "allowlist", "allow": [to]})).unwrap();
    let rules = Setup::allowing(&[]).rules;
    let proxy = Proxy::new(ProxyParts {
        directive_id: "d-1".parse().unwrap(),
        policy: EgressPolicy::compile(&net, &rules, tokio::time::Instant::now()).unwrap(),
        resolver: Resolver::with_nameservers(&["127.0.0.1:1".parse().unwrap()]).unwrap(),
        upstream: None,
        audit: AuditLog::start(AuditSettings::at(folder.path().join("a.jsonl")), &tasks, cancel.clone()).await.unwrap(),
        counters: std::sync::Arc::default(),
        denials: tokio::sync::mpsc::channel(1).0,
        credential: None,
    });
    let listener = ProxyListener::from_std_unix(std::os::unix::net::UnixListener::bind(&path).unwrap()).unwrap();
    let serving = tokio::spawn(proxy.serve(listener, cancel.clone()));
    let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
    client.write_all(format!("CONNECT {to} HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let big = vec![7; 1_000_000];
    let mut head = [0; 39];
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 Connection established\r\n\r\n");
    let (mut read, mut write) = client.into_split();
    let (_, got) = tokio::join!(
        async {
            write.write_all(&big).await.unwrap();
            write.shutdown().await.unwrap();
        },
        async {
            let mut got = Vec::new();
            tokio::time::timeout(PATIENCE, read.read_to_end(&mut got)).await.unwrap().unwrap();
            got
        }
    );
    assert!(got == big);
    cancel.cancel();
    assert_eq!(serving.await.unwrap().bytes_up, 1_000_000);
}
