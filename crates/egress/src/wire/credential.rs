//! The credential of a run, where the proxy listens on TCP that others on the host can reach.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rand::Rng as _;

/// Random bytes of a generated password.
const SECRET_BYTES: usize = 24;

/// A user name and password, new for each run.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    user: String,
    password: String,
}

impl Credential {
    /// A fresh one, fit for a URL without escaping.
    #[must_use]
    pub fn generate() -> Self {
        let mut secret = [0_u8; SECRET_BYTES];
        rand::rng().fill_bytes(&mut secret);
        Self { user: "nexus".to_owned(), password: URL_SAFE_NO_PAD.encode(secret) }
    }

    /// `user:password`, for the proxy URL in the run's environment.
    #[must_use]
    pub fn userinfo(&self) -> String {
        format!("{}:{}", self.user, self.password)
    }

    /// Checks the value of a `Proxy-Authorization` header (RFC 7617).
    #[must_use]
    pub fn admits_basic(&self, value: &[u8]) -> bool {
        let Some((scheme, encoded)) = value.split_at_checked(6) else { return false };
        let Ok(decoded) = STANDARD.decode(encoded.trim_ascii()) else { return false };
        scheme.eq_ignore_ascii_case(b"basic ") && same(&decoded, self.userinfo().as_bytes())
    }

    /// Checks the pair of RFC 1929.
    #[must_use]
    pub fn admits(&self, user: &[u8], password: &[u8]) -> bool {
        same(user, self.user.as_bytes()) & same(password, self.password.as_bytes())
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Compares without telling by its time where the first difference is; the lengths are no secret.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len() && left.iter().zip(right).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_pair_is_admitted() {
        let credential = Credential { user: "nexus".into(), password: "s3cret".into() };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text)).into_bytes();
        assert!(credential.admits_basic(&basic("nexus:s3cret")));
        assert!(credential.admits_basic(&[b"bAsIc ", STANDARD.encode("nexus:s3cret").as_bytes()].concat()));
        for wrong in ["nexus:", "nexus:s3cre", "nexus:s3crets", ":s3cret", "other:s3cret", "", "nexus:s3cret\0"] {
            assert!(!credential.admits_basic(&basic(wrong)), "{wrong}");
        }
        for wrong in [&b"Bearer x"[..], b"", b"Basic", b"Basic ", b"Basic !!!", b"nexus:s3cret"] {
            assert!(!credential.admits_basic(wrong), "{}", wrong.escape_ascii());
        }
        assert!(credential.admits(b"nexus", b"s3cret"));
        assert!(!credential.admits(b"nexus", b"s3cret "));
        assert!(!credential.admits(b"", b""));
    }

    #[test]
    fn generated_ones_differ_and_do_not_show() {
        let (one, two) = (Credential::generate(), Credential::generate());
        assert_ne!(one, two);
        assert!(!format!("{one:?}").contains(&one.password));
    }
}
