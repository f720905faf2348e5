//! JSON whose objects have each of their keys once.
//!
//! What a receiver makes of a key that is there twice is not foretold (RFC 8259, section 4): serde refuses it where it fills
//! a struct, and takes the last one where it fills a map. A directive could be looked at with one command and run another.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Characters of a key that are repeated.
const SHOWN: usize = 60;

/// A JSON value that was looked through: no object in it, at any depth, has a key twice.
#[derive(Debug)]
pub struct KeysOnce;

impl<'de> Deserialize<'de> for KeysOnce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = KeysOnce;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<KeysOnce, E> {
        Ok(KeysOnce)
    }

    fn visit_bool<E>(self, _: bool) -> Result<KeysOnce, E> {
        Ok(KeysOnce)
    }

    fn visit_i64<E>(self, _: i64) -> Result<KeysOnce, E> {
        Ok(KeysOnce)
    }

    fn visit_u64<E>(self, _: u64) -> Result<KeysOnce, E> {
        Ok(KeysOnce)
    }

    fn visit_f64<E>(self, _: f64) -> Result<KeysOnce, E> {
        Ok(KeysOnce)
    }

    fn visit_str<E>(self, _: &str) -> Result<KeysOnce, E> {
        Ok(KeysOnce)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<KeysOnce, A::Error> {
        while items.next_element::<KeysOnce>()?.is_some() {}
        Ok(KeysOnce)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<KeysOnce, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = fields.next_key::<String>()? {
            if seen.contains(&key) {
                let shown: String = key.chars().take(SHOWN).collect();
                return Err(A::Error::custom(format!("the key {shown:?} is there twice; send it once")));
            }
            seen.insert(key);
            fields.next_value::<KeysOnce>()?;
        }
        Ok(KeysOnce)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_named() {
        for (text, twice) in [
            (r#"{"a":1,"b":{"a":null},"c":[{"a":true},{"a":-1.5}]}"#, None),
            (r#"{"command":"true","command":"false"}"#, Some("command")),
            (r#"{"command":"true","c\u006fmmand":"true"}"#, Some("command")),
            (r#"{"x":[{"y":{"deep":1,"deep":1}}]}"#, Some("deep")),
        ] {
            let said = serde_json::from_str::<KeysOnce>(text).err().map(|error| error.to_string());
            let expected = twice.map(|key| format!("the key {key:?} is there twice; send it once"));
            let matches = match (&said, &expected) {
                (Some(said), Some(expected)) => said.starts_with(expected.as_str()),
                (said, expected) => said == expected,
            };
            assert!(matches, "{text}: {said:?}");
        }
    }
}
