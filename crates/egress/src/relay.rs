//! Moving the bytes of a tunnel.
//!
//! Each direction starts by copying through one scratch buffer per thread, so an idle tunnel
//! holds no buffer; a direction that has moved [`SPLICE_AFTER`] bytes goes on with splice(2), so a
//! long one never touches user space. Either way at most 64 KiB are under way. A peer's half-close
//! is passed on, the other direction goes on.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::io::Interest;
use tokio::time::Instant;

use crate::stream::{Stream, would_block};

/// The most bytes under way in one direction.
pub(crate) const RELAY_BYTES: usize = 64 * 1024;

/// After so many bytes a direction is worth the two descriptors of a pipe.
const SPLICE_AFTER: u64 = 256 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; RELAY_BYTES].into_boxed_slice());
}

/// Counts one connection's bytes and remembers when it last moved any.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) up: AtomicU64,
    pub(crate) down: AtomicU64,
    start: Instant,
    last_millis: AtomicU64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { up: AtomicU64::new(0), down: AtomicU64::new(0), start: Instant::now(), last_millis: AtomicU64::new(0) }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn moved(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Relaxed);
        self.touch();
    }

    pub(crate) fn touch(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_millis.store(millis, Relaxed);
    }

    /// Returns once nothing has moved for `timeout`. One timer, not one reset per packet.
    pub(crate) async fn idle(&self, timeout: Duration) {
        loop {
            let end = self.start + Duration::from_millis(self.last_millis.load(Relaxed)) + timeout;
            if Instant::now() >= end {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Moves bytes from `from` to `to` until the end of the stream, and passes that end on.
pub(crate) async fn pump(from: &Stream, to: &Stream, meter: &Meter, counter: &AtomicU64) -> io::Result<()> {
    let mut since = 0_u64;
    loop {
        let (bytes, held) = read_and_forward(from, to).await?;
        if bytes == 0 {
            return to.shutdown_write();
        }
        to.write_all(&held).await?;
        meter.moved(counter, bytes);
        since += bytes as u64;
        if since >= SPLICE_AFTER {
            since = 0;
            // Without descriptors to spare the direction goes on as it is, and asks again later.
            if let Ok(pipe) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) {
                return splice(from, to, pipe, meter, counter).await;
            }
        }
        // Sockets that are always ready must not keep the other tasks from running.
        tokio::task::consume_budget().await;
    }
}

/// Reads once and writes what the other side takes at once; gives how much was read and what is left.
async fn read_and_forward(from: &Stream, to: &Stream) -> io::Result<(usize, Vec<u8>)> {
    loop {
        from.readable().await?;
        let step = SCRATCH.with_borrow_mut(|scratch| {
            let bytes = from.try_read(scratch)?;
            let written = match to.try_write(&scratch[..bytes]) {
                Ok(written) => written,
                Err(error) if would_block(&error) => 0,
                Err(error) => return Ok(Err(error)),
            };
            Ok(Ok((bytes, scratch[written..bytes].to_vec())))
        });
        match step {
            Ok(result) => return result,
            Err(error) if would_block(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

async fn splice(
    from: &Stream,
    to: &Stream,
    (pipe_out, pipe_in): (OwnedFd, OwnedFd),
    meter: &Meter,
    counter: &AtomicU64,
) -> io::Result<()> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        // The pipe is empty here, so "would block" can only mean the socket.
        let fill = || Ok(rustix::pipe::splice(from, None, &pipe_in, None, RELAY_BYTES, flags)?);
        let bytes = from.with_ready(Interest::READABLE, fill).await?;
        if bytes == 0 {
            return to.shutdown_write();
        }
        let mut left = bytes;
        while left > 0 {
            // The pipe is not empty here: the same for the other socket.
            let drain = || Ok(rustix::pipe::splice(&pipe_out, None, to, None, left, flags)?);
            match to.with_ready(Interest::WRITABLE, drain).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                moved => left -= moved,
            }
        }
        meter.moved(counter, bytes);
        tokio::task::consume_budget().await;
    }
}
