//! The directive token: what proves that a call is about a lease that its caller holds.

use serde::{Deserialize, Serialize};
use std::fmt;

use crate::ids::{DirectiveId, TerritoryId};

/// How long a directive token lives, in seconds.
pub const DIRECTIVE_TOKEN_SECONDS: u64 = 300;

/// A bearer token, opaque to nexusd. Never shown: `Debug` hides it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DirectiveToken(String);

impl DirectiveToken {
    /// Takes a token as it came.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The token itself, for the `Authorization` header and for redacting it from output.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for DirectiveToken {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for DirectiveToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DirectiveToken(…)")
    }
}

/// What a directive token of this project says (JWT, HS256). Another server's token need not be one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectiveClaims {
    /// The directive.
    pub sub: DirectiveId,
    /// The territory that holds the lease.
    pub tid: TerritoryId,
    /// When it was made: seconds since 1970-01-01T00:00:00Z.
    pub iat: i64,
    /// From when on it is not valid: seconds since 1970-01-01T00:00:00Z.
    pub exp: i64,
    /// The number of the lease; a directive can be leased again, and then an older lease's token is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lid: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown_but_travels() {
        let token = DirectiveToken::new("secret.jwt");
        assert!(!format!("{token:?}").contains("secret"));
        assert_eq!(serde_json::to_string(&token).unwrap(), "\"secret.jwt\"");
        assert_eq!(token.expose(), "secret.jwt");
    }

    #[test]
    fn claims_without_a_lease_number_read() {
        let claims: DirectiveClaims =
            serde_json::from_str(r#"{"sub":"d1","tid":"t1","iat":1,"exp":301,"iss":"x"}"#).unwrap();
        assert_eq!(claims.lid, None);
        assert_eq!(serde_json::to_string(&claims).unwrap(), r#"{"sub":"d1","tid":"t1","iat":1,"exp":301}"#);
    }
}
