//! The ids of the protocol: opaque strings that only parse valid.
//!
//! An id matches `[A-Za-z0-9][A-Za-z0-9_.-]{0,127}`; a facility id has no dot, because it names a directory. An id
//! therefore never begins with a dot or a dash, never holds a slash, and may stand in a URL path or a file name as
//! it is.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

use crate::text::quote;

/// The most bytes an id has.
pub const MAX_ID_BYTES: usize = 128;

/// A text that is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{value} is not a {kind}: {why}; {mend}")]
pub struct IdError {
    /// What was to be read: `directive id`, `facility id`, …
    pub kind: &'static str,
    /// The text, quoted, escaped and shortened for a message.
    pub value: String,
    /// What is wrong with it.
    pub why: IdFault,
    /// What a good one looks like.
    pub mend: &'static str,
}

/// What is wrong with a text that should be an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdFault {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Longer than [`MAX_ID_BYTES`].
    #[error("it has more than 128 characters")]
    TooLong,
    /// The first character is not a letter or a digit.
    #[error("it begins with {0:?}")]
    FirstCharacter(char),
    /// A character that ids do not have.
    #[error("it contains {0:?}")]
    Character(char),
}

const PLAIN: &str = "use letters, digits, '_', '.' and '-', beginning with a letter or digit";
const WITHOUT_DOT: &str = "use letters, digits, '_' and '-', beginning with a letter or digit";

fn check(text: &str, dots: bool) -> Result<(), IdFault> {
    let first = text.chars().next().ok_or(IdFault::Empty)?;
    if !first.is_ascii_alphanumeric() {
        return Err(IdFault::FirstCharacter(first));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || (dots && c == '.');
    if let Some(bad) = text.chars().find(|c| !good(*c)) {
        return Err(IdFault::Character(bad));
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdFault::TooLong);
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, dots: $dots:literal, $mend:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new id: a UUIDv7 (RFC 9562), so ids made later sort later.
            #[must_use]
            pub fn generate() -> Self {
                Self(uuid::Uuid::now_v7().to_string())
            }

            /// The id as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                match check(&text, $dots) {
                    Ok(()) => Ok(Self(text)),
                    Err(why) => Err(IdError { kind: $kind, value: quote(&text), why, mend: $mend }),
                }
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// One shell command to run: the thing that is queued, leased, run and finished.
    DirectiveId, "directive id", dots: true, PLAIN
);
id!(
    /// A persistent workspace on a territory. Also the name of its directory, so it has no dot.
    FacilityId, "facility id", dots: false, WITHOUT_DOT
);
id!(
    /// One enrolled installation of `nexusd`.
    TerritoryId, "territory id", dots: true, PLAIN
);
id!(
    /// The owner of territories, facilities and directives at the mothership.
    AccountId, "account id", dots: true, PLAIN
);
id!(
    /// One poll's claim: asked again with the same id after a lost answer, the server gives the same leases again.
    ClaimId, "claim id", dots: true, PLAIN
);
id!(
    /// One start of one daemon, new at each start.
    InstanceId, "instance id", dots: true, PLAIN
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn good_and_bad_texts() {
        let cases = [
            ("a", true, true),
            ("9", true, true),
            ("a.b", true, false),
            ("a..b", true, false),
            ("A_b-c", true, true),
            ("", false, false),
            (".", false, false),
            ("..", false, false),
            ("../x", false, false),
            ("-rf", false, false),
            ("_a", false, false),
            ("a/b", false, false),
            ("a b", false, false),
            ("a\n", false, false),
            ("a\0", false, false),
            ("é", false, false),
            ("aé", false, false),
        ];
        for (text, directive, facility) in cases {
            assert_eq!(text.parse::<DirectiveId>().is_ok(), directive, "{text:?} as directive id");
            assert_eq!(text.parse::<FacilityId>().is_ok(), facility, "{text:?} as facility id");
        }
        assert!("a".repeat(128).parse::<DirectiveId>().is_ok());
        assert!("a".repeat(129).parse::<DirectiveId>().is_err());
    }

    #[test]
    fn the_error_names_the_value_and_the_mend() {
        let error = "../x".parse::<FacilityId>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"../x\" is not a facility id: it begins with '.'; use letters, digits, '_' and '-', beginning with a letter or digit"
        );
        let error = serde_json::from_str::<DirectiveId>("\"a b\"").unwrap_err();
        assert!(error.to_string().contains("\"a b\" is not a directive id: it contains ' '"), "{error}");
    }

    #[test]
    fn made_ids_are_valid_and_sort_by_time() {
        let first = DirectiveId::generate();
        let second = DirectiveId::generate();
        assert!(first < second);
        assert_eq!(FacilityId::generate().as_str().parse::<FacilityId>().map(String::from).unwrap().len(), 36);
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_back(text in "[A-Za-z0-9][A-Za-z0-9_.-]{0,127}") {
            let id: DirectiveId = text.parse().unwrap();
            prop_assert_eq!(id.as_str(), text.as_str());
            prop_assert_eq!(&id.to_string().parse::<DirectiveId>().unwrap(), &id);
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<DirectiveId>(&json).unwrap(), id);
        }

        #[test]
        fn any_text_is_either_an_id_of_the_grammar_or_a_one_line_error(text in any::<String>()) {
            match text.parse::<FacilityId>() {
                Ok(id) => {
                    prop_assert_eq!(id.as_str(), text.as_str());
                    prop_assert!(!text.contains(['/', '.', '\0']) && !text.starts_with('-'));
                }
                Err(error) => prop_assert!(!error.to_string().contains('\n')),
            }
        }
    }
}
