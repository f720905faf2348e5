//! Bytes and descriptors from a socket whose other end is not trusted (unix(7), SCM_RIGHTS).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Most descriptors that are taken with one read. Further ones are closed.
pub const MAX_FDS: usize = 4;

/// Other systems have no such flag: there it is set once they are here.
#[cfg(target_os = "linux")]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
#[cfg(not(target_os = "linux"))]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::empty();

/// How something is sent to whoever may be gone. Other systems have no such flag; there it is that every Rust program ignores
/// SIGPIPE that keeps the daemon alive.
#[cfg(target_os = "linux")]
pub const NO_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
#[cfg(not(target_os = "linux"))]
pub const NO_SIGNAL: SendFlags = SendFlags::empty();

/// Reads bytes into `buffer` and descriptors into `fds`. Zero bytes: the other end is closed. The descriptors are
/// close-on-exec.
///
/// # Errors
/// As recvmsg(2); `WouldBlock` on a non-blocking socket without data.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut ancillary, CLOSED_ON_EXEC)?;
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            // The buffer's alignment leaves room for a few more than were asked for; what is over is closed here.
            let received: Vec<OwnedFd> = received.collect();
            #[cfg(not(target_os = "linux"))]
            for fd in &received {
                rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
            }
            fds.extend(received.into_iter().take(MAX_FDS));
        }
    }
    Ok(message.bytes)
}

/// Sends bytes with descriptors, all of the first or none: what fits into an empty socket.
///
/// # Errors
/// As sendmsg(2), or there are more than [`MAX_FDS`].
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if fds.len() > MAX_FDS || !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let sent = sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, NO_SIGNAL)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::from(io::ErrorKind::WriteZero)) }
}

/// The user of the process that connected to a socket (unix(7), SO_PEERCRED; getpeereid(3)), as this process sees it.
///
/// # Errors
/// It is no Unix socket.
pub fn peer_uid(socket: impl AsFd) -> io::Result<u32> {
    #[cfg(target_os = "macos")]
    return crate::macos::peer_uid(socket.as_fd());
    #[cfg(not(target_os = "macos"))]
    Ok(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw())
}

/// A pair of connected stream sockets, close-on-exec; `ours` is non-blocking.
#[derive(Debug)]
pub struct SocketPair {
    /// For this process.
    pub ours: OwnedFd,
    /// For the other process, blocking.
    pub theirs: OwnedFd,
}

/// Makes a pair of connected stream sockets.
///
/// # Errors
/// The process has no descriptor left.
pub fn socket_pair() -> io::Result<SocketPair> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok(SocketPair { ours: ours.into(), theirs: theirs.into() })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_bytes_and_a_flood_is_cut() {
        let pair = socket_pair().unwrap();
        let pipe = crate::pipe::pipe().unwrap();
        File::from(pipe.write).write_all(b"through").unwrap();
        for (count, expected) in [(1, 1), (7, MAX_FDS)] {
            let passed = vec![pipe.read.as_fd(); count];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(7))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(&passed)));
            sendmsg(&pair.theirs, &[IoSlice::new(b"hello")], &mut ancillary, SendFlags::empty()).unwrap();
            let (mut buffer, mut fds) = ([0; 64], Vec::new());
            assert_eq!(receive(&pair.ours, &mut buffer, &mut fds).unwrap(), 5);
            assert_eq!(fds.len(), expected);
            if count == 1 {
                let mut text = [0; 7];
                File::from(fds.remove(0)).read_exact(&mut text).unwrap();
                assert_eq!(&text, b"through");
            }
        }
        drop(pair.theirs);
        assert_eq!(receive(&pair.ours, &mut [0; 8], &mut Vec::new()).unwrap(), 0);
    }
}
