//! The allowlist entry `host:port`, and the DNS name inside it.
//!
//! The grammar admits `localhost` and LDH names of at least two labels (RFC 1123 §2.1), the latter optionally under
//! one leading `*.`. It admits no address in any spelling: a resolver or `inet_aton` would take `0x7f.1` or
//! `2130706433` for an address, so a name whose last label is a number, decimal or hexadecimal, is not a name
//! (the rule of the WHATWG URL standard, "ends in a number").

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

use crate::text::quote;

/// The most bytes of a label (RFC 1035 §2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;
/// The most bytes of a name without its trailing dot (RFC 1035 §2.3.4).
pub const MAX_NAME_BYTES: usize = 253;

/// Why a text is not a host name that can be allowed or asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the host is empty; write a domain name")]
    Empty,
    /// An IP address in some spelling, or a name that a resolver could take for one.
    #[error("{0} is an IP address or reads as one; write a domain name, addresses are never allowed")]
    IpLiteral(String),
    /// Only one label, and not `localhost`.
    #[error("{0} has only one label; write the full domain name")]
    SingleLabel(String),
    /// A label that is empty.
    #[error("{0} has an empty label; write single dots between labels")]
    EmptyLabel(String),
    /// A label over [`MAX_LABEL_BYTES`].
    #[error("{0} has a label of more than 63 characters")]
    LabelTooLong(String),
    /// Over [`MAX_NAME_BYTES`].
    #[error("{0} has more than 253 characters")]
    TooLong(String),
    /// A label that begins or ends with a hyphen.
    #[error("{0} has a label that begins or ends with '-'")]
    Hyphen(String),
    /// A character outside letters, digits, hyphen and dot.
    #[error("{value} contains {character:?}; use letters, digits, '-' and '.' (an international name as punycode)")]
    Character {
        /// The text, quoted and shortened.
        value: String,
        /// The first offending character.
        character: char,
    },
}

/// A DNS name in its compared form: lower-case letters, digits and hyphens, without the trailing dot. Either
/// `localhost` or at least two labels; never an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

impl DnsName {
    /// Reads a name, of an entry or of a request. Case is ignored and one trailing dot is dropped. ASCII only: a
    /// caller that takes international names converts them first (UTS 46).
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let shown = || quote(text);
        if text.starts_with('[') || text.contains(':') {
            return Err(NameError::IpLiteral(shown()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(if text.is_empty() { NameError::Empty } else { NameError::EmptyLabel(shown()) });
        }
        let ldh = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        if let Some(character) = name.chars().find(|c| !ldh(*c)) {
            return Err(NameError::Character { value: shown(), character });
        }
        let labels: Vec<&str> = name.split('.').collect();
        if labels.iter().any(|label| label.is_empty()) {
            return Err(NameError::EmptyLabel(shown()));
        }
        if labels.last().is_some_and(|last| reads_as_number(last)) {
            return Err(NameError::IpLiteral(shown()));
        }
        if labels.iter().any(|label| label.len() > MAX_LABEL_BYTES) {
            return Err(NameError::LabelTooLong(shown()));
        }
        if name.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong(shown()));
        }
        if labels.iter().any(|label| label.starts_with('-') || label.ends_with('-')) {
            return Err(NameError::Hyphen(shown()));
        }
        let name = name.to_ascii_lowercase();
        if labels.len() < 2 && name != "localhost" {
            return Err(NameError::SingleLabel(shown()));
        }
        Ok(Self(name))
    }

    /// The name: lower-case, no trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this name lies beneath `suffix`, at a label's edge. A name is not beneath itself.
    #[must_use]
    pub fn is_beneath(&self, suffix: &Self) -> bool {
        self.0.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.'))
    }

    /// The names that this one lies beneath, nearest first: `a.b.example.com` gives `b.example.com`, `example.com`,
    /// `com`. For looking a host up in a set of wildcards.
    pub fn ancestors(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('.').filter_map(|(dot, _)| self.0.get(dot + 1..))
    }
}

/// Whether a resolver could take the label for a part of an IPv4 address: all digits, or `0x` and hexadecimal.
fn reads_as_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    label.bytes().all(|b| b.is_ascii_digit())
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

impl FromStr for DnsName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for DnsName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> Self {
        name.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The host part of an entry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// This name and no other.
    Exact(DnsName),
    /// Every name beneath this one, at any depth, but not the name itself.
    Wildcard(DnsName),
}

