//! Whether a client that waits is still there.
//!
//! A client may end its side and wait for the answer all the same (`printf … | nc`). Over TCP that looks like one that has
//! gone, until something is sent to it: only what a closed socket is sent comes back as a reset. So where an answer has not
//! begun, an HTTP/1.1 client that has ended its side is sent an interim answer that says nothing, which every such client
//! skips (RFC 9110, 15.2); and in every case the kernel is told to ask for itself, which finds out once the client's kernel
//! has forgotten the connection, a minute after its end.

use std::time::Duration;

use rustix::net::sockopt;

use crate::stream::{Stream, would_block};

/// Asks for nothing and may be sent to a client that expects none.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// The kernel asks after so much silence, and again after as much.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// How soon a client that has ended its side is looked at again, at first and later.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Returns once the client has gone, and not before. `may_tell` is asked whether it may be sent an interim answer.
pub(super) async fn left(client: &Stream, may_tell: impl Fn() -> bool) {
    client.ended().await;
    if let Err(error) = keep_asking(client) {
        tracing::debug!(%error, "keep-alive not set");
    }
    if !client.is_gone() && may_tell() {
        match client.try_write(INTERIM) {
            Ok(written) if written == INTERIM.len() => {}
            Err(error) if would_block(&error) => {}
            // Half of it went: the rest of the conversation could not be understood.
            Ok(_) | Err(_) => return,
        }
    }
    let mut pause = FIRST_LOOK;
    while !client.is_gone() {
        tokio::time::sleep(pause).await;
        pause = LAST_LOOK.min(pause * 2);
    }
}

fn keep_asking(client: &Stream) -> rustix::io::Result<()> {
    let Stream::Tcp(tcp) = client else { return Ok(()) };
    sockopt::set_tcp_keepidle(tcp, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEP_ALIVE)?;
    sockopt::set_socket_keepalive(tcp, true)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    /// Over a Unix socket the end of one side and that of both differ.
    #[tokio::test]
    async fn an_end_of_one_side_is_no_departure() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let client = Stream::Unix(near);
        let soon = Duration::from_millis(100);
        far.write_all(b"unread").await.unwrap();
        assert!(tokio::time::timeout(soon, left(&client, || true)).await.is_err());
        far.shutdown().await.unwrap();
        assert!(tokio::time::timeout(soon, left(&client, || false)).await.is_err());
        drop(far);
        tokio::time::timeout(LAST_LOOK * 5, left(&client, || false)).await.unwrap();
    }
}
