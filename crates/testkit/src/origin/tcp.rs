//! Raw TCP servers.

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::server::{ServerThread, loopback};

/// The longest life of one connection.
const MAX_LIFE: Duration = Duration::from_secs(60);
/// The most bytes that are kept of one connection.
const MAX_KEPT: usize = 16 * 1024 * 1024;

/// What the server does with a connection.
#[derive(Debug, Clone)]
pub enum TcpBehaviour {
    /// Sends back what comes, as it comes; closes when the client has closed.
    Echo,
    /// Reads until the client has closed its half, only then sends this, and closes.
    AnswerAfterEof(Vec<u8>),
    /// Sends this, closes its half, and goes on reading until the client closes.
    SendThenHalfClose(Vec<u8>),
    /// Sends this and closes at once.
    SendThenClose(Vec<u8>),
    /// Sends this a byte at a time with the pause between them.
    Trickle(Vec<u8>, Duration),
    /// Reads, and never says anything.
    Silent,
    /// Neither reads nor writes.
    Deaf,
    /// Closes at once.
    Close,
    /// Resets the connection after the first byte has come.
    Reset,
}

type Kept = Arc<Mutex<Vec<Vec<u8>>>>;

/// A raw TCP origin.
pub struct TcpOrigin {
    received: Kept,
    server: ServerThread,
}

impl TcpOrigin {
    /// On a free port of 127.0.0.1.
    #[must_use]
    pub fn start(behaviour: TcpBehaviour) -> Self {
        Self::start_on(loopback(), behaviour)
    }

    /// On a listener, such as one in another network namespace.
    #[must_use]
    pub fn start_on(listener: TcpListener, behaviour: TcpBehaviour) -> Self {
        let received = Kept::default();
        let kept = Arc::clone(&received);
        let server = ServerThread::start(listener, move |listener, _| accept(listener, behaviour, kept)).unwrap();
        Self { received, server }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What came in on each connection so far, in the order they were accepted.
    #[must_use]
    pub fn received(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap().clone()
    }
}

async fn accept(listener: tokio::net::TcpListener, behaviour: TcpBehaviour, kept: Kept) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let position = {
            let mut kept = kept.lock().unwrap();
            kept.push(Vec::new());
            kept.len() - 1
        };
        let (behaviour, kept) = (behaviour.clone(), Arc::clone(&kept));
        connections.spawn(async move {
            // Both a client that goes away and the end of its time are ordinary ends here.
            drop(timeout(MAX_LIFE, speak(stream, behaviour, |bytes| keep(&kept, position, bytes))).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

fn keep(kept: &Kept, position: usize, bytes: &[u8]) {
    let of = &mut kept.lock().unwrap()[position];
    let room = MAX_KEPT - of.len();
    of.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

async fn read_all(stream: &mut TcpStream, keep: &impl Fn(&[u8])) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            read => keep(&buffer[..read]),
        }
    }
}

async fn speak(mut stream: TcpStream, behaviour: TcpBehaviour, keep: impl Fn(&[u8])) -> std::io::Result<()> {
    match behaviour {
        TcpBehaviour::Echo => {
            let mut buffer = [0; 16 * 1024];
            loop {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    return stream.shutdown().await;
                }
                keep(&buffer[..read]);
                stream.write_all(&buffer[..read]).await?;
            }
        }
        TcpBehaviour::AnswerAfterEof(bytes) => {
            read_all(&mut stream, &keep).await?;
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        }
        TcpBehaviour::SendThenHalfClose(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
            read_all(&mut stream, &keep).await
        }
        TcpBehaviour::SendThenClose(bytes) => {
            stream.write_all(&bytes).await?;
            stream.shutdown().await
        }
        TcpBehaviour::Trickle(bytes, pause) => {
            stream.set_nodelay(true)?;
            for byte in bytes {
                stream.write_all(&[byte]).await?;
                sleep(pause).await;
            }
            stream.shutdown().await
        }
        TcpBehaviour::Silent => read_all(&mut stream, &keep).await,
        TcpBehaviour::Deaf => std::future::pending().await,
        TcpBehaviour::Close => Ok(()),
        TcpBehaviour::Reset => {
            let mut first = [0; 1];
            stream.read_exact(&mut first).await?;
            keep(&first);
            // Without lingering the close is a reset (socket(7), SO_LINGER).
            stream.set_zero_linger()
        }
    }
}
