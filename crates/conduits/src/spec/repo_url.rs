//! Where an empty facility is filled from: a URL that git clones.
//!
//! git takes far more than locations: `ext::sh -c …` runs a command, `file:` and plain paths read the host, a leading
//! `-` is an option, and a host that begins with `-` becomes an option of ssh. So only what is known to be a
//! location passes: `https`, `http`, `ssh` and `git` URLs and the scp-like `[user@]host:path`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::text::quote;

/// The most bytes of a repository URL.
pub const MAX_REPO_URL_BYTES: usize = 4096;

/// Why a URL is not cloned from. The URL itself may hold credentials and is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepoUrlError {
    /// Neither a URL of a known scheme nor scp-like.
    #[error("not a repository URL; use https://, http://, ssh://, git:// or user@host:path")]
    Form,
    /// A scheme, or a transport helper of git, that is not taken.
    #[error("{0} repositories are not taken; use https://, http://, ssh://, git:// or user@host:path")]
    Scheme(String),
    /// White space, a control character, also percent-encoded, or a backslash.
    #[error("the URL contains {0:?}; remove it or percent-encode it")]
    Character(char),
    /// A percent-encoded control character: git's credential protocol would read it as a line of its own.
    #[error("the URL contains a percent-encoded control character; remove it")]
    EncodedControl,
    /// A part that a program could take for an option.
    #[error("the {0} begins with '-', which a program could take for an option")]
    Option(&'static str),
    /// No host, or one with characters that hosts do not have.
    #[error("the URL has no valid host; write host or host:port after the scheme")]
    Host,
    /// A port outside 1..65535.
    #[error("the URL has no valid port; use 1 to 65535")]
    Port,
    /// No path.
    #[error("the URL names no repository; write its path after the host")]
    Path,
    /// Over [`MAX_REPO_URL_BYTES`].
    #[error("the URL has more than 4096 characters")]
    TooLong,
}

/// A repository URL, validated. `Display` and `Debug` hide its credentials; [`RepoUrl::expose`] does not.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoUrl {
    text: String,
    scheme: RepoScheme,
    /// Where the user information stands, without its `@`.
    userinfo: Option<(usize, usize)>,
    host: (usize, usize),
    port: Option<u16>,
}

/// How the repository is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RepoScheme {
    /// `https://`
    Https,
    /// `http://`
    Http,
    /// `ssh://` and `[user@]host:path`
    Ssh,
    /// `git://`
    Git,
}

impl RepoScheme {
    /// The port where the URL names none.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
            Self::Ssh => 22,
            Self::Git => 9418,
        }
    }
}

impl RepoUrl {
    /// The URL as it came, credentials and all.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// How the repository is reached.
    #[must_use]
    pub const fn scheme(&self) -> RepoScheme {
        self.scheme
    }

    /// The host as written; an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        self.text.get(self.host.0..self.host.1).unwrap_or_default()
    }

    /// The port that is connected to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(self.scheme.default_port())
    }

    /// The user information as written, still percent-encoded, without the `@`.
    #[must_use]
    pub fn userinfo(&self) -> Option<&str> {
        self.userinfo.and_then(|(start, end)| self.text.get(start..end))
    }

    /// User name and password, percent-decoded, for http and https: what a credential helper hands to git. A name
    /// alone counts as a credential, because tokens are often written so. `None` for other schemes.
    #[must_use]
    pub fn credentials(&self) -> Option<(String, Option<String>)> {
        if !matches!(self.scheme, RepoScheme::Http | RepoScheme::Https) {
            return None;
        }
        let userinfo = self.userinfo().filter(|text| !text.is_empty())?;
        let (name, password) = match userinfo.split_once(':') {
            Some((name, password)) => (name, Some(percent_decode(password))),
            None => (userinfo, None),
        };
        Some((percent_decode(name), password))
    }

    /// The URL without what is secret in it: no user information at all for http, https and git, no password for ssh.
    #[must_use]
    pub fn without_credentials(&self) -> String {
        self.with_userinfo(|userinfo| match self.scheme {
            RepoScheme::Ssh => Some(userinfo.split(':').next().unwrap_or_default().to_owned()),
            _ => None,
        })
    }

    /// The texts that must not be shown anywhere, as written and percent-decoded: for redacting output.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let userinfo = self.userinfo().unwrap_or_default();
        let (name, password) = match userinfo.split_once(':') {
            Some((name, password)) => (name, password),
            None => (userinfo, ""),
        };
        // With a password the name is a name; without one it may be the token itself.
        let secret = if !password.is_empty() || self.scheme == RepoScheme::Ssh { password } else { name };
        let mut secrets = vec![secret.to_owned(), percent_decode(secret)];
        secrets.dedup();
        secrets.retain(|secret| !secret.is_empty());
        secrets
    }

    fn with_userinfo(&self, replace: impl Fn(&str) -> Option<String>) -> String {
        let Some((start, end)) = self.userinfo else {
            return self.text.clone();
        };
        let (Some(head), Some(userinfo), Some(tail)) =
            (self.text.get(..start), self.text.get(start..end), self.text.get(end + 1..))
        else {
            return String::new();
        };
        match replace(userinfo) {
            Some(userinfo) => format!("{head}{userinfo}@{tail}"),
            None => format!("{head}{tail}"),
        }
    }
}

