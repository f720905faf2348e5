//! How fields travel: strict base64, `null` as absent, numbers and names of foreign servers taken leniently.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

/// Skips a flag that is down; its absence means the same.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands fields over by reference")]
pub(crate) const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// For flags whose absence means yes.
pub(crate) const fn yes() -> bool {
    true
}

/// `null` as the default value, where `#[serde(default)]` covers only absence.
pub(crate) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// The value where it reads as one, else nothing: for fields that only inform, so that another server's spelling
/// of them does not turn an accepted call into a failed one.
pub(crate) fn lenient<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

/// The entries that read as `T`, at most `MOST` of them, and nothing where there is no list: for additions, which another peer may
/// use for something else.
pub(crate) fn lenient_list<'de, D, T, const MOST: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let Some(serde_json::Value::Array(items)) = Option::<serde_json::Value>::deserialize(deserializer)? else {
        return Ok(Vec::new());
    };
    Ok(items.into_iter().filter_map(|item| serde_json::from_value(item).ok()).take(MOST).collect())
}

/// Whole seconds; a fraction, as servers of other languages send it, is rounded up.
pub(crate) fn seconds<'de, D>(deserializer: D) -> Result<Option<u64>, D::Error>
where
    D: Deserializer<'de>,
{
    let Some(number) = Option::<serde_json::Number>::deserialize(deserializer)? else {
        return Ok(None);
    };
    let whole = number.as_u64().or_else(|| {
        let float = number.as_f64().filter(|f| (0.0..=4_294_967_295.0).contains(f))?;
        // Formatting avoids a lossy cast: the number is whole, small and not negative.
        format!("{:.0}", float.ceil()).parse().ok()
    });
    whole.map(Some).ok_or_else(|| D::Error::custom(format!("{number} is not a number of seconds")))
}

/// [`seconds`], absent as 0.
pub(crate) fn seconds_or_zero<'de, D>(deserializer: D) -> Result<u64, D::Error>
where
    D: Deserializer<'de>,
{
    Ok(seconds(deserializer)?.unwrap_or(0))
}

/// Bytes as base64: standard alphabet, padding, strict decoding (RFC 4648 §4, with §3.5's zero bits).
pub(crate) mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn encode(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    fn decode<E: serde::de::Error>(text: &str) -> Result<Vec<u8>, E> {
        STANDARD.decode(text).map_err(|e| E::custom(format!("not base64 (standard alphabet, padded): {e}")))
    }

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?
            .ok_or_else(|| D::Error::custom("null is not base64"))?;
        decode(&text)
    }

    pub(crate) mod optional {
        use super::{Deserialize, Deserializer, Serializer, decode, encode};

        pub(crate) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
            match bytes {
                Some(bytes) => serializer.serialize_some(&encode(bytes)),
                None => serializer.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
            Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?.map(|text| decode(&text)).transpose()
        }
    }
}
