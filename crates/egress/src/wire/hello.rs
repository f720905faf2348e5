//! The name in a TLS client hello, read from the first bytes of a tunnel (RFC 8446, RFC 6066).
//!
//! Reads, never answers: the TLS stays closed. The hello may be spread over records and packets.

use conduits::DnsName;

use super::host::parse_host;

/// The most bytes of a hello, records' headers included, that are waited for.
pub const MAX_HELLO_BYTES: usize = 16 * 1024;

const RECORD_CHANGE_CIPHER_SPEC: u8 = 20;
const RECORD_ALERT: u8 = 21;
const RECORD_HANDSHAKE: u8 = 22;
/// A record's major version, where there is one: servers take smaller ones than this for a record.
const NO_MAJOR: u8 = 16;
const HANDSHAKE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
/// Encrypted client hello; clients also send it empty of meaning, which cannot be told apart.
const EXTENSION_ECH: u16 = 0xfe0d;

/// What the first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hello {
    /// A hello with a server name.
    Names {
        /// The name, in its compared form.
        host: DnsName,
        /// An encrypted hello is beside it: the name may be a cover.
        hidden: bool,
    },
    /// A hello with an encrypted one inside and no name.
    Hidden,
    /// A hello without a name.
    NoName,
    /// Not TLS.
    NotTls,
    /// Begins as TLS and is malformed, too long or not finished in time.
    Broken(&'static str),
}

impl Hello {
    /// For the audit's `sni`: the name, or in brackets why there is none (no name has brackets).
    #[must_use]
    pub fn note(&self) -> String {
        match self {
            Self::Names { host, hidden: false } => host.to_string(),
            Self::Names { host, hidden: true } => format!("{host} (ech)"),
            Self::Hidden => "(ech)".to_owned(),
            Self::NoName => "(none)".to_owned(),
            Self::NotTls => "(not tls)".to_owned(),
            Self::Broken(_) => "(broken)".to_owned(),
        }
    }
}

/// Reads the first client bytes. `None` asks for more.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<Hello> {
    match *bytes {
        [RECORD_HANDSHAKE] | [RECORD_HANDSHAKE, 3, ..] => {}
        // Some servers read such a record as any other: it must not hide the name.
        [RECORD_HANDSHAKE, ..NO_MAJOR, ..] => return Some(Hello::Broken("a record of an unknown version")),
        // Some skip a warning, and read the hello behind it.
        [RECORD_ALERT | RECORD_CHANGE_CIPHER_SPEC, ..NO_MAJOR, _, 0, ..] => {
            return Some(Hello::Broken("another record before the hello"));
        }
        []
        | [RECORD_ALERT | RECORD_CHANGE_CIPHER_SPEC]
        | [RECORD_ALERT | RECORD_CHANGE_CIPHER_SPEC, ..NO_MAJOR]
        | [RECORD_ALERT | RECORD_CHANGE_CIPHER_SPEC, ..NO_MAJOR, _] => return None,
        _ => return Some(Hello::NotTls),
    }
    // What comes after a whole hello, such as early data, is none of it.
    let bytes = &bytes[..bytes.len().min(MAX_HELLO_BYTES)];
    let message = match handshake_message(bytes) {
        Ok(Some(message)) => message,
        Ok(None) if bytes.len() == MAX_HELLO_BYTES => return Some(Hello::Broken("longer than 16 KiB")),
        Ok(None) => return None,
        Err(why) => return Some(Hello::Broken(why)),
    };
    Some(client_hello(&message).unwrap_or(Hello::Broken("malformed")))
}

/// The body of the first handshake message, put together from its records.
fn handshake_message(mut records: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let mut message = Vec::new();
    while !records.is_empty() {
        if records[0] != RECORD_HANDSHAKE || records.get(1).is_some_and(|major| *major != 3) {
            return Err("another record inside the hello");
        }
        let Some(header) = records.get(..5) else { break };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if length == 0 || length > 1 << 14 {
            return Err("a record of an impossible length");
        }
        let body = &records[5..];
        message.extend_from_slice(&body[..length.min(body.len())]);
        if let Some(kind) = message.first()
            && *kind != HANDSHAKE_CLIENT_HELLO
        {
            return Err("not a client hello");
        }
        if let Some([_, a, b, c]) = message.get(..4) {
            let wanted = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if wanted > MAX_HELLO_BYTES {
                return Err("longer than 16 KiB");
            }
            if let Some(whole) = message.get(4..4 + wanted) {
                return Ok(Some(whole.to_vec()));
            }
        }
        let Some(rest) = body.get(length..) else { break };
        records = rest;
    }
    Ok(None)
}

/// Takes lengths and fields off the front; `None` is malformed.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        Some(self.take(width)?.iter().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    }

    /// A field with its length before it.
    fn vector(&mut self, width: usize) -> Option<&'a [u8]> {
        let length = self.number(width)?;
        self.take(length)
    }
}

fn client_hello(message: &[u8]) -> Option<Hello> {
    let mut hello = Cursor(message);
    hello.take(2 + 32)?; // version, random
    hello.vector(1)?; // session id
    hello.vector(2)?; // cipher suites
    hello.vector(1)?; // compression methods
    if hello.0.is_empty() {
        return Some(Hello::NoName);
    }
    let mut extensions = Cursor(hello.vector(2)?);
    if !hello.0.is_empty() {
        return None;
    }
    let mut name = None;
    let mut hidden = false;
    while !extensions.0.is_empty() {
        let kind = u16::try_from(extensions.number(2)?).ok()?;
        let data = extensions.vector(2)?;
        match kind {
            // Twice the same extension is forbidden, and two names are two readings.
            EXTENSION_SERVER_NAME if name.is_some() => return None,
            EXTENSION_SERVER_NAME => name = Some(server_name(data)?),
            EXTENSION_ECH => hidden = true,
            _ => {}
        }
    }
    Some(match (name, hidden) {
        (Some(host), hidden) => Hello::Names { host, hidden },
        (None, true) => Hello::Hidden,
        (None, false) => Hello::NoName,
    })
}

/// Exactly one name of type `host_name`.
fn server_name(data: &[u8]) -> Option<DnsName> {
    let mut outer = Cursor(data);
    let mut list = Cursor(outer.vector(2)?);
    let is_host_name = list.number(1)? == 0;
    let name = list.vector(2)?;
    if !is_host_name || !list.0.is_empty() || !outer.0.is_empty() {
        return None;
    }
    parse_host(name).ok()
}

#[cfg(test)]
#[path = "hello_tests.rs"]
mod tests;