/// Percent-decoding; what is not valid UTF-8 afterwards is replaced.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, escape(tail)) {
            (b'%', Some(decoded)) => {
                bytes.push(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The byte of the two hex digits that follow a `%`.
fn escape(after: &[u8]) -> Option<u8> {
    let digit = |position: usize| after.get(position).and_then(|b| char::from(*b).to_digit(16));
    u8::try_from(digit(0)? * 16 + digit(1)?).ok()
}

impl FromStr for RepoUrl {
    type Err = RepoUrlError;

    fn from_str(text: &str) -> Result<Self, RepoUrlError> {
        if text.len() > MAX_REPO_URL_BYTES {
            return Err(RepoUrlError::TooLong);
        }
        if text.starts_with('-') {
            return Err(RepoUrlError::Option("URL"));
        }
        if let Some(bad) = text.chars().find(|c| c.is_control() || c.is_whitespace() || *c == '\\') {
            return Err(RepoUrlError::Character(bad));
        }
        let mut encoded = text.match_indices('%').filter_map(|(at, _)| escape(text.as_bytes().get(at + 1..)?));
        if encoded.any(|byte| byte.is_ascii_control()) {
            return Err(RepoUrlError::EncodedControl);
        }
        match text.split_once("://") {
            Some((scheme, _)) if is_scheme(scheme) => with_scheme(text, scheme),
            _ => scp_like(text),
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn with_scheme(text: &str, scheme: &str) -> Result<RepoUrl, RepoUrlError> {
    // Lower case alone: git itself takes `HTTPS://` for an unknown transport helper.
    let kind = match scheme {
        "https" => RepoScheme::Https,
        "http" => RepoScheme::Http,
        "ssh" => RepoScheme::Ssh,
        "git" => RepoScheme::Git,
        other => return Err(RepoUrlError::Scheme(quote(other))),
    };
    let start = scheme.len() + "://".len();
    let rest = text.get(start..).unwrap_or_default();
    let authority_end = start + rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = text.get(start..authority_end).unwrap_or_default();
    let path = text.get(authority_end..).unwrap_or_default();
    let (userinfo, host_start) = match authority.rfind('@') {
        Some(at) => (Some((start, start + at)), start + at + 1),
        None => (None, start),
    };
    let host_port = text.get(host_start..authority_end).unwrap_or_default();
    let (host, port) = match host_port.strip_prefix('[') {
        Some(bracketed) => {
            let end = bracketed.find(']').ok_or(RepoUrlError::Host)?;
            let address = bracketed.get(..end).unwrap_or_default();
            address.parse::<std::net::Ipv6Addr>().map_err(|_| RepoUrlError::Host)?;
            host_port.split_at(end + 2)
        }
        None => host_port.split_at(host_port.find(':').unwrap_or(host_port.len())),
    };
    if !host.starts_with('[') {
        check_host(host)?;
    }
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        None => return Err(RepoUrlError::Host),
        Some(digits) => Some(read_port(digits)?),
    };
    if userinfo.is_some_and(|range| slice(text, range).starts_with('-')) {
        return Err(RepoUrlError::Option("user name"));
    }
    if path.trim_start_matches('/').is_empty() || !path.starts_with('/') {
        return Err(RepoUrlError::Path);
    }
    if path.starts_with("/-") && kind == RepoScheme::Ssh {
        return Err(RepoUrlError::Option("path"));
    }
    let host = (host_start, host_start + host.len());
    Ok(RepoUrl { text: text.to_owned(), scheme: kind, userinfo, host, port })
}

fn slice(text: &str, (start, end): (usize, usize)) -> &str {
    text.get(Range { start, end }).unwrap_or_default()
}

fn read_port(digits: &str) -> Result<u16, RepoUrlError> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse::<u16>().ok().filter(|port| plain && *port > 0).ok_or(RepoUrlError::Port)
}

fn check_host(host: &str) -> Result<(), RepoUrlError> {
    if host.starts_with('-') {
        return Err(RepoUrlError::Option("host"));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || host.len() > 253 || host.starts_with('.') || !host.chars().all(good) {
        return Err(RepoUrlError::Host);
    }
    Ok(())
}

/// `[user@]host:path`. A slash before the colon makes it a local path for git, so it is none of ours; a second colon
/// right after the first makes it a transport helper.
fn scp_like(text: &str) -> Result<RepoUrl, RepoUrlError> {
    let (head, path) = text.split_once(':').ok_or(RepoUrlError::Form)?;
    if head.contains('/') || head.is_empty() {
        return Err(RepoUrlError::Form);
    }
    if path.starts_with(':') || matches!(head, "file" | "ext" | "fd" | "http" | "https" | "ssh") {
        return Err(RepoUrlError::Scheme(quote(head)));
    }
    let (userinfo, host_start) = match head.rfind('@') {
        Some(at) => (Some((0, at)), at + 1),
        None => (None, 0),
    };
    if userinfo.is_some_and(|range| range.0 == range.1) {
        return Err(RepoUrlError::Form);
    }
    check_host(head.get(host_start..).unwrap_or_default())?;
    if path.is_empty() || path.starts_with("//") {
        return Err(RepoUrlError::Path);
    }
    if path.starts_with('-') {
        return Err(RepoUrlError::Option("path"));
    }
    Ok(RepoUrl { text: text.to_owned(), scheme: RepoScheme::Ssh, userinfo, host: (host_start, head.len()), port: None })
}

impl TryFrom<String> for RepoUrl {
    type Error = RepoUrlError;

    fn try_from(text: String) -> Result<Self, RepoUrlError> {
        text.parse()
    }
}

impl From<RepoUrl> for String {
    fn from(url: RepoUrl) -> Self {
        url.text
    }
}

impl fmt::Display for RepoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_userinfo(|userinfo| match (self.scheme, userinfo.split_once(':')) {
            (RepoScheme::Ssh, None) => Some(userinfo.to_owned()),
            (RepoScheme::Ssh, Some((name, _))) => Some(format!("{name}:***")),
            _ => Some("***".to_owned()),
        }))
    }
}

impl fmt::Debug for RepoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RepoUrl({self})")
    }
}

#[cfg(test)]
mod tests;
