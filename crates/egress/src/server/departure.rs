//! Whether a client that waits is still there.
//!
//! A client may end its side and wait for the answer all the same (`printf … | nc`). Over TCP that looks like one that has
//! gone, until something is sent to it: only what a closed socket is sent comes back as a reset. So where an answer has not
//! begun, an HTTP/1.1 client that has ended its side is sent an interim answer that says nothing, which every such client
//! skips (RFC 9110, 15.2); and in every case the kernel asks the client's, which forgets a connection a minute after its end.

use std::io;
use std::time::Duration;

use rustix::net::sockopt;

use crate::stream::{Stream, would_block};

/// Asks for nothing and may be sent to a client that expects none.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// The kernel asks after so much silence, and again after as much.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How soon a client of a Unix socket that has ended its side is looked at again, at first and later.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Lets the kernel ask whether clients are there; what is accepted inherits it.
pub(super) fn keep_asking(listener: &tokio::net::TcpListener) -> io::Result<()> {
    sockopt::set_tcp_keepidle(listener, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(listener, KEEP_ALIVE)?;
    Ok(sockopt::set_socket_keepalive(listener, true)?)
}

/// Returns once the client has gone, and not before. `may_tell` is asked whether it may be sent an interim answer.
pub(super) async fn left(client: &Stream, may_tell: impl Fn() -> bool) {
    client.ended().await;
    if may_tell() {
        match client.try_write(INTERIM) {
            Ok(written) if written == INTERIM.len() => {}
            Err(error) if would_block(&error) => {}
            // Half of it went: the rest of the conversation could not be understood.
            Ok(_) | Err(_) => return,
        }
    }
    match client {
        Stream::Tcp(_) => client.failed().await,
        // No error tells of it, and a wait for the hang-up alone there is none.
        Stream::Unix(_) => {
            let mut pause = FIRST_LOOK;
            while !client.is_gone() {
                tokio::time::sleep(pause).await;
                pause = LAST_LOOK.min(pause * 2);
            }
        }
    }
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
