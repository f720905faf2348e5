//! The load: connections set up and used once, and bytes in bulk. The origin is a thread of this process.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::contenders::Speech;

/// Where the origin listens.
pub(crate) const ORIGIN_PORT: u16 = 18_889;
/// How long one measurement of set-ups takes.
const RUN: Duration = Duration::from_millis(500);
/// Bytes of one measurement in bulk.
pub(crate) const BULK: usize = 1 << 29;
/// Bytes read or written at once by load and origin.
const PIECE: usize = 256 * 1024;

/// By which way to the origin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way(pub(crate) Option<(SocketAddr, Speech)>);

/// Set-ups of one measurement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SetUps {
    pub(crate) count: usize,
    pub(crate) a_second: f64,
    pub(crate) median: Duration,
}

/// Which way the bulk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Down,
    Up,
}

/// Serves on a thread of its own: `b` starts a stream of zeroes, `u` takes as many bytes in bulk and then says one (not all
/// that is measured passes a half-close on), every other byte comes back.
pub(crate) fn origin() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", ORIGIN_PORT)).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut serving = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.spawn(answer(stream));
                while serving.try_join_next().is_some() {}
            }
        });
    });
}

async fn answer(mut stream: TcpStream) {
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte).await {
        match byte[0] {
            b'b' => {
                let zeroes = vec![0; PIECE];
                while stream.write_all(&zeroes).await.is_ok() {}
                return;
            }
            b'u' => {
                let (mut buffer, mut left) = (vec![0; PIECE], BULK);
                while left > 0
                    && let Ok(count @ 1..) = stream.read(&mut buffer).await
                {
                    left -= count;
                }
                stream.write_all(b"!").await.ok();
                return;
            }
            _ => {
                if stream.write_all(&byte).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// A connection that has carried one byte there and back.
pub(crate) async fn set_up(way: Way) -> TcpStream {
    let mut stream = connect(way).await;
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    stream
}

async fn connect(Way(way): Way) -> TcpStream {
    let origin = SocketAddr::from(([127, 0, 0, 1], ORIGIN_PORT));
    let mut stream = TcpStream::connect(way.map_or(origin, |(proxy, _)| proxy)).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let Some((_, speech)) = way else { return stream };
    match speech {
        Speech::Connect => {
            let request = format!("CONNECT localhost:{ORIGIN_PORT} HTTP/1.1\r\nHost: localhost:{ORIGIN_PORT}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut head = Vec::with_capacity(256);
            while !head.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut head).await.unwrap() > 0, "refused");
            }
            assert_eq!(&head[9..12], b"200", "{}", head.escape_ascii());
        }
        Speech::Socks5 => {
            stream.write_all(&[5, 1, 0]).await.unwrap();
            stream.read_exact(&mut [0; 2]).await.unwrap();
            let port = ORIGIN_PORT.to_be_bytes();
            stream.write_all(&[&[5, 1, 0, 3, 9][..], b"localhost", &port].concat()).await.unwrap();
            let mut reply = [0; 10];
            stream.read_exact(&mut reply).await.unwrap();
            assert_eq!(reply[1], 0, "refused");
        }
    }
    stream
}

/// As many set-ups, one after the other in each lane, as there is time for.
pub(crate) async fn set_ups(way: Way, lanes: usize) -> SetUps {
    let (began, end) = (Instant::now(), Instant::now() + RUN);
    let mut work = JoinSet::new();
    for _ in 0..lanes {
        work.spawn(async move {
            let mut times = Vec::new();
            while Instant::now() < end {
                let began = Instant::now();
                drop(set_up(way).await);
                times.push(began.elapsed());
            }
            times
        });
    }
    let mut times: Vec<Duration> = work.join_all().await.concat();
    let took = began.elapsed();
    times.sort_unstable();
    SetUps { count: times.len(), a_second: times.len() as f64 / took.as_secs_f64(), median: times[times.len() / 2] }
}

/// GB a second through one connection.
pub(crate) async fn bulk(way: Way, direction: Direction) -> f64 {
    let mut stream = connect(way).await;
    let mut buffer = vec![0; PIECE];
    let began = Instant::now();
    match direction {
        Direction::Down => {
            stream.write_all(b"b").await.unwrap();
            let mut left = BULK;
            while left > 0 {
                left = left.saturating_sub(stream.read(&mut buffer).await.unwrap());
            }
        }
        Direction::Up => {
            stream.write_all(b"u").await.unwrap();
            for _ in 0..BULK / PIECE {
                stream.write_all(&buffer).await.unwrap();
            }
            stream.read_exact(&mut [0]).await.unwrap();
        }
    }
    BULK as f64 / 1e9 / began.elapsed().as_secs_f64()
}

/// Attempts that are refused, one after the other.
pub(crate) async fn denials(proxy: SocketAddr, count: usize) {
    for _ in 0..count {
        let mut stream = TcpStream::connect(proxy).await.unwrap();
        stream.write_all(b"CONNECT denied.example.com:443 HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 403"), "{}", answer.escape_ascii());
    }
}
