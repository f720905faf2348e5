//! Measures the proxy on loopback: set-ups by CONNECT and bytes through one tunnel, beside the same
//! without a proxy. `cargo run --release -p egress --example measure`
//!
//! The proxy has a thread of its own, whose CPU time is read; load and origin share another runtime.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, clippy::cast_precision_loss)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use egress::{AuditLog, AuditSettings, EgressPolicy, OperatorRules, Proxy, ProxyListener, ProxyParts, Resolver};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const RUN: Duration = Duration::from_secs(3);
const BULK: usize = 4 << 30;

/// CPU seconds of the calling thread.
fn thread_cpu() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// Serves on a thread of its own; gives the CPU seconds used when told to stop.
fn proxy_thread(
    allow: &str,
    folder: &std::path::Path,
    cancel: CancellationToken,
) -> (SocketAddr, std::thread::JoinHandle<f64>) {
    let net = conduits::NetCapability::from_value(&serde_json::json!({"mode": "allowlist", "allow": [allow]})).unwrap();
    let path = folder.join("egress.jsonl");
    let (tell, told) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let rules = OperatorRules {
                allow_private: vec!["127.0.0.0/8".parse().unwrap()],
                max_connections: 1024,
                ..OperatorRules::default()
            };
            let tasks = TaskTracker::new();
            let proxy = Proxy::new(ProxyParts {
                directive_id: "measure".parse().unwrap(),
                policy: EgressPolicy::compile(&net, &rules, tokio::time::Instant::now()).unwrap(),
                resolver: Resolver::with_nameservers(&["127.0.0.1:1".parse().unwrap()]).unwrap(),
                upstream: None,
                audit: AuditLog::start(AuditSettings::at(path), &tasks, CancellationToken::new()).await.unwrap(),
                counters: Arc::default(),
                denials: tokio::sync::mpsc::channel(1).0,
                credential: None,
            });
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            proxy.serve(ProxyListener::Tcp(listener), cancel).await;
            thread_cpu()
        })
    });
    (told.recv().unwrap(), thread)
}

/// One connection, by the proxy where there is one, that carries one byte there and back.
async fn set_up(proxy: Option<SocketAddr>, origin: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.unwrap_or(origin)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    if proxy.is_some() {
        stream.write_all(format!("CONNECT localhost:{} HTTP/1.1\r\n\r\n", origin.port()).as_bytes()).await.unwrap();
        stream.read_exact(&mut [0; 39]).await.unwrap();
    }
    stream
}

/// Set-ups a second at this concurrency, and the median latency.
async fn rate(proxy: Option<SocketAddr>, origin: SocketAddr, lanes: usize) -> (f64, Duration, usize) {
    let end = Instant::now() + RUN;
    let mut work = JoinSet::new();
    for _ in 0..lanes {
        work.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let began = Instant::now();
                let mut stream = set_up(proxy, origin).await;
                stream.write_all(b"x").await.unwrap();
                stream.read_exact(&mut [0]).await.unwrap();
                times.push(began.elapsed());
            }
            times
        });
    }
    let mut times: Vec<Duration> = work.join_all().await.concat();
    times.sort_unstable();
    (times.len() as f64 / RUN.as_secs_f64(), times[times.len() / 2], times.len())
}

/// GB a second from the origin.
async fn bulk(proxy: Option<SocketAddr>, origin: SocketAddr) -> f64 {
    let mut stream = set_up(proxy, origin).await;
    let mut buffer = vec![0; 256 * 1024];
    let (mut left, began) = (BULK, Instant::now());
    stream.write_all(b"b").await.unwrap();
    while left > 0 {
        left = left.saturating_sub(stream.read(&mut buffer).await.unwrap());
    }
    BULK as f64 / 1e9 / began.elapsed().as_secs_f64()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = listener.local_addr().unwrap();
    // Answers each byte with itself; `b` starts a stream of zeroes.
    std::thread::spawn(move || {
        let listener = listener.into_std().unwrap();
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut serving = JoinSet::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                serving.spawn(async move {
                    let mut byte = [0];
                    while let Ok(1) = stream.read(&mut byte).await {
                        let bulk = vec![0; if byte[0] == b'b' { 256 * 1024 } else { 1 }];
                        while stream.write_all(&bulk).await.is_ok() && bulk.len() > 1 {}
                    }
                });
                while serving.try_join_next().is_some() {}
            }
        });
    });
    let folder = std::env::temp_dir().join(format!("egress-measure-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for lanes in [1, 16, 64] {
        let (direct, direct_p50, _) = rate(None, origin, lanes).await;
        let cancel = CancellationToken::new();
        let (proxy, thread) = proxy_thread(&format!("localhost:{}", origin.port()), &folder, cancel.clone());
        let (through, p50, count) = rate(Some(proxy), origin, lanes).await;
        cancel.cancel();
        let cpu = thread.join().unwrap() * 1e6 / count as f64;
        println!(
            "{lanes:2} lanes: direct {direct:.0}/s p50 {direct_p50:?}; CONNECT {through:.0}/s p50 {p50:?}, {cpu:.0} us of proxy CPU each"
        );
    }
    let direct = bulk(None, origin).await;
    let cancel = CancellationToken::new();
    let (proxy, thread) = proxy_thread(&format!("localhost:{}", origin.port()), &folder, cancel.clone());
    let through = bulk(Some(proxy), origin).await;
    cancel.cancel();
    let cpu = thread.join().unwrap() / (BULK as f64 / 1e9);
    println!("bulk: direct {direct:.2} GB/s; tunnel {through:.2} GB/s, {cpu:.2} s of proxy CPU a GB");
    std::fs::remove_dir_all(&folder).unwrap();
}
