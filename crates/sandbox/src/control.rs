//! The control socket to the helper, awaited. What comes from it is not trusted.

use std::io;
use std::os::fd::OwnedFd;

use guest::frame::{Decoder, Frame, FrameError, MAX_FROM_HELPER};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Most descriptors that wait for their frame.
const MAX_FDS: usize = 1;

/// The daemon's end.
#[derive(Debug)]
pub(crate) struct Control {
    socket: AsyncFd<OwnedFd>,
    decoder: Decoder,
    /// Encoded frames, or what is left of them, that the socket did not take yet.
    outgoing: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// What came.
#[derive(Debug)]
pub(crate) enum Heard {
    /// A frame, and the descriptor that came with it.
    Frame(Frame, Option<OwnedFd>),
    /// The other end is closed.
    End,
}

/// Why the helper is not listened to any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("the control socket failed: {0}")]
    Socket(#[from] io::Error),
    #[error("the helper sent what is no frame: {0}")]
    Frame(#[from] FrameError),
    #[error("the helper sent more descriptors than it may")]
    Descriptors,
}

impl Control {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = crate::process::watched(socket, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { socket, decoder: Decoder::new(MAX_FROM_HELPER), outgoing: Vec::new(), fds: Vec::new() })
    }

    /// Sends a frame, or as much as the socket takes; [`Control::next`] sends the rest. A helper that is gone is no
    /// error here: its end is heard.
    pub(crate) fn send(&mut self, frame: &Frame) {
        self.outgoing.extend(frame.encode());
        self.flush();
    }

    /// The next frame. Cancel-safe: nothing is lost when this is dropped.
    pub(crate) async fn next(&mut self) -> Result<Heard, ControlError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                let fd = if matches!(frame, Frame::Listener | Frame::Network) { self.fds.pop() } else { None };
                return Ok(Heard::Frame(frame, fd));
            }
            let interest =
                if self.outgoing.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
            let mut guard = self.socket.ready(interest).await?;
            let ready = guard.ready();
            let mut buffer = [0; 4096];
            let mut count = None;
            if ready.is_readable() {
                match sys::fdpass::receive(guard.get_inner(), &mut buffer, &mut self.fds) {
                    Ok(received) => count = Some(received),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        guard.clear_ready_matching(tokio::io::Ready::READABLE);
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Heard::End),
                    Err(error) => return Err(error.into()),
                }
            }
            drop(guard);
            if self.fds.len() > MAX_FDS {
                return Err(ControlError::Descriptors);
            }
            match count {
                Some(0) => return Ok(Heard::End),
                Some(count) => self.decoder.push(buffer.get(..count).unwrap_or_default()),
                None => {}
            }
            if ready.is_writable() {
                self.flush();
            }
        }
    }

    /// Says that nothing more comes: the helper takes it for the daemon's end, and ends everything.
    pub(crate) fn hang_up(&mut self) {
        self.outgoing.clear();
        // A socket that is closed already has been heard.
        rustix::net::shutdown(self.socket.get_ref(), rustix::net::Shutdown::Write).unwrap_or_default();
    }

    fn flush(&mut self) {
        while !self.outgoing.is_empty() {
            let sent = self.socket.try_io(Interest::WRITABLE, |socket| {
                Ok(rustix::net::send(socket, &self.outgoing, sys::fdpass::NO_SIGNAL)?)
            });
            match sent {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.outgoing.clear(),
            }
        }
    }
}
