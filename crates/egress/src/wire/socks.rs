//! SOCKS5 (RFC 1928) and its user name and password (RFC 1929): `CONNECT` by domain name.
//!
//! Each function looks at the bytes received so far and answers `None` until the message is whole,
//! so it does not matter how the bytes were split.

use super::host::{Destination, DestinationError, parse_host, printable};

/// The version byte of SOCKS5, the first byte of a connection that speaks it.
pub const VERSION: u8 = 5;
/// The version byte of SOCKS4, which is refused.
pub const VERSION_4: u8 = 4;
/// The answer that SOCKS4 knows for a refusal.
pub const SOCKS4_REFUSED: [u8; 8] = [0, 0x5b, 0, 0, 0, 0, 0, 0];

/// Method "no authentication".
pub const METHOD_NONE: u8 = 0;
/// Method "user name and password".
pub const METHOD_PASSWORD: u8 = 2;
/// No method is acceptable.
pub const METHOD_REFUSED: u8 = 0xff;

/// Reply codes (RFC 1928, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// Connected.
    Succeeded = 0,
    /// The proxy failed.
    Failure = 1,
    /// Refused by the rules.
    NotAllowed = 2,
    /// No way to the network.
    NetworkUnreachable = 3,
    /// The host cannot be found or reached.
    HostUnreachable = 4,
    /// The peer refused the connection.
    Refused = 5,
    /// `BIND` and `UDP ASSOCIATE`.
    CommandNotSupported = 7,
    /// An IPv4 or IPv6 literal, or an unknown type.
    AddressNotSupported = 8,
}

impl Reply {
    /// The reply message, with an empty bound address: which address was dialled is not told.
    #[must_use]
    pub const fn message(self) -> [u8; 10] {
        [VERSION, self as u8, 0, 1, 0, 0, 0, 0, 0, 0]
    }
}

/// Why a message is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// A message that does not follow the RFC.
    #[error("malformed SOCKS message ({0})")]
    Malformed(&'static str),
    /// A command other than `CONNECT`.
    #[error("SOCKS command {0} is not supported, only CONNECT is")]
    Command(u8),
    /// An address of a type other than domain name.
    #[error("SOCKS address type {kind} is not supported: connect by name (socks5h)")]
    AddressType {
        /// The type asked for.
        kind: u8,
        /// The address as text, empty where the type is unknown.
        asked: String,
    },
    /// A domain that is none.
    #[error("{error}")]
    Destination {
        /// What was asked for, made printable.
        asked: String,
        /// What is wrong with it.
        error: DestinationError,
    },
}

/// The greeting: which methods the client offers. Gives `(methods, bytes used)`.
///
/// # Errors
/// A wrong version, or no method at all.
pub fn greeting(bytes: &[u8]) -> Result<Option<(&[u8], usize)>, SocksError> {
    match bytes {
        [version, ..] if *version != VERSION => Err(SocksError::Malformed("version is not 5")),
        [_, 0, ..] => Err(SocksError::Malformed("no authentication method offered")),
        [_, count, rest @ ..] => {
            let count = usize::from(*count);
            Ok(rest.get(..count).map(|methods| (methods, 2 + count)))
        }
        _ => Ok(None),
    }
}

/// User name and password. Gives `(user, password, bytes used)`.
///
/// # Errors
/// A wrong version of the sub-negotiation.
#[expect(clippy::type_complexity, reason = "a triple of one use reads better here than a type")]
pub fn password(bytes: &[u8]) -> Result<Option<(&[u8], &[u8], usize)>, SocksError> {
    let Some((version, rest)) = bytes.split_first() else { return Ok(None) };
    if *version != 1 {
        return Err(SocksError::Malformed("version of the sub-negotiation is not 1"));
    }
    let field = |rest: &mut &[u8]| {
        let (length, tail) = rest.split_first().map(|(length, tail)| (usize::from(*length), tail))?;
        Some((tail.get(..length)?.len(), tail.get(length..)?)).map(|(length, after)| {
            *rest = after;
            length
        })
    };
    let mut left = rest;
    let (Some(user), Some(secret)) = (field(&mut left), field(&mut left)) else { return Ok(None) };
    Ok(Some((&bytes[2..2 + user], &bytes[3 + user..3 + user + secret], 3 + user + secret)))
}

/// The request. Gives `(destination, bytes used)`.
///
/// # Errors
/// See [`SocksError`]; each has its own reply, see [`reply_to`].
pub fn request(bytes: &[u8]) -> Result<Option<(Destination, usize)>, SocksError> {
    if bytes.first().is_some_and(|version| *version != VERSION) {
        return Err(SocksError::Malformed("version is not 5"));
    }
    let Some([_, command, reserved, kind]) = bytes.get(..4) else { return Ok(None) };
    if *reserved != 0 {
        return Err(SocksError::Malformed("reserved byte is not 0"));
    }
    let body = &bytes[4..];
    // The whole message is read before it is refused, so that the audit says what was asked for.
    let address = match kind {
        1 => body.get(..4).map(<[u8]>::len),
        4 => body.get(..16).map(<[u8]>::len),
        3 => body.first().map(|length| 1 + usize::from(*length)),
        _ => return Err(SocksError::AddressType { kind: *kind, asked: String::new() }),
    };
    let Some((address, port)) = address.and_then(|length| Some((body.get(..length)?, body.get(length..length + 2)?)))
    else {
        return Ok(None);
    };
    let port = u16::from_be_bytes([port[0], port[1]]);
    if *command != 1 {
        return Err(SocksError::Command(*command));
    }
    if let Some(literal) = literal(address, *kind) {
        return Err(SocksError::AddressType { kind: *kind, asked: format!("{literal}:{port}") });
    }
    let name = &address[1..];
    let refuse = |error| SocksError::Destination { asked: format!("{}:{port}", printable(name)), error };
    let host = parse_host(name).map_err(refuse)?;
    if port == 0 {
        return Err(refuse(DestinationError::Port));
    }
    Ok(Some((Destination { host, port }, 4 + address.len() + 2)))
}

fn literal(address: &[u8], kind: u8) -> Option<String> {
    match kind {
        1 => <[u8; 4]>::try_from(address).ok().map(|four| std::net::Ipv4Addr::from(four).to_string()),
        4 => <[u8; 16]>::try_from(address).ok().map(|six| format!("[{}]", std::net::Ipv6Addr::from(six))),
        _ => None,
    }
}

/// The reply that tells the client about a refused request.
#[must_use]
pub const fn reply_to(error: &SocksError) -> Reply {
    match error {
        SocksError::Malformed(_) => Reply::Failure,
        SocksError::Command(_) => Reply::CommandNotSupported,
        SocksError::AddressType { .. } | SocksError::Destination { error: DestinationError::IpLiteral, .. } => {
            Reply::AddressNotSupported
        }
        SocksError::Destination { .. } => Reply::NotAllowed,
    }
}

#[cfg(test)]
#[path = "socks_tests.rs"]
mod tests;
