//! Which directive tokens can be said at all: they are opaque, but they travel in a header.

use conduits::DirectiveToken;
use reqwest::header::HeaderValue;

/// The longest token that is sent: servers take 8 KiB of headers at least, and ours have a few hundred bytes.
pub const MAX_TOKEN_BYTES: usize = 7 * 1024;

/// Why a token cannot be sent. Never shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It has no characters.
    #[error("the directive token is empty")]
    Empty,
    /// It is longer than a header may be.
    #[error("the directive token has {0} bytes, more than the {MAX_TOKEN_BYTES} that a header is sure to carry")]
    TooLong(usize),
    /// Line ends, other control characters, spaces, or what is not ASCII.
    #[error("the directive token has characters that no header can carry (byte {0} of it is the first)")]
    Characters(usize),
}

/// Whether a token can be sent.
///
/// # Errors
/// Why not.
pub fn check(token: &DirectiveToken) -> Result<(), TokenError> {
    bearer(token.expose()).map(drop)
}

/// The value of `Authorization`.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, TokenError> {
    if token.is_empty() {
        return Err(TokenError::Empty);
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong(token.len()));
    }
    if let Some(at) = token.bytes().position(|byte| !byte.is_ascii_graphic()) {
        return Err(TokenError::Characters(at));
    }
    // Only graphic characters: never refused.
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| TokenError::Characters(0))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_can_carry() {
        let long = "x".repeat(MAX_TOKEN_BYTES);
        for good in ["a.b.c", "x", "-._~+/=", &long] {
            assert_eq!(bearer(good).unwrap().to_str().unwrap(), format!("Bearer {good}"));
            assert!(!format!("{:?}", bearer(good)).contains(good), "a header's debug output shows the token");
        }
        let too_long = format!("{long}x");
        for (bad, why) in [
            ("", TokenError::Empty),
            ("a\nb", TokenError::Characters(1)),
            ("a\r\nX-Other: 1", TokenError::Characters(1)),
            ("\0", TokenError::Characters(0)),
            ("ab c", TokenError::Characters(2)),
            ("tök", TokenError::Characters(1)),
            (too_long.as_str(), TokenError::TooLong(MAX_TOKEN_BYTES + 1)),
        ] {
            assert_eq!(bearer(bad), Err(why), "{bad:.20?}");
        }
    }
}
