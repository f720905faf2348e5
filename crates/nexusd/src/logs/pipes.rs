//! The pipes that a directive's output comes through, and how they are read.
//!
//! Usually the runtime watches a pipe and it is read once each time it has something. That is too dear for a command that
//! writes as fast as it can: each of its writes wakes the runtime, and each read is two changes of threads. Once a stream is
//! held back, nothing of it has to be sent soon; then its pipe is taken from the runtime for a [`burst`] and read by the very
//! thread that keeps the output.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use conduits::LogStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tokio::net::unix::pipe::Receiver;

/// Bytes read at once.
pub(super) const READ_BYTES: usize = 128 * 1024;
/// What a pipe holds by default (pipe(7)).
const PIPE_BYTES: usize = 64 * 1024;
/// A pipe that was found full is made this long (pipe(7), F_SETPIPE_SZ): fewer turns for a command that writes much.
const LONG_PIPE_BYTES: usize = 512 * 1024;
/// A burst is over after this: the other stream, acknowledgements and a cancel wait for it.
const BURST: Duration = Duration::from_millis(10);
/// So long a burst waits for more, once it has read a pipe's fill: in the middle of much output.
const LINGER: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// One pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) stream: LogStream,
    pub(super) receiver: Receiver,
    long: bool,
}

/// How a burst ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Burst {
    /// The pipe may bring more.
    Open,
    /// Every writer has closed it.
    Closed,
}

impl Pipe {
    pub(super) fn new(stream: LogStream, receiver: Receiver) -> Self {
        Self { stream, receiver, long: false }
    }

    /// Makes it longer, if so much was in it.
    pub(super) fn lengthen(&mut self, len: usize) {
        if len < PIPE_BYTES || self.long {
            return;
        }
        self.long = true;
        // Elsewhere the kernel makes it as long as it needs to be.
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::pipe::fcntl_setpipe_size(&self.receiver, LONG_PIPE_BYTES) {
            tracing::debug!(%error, "the pipe keeps its length");
        }
    }

    /// Takes it from the runtime.
    pub(super) fn unwatch(self) -> io::Result<Unwatched> {
        Ok(Unwatched { stream: self.stream, fd: self.receiver.into_nonblocking_fd()?, long: self.long })
    }
}

/// A pipe that the runtime does not watch.
#[derive(Debug)]
pub(super) struct Unwatched {
    pub(super) stream: LogStream,
    fd: OwnedFd,
    long: bool,
}

impl Unwatched {
    /// Gives it back to the runtime.
    pub(super) fn watch(self) -> io::Result<Pipe> {
        Ok(Pipe { stream: self.stream, receiver: Receiver::from_owned_fd(self.fd)?, long: self.long })
    }

    /// Reads until nothing more comes, or for [`BURST`]. Blocking.
    pub(super) fn burst(&self, buffer: &mut [u8], mut take: impl FnMut(&[u8])) -> io::Result<Burst> {
        let (began, mut bytes) = (Instant::now(), 0);
        while began.elapsed() < BURST {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(0) => return Ok(Burst::Closed),
                Ok(len) => {
                    bytes += len;
                    take(buffer.get(..len).unwrap_or_default());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if bytes >= PIPE_BYTES && self.more_comes()? => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Burst::Open)
    }

    fn more_comes(&self) -> io::Result<bool> {
        match poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], Some(&LINGER)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// The first pipe that has something, or has ended.
pub(super) async fn readable(pipes: &[Pipe]) -> usize {
    std::future::poll_fn(|cx| {
        for (at, pipe) in pipes.iter().enumerate() {
            if pipe.receiver.poll_read_ready(cx).is_ready() {
                return std::task::Poll::Ready(at);
            }
        }
        std::task::Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn pipe() -> (Unwatched, std::fs::File) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        (Unwatched { stream: LogStream::Stdout, fd: read, long: false }, write.into())
    }

    #[test]
    fn a_burst_reads_what_comes_until_the_end() {
        let (pipe, mut write) = pipe();
        let text: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let sent = text.clone();
        let writer = std::thread::spawn(move || write.write_all(&sent).unwrap());
        let (mut all, mut bursts) = (Vec::new(), 0);
        while pipe.burst(&mut [0; 1000], |bytes| all.extend_from_slice(bytes)).unwrap() == Burst::Open {
            bursts += 1;
            assert!(bursts < 100_000, "it does not end");
        }
        writer.join().unwrap();
        assert!(all == text);
    }

    #[test]
    fn a_burst_waits_only_in_the_middle_of_much_and_never_long() {
        let (pipe, mut write) = pipe();
        write.write_all(b"a line").unwrap();
        let mut bytes = 0;
        assert_eq!(pipe.burst(&mut [0; 100], |some| bytes += some.len()).unwrap(), Burst::Open);
        assert_eq!(bytes, 6);
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let writer = std::thread::spawn(move || {
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) && write.write_all(&[7; 4096]).is_ok() {}
        });
        let began = Instant::now();
        assert_eq!(pipe.burst(&mut [0; 100], |_| {}).unwrap(), Burst::Open);
        assert!(began.elapsed() < BURST * 50, "{:?}", began.elapsed());
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        drop(pipe);
        writer.join().unwrap();
    }
}
