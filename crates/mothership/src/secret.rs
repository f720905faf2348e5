//! Secrets that the mothership hands out and the digests it keeps of them.
//!
//! What is stored is the SHA-256 of a secret with 256 bits of randomness: a copy of the database opens
//! nothing, and looking a digest up by its index leaks nothing useful through timing, since the caller
//! cannot choose the digest of what he guesses.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// What every API token begins with, so that secret scanners can find a leaked one.
pub const API_TOKEN_PREFIX: &str = "nxa1.";

/// 32 bytes from the operating system's generator, by way of the thread's ChaCha.
#[must_use]
pub fn random_bytes() -> [u8; 32] {
    rand::random()
}

/// 32 random bytes in base64url.
#[must_use]
pub fn random_text() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes())
}

/// A fresh API token.
#[must_use]
pub fn api_token() -> String {
    format!("{API_TOKEN_PREFIX}{}", random_text())
}

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_and_say_what_they_are() {
        let (a, b) = (api_token(), api_token());
        assert_ne!(a, b);
        assert!(a.starts_with(API_TOKEN_PREFIX));
        assert_eq!(a.len(), API_TOKEN_PREFIX.len() + 43);
    }
}
