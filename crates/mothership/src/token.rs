//! Directive tokens: JWT, HS256 and nothing else.
//!
//! The algorithm is pinned here, never read from the token (`alg: none` and key confusion are refused by
//! construction). `kid` names the key, so that a new key can sign while tokens of the old one run out.
//! Expiry is judged by the store's clock, like everything else.

use std::sync::{Arc, PoisonError, RwLock};

use conduits::{DirectiveClaims, DirectiveId, DirectiveToken, TerritoryId, code};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};

use crate::clock::Micros;
use crate::refusal::Refusal;
use crate::store::signing_keys::SigningKey;

/// How long a token is good, in seconds.
const LIFETIME_SECONDS: u64 = conduits::token::DIRECTIVE_TOKEN_SECONDS;

/// The keys in use; the newest signs, all verify.
pub struct TokenKeys {
    newest: i64,
    signing: EncodingKey,
    header: Header,
    verifying: Vec<(String, DecodingKey)>,
    validation: Validation,
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenKeys").field("keys", &self.verifying.len()).finish_non_exhaustive()
    }
}

/// The keys in use, replaced while running.
#[derive(Debug)]
pub struct Keyring {
    keys: RwLock<Arc<TokenKeys>>,
}

impl Keyring {
    /// Starts with `keys`.
    #[must_use]
    pub fn new(keys: TokenKeys) -> Self {
        Self { keys: RwLock::new(Arc::new(keys)) }
    }

    /// The keys now.
    #[must_use]
    pub fn now(&self) -> Arc<TokenKeys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Uses the newer of `keys` and those in use: changes that follow each other may be told in another order.
    pub fn take(&self, keys: TokenKeys) {
        let mut current = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.newest >= current.newest {
            *current = Arc::new(keys);
        }
    }
}

/// Whether a token past its end is taken: only to give out a fresh one for the same lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// An expired token is refused.
    Enforced,
    /// An expired token still says whose lease it was.
    Forgiven,
}

impl TokenKeys {
    /// Takes the keys, newest first. None without any.
    #[must_use]
    pub fn new(keys: &[SigningKey]) -> Option<Self> {
        let newest = keys.first()?;
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(newest.id.to_string());
        let mut validation = Validation::new(Algorithm::HS256);
        // Checked below, by the store's clock; the presence of the claims is checked by their types.
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        Some(Self {
            newest: newest.id,
            signing: EncodingKey::from_secret(&newest.secret),
            header,
            verifying: keys.iter().map(|key| (key.id.to_string(), DecodingKey::from_secret(&key.secret))).collect(),
            validation,
        })
    }

    /// A token for lease `lid` of `directive`, held by `territory`.
    ///
    /// # Errors
    /// The crypto library fails.
    pub fn mint(
        &self,
        directive: &DirectiveId,
        territory: &TerritoryId,
        lid: i64,
        now: Micros,
    ) -> Result<DirectiveToken, jsonwebtoken::errors::Error> {
        let iat = i64::try_from(now.unix_seconds()).unwrap_or(i64::MAX);
        let claims = DirectiveClaims {
            sub: directive.clone(),
            tid: territory.clone(),
            iat,
            exp: iat.saturating_add_unsigned(LIFETIME_SECONDS),
            lid: u64::try_from(lid).ok(),
        };
        jsonwebtoken::encode(&self.header, &claims, &self.signing).map(DirectiveToken::new)
    }

