//! HTTP/1.1 messages as whole runs of bytes: a head, and a body of the length that the head says.

use std::io;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// Longer than any call or answer of the protocol.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// A call or an answer as it came.
pub(super) struct Message {
    pub(super) bytes: Vec<u8>,
    path: String,
}

impl Message {
    /// Of a call: its path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The last part of the path.
    pub(super) fn endpoint(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or("")
    }
}

/// The next message of a connection; `None` where it ends before one begins. Whoever sends waits for the answer, so
/// nothing follows a message.
pub(super) async fn read_message(stream: &mut TcpStream) -> io::Result<Option<Message>> {
    let mut bytes = Vec::with_capacity(4096);
    let head = loop {
        if let Some(end) = head_end(&bytes) {
            break end;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return if bytes.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let whole = head + body_length(&text)?;
    bytes.reserve_exact(whole.saturating_sub(bytes.len()));
    while bytes.len() < whole {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let path = text.split(' ').nth(1).unwrap_or("").to_owned();
    Ok(Some(Message { bytes, path }))
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn body_length(head: &str) -> io::Result<usize> {
    let mut length = 0;
    for line in head.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a body of unknown length"));
        }
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
        }
    }
    if length > MAX_BYTES { Err(io::ErrorKind::InvalidData.into()) } else { Ok(length) }
}
