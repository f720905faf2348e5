//! A longer way: every byte arrives later, none is lost, and as many as one likes are on the way.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::server::{ServerThread, loopback};

/// On the way in one direction of one connection at most, in bytes: more than any bandwidth here times any delay.
const MOST_ON_THE_WAY: usize = 32 * 1024 * 1024;

/// A way to an address that takes longer; stopped when dropped.
pub struct DelayedLink {
    server: ServerThread,
}

impl DelayedLink {
    /// Each byte, in either direction, arrives this much later.
    #[must_use]
    pub fn start(upstream: SocketAddr, one_way: Duration) -> Self {
        let server = ServerThread::start(loopback(), move |listener, _| accept(listener, upstream, one_way)).unwrap();
        Self { server }
    }

    /// Where it begins.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }
}

async fn accept(listener: tokio::net::TcpListener, upstream: SocketAddr, one_way: Duration) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(upstream).await else { return };
            drop((client.set_nodelay(true), server.set_nodelay(true)));
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::join!(carry(from_client, to_server, one_way), carry(from_server, to_client, one_way));
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one direction to its end. How it ends is seen by whoever reads there.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, one_way: Duration) {
    let mut on_the_way: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let (mut bytes, mut open) = (0, true);
    let mut buffer = vec![0; 256 * 1024];
    while open || !on_the_way.is_empty() {
        let due = on_the_way.front().map(|(at, _)| *at);
        let arrival = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = from.read(&mut buffer), if open && bytes < MOST_ON_THE_WAY => match read {
                Ok(len) if len > 0 => {
                    bytes += len;
                    on_the_way.push_back((Instant::now() + one_way, buffer[..len].to_vec()));
                }
                _ => open = false,
            },
            () = arrival => {
                let Some((_, part)) = on_the_way.pop_front() else { continue };
                bytes -= part.len();
                if to.write_all(&part).await.is_err() {
                    return;
                }
            }
        }
    }
    drop(to.shutdown().await);
}
