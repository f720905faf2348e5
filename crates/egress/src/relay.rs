//! Moving the bytes of a tunnel.
//!
//! Each direction starts by copying through one scratch buffer per thread, so an idle tunnel holds no buffer, and one under
//! way at most 64 KiB. A direction that has moved [`SPLICE_AFTER`] bytes goes on with splice(2) through a pipe, and never
//! touches user space; once it is quiet for a moment it gives the pipe back. A peer's half-close is passed on, the other
//! direction goes on.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::Interest;
use tokio::time::Instant;

use crate::stream::{Stream, would_block};
use kernel::{splice_once, wide_pipe};

/// The most bytes under way in one direction.
pub(crate) const RELAY_BYTES: usize = 64 * 1024;

/// After so many bytes a direction is worth the two descriptors of a pipe.
const SPLICE_AFTER: u64 = 256 * 1024;

/// The size of such a pipe: with an ordinary one of 64 KiB, splicing costs as much as copying, for whoever is at the ends is
/// woken as often. It holds what was in the sockets' buffers before.
const PIPE_BYTES: usize = 1024 * 1024;

/// So many in the whole process: an ordinary user has 64 MiB for all pipes (`fs.pipe-user-pages-soft`), and those of logs are
/// among them.
const MAX_PIPES: usize = 32;

/// After so much silence a direction gives its pipe back.
const PIPE_REST: Duration = Duration::from_millis(500);

static PIPES: AtomicUsize = AtomicUsize::new(0);

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

/// A pipe of [`PIPE_BYTES`], one of [`MAX_PIPES`].
#[derive(Debug)]
struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    _place: Place,
}

/// A place among the pipes that there may be.
#[derive(Debug)]
struct Place;

impl Place {
    fn take() -> Option<Self> {
        let more = |taken: usize| (taken < MAX_PIPES).then_some(taken + 1);
        PIPES.fetch_update(Relaxed, Relaxed, more).is_ok().then_some(Self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        PIPES.fetch_sub(1, Relaxed);
    }
}

impl Pipe {
    /// None where there are enough, no descriptors are left, or the system does not give one of this size.
    fn take() -> Option<Self> {
        let place = Place::take()?;
        let (output, input) = wide_pipe().ok()?;
        Some(Self { output, input, _place: place })
    }
}

/// What the kernel moves by itself.
#[cfg(target_os = "linux")]
mod kernel {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

    use super::PIPE_BYTES;

    /// The reading and the writing end of a pipe, non-blocking.
    pub(super) fn wide_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&input, PIPE_BYTES)?;
        Ok((output, input))
    }

    /// One splice(2); one of the two is a pipe.
    pub(super) fn splice_once(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
        Ok(splice(from, None, to, None, most, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
    }
}

/// Elsewhere it moves nothing by itself, so there is never a pipe, and every direction goes on copying.
#[cfg(not(target_os = "linux"))]
mod kernel {
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    pub(super) fn wide_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn splice_once(_: impl AsFd, _: impl AsFd, _: usize) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
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
            // Without a pipe to spare the direction goes on as it is, and asks again later.
            if let Some(pipe) = Pipe::take()
                && splice(from, to, &pipe, meter, counter).await? == Spliced::ToTheEnd
            {
                return Ok(());
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
            if bytes == 0 {
                return Ok(Ok((0, Vec::new())));
            }
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

/// How splicing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spliced {
    /// The stream has ended, and that was passed on.
    ToTheEnd,
    /// Nothing came for a moment. The pipe is empty.
    Quiet,
}

async fn splice(from: &Stream, to: &Stream, pipe: &Pipe, meter: &Meter, counter: &AtomicU64) -> io::Result<Spliced> {
    loop {
        // The pipe is empty here, so "would block" can only mean the socket.
        let fill = || splice_once(from, &pipe.input, PIPE_BYTES);
        let bytes = match from.try_with(Interest::READABLE, fill) {
            Err(error) if would_block(&error) => match tokio::time::timeout(PIPE_REST, from.readable()).await {
                Ok(ready) => {
                    ready?;
                    continue;
                }
                Err(_) => return Ok(Spliced::Quiet),
            },
            other => other?,
        };
        if bytes == 0 {
            to.shutdown_write()?;
            return Ok(Spliced::ToTheEnd);
        }
        let mut left = bytes;
        while left > 0 {
            // The pipe is not empty here: the same for the other socket.
            let drain = || splice_once(&pipe.output, to, left);
            match to.with_ready(Interest::WRITABLE, drain).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                moved => left -= moved,
            }
        }
        meter.moved(counter, bytes);
        tokio::task::consume_budget().await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    use super::*;

    #[test]
    fn there_are_no_more_pipes_than_there_may_be() {
        let mut taken = Vec::new();
        while let Some(pipe) = Pipe::take() {
            taken.push(pipe);
            assert!(taken.len() <= MAX_PIPES);
        }
        let size = rustix::pipe::fcntl_getpipe_size(&taken[0].output).unwrap();
        assert_eq!((taken.len(), size), (MAX_PIPES, PIPE_BYTES));
        taken.pop();
        assert!(Pipe::take().is_some());
    }

    /// What comes in small pieces after a lot goes on at once, and the pipe is given back; then it may be a lot again.
    #[tokio::test]
    async fn after_a_lot_a_little_and_then_a_lot_again() {
        const LOT: usize = 4 * 1024 * 1024;
        let ((from, mut source), (to, mut sink)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
        let pumping = tokio_util::task::TaskTracker::new().spawn(async move {
            let meter = Meter::new();
            pump(&Stream::Unix(from), &Stream::Unix(to), &meter, &meter.up).await.unwrap();
            meter.up.load(Relaxed)
        });
        for round in 0..2_u8 {
            let sent: Vec<u8> = (0..LOT).map(|at| u8::try_from(at % 251).unwrap() ^ round).collect();
            let mut got = vec![0; LOT];
            let (wrote, read) = tokio::join!(source.write_all(&sent), sink.read_exact(&mut got));
            wrote.and(read).unwrap();
            assert!(got == sent);
            assert_eq!(PIPES.load(Relaxed), 1);
            let began = Instant::now();
            for byte in 0..100 {
                source.write_all(&[byte]).await.unwrap();
                assert_eq!(sink.read_u8().await.unwrap(), byte);
            }
            assert!(began.elapsed() < PIPE_REST, "{:?}", began.elapsed());
            while PIPES.load(Relaxed) > 0 {
                assert!(began.elapsed() < PIPE_REST * 20);
                tokio::time::sleep(PIPE_REST / 10).await;
            }
            source.write_all(b"still").await.unwrap();
            let mut still = [0; 5];
            sink.read_exact(&mut still).await.unwrap();
            assert_eq!(&still, b"still");
        }
        drop(source);
        assert_eq!(sink.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(pumping.await.unwrap(), 2 * (LOT as u64 + 105));
    }
}
