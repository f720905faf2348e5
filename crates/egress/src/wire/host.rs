//! Destinations: `host:port` as a client may spell it, to one name in one form.
//!
//! The result is what the policy judges, what is resolved and what is shown: there is no second
//! spelling. International names become punycode by UTS 46; an IP address is refused in every
//! spelling, because an address cannot be matched against an allowlist of names.

use std::borrow::Cow;
use std::fmt;

use conduits::{DnsName, NameError};

/// The most bytes of a host as sent. A name of 253 bytes of punycode is shorter than this in UTF-8.
pub const MAX_HOST_BYTES: usize = 1024;

/// A destination by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The name, in its compared form.
    pub host: DnsName,
    /// The port, 1..65535.
    pub port: u16,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Why bytes are not a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Nothing there, or more than [`MAX_HOST_BYTES`].
    #[error("the host is empty or longer than {MAX_HOST_BYTES} bytes")]
    Length,
    /// User name or password before the host.
    #[error("user information in a destination is refused; send credentials in a header")]
    Userinfo,
    /// A byte that no host name has.
    #[error("the host has a byte that no name has (0x{0:02x})")]
    Byte(u8),
    /// An address, in whatever spelling.
    #[error("IP addresses are refused in every spelling; connect by name")]
    IpLiteral,
    /// Not UTF-8, or not a name under UTS 46.
    #[error("the host is no valid international name; send it as punycode")]
    International,
    /// Not a domain name.
    #[error("the host is no domain name: {0}")]
    Name(NameError),
    /// No port, or none in 1..65535 in plain decimal digits.
    #[error("the port must be 1 to 65535 in plain decimal digits")]
    Port,
}

/// Reads a host as a client spells it.
///
/// # Errors
/// It is not one name in a form that everybody reads alike.
pub fn parse_host(bytes: &[u8]) -> Result<DnsName, DestinationError> {
    if bytes.is_empty() || bytes.len() > MAX_HOST_BYTES {
        return Err(DestinationError::Length);
    }
    if bytes.contains(&b'@') {
        return Err(DestinationError::Userinfo);
    }
    if bytes.iter().any(|byte| matches!(byte, b'[' | b']' | b':')) {
        return Err(DestinationError::IpLiteral);
    }
    // Neither percent-encoding nor a zone id is decoded: the next reader might not decode it alike.
    let strange = |byte: &&u8| byte.is_ascii() && !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'.');
    if let Some(byte) = bytes.iter().find(strange) {
        return Err(DestinationError::Byte(*byte));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| DestinationError::International)?;
    DnsName::parse(&to_ascii(text)?).map_err(|error| match error {
        NameError::IpLiteral(_) => DestinationError::IpLiteral,
        other => DestinationError::Name(other),
    })
}

/// Converts by UTS 46 where the name is international. Names in ASCII without punycode skip the
/// tables: for them the mapping is lower-casing alone.
fn to_ascii(text: &str) -> Result<Cow<'_, str>, DestinationError> {
    let punycode = |label: &str| label.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("xn--"));
    if text.is_ascii() && !text.split('.').any(punycode) {
        return Ok(Cow::Borrowed(text));
    }
    let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::STD3)
        .map_err(|_| DestinationError::International)?;
    // Punycode that decodes to something with another spelling would be two names for one host.
    if text.is_ascii() && !ascii.eq_ignore_ascii_case(text) {
        return Err(DestinationError::International);
    }
    Ok(ascii)
}

/// Reads a port: 1 to 65535, decimal digits alone, no leading zero.
///
/// # Errors
/// It is anything else.
pub fn parse_port(bytes: &[u8]) -> Result<u16, DestinationError> {
    if bytes.is_empty() || bytes[0] == b'0' || !bytes.iter().all(u8::is_ascii_digit) {
        return Err(DestinationError::Port);
    }
    std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok()).ok_or(DestinationError::Port)
}

/// Reads `host:port` (authority-form); without `default_port` the port must be there.
///
/// # Errors
/// See [`DestinationError`].
pub fn parse_authority(bytes: &[u8], default_port: Option<u16>) -> Result<Destination, DestinationError> {
    if bytes.contains(&b'@') {
        return Err(DestinationError::Userinfo);
    }
    if bytes.contains(&b'[') {
        return Err(DestinationError::IpLiteral);
    }
    let colon = bytes.iter().rposition(|byte| *byte == b':');
    let (host, port) = match (colon, default_port) {
        (Some(at), _) => (&bytes[..at], parse_port(&bytes[at + 1..])),
        (None, Some(port)) => (bytes, Ok(port)),
        (None, None) => (bytes, Err(DestinationError::Port)),
    };
    // The host first: who sends an address without a port is told about the address.
    let host = parse_host(host)?;
    Ok(Destination { host, port: port? })
}

/// Hostile bytes made fit for a log line: printable ASCII, at most 255 characters.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut text = bytes.escape_ascii().take(256).map(char::from).collect::<String>();
    if text.len() > 255 {
        text.truncate(252);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
