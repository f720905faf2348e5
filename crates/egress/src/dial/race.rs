//! Happy eyeballs (RFC 8305) over addresses that were all judged before.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{DialError, LookupError};

/// How long all attempts together may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// When the next address is tried beside one that has not answered (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How many addresses are tried.
const MAX_ATTEMPTS: usize = 8;

/// A connection to the first address that answered.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) stream: TcpStream,
    pub(super) address: SocketAddr,
}

/// Connects to the first address that answers.
pub(super) async fn connect(addresses: &[SocketAddr]) -> Result<Dialled, DialError> {
    let ordered = interleave(addresses);
    let Some(first) = ordered.first().copied() else {
        return Err(LookupError::NoAddress.into());
    };
    let attempts = async {
        match ordered.as_slice() {
            [only] => connect_one(*only).await,
            _ => race(&ordered).await,
        }
    };
    tokio::time::timeout(CONNECT_TIMEOUT, attempts).await.unwrap_or(Err(DialError::TimedOut { address: first }))
}

async fn connect_one(address: SocketAddr) -> Result<Dialled, DialError> {
    match TcpStream::connect(address).await {
        Ok(stream) => Ok(Dialled { stream, address }),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(DialError::TimedOut { address }),
        Err(source) => Err(DialError::Connect { address, source }),
    }
}

async fn race(addresses: &[SocketAddr]) -> Result<Dialled, DialError> {
    // Dropped with this future: the losers are aborted and close their sockets.
    let mut attempts = JoinSet::new();
    let mut waiting = addresses.iter().copied();
    let mut next_start = Instant::now();
    let mut failure = None;
    loop {
        let is_time = waiting.len() > 0 && (attempts.is_empty() || Instant::now() >= next_start);
        if is_time && let Some(address) = waiting.next() {
            attempts.spawn(connect_one(address));
            next_start = Instant::now() + ATTEMPT_DELAY;
        }
        tokio::select! {
            () = tokio::time::sleep_until(next_start), if waiting.len() > 0 => {}
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(dialled))) => return Ok(dialled),
                // An attempt that failed lets the next one start at once.
                Some(Ok(Err(error))) => {
                    failure = Some(better(failure, error));
                    next_start = Instant::now();
                }
                Some(Err(_)) => {}
                None if waiting.len() == 0 => return Err(failure.unwrap_or(DialError::Lookup(LookupError::NoAddress))),
                None => {}
            },
        }
    }
}

/// The failure that says most: an address that answered "no" over one that cannot be routed to.
fn better(held: Option<DialError>, new: DialError) -> DialError {
    match held {
        Some(held) if !matches!(&new, DialError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused) => {
            held
        }
        _ => new,
    }
}

/// IPv6 first, then by turns, the resolver's order kept within each family.
fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut six = addresses.iter().copied().filter(SocketAddr::is_ipv6);
    let mut four = addresses.iter().copied().filter(SocketAddr::is_ipv4);
    let mut ordered = Vec::with_capacity(addresses.len().min(MAX_ATTEMPTS));
    while ordered.len() < MAX_ATTEMPTS {
        let before = ordered.len();
        ordered.extend(six.next().into_iter().chain(four.next()));
        if ordered.len() == before {
            break;
        }
    }
    ordered.truncate(MAX_ATTEMPTS);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns_and_the_number_is_bounded() {
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert_eq!(
            interleave(&parse(&["1.0.0.1:1", "1.0.0.2:1", "1.0.0.3:1", "[2000::1]:1", "[2000::2]:1"])),
            parse(&["[2000::1]:1", "1.0.0.1:1", "[2000::2]:1", "1.0.0.2:1", "1.0.0.3:1"]),
        );
        assert_eq!(interleave(&parse(&["1.0.0.1:1"])), parse(&["1.0.0.1:1"]));
        assert_eq!(interleave(&vec!["1.0.0.1:1".parse().unwrap(); 500]).len(), MAX_ATTEMPTS);
    }

    #[tokio::test]
    async fn a_refusing_address_does_not_keep_the_next_from_being_used() {
        let alive = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = alive.local_addr().unwrap();
        // Bound and never listened on: refused.
        let dead = tokio::net::TcpSocket::new_v4().unwrap();
        dead.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let dead = dead.local_addr().unwrap();
        assert_eq!(connect(&[dead, address]).await.unwrap().address, address);
        assert!(matches!(connect(&[dead, dead]).await, Err(DialError::Connect { .. })));
        assert!(matches!(connect(&[]).await, Err(DialError::Lookup(LookupError::NoAddress))));
    }
}
