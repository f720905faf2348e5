//! One client connection: the first byte decides what it speaks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::{Attempt, Method};
use super::refuse::Told;
use super::{Shared, exchange::Origin};
use crate::policy::reason::Reason;
use crate::stream::Stream;
use crate::wire::head::{HeadError, HeadScanner};
use crate::wire::socks;

/// How long a client may take for its first byte and for each header block.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How much is read at once while a message is being put together.
pub(super) const READ_BYTES: usize = 4096;
/// How much of a refused request is read away, so that the refusal is not lost to a reset.
const LINGER_BYTES: usize = 256 * 1024;
/// For how long that is done.
const LINGER_TIME: Duration = Duration::from_secs(1);

/// A client connection and what has been read from it but not yet used.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Stream,
    pub(super) buffer: Vec<u8>,
    /// The origin of the last absolute-form request, kept for the next one.
    pub(super) origin: Option<Origin>,
}

/// Why no header block came.
#[derive(Debug)]
pub(super) enum HeadFailure {
    /// The client went away, or never asked for anything.
    Gone,
    /// The client went away in the middle of it.
    CutOff,
    /// Not in time.
    TimedOut,
    /// Not a header block.
    Malformed(HeadError),
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, client: Stream) -> Self {
        Self { shared, client, buffer: Vec::new(), origin: None }
    }

    pub(super) async fn run(mut self) {
        let deadline = Instant::now() + HEAD_TIMEOUT;
        match self.first_byte(deadline).await {
            Some(socks::VERSION) => self.socks5(deadline).await,
            Some(socks::VERSION_4) => self.refuse_socks4().await,
            Some(_) => self.http().await,
            None => {}
        }
    }

    /// Tells a client in its own protocol that it is one too many.
    pub(super) async fn refuse_one_too_many(mut self) {
        let told = Told::too_many(self.shared.policy.max_connections);
        let first = self.first_byte(Instant::now() + LINGER_TIME).await;
        let method =
            if matches!(first, Some(socks::VERSION | socks::VERSION_4)) { Method::Socks5 } else { Method::Http };
        if first.is_some() {
            drop(Attempt::unreadable(&self.shared, method, "(too many connections)", told.refusal.reason));
        }
        match first {
            Some(socks::VERSION) => self.refuse(&[socks::VERSION, socks::METHOD_REFUSED]).await,
            Some(socks::VERSION_4) => self.refuse(&socks::SOCKS4_REFUSED).await,
            Some(_) => self.refuse(&told.response("")).await,
            None => {}
        }
    }

    /// The client has sent something and left before it was whole. It was an attempt, at nobody knows what.
    pub(super) fn account_cut_off(&self, method: Method) {
        drop(Attempt::unreadable(&self.shared, method, "", Reason::Other));
    }

    async fn refuse_socks4(&mut self) {
        let reason = Reason::InvalidDestination;
        drop(Attempt::unreadable(&self.shared, Method::Socks5, "", reason));
        self.refuse(&socks::SOCKS4_REFUSED).await;
    }

    async fn first_byte(&mut self, deadline: Instant) -> Option<u8> {
        match tokio::time::timeout_at(deadline, self.fill()).await {
            Ok(Ok(_)) => self.buffer.first().copied(),
            _ => None,
        }
    }

    /// Reads some more into the buffer; 0 is the end.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        self.client.read_into(&mut self.buffer, READ_BYTES).await
    }

    /// Reads on until the buffer begins with a whole header block; gives its length.
    pub(super) async fn head(&mut self, wait: Duration) -> Result<usize, HeadFailure> {
        let mut deadline = Instant::now() + if self.buffer.is_empty() { wait } else { HEAD_TIMEOUT };
        let mut scanner = HeadScanner::default();
        let mut skipped = false;
        loop {
            // One empty line before a request is tolerated (RFC 9112, 2.2).
            if !skipped && self.buffer.starts_with(b"\r\n") {
                self.buffer.drain(..2);
                skipped = true;
                scanner = HeadScanner::default();
            }
            if let Some(length) = scanner.scan(&self.buffer).map_err(HeadFailure::Malformed)? {
                return Ok(length);
            }
            let was_empty = self.buffer.is_empty();
            match tokio::time::timeout_at(deadline, self.fill()).await {
                Err(_) if was_empty => return Err(HeadFailure::Gone),
                Err(_) => return Err(HeadFailure::TimedOut),
                Ok(Err(_) | Ok(0)) if was_empty => return Err(HeadFailure::Gone),
                Ok(Err(_) | Ok(0)) => return Err(HeadFailure::CutOff),
                Ok(Ok(_)) if was_empty => deadline = Instant::now() + HEAD_TIMEOUT,
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Sends a few bytes; whether they went. A client that reads nothing of what it was sent before does not hold its place.
    pub(super) async fn tell(&self, bytes: &[u8]) -> bool {
        matches!(tokio::time::timeout(HEAD_TIMEOUT, self.client.write_all(bytes)).await, Ok(Ok(())))
    }

    /// Sends the last bytes and closes so that they arrive: a socket closed with unread bytes in
    /// it resets the connection, and the peer's kernel may throw the answer away.
    pub(super) async fn refuse(&mut self, answer: &[u8]) {
        let farewell = async {
            self.client.write_all(answer).await?;
            self.client.shutdown_write()?;
            let mut read = 0;
            while read < LINGER_BYTES {
                self.buffer.clear();
                match self.client.read_into(&mut self.buffer, READ_BYTES).await? {
                    0 => break,
                    bytes => read += bytes,
                }
            }
            Ok::<(), io::Error>(())
        };
        if let Ok(Err(error)) = tokio::time::timeout(LINGER_TIME, farewell).await {
            tracing::trace!(%error, "the client did not wait for its refusal");
        }
    }
}
