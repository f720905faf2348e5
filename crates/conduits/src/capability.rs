//! What a directive may touch: the net and the fs capability, and the grammars inside them.
//!
//! A document that does not validate is an error, never a narrower or wider document: unknown fields, wrong types and
//! doubtful entries are all refused, with the path of the field in the message. `null` equals absent.

mod entry;
mod fs;
mod net;

pub use entry::{AllowEntry, DnsName, EntryError, HostPattern, MAX_LABEL_BYTES, MAX_NAME_BYTES, NameError};
pub use fs::{FsCapability, MAX_FS_ENTRIES, Selector, SelectorError};
pub use net::{MAX_ALLOW_ENTRIES, MAX_TTL_SECONDS, NetCapability, NetMode, NetPreset};

pub(crate) use entry::entry_pattern;
pub(crate) use fs::{HOST_DIRECTORY_PATTERN, SELECTOR_PATTERN};

use serde_json::{Map, Value};

use crate::text::{quote, quote_json};

/// Why a capability document is refused. Shown, it is one line that names the field and the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// The document, or a field of it, has another JSON type than it should.
    #[error("{field}: {value} is not {expected}")]
    WrongType {
        /// Path of the field, such as `net.ttl_seconds`.
        field: String,
        /// The value, shortened.
        value: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A field that must be there is not.
    #[error("{field} is missing: {mend}")]
    Missing {
        /// Path of the field.
        field: String,
        /// What to write.
        mend: &'static str,
    },
    /// A field that this document does not have.
    #[error("{field}: unknown field; remove it or use one of {known}")]
    UnknownField {
        /// Path of the field, the name quoted.
        field: String,
        /// The fields there are.
        known: String,
    },
    /// A name that is none of a closed set.
    #[error("{field}: {value} is not one of {known}")]
    UnknownValue {
        /// Path of the field.
        field: String,
        /// The value, shortened.
        value: String,
        /// The names there are.
        known: String,
    },
    /// `allow` beside a mode that has no allowlist.
    #[error("net.allow is given with mode {mode}: remove it, or set mode to allowlist")]
    AllowWithoutAllowlist {
        /// The mode of the document.
        mode: NetMode,
    },
    /// An allowlist entry outside the grammar.
    #[error("net.allow[{index}]: {source}")]
    Entry {
        /// Position in `allow`, from 0.
        index: usize,
        /// What is wrong with it.
        source: EntryError,
    },
    /// A number outside its range.
    #[error("{field}: {value} is out of range; use {low} to {high}")]
    OutOfRange {
        /// Path of the field.
        field: String,
        /// The value.
        value: String,
        /// Smallest value allowed.
        low: u64,
        /// Largest value allowed.
        high: u64,
    },
    /// More entries than the limit.
    #[error("{field} has {count} entries; at most {limit} are taken")]
    TooMany {
        /// Path of the field.
        field: String,
        /// How many there are.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// A key of `x_ext` without the prefix.
    #[error("net.x_ext: the key {key} does not begin with x_; rename or remove it")]
    ExtensionKey {
        /// The key, quoted and shortened.
        key: String,
    },
    /// A selector or directory outside the grammar.
    #[error("{field}: {source}")]
    Selector {
        /// Path of the field, such as `fs.write[0]`.
        field: String,
        /// What is wrong with it.
        source: SelectorError,
    },
}

/// The fields of a capability document: `null` ones count as absent, and each must be one of `known`.
struct Fields<'a> {
    name: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn of(name: &'static str, value: &'a Value, known: &[&str]) -> Result<Self, CapabilityError> {
        let Value::Object(map) = value else {
            return Err(CapabilityError::WrongType {
                field: name.to_owned(),
                value: quote_json(value),
                expected: "an object",
            });
        };
        if let Some(stranger) = map.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(CapabilityError::UnknownField {
                field: format!("{name}.{}", quote(stranger)),
                known: known.join(", "),
            });
        }
        Ok(Self { name, map })
    }

    fn path(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn wrong_type(&self, key: &str, value: &Value, expected: &'static str) -> CapabilityError {
        CapabilityError::WrongType { field: self.path(key), value: quote_json(value), expected }
    }

    /// The array of strings at `key`, with the position of each; `None` where absent.
    fn strings(&self, key: &str, limit: usize) -> Result<Option<Vec<&'a str>>, CapabilityError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let Value::Array(items) = value else {
            return Err(self.wrong_type(key, value, "an array of strings"));
        };
        if items.len() > limit {
            return Err(CapabilityError::TooMany { field: self.path(key), count: items.len(), limit });
        }
        let texts = items.iter().enumerate().map(|(index, item)| {
            item.as_str().ok_or_else(|| self.wrong_type(&format!("{key}[{index}]"), item, "a string"))
        });
        texts.collect::<Result<Vec<&str>, _>>().map(Some)
    }
}