    /// The claims of `token`, if it was minted here, is for `directive` and, where that matters, not expired.
    ///
    /// # Errors
    /// 401 for a token that is not ours, damaged or expired; 403 for another directive's.
    pub fn verify(
        &self,
        token: &str,
        directive: &DirectiveId,
        expiry: Expiry,
        now: Micros,
    ) -> Result<DirectiveClaims, Refusal> {
        let invalid =
            || Refusal::unauthenticated(code::TOKEN_INVALID, "the directive token is not valid; ask for a fresh one");
        let kid = jsonwebtoken::decode_header(token).map_err(|_| invalid())?.kid;
        let key =
            self.verifying.iter().find(|(id, _)| kid.as_deref() == Some(id)).map(|(_, key)| key).ok_or_else(invalid)?;
        let claims: DirectiveClaims = jsonwebtoken::decode(token, key, &self.validation).map_err(|_| invalid())?.claims;
        if claims.sub != *directive {
            return Err(Refusal::forbidden(code::FORBIDDEN, "the directive token is another directive's"));
        }
        let now = i64::try_from(now.unix_seconds()).unwrap_or(i64::MAX);
        if expiry == Expiry::Enforced && claims.exp <= now {
            return Err(Refusal::unauthenticated(
                code::TOKEN_EXPIRED,
                "the directive token has expired; ask for a fresh one",
            ));
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::refusal::RefusalKind;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    const NOW: Micros = Micros(1_700_000_000_000_000);

    fn key(id: i64, byte: u8) -> SigningKey {
        SigningKey { id, secret: vec![byte; 32] }
    }

    fn ids() -> (DirectiveId, TerritoryId) {
        (DirectiveId::generate(), TerritoryId::generate())
    }

    #[test]
    fn a_token_says_whose_lease_it_is_for_five_minutes() {
        let keys = TokenKeys::new(&[key(1, 7)]).unwrap();
        let (directive, territory) = ids();
        let token = keys.mint(&directive, &territory, 3, NOW).unwrap();
        let claims = keys.verify(token.expose(), &directive, Expiry::Enforced, NOW).unwrap();
        assert_eq!((claims.tid, claims.lid, claims.exp - claims.iat), (territory, Some(3), 300));
        let later = Micros(NOW.0 + 300_000_000);
        let expired = keys.verify(token.expose(), &directive, Expiry::Enforced, later).unwrap_err();
        assert_eq!((expired.kind, expired.code), (RefusalKind::Unauthenticated, code::TOKEN_EXPIRED));
        assert!(keys.verify(token.expose(), &directive, Expiry::Forgiven, later).is_ok());
        let other = keys.verify(token.expose(), &DirectiveId::generate(), Expiry::Enforced, NOW).unwrap_err();
        assert_eq!(other.kind, RefusalKind::Forbidden);
    }

    #[test]
    fn an_older_key_still_verifies_and_a_foreign_one_never() {
        let (directive, territory) = ids();
        let old = TokenKeys::new(&[key(1, 7)]).unwrap();
        let both = TokenKeys::new(&[key(2, 8), key(1, 7)]).unwrap();
        let foreign = TokenKeys::new(&[key(1, 9)]).unwrap();
        let token = old.mint(&directive, &territory, 1, NOW).unwrap();
        let verify = |keys: &TokenKeys| {
            keys.verify(token.expose(), &directive, Expiry::Enforced, NOW).map_err(|refusal| refusal.code)
        };
        assert!(verify(&both).is_ok());
        assert_eq!(verify(&foreign).unwrap_err(), code::TOKEN_INVALID);
    }

    #[test]
    fn a_keyring_never_goes_back() {
        let ring = Keyring::new(TokenKeys::new(&[key(2, 8)]).unwrap());
        ring.take(TokenKeys::new(&[key(1, 7)]).unwrap());
        assert_eq!(ring.now().newest, 2);
        ring.take(TokenKeys::new(&[key(3, 9), key(2, 8)]).unwrap());
        assert_eq!(ring.now().newest, 3);
    }

    #[test]
    fn the_algorithm_is_not_the_token_s_choice() {
        let keys = TokenKeys::new(&[key(1, 7)]).unwrap();
        let (directive, territory) = ids();
        let good = keys.mint(&directive, &territory, 1, NOW).unwrap();
        let payload = good.expose().split('.').nth(1).unwrap();
        let signature = good.expose().split('.').nth(2).unwrap();
        for (alg, signature) in
            [("none", ""), ("None", ""), ("RS256", signature), ("HS512", signature), ("ES256", signature)]
        {
            let header = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"{alg}","typ":"JWT","kid":"1"}}"#));
            let forged = format!("{header}.{payload}.{signature}");
            let refused = keys.verify(&forged, &directive, Expiry::Forgiven, NOW).unwrap_err();
            assert_eq!(refused.code, code::TOKEN_INVALID, "{alg}");
        }
    }
}