impl HostPattern {
    /// Whether the pattern covers the host.
    #[must_use]
    pub fn matches(&self, host: &DnsName) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => host.is_beneath(suffix),
        }
    }

    /// The name without the `*.`.
    #[must_use]
    pub const fn name(&self) -> &DnsName {
        match self {
            Self::Exact(name) | Self::Wildcard(name) => name,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// Why a text is not an allowlist entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// No `:port`.
    #[error("{0} has no port; write host:port, such as example.com:443")]
    NoPort(String),
    /// A port outside 1..65535, or not a plain decimal number.
    #[error("{0} has no valid port; use 1 to 65535 in plain digits")]
    Port(String),
    /// A host outside the grammar.
    #[error("{entry}: {source}")]
    Host {
        /// The whole entry, quoted and shortened.
        entry: String,
        /// What is wrong with its host.
        source: NameError,
    },
    /// `*` somewhere else than as the whole first label of a domain of two labels or more.
    #[error("{0}: '*' may only stand as one leading \"*.\" before a domain of at least two labels")]
    Wildcard(String),
}

/// One entry of an allowlist or deny list: a host pattern and a port. Two entries that mean the same are equal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AllowEntry {
    /// Which hosts.
    pub host: HostPattern,
    /// Which port, 1..65535.
    pub port: u16,
}

impl AllowEntry {
    /// Whether the entry covers the destination.
    #[must_use]
    pub fn matches(&self, host: &DnsName, port: u16) -> bool {
        self.port == port && self.host.matches(host)
    }
}

impl FromStr for AllowEntry {
    type Err = EntryError;

    fn from_str(text: &str) -> Result<Self, EntryError> {
        let host_error = |source| EntryError::Host { entry: quote(text), source };
        let Some((host, port)) = text.rsplit_once(':') else {
            // An address without a port is told that it is an address: that is what must change.
            return Err(match DnsName::parse(text) {
                Err(source @ NameError::IpLiteral(_)) => host_error(source),
                _ => EntryError::NoPort(quote(text)),
            });
        };
        let host = match host.strip_prefix("*.") {
            _ if host == "*" => return Err(EntryError::Wildcard(quote(text))),
            Some(suffix) => match DnsName::parse(suffix) {
                Err(NameError::SingleLabel(_) | NameError::Character { character: '*', .. }) => {
                    return Err(EntryError::Wildcard(quote(text)));
                }
                Ok(name) if !name.as_str().contains('.') => {
                    return Err(EntryError::Wildcard(quote(text)));
                }
                name => HostPattern::Wildcard(name.map_err(host_error)?),
            },
            None => match DnsName::parse(host) {
                Err(NameError::Character { character: '*', .. }) => {
                    return Err(EntryError::Wildcard(quote(text)));
                }
                name => HostPattern::Exact(name.map_err(host_error)?),
            },
        };
        // Not `u16::from_str` alone: that takes "+443" and "0443".
        let plain = !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit());
        match port.parse::<u16>() {
            Ok(port) if plain => Ok(Self { host, port }),
            _ => Err(EntryError::Port(quote(text))),
        }
    }
}

impl TryFrom<String> for AllowEntry {
    type Error = EntryError;

    fn try_from(text: String) -> Result<Self, EntryError> {
        text.parse()
    }
}

impl From<AllowEntry> for String {
    fn from(entry: AllowEntry) -> Self {
        entry.to_string()
    }
}

impl fmt::Display for AllowEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The grammar as a regular expression (ECMA-262, as JSON Schema asks): the parser above and this one agree.
pub(crate) fn entry_pattern() -> String {
    let label = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
    let port = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
    let localhost = "[Ll][Oo][Cc][Aa][Ll][Hh][Oo][Ss][Tt]";
    let length = r"(?=(?:\*\.)?[A-Za-z0-9.-]{0,252}[A-Za-z0-9]\.?:)";
    let no_number_last = r"(?!(?:.*\.)?(?:[0-9]+|0[Xx][0-9A-Fa-f]*)\.?:)";
    format!(r"^{length}{no_number_last}(?:{localhost}|(?:\*\.)?(?:{label}\.)+{label})\.?:{port}$")
}

#[cfg(test)]
mod tests;
