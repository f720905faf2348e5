//! One connected stream socket, TCP or Unix, with the few operations the proxy needs.
//!
//! All by shared reference, so that both directions of a tunnel run in one task without splitting
//! the socket; what is written goes out at once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

/// Before a socket is looked at again that is ready for what is not asked for.
const RARE_PAUSE: Duration = Duration::from_secs(1);

/// A connected socket.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        // Small messages go out at once; a socket that cannot is dead, and its next use says so.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
        Self::Tcp(stream)
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            Self::Unix(stream) => stream.readable().await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            Self::Unix(stream) => stream.writable().await,
        }
    }

    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len();
        let mut read = Ok(0);
        let took = self.try_with(Interest::READABLE, || {
            read = rustix::io::read(self, &mut *buffer).map_err(io::Error::from);
            match &read {
                // Less than there was room for: nothing is left, and what comes later is told anew (epoll(7), edge-triggered).
                // Said here, that saves the read that would find nothing.
                Ok(bytes @ 1..) if *bytes < most => Err(io::ErrorKind::WouldBlock.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(()),
            }
        });
        match (took, read) {
            // Not even tried: nothing has come since it was last empty.
            (Err(error), Ok(0)) => Err(error),
            (_, read) => read,
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Runs a system call on the socket whenever it is ready for `interest`, until it succeeds.
    pub(crate) async fn with_ready<R>(&self, interest: Interest, call: impl FnMut() -> io::Result<R>) -> io::Result<R> {
        match self {
            Self::Tcp(stream) => stream.async_io(interest, call).await,
            Self::Unix(stream) => stream.async_io(interest, call).await,
        }
    }

    /// Runs a system call on the socket if it is ready for `interest`, as far as is known.
    pub(crate) fn try_with<R>(&self, interest: Interest, call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, call),
            Self::Unix(stream) => stream.try_io(interest, call),
        }
    }

    /// Appends what has arrived to `buffer`, at most `most` bytes; 0 is the end of the stream.
    pub(crate) async fn read_into(&self, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        loop {
            self.readable().await?;
            let before = buffer.len();
            buffer.resize(before + most, 0);
            let result = self.try_read(&mut buffer[before..]);
            buffer.truncate(before + *result.as_ref().unwrap_or(&0));
            match result {
                Err(error) if would_block(&error) => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if would_block(&error) => self.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether the peer has sent nothing that is unread and not ended its side, as the kernel says and not as it was last told.
    pub(crate) fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(self, &mut [0], flags), Err(Errno::AGAIN))
    }

    /// Returns once an error has ended the connection, such as a reset.
    pub(crate) async fn failed(&self) {
        let interest = Interest::ERROR;
        let ready = match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
        };
        if let Err(error) = ready {
            tracing::debug!(%error, "a socket is not watched any more");
        }
    }

    /// Returns once the peer has ended its side, whatever of it is still unread.
    pub(crate) async fn ended(&self) {
        // What tells of the end alone: data that nobody reads must not look like it. A kqueue says the end apart from that.
        #[cfg(target_os = "linux")]
        let interest = Interest::PRIORITY;
        #[cfg(not(target_os = "linux"))]
        let interest = Interest::READABLE;
        loop {
            let ready = match self {
                Self::Tcp(stream) => stream.ready(interest).await,
                Self::Unix(stream) => stream.ready(interest).await,
            };
            match ready {
                Ok(ready) if !ready.is_read_closed() => tokio::time::sleep(RARE_PAUSE).await,
                _ => return,
            }
        }
    }

    /// Whether nothing that is sent can reach the peer any more.
    pub(crate) fn is_gone(&self) -> bool {
        let mut watched = [PollFd::new(self, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut watched, Some(&now)).is_ok()
            && watched[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// Tells the peer that nothing more comes, while its bytes still can.
    pub(crate) fn shutdown_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self, Shutdown::Write)?)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

pub(crate) fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// A read that leaves nothing says so: the next one waits for what comes, and misses neither that nor the end.
    #[tokio::test]
    async fn a_short_read_is_the_last_until_more_comes() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let near = Stream::Unix(near);
        let mut buffer = [0; 8];
        for text in [b"first".as_slice(), b"eightnow", b"more than eight", b"x"] {
            assert!(near.is_quiet());
            far.write_all(text).await.unwrap();
            let mut got = Vec::new();
            while got.len() < text.len() {
                tokio::time::timeout(Duration::from_secs(5), near.readable()).await.unwrap().unwrap();
                match near.try_read(&mut buffer) {
                    Ok(bytes) => got.extend_from_slice(&buffer[..bytes]),
                    Err(error) => assert!(would_block(&error), "{error}"),
                }
            }
            assert_eq!(got, text);
            assert!(would_block(&near.try_read(&mut buffer).unwrap_err()));
        }
        drop(far);
        assert!(!near.is_quiet());
        near.ended().await;
        near.readable().await.unwrap();
        assert_eq!(near.try_read(&mut buffer).unwrap(), 0);
    }
}
