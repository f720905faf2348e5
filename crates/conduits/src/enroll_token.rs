//! The enrolment token: a secret that lets one machine enrol once, and, in this project's form, the digest of the
//! key that the server's certificates must go back to.
//!
//! `nxe1.<secret, base64url without padding>.<lower-case hex SHA-256 of the CA's SubjectPublicKeyInfo>`; any other
//! text is another server's token and opaque. A text that begins like ours but is damaged is an error: taken as
//! opaque it would silently lose the pin.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "nxe1.";
/// The most bytes of a token.
pub const MAX_ENROLL_TOKEN_BYTES: usize = 4096;

/// Why a text is not an enrolment token. The text itself is a secret and not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnrollTokenError {
    /// Nothing there.
    #[error("the enrolment token is empty; make one with `mothership enroll-token create`")]
    Empty,
    /// Over [`MAX_ENROLL_TOKEN_BYTES`].
    #[error("the enrolment token has more than 4096 characters; copy it again")]
    TooLong,
    /// A character that no token has: it would break a header or a line.
    #[error("the enrolment token contains white space or a character outside ASCII; copy it again")]
    Character,
    /// `nxe1.` without the two parts that follow it.
    #[error("the enrolment token begins with nxe1. but is damaged; copy it again in full")]
    Damaged,
}

/// An enrolment token. Never shown: `Debug` hides it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnrollToken {
    text: String,
    ca_key_sha256: Option<[u8; 32]>,
}

impl EnrollToken {
    /// A token of this project.
    ///
    /// `secret` is base64url without padding (RFC 4648 §5), at least 16 characters.
    pub fn pinned(secret: &str, ca_key_sha256: [u8; 32]) -> Result<Self, EnrollTokenError> {
        format!("{PREFIX}{secret}.{}", crate::fingerprint::hex(&ca_key_sha256)).parse()
    }

    /// The whole text, as it is sent.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// The secret part; of an opaque token the whole text.
    #[must_use]
    pub fn secret(&self) -> &str {
        match self.ca_key_sha256 {
            Some(_) => self.text.split('.').nth(1).unwrap_or_default(),
            None => &self.text,
        }
    }

    /// The SHA-256 of the CA's SubjectPublicKeyInfo (DER) that the token carries.
    #[must_use]
    pub const fn ca_key_sha256(&self) -> Option<[u8; 32]> {
        self.ca_key_sha256
    }
}

impl TryFrom<String> for EnrollToken {
    type Error = EnrollTokenError;

    fn try_from(text: String) -> Result<Self, EnrollTokenError> {
        if text.is_empty() {
            return Err(EnrollTokenError::Empty);
        }
        if text.len() > MAX_ENROLL_TOKEN_BYTES {
            return Err(EnrollTokenError::TooLong);
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(EnrollTokenError::Character);
        }
        let ca_key_sha256 = match text.strip_prefix(PREFIX) {
            Some(rest) => Some(pin(rest).ok_or(EnrollTokenError::Damaged)?),
            None => None,
        };
        Ok(Self { text, ca_key_sha256 })
    }
}

fn pin(rest: &str) -> Option<[u8; 32]> {
    let (secret, digest) = rest.split_once('.')?;
    let base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (secret.len() >= 16 && secret.bytes().all(base64url)).then_some(())?;
    crate::fingerprint::unhex(digest)
}

impl FromStr for EnrollToken {
    type Err = EnrollTokenError;

    fn from_str(text: &str) -> Result<Self, EnrollTokenError> {
        Self::try_from(text.to_owned())
    }
}

impl From<EnrollToken> for String {
    fn from(token: EnrollToken) -> Self {
        token.text
    }
}

impl fmt::Debug for EnrollToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnrollToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQ";

    #[test]
    fn a_token_of_ours_carries_the_pin() {
        let token = EnrollToken::pinned(SECRET, [0xab; 32]).unwrap();
        assert_eq!(token.expose(), format!("nxe1.{SECRET}.{}", "ab".repeat(32)));
        let again: EnrollToken = token.expose().parse().unwrap();
        assert_eq!((again.secret(), again.ca_key_sha256()), (SECRET, Some([0xab; 32])));
        assert!(!format!("{token:?}").contains(SECRET));
    }

    #[test]
    fn another_servers_token_is_opaque() {
        for text in ["abc", "a.b.c", "nxe2.x.y", "nxe1", "ey.J0.x"] {
            let token: EnrollToken = text.parse().unwrap();
            assert_eq!((token.secret(), token.ca_key_sha256()), (text, None));
        }
    }

    #[test]
    fn a_damaged_token_of_ours_is_refused_not_taken_without_its_pin() {
        let digest = "ab".repeat(32);
        let cases = [
            format!("nxe1.{SECRET}"),
            format!("nxe1.{SECRET}."),
            format!("nxe1.{SECRET}.{}", &digest[1..]),
            format!("nxe1.{SECRET}.{}", digest.to_uppercase()),
            format!("nxe1.{SECRET}.{digest}00"),
            format!("nxe1.{SECRET}.{digest}.x"),
            format!("nxe1.short.{digest}"),
            format!("nxe1.{SECRET}==.{digest}"),
            "nxe1.".to_owned(),
        ];
        for text in cases {
            assert_eq!(text.parse::<EnrollToken>(), Err(EnrollTokenError::Damaged), "{text}");
        }
        assert_eq!("".parse::<EnrollToken>(), Err(EnrollTokenError::Empty));
        assert_eq!("a b".parse::<EnrollToken>(), Err(EnrollTokenError::Character));
        assert_eq!("a\r\n".parse::<EnrollToken>(), Err(EnrollTokenError::Character));
        assert_eq!("a".repeat(4097).parse::<EnrollToken>(), Err(EnrollTokenError::TooLong));
    }

    proptest! {
        #[test]
        fn never_panics_and_reads_back(text in "(nxe1\\.)?[ -~é]{0,100}") {
            if let Ok(token) = text.parse::<EnrollToken>() {
                prop_assert_eq!(token.expose(), text.as_str());
            }
        }
    }
}
