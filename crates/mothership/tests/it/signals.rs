//! What signals and a reader that goes away do to `mothership run`.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Child;

use crate::bed::{Bed, Lease, Territory, answer};
use crate::process::{claimed, command, ended, left, mothership, signal, told};

/// A run whose directive has started and whose output is being printed.
async fn running(bed: &Bed, territory: &Territory) -> (Child, Lease) {
    let mut child = mothership(bed, &["run", "--", "sleep 100"]);
    let lease = claimed(territory).await;
    territory.started(&lease).await;
    territory.chunk(&lease, "stderr", 0, b"it runs\n").await;
    told(&mut child, "it runs").await;
    (child, lease)
}

/// Whether a cancel is asked for within a moment, as a held heartbeat hears it.
async fn is_canceled(territory: &Territory, lease: &Lease, seconds: u64) -> bool {
    let beat = territory
        .request(&format!("/directives/{}/heartbeat", lease.id))
        .bearer_auth(&lease.token)
        .header("prefer", format!("wait={seconds}"))
        .json(&json!({}));
    answer(beat).await.1["cancel_requested"] == true
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_signal_cancels_and_the_end_is_printed_and_the_directive_s() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    for (name, report, code) in [
        ("INT", json!({ "status": "canceled", "exit_code": 143 }), 143),
        ("TERM", json!({ "status": "canceled", "exit_code": 143 }), 143),
        ("INT", json!({ "status": "canceled" }), 130),
        ("TERM", json!({ "status": "failed", "exit_code": 7 }), 7),
        ("INT", json!({ "status": "succeeded", "exit_code": 0 }), 0),
    ] {
        let (child, lease) = running(&bed, &territory).await;
        signal(&child, name).await;
        assert!(is_canceled(&territory, &lease, 20).await, "{name}");
        territory.chunk(&lease, "stdout", 0, b"last words").await;
        let mut report = report;
        report["artifacts_manifest"] = json!({ "log": { "stdout": { "chunks": 1 }, "stderr": { "chunks": 1 } } });
        territory.report(&lease, "finished", report).await;
        let output = ended(child).await;
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(code), &b"last words"[..]), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_leaves_while_the_mothership_is_gone() {
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let mut bed = Bed::with(|config| config.listen = free_address().into()).await;
        let territory = bed.territory().await;
        let (mut child, _lease) = running(&bed, &territory).await;
        let address = bed.running.as_ref().unwrap().address();
        bed.stop().await;
        // Noticed: it comes again, and nobody answers.
        let silent = tokio::net::TcpListener::bind(address).await.unwrap();
        let again = tokio::time::timeout(Duration::from_secs(20), silent.accept()).await.expect("it tries again");
        signal(&child, "INT").await;
        told(&mut child, "interrupt again to leave at once").await;
        signal(&child, name).await;
        assert_eq!(left(child).await, Some(code), "{name}");
        drop(again);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_is_heard_once_the_mothership_is_back() {
    let mut bed = Bed::with(|config| config.listen = free_address().into()).await;
    let mut territory = bed.territory().await;
    let (mut child, lease) = running(&bed, &territory).await;
    bed.stop().await;
    signal(&child, "TERM").await;
    told(&mut child, "interrupt again").await;
    bed.start_again().await;
    territory.url = bed.url();
    assert!(is_canceled(&territory, &lease, 20).await);
    territory.report(&lease, "finished", json!({ "status": "canceled" })).await;
    assert_eq!(ended(child).await.status.code(), Some(130));
}

/// An address whose port nothing uses now.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_interrupt_leaves_while_nobody_reads_the_output() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    let (child, lease) = running(&bed, &territory).await;
    // More than a pipe holds, until it is full.
    for seq in 0..4 {
        territory.chunk(&lease, "stdout", seq, &[b'y'; 100_000]).await;
    }
    let held = || rustix::io::ioctl_fionread(child.stdout.as_ref().unwrap().as_fd()).unwrap();
    tokio::time::timeout(Duration::from_secs(20), async {
        while held() < 60_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the pipe fills");
    signal(&child, "INT").await;
    assert!(is_canceled(&territory, &lease, 20).await);
    signal(&child, "INT").await;
    assert_eq!(left(child).await, Some(130));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_has_seen_enough_cancels_the_directive() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    let (mut child, lease) = running(&bed, &territory).await;
    drop(child.stdout.take());
    territory.chunk(&lease, "stdout", 0, b"unread").await;
    let output = ended(child).await;
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]));
    assert!(is_canceled(&territory, &lease, 1).await);
    territory.report(&lease, "finished", json!({ "status": "canceled" })).await;
    // Whoever only looks at a directive leaves it alone.
    let (child, lease) = running(&bed, &territory).await;
    territory.chunk(&lease, "stdout", 0, b"unread").await;
    for words in [&["logs", &lease.id][..], &["logs", "-f", &lease.id]] {
        let mut logs = mothership(&bed, words);
        drop(logs.stdout.take());
        assert_eq!(ended(logs).await.status.code(), Some(141), "{words:?}");
    }
    assert!(!is_canceled(&territory, &lease, 1).await);
    assert_eq!(bed.state(&lease.id).await, "running");
    drop(child);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_leaves_while_a_first_answer_does_not_come() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "nxa1.any").unwrap();
    // A mothership that answers about facilities where it is told to, and about nothing else.
    for (answers, name, code) in [(false, "INT", 130), (false, "TERM", 143), (true, "INT", 130), (true, "TERM", 143)] {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", silent.local_addr().unwrap());
        let words = ["run", "--server", &server, "--token-file", token.to_str().unwrap(), "--", "true"];
        let mut child = command(dir.path(), &words);
        let (mut stream, _) = silent.accept().await.unwrap();
        asked(&mut stream, "/api/v1/facilities").await;
        if answers {
            let body = r#"{"id":"f"}"#;
            let answer = format!(
                "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
            asked(&mut stream, "/api/v1/directives").await;
        }
        signal(&child, name).await;
        if answers {
            told(&mut child, "interrupt again to leave at once").await;
            signal(&child, name).await;
        }
        assert_eq!(left(child).await, Some(code), "{answers} {name}");
    }
}

/// Reads until a request for this path has come.
async fn asked(stream: &mut tokio::net::TcpStream, path: &str) {
    let (mut text, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&text).contains(&format!("POST {path} ")) {
        let read = stream.read(&mut piece).await.unwrap();
        assert_ne!(read, 0, "it asks for {path}");
        text.extend_from_slice(&piece[..read]);
    }
}
