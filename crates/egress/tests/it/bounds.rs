//! Bounds: connections, header size and time, silence.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::bed::{Origin, PATIENCE, Setup, refusal};

#[tokio::test]
async fn one_connection_too_many_is_told_so_in_its_protocol() {
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    let mut setup = Setup::allowing(&[&to]);
    setup.rules.max_connections = 4;
    let mut bed = setup.start().await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let mut client = bed.client().await;
        client.tunnel(&to).await;
        open.push(client);
    }
    let answer = bed.talk(format!("CONNECT {to} HTTP/1.1\r\n\r\n")).await;
    let (status, reason, body) = refusal(&answer);
    assert_eq!((status, reason), (503, "OTHER"));
    assert!(body.contains("4 connections") && body.contains("egress.max_connections"), "{body}");
    assert_eq!(bed.talk([5, 1, 0]).await.as_bytes(), "\u{5}\u{fffd}".as_bytes());
    assert_eq!(bed.counters.connections_refused(), 2);
    assert_eq!(bed.denials.try_recv().unwrap().to_string(), "[egress] denied (too many connections) (OTHER)");
    bed.denials.try_recv().unwrap_err();
    open[3].send("still").await;
    open[3].expect("still").await;
    open.pop();
    // The freed place is given again.
    let began = Instant::now();
    loop {
        let mut client = bed.client().await;
        client.send(format!("CONNECT {to} HTTP/1.1\r\n\r\n")).await;
        if client.head().await.starts_with("HTTP/1.1 200") {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn a_flood_is_survived() {
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    let mut setup = Setup::allowing(&[&to]);
    setup.rules.max_connections = 16;
    let bed = setup.start().await;
    let mut flood = Vec::new();
    for _ in 0..500 {
        let mut client = bed.client().await;
        client.send("C").await;
        flood.push(client);
    }
    drop(flood);
    let began = Instant::now();
    loop {
        let mut client = bed.client().await;
        client.send(format!("CONNECT {to} HTTP/1.1\r\n\r\n")).await;
        let mut status = [0; 12];
        if client.0.read_exact(&mut status).await.is_ok() && &status == b"HTTP/1.1 200" {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "alive again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// In the earlier proxy the audit was written in the connection's path: a sink that took 5 ms a line left 173 set-ups a
/// second. Here it takes nothing at all.
#[tokio::test]
async fn an_audit_that_stands_still_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let sink = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &sink,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
    let never_read = rustix::fs::open(&sink, flags, rustix::fs::Mode::empty()).unwrap();
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup { audit_sink: Some(sink), ..Setup::allowing(&[&to]) }.start().await;
    // More lines than the pipe and the queue before it can hold.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let proxy = bed.proxy;
        tasks.spawn(async move {
            for _ in 0..1250 {
                let mut client = crate::bed::Client(tokio::net::TcpStream::connect(proxy).await.unwrap());
                client.send("CONNECT b.test:443 HTTP/1.1\r\n\r\n").await;
                assert!(client.head().await.starts_with("HTTP/1.1 403"));
            }
        });
    }
    tasks.join_all().await;
    assert!(bed.counters.audit_dropped() > 0, "what is lost is counted");
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    client.send("x").await;
    client.expect("x").await;
    drop(never_read);
}

#[tokio::test]
async fn header_blocks_are_bounded_in_size() {
    let origin = Origin::mirror().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let request =
        |size: usize| format!("GET http://{to}/ HTTP/1.1\r\nConnection: close\r\nX: {}\r\n\r\n", "y".repeat(size));
    assert!(bed.talk(request(30_000)).await.starts_with("HTTP/1.1 200"));
    assert_eq!(refusal(&bed.talk(request(33_000)).await).0, 400);
    assert_eq!(refusal(&bed.talk(format!("GET http://{to}/{} HTTP/1.1\r\n\r\n", "a".repeat(40_000))).await).0, 400);
    assert_eq!(refusal(&bed.talk(format!("GET http://{to}/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200))).await).0, 400);
    let mut client = bed.client().await;
    client.send("G".repeat(400_000)).await;
    assert_eq!(refusal(&client.rest_text().await).0, 400, "no line end at all");
}

#[tokio::test]
async fn a_slow_header_block_is_cut_after_ten_seconds() {
    let bed = Setup::allowing(&["a.test:80"]).start().await;
    let began = Instant::now();
    let mut slow = bed.client().await;
    let mut silent = bed.client().await;
    let mut socks = bed.client().await;
    socks.send([5, 1]).await;
    slow.send("GET http://a.test/ HTTP/1.1\r\n").await;
    let drip = async {
        for _ in 0..11 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            slow.send("X: y\r\n").await;
        }
        slow.rest_text().await
    };
    let (answer, silent, socks) = tokio::join!(drip, silent.rest(), socks.rest());
    assert_eq!(refusal(&answer).0, 408, "{answer}");
    assert_eq!((silent, socks), (vec![], vec![]));
    let mut lines = bed.end().await.lines();
    lines.sort();
    assert_eq!(lines, ["HTTP :0 deny OTHER", "SOCKS5 :0 deny OTHER"]);
    assert!(
        began.elapsed() > Duration::from_secs(9) && began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn silence_ends_a_tunnel_and_movement_keeps_it() {
    let origin = Origin::echo().await;
    let to = format!("a.test:{}", origin.port);
    let mut setup = Setup::allowing(&[&to]);
    setup.rules.idle_timeout = Duration::from_millis(600);
    let bed = setup.start().await;
    let mut client = bed.client().await;
    client.tunnel(&to).await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        client.send("x").await;
        client.expect("x").await;
    }
    let began = Instant::now();
    assert_eq!(client.rest().await, b"");
    assert!(began.elapsed() > Duration::from_millis(500) && began.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn an_origin_that_does_not_answer_is_504_and_a_slow_body_is_cut() {
    let silent = Origin::start(|mut stream| async move {
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let stalling = Origin::start(|mut stream| async move {
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
            .await
            .unwrap();
        stream.read_to_end(&mut Vec::new()).await.ok();
    })
    .await;
    let (a, b) = (format!("a.test:{}", silent.port), format!("a.test:{}", stalling.port));
    let mut setup = Setup::allowing(&[&a, &b]);
    setup.rules.idle_timeout = Duration::from_millis(500);
    let bed = setup.start().await;
    let answer = bed.talk(format!("GET http://{a}/ HTTP/1.1\r\n\r\n")).await;
    assert_eq!((refusal(&answer).0, refusal(&answer).1), (504, "OTHER"), "{answer}");
    let answer = bed.talk(format!("GET http://{b}/ HTTP/1.1\r\n\r\n")).await;
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "cut, not completed");
}

/// A name server that answers for nobody until it is told to, and then that there is no such name.
async fn silent_name_server(
    asked: Arc<Mutex<BTreeSet<Vec<u8>>>>,
    answers: Arc<AtomicBool>,
) -> (SocketAddr, JoinSet<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut packet = [0; 1500];
        loop {
            let (length, peer) = socket.recv_from(&mut packet).await.unwrap();
            let label = 13..13 + usize::from(packet[12]);
            asked.lock().unwrap().insert(packet[label].to_vec());
            if answers.load(Relaxed) {
                packet[2..4].copy_from_slice(&[0x85, 0x83]);
                packet[6..12].fill(0);
                socket.send_to(&packet[..length], peer).await.unwrap();
            }
        }
    });
    (address, task)
}

/// All directives share the resolver and the questions that it may have open: names that nobody answers for do not use them
/// up.
#[tokio::test]
async fn a_directive_has_so_many_look_ups_under_way_and_no_more() {
    const CLIENTS: usize = 100;
    const AT_ONCE: usize = 32;
    let (asked, answers) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
    let (server, _serving) = silent_name_server(Arc::clone(&asked), Arc::clone(&answers)).await;
    let bed = Setup::allowing(&["*.many.test:443"]).start_with(server).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = bed.client().await;
        client.send(format!("CONNECT n{number}.many.test:443 HTTP/1.1\r\n\r\n")).await;
        clients.push(client);
    }
    let began = Instant::now();
    while asked.lock().unwrap().len() < AT_ONCE {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(asked.lock().unwrap().len(), AT_ONCE);
    answers.store(true, Relaxed);
    for mut client in clients {
        assert_eq!(refusal(&client.rest_text().await).0, 502);
    }
    assert_eq!(asked.lock().unwrap().len(), CLIENTS);
}

/// A write for each tiny chunk would cost the proxy many times what it costs the sender.
#[tokio::test]
async fn tiny_chunks_go_on_together() {
    const CONTENT: usize = 30_000;
    let (tell, mut told) = tokio::sync::mpsc::channel(1);
    let origin = Origin::start(move |mut stream| {
        let tell = tell.clone();
        async move {
            let (mut all, mut buffer) = (Vec::new(), vec![0; 65536]);
            while !all.ends_with(b"\r\n0\r\n\r\n") {
                let count = stream.read(&mut buffer).await.unwrap();
                assert!(count > 0);
                all.extend_from_slice(&buffer[..count]);
            }
            tell.send(all).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let chunks = "1\r\nx\r\n".repeat(CONTENT);
    let head = format!("POST http://{to}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    let mut client = bed.client().await;
    client.send(format!("{head}{chunks}0\r\n\r\n")).await;
    assert!(client.rest_text().await.starts_with("HTTP/1.1 204 "));
    let got = told.recv().await.unwrap();
    assert_eq!(got.iter().filter(|byte| **byte == b'x').count(), CONTENT);
    assert!(got.len() < CONTENT + CONTENT / 10, "{} bytes", got.len());
}
