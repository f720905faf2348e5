//! The net capability: whether a directive may use the network, and which destinations.

use serde_json::{Map, Value, json};

use super::{AllowEntry, CapabilityError, Fields};
use crate::profile::named;
use crate::text::{quote, quote_json};

/// The longest life of a capability, in seconds.
pub const MAX_TTL_SECONDS: u32 = 86_400;
/// The most entries of one allowlist.
pub const MAX_ALLOW_ENTRIES: usize = 4096;

pub(crate) const FIELDS: [&str; 5] = ["mode", "preset", "allow", "ttl_seconds", "x_ext"];

/// How much of the network is open. The order is from closed to open: an operator's ceiling is compared with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NetMode {
    /// Nothing.
    #[default]
    None,
    /// The entries of `allow`.
    Allowlist,
    /// Every public destination; the address rules and the audit stay.
    Unrestricted,
}

named!(NetMode, "net mode", {
    None => "none",
    Allowlist => "allowlist",
    Unrestricted => "unrestricted",
});

/// Where the requester's user interface took the rules from. A label: nexusd enforces `mode` and `allow` alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum NetPreset {
    /// `off`
    Off,
    /// `loose`
    Loose,
    /// `strict`
    Strict,
    /// `no_external`
    NoExternal,
    /// `custom`
    Custom,
}

named!(NetPreset, "net preset", {
    Off => "off",
    Loose => "loose",
    Strict => "strict",
    NoExternal => "no_external",
    Custom => "custom",
});

/// `capabilities.net`, validated. The default is no network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetCapability {
    /// How much is open.
    pub mode: NetMode,
    /// The label of the rules.
    pub preset: Option<NetPreset>,
    /// The destinations of [`NetMode::Allowlist`], in the given order, duplicates removed; else empty. An empty
    /// allowlist allows nothing.
    pub allow: Vec<AllowEntry>,
    /// How long after the directive's start the capability holds, 1..=[`MAX_TTL_SECONDS`] seconds.
    pub ttl_seconds: Option<u32>,
    /// Extensions, kept as they came; every key begins with `x_`.
    pub x_ext: Map<String, Value>,
}

impl NetCapability {
    /// Reads the document. Unknown fields, wrong types and entries outside the grammar are errors.
    pub fn from_value(value: &Value) -> Result<Self, CapabilityError> {
        let fields = Fields::of("net", value, &FIELDS)?;
        let mode = named_field(&fields, "mode", NetMode::ALL)?.ok_or_else(|| CapabilityError::Missing {
            field: "net.mode".to_owned(),
            mend: "write none, allowlist or unrestricted",
        })?;
        Ok(Self {
            mode,
            preset: named_field(&fields, "preset", NetPreset::ALL)?,
            allow: allow(&fields, mode)?,
            ttl_seconds: ttl(&fields)?,
            x_ext: extensions(&fields)?,
        })
    }

    /// The document again; reading it gives the same value.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("mode".to_owned(), json!(self.mode));
        if let Some(preset) = self.preset {
            map.insert("preset".to_owned(), json!(preset));
        }
        if self.mode == NetMode::Allowlist {
            map.insert("allow".to_owned(), json!(self.allow));
        }
        if let Some(seconds) = self.ttl_seconds {
            map.insert("ttl_seconds".to_owned(), json!(seconds));
        }
        if !self.x_ext.is_empty() {
            map.insert("x_ext".to_owned(), Value::Object(self.x_ext.clone()));
        }
        Value::Object(map)
    }
}

fn named_field<T>(fields: &Fields<'_>, key: &str, all: &[T]) -> Result<Option<T>, CapabilityError>
where
    T: Copy + std::fmt::Display + std::str::FromStr,
{
    let Some(value) = fields.get(key) else {
        return Ok(None);
    };
    let unknown = || CapabilityError::UnknownValue {
        field: fields.path(key),
        value: quote_json(value),
        known: all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    value.as_str().and_then(|text| text.parse().ok()).map(Some).ok_or_else(unknown)
}

fn allow(fields: &Fields<'_>, mode: NetMode) -> Result<Vec<AllowEntry>, CapabilityError> {
    let texts = fields.strings("allow", MAX_ALLOW_ENTRIES)?;
    let texts = match (mode, texts) {
        (NetMode::Allowlist, Some(texts)) => texts,
        (NetMode::Allowlist, None) => {
            return Err(CapabilityError::Missing {
                field: "net.allow".to_owned(),
                mend: "mode allowlist needs it; list host:port entries, or set mode to none",
            });
        }
        (_, None) => return Ok(Vec::new()),
        (mode, Some(_)) => return Err(CapabilityError::AllowWithoutAllowlist { mode }),
    };
    let mut entries = Vec::with_capacity(texts.len());
    let mut seen = std::collections::HashSet::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let entry: AllowEntry = text.parse().map_err(|source| CapabilityError::Entry { index, source })?;
        if seen.insert(entry.clone()) {
            entries.push(entry);
        }
    }
    Ok(entries)
}

fn ttl(fields: &Fields<'_>) -> Result<Option<u32>, CapabilityError> {
    let Some(value) = fields.get("ttl_seconds") else {
        return Ok(None);
    };
    if !value.is_number() {
        return Err(fields.wrong_type("ttl_seconds", value, "a number of seconds"));
    }
    let seconds = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| (1..=MAX_TTL_SECONDS).contains(n));
    seconds.map(Some).ok_or_else(|| CapabilityError::OutOfRange {
        field: fields.path("ttl_seconds"),
        value: quote_json(value),
        low: 1,
        high: u64::from(MAX_TTL_SECONDS),
    })
}

fn extensions(fields: &Fields<'_>) -> Result<Map<String, Value>, CapabilityError> {
    match fields.get("x_ext") {
        None => Ok(Map::new()),
        Some(Value::Object(map)) => match map.keys().find(|key| !key.starts_with("x_")) {
            Some(key) => Err(CapabilityError::ExtensionKey { key: quote(key) }),
            None => Ok(map.clone()),
        },
        Some(other) => Err(fields.wrong_type("x_ext", other, "an object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_document_reads_and_writes_back() {
        let value = json!({
            "mode": "allowlist", "preset": "no_external", "ttl_seconds": 86_400, "x_ext": {"x_a": [1]},
            "allow": ["Example.COM.:443", "*.example.com:443", "example.com:443", "localhost:8080"],
        });
        let net = NetCapability::from_value(&value).unwrap();
        let allow: Vec<String> = net.allow.iter().map(ToString::to_string).collect();
        assert_eq!(allow, ["example.com:443", "*.example.com:443", "localhost:8080"]);
        assert_eq!(
            (net.mode, net.preset, net.ttl_seconds),
            (NetMode::Allowlist, Some(NetPreset::NoExternal), Some(86_400))
        );
        assert_eq!(NetCapability::from_value(&net.to_value()).unwrap(), net);
    }

    #[test]
    fn null_equals_absent_and_absent_is_closed() {
        let value = json!({"mode": "none", "preset": null, "allow": null, "ttl_seconds": null, "x_ext": null});
        assert_eq!(NetCapability::from_value(&value).unwrap(), NetCapability::default());
        assert_eq!(NetCapability::default().mode, NetMode::None);
        assert_eq!(NetCapability::default().to_value(), json!({"mode": "none"}));
    }

    #[test]
    fn modes_are_ordered_from_closed_to_open() {
        assert!(NetMode::None < NetMode::Allowlist && NetMode::Allowlist < NetMode::Unrestricted);
    }

    #[test]
    fn each_refusal_is_one_line_with_field_and_mend() {
        let cases = [
            (json!("none"), "net: \"none\" is not an object"),
            (json!({}), "net.mode is missing: write none, allowlist or unrestricted"),
            (json!({"mode": "open"}), "net.mode: \"open\" is not one of none, allowlist, unrestricted"),
            (json!({"mode": 1}), "net.mode: 1 is not one of none, allowlist, unrestricted"),
            (
                json!({"mode": "allowlist"}),
                "net.allow is missing: mode allowlist needs it; list host:port entries, or set mode to none",
            ),
            (
                json!({"mode": "none", "allow": []}),
                "net.allow is given with mode none: remove it, or set mode to allowlist",
            ),
            (
                json!({"mode": "unrestricted", "allow": ["a.b:1"]}),
                "net.allow is given with mode unrestricted: remove it, or set mode to allowlist",
            ),
            (json!({"mode": "allowlist", "allow": "a.b:1"}), "net.allow: \"a.b:1\" is not an array of strings"),
            (json!({"mode": "allowlist", "allow": ["a.b:1", 2]}), "net.allow[1]: 2 is not a string"),
            (
                json!({"mode": "allowlist", "allow": ["a.b:1", "1.2.3.4:443"]}),
                "net.allow[1]: \"1.2.3.4:443\": \"1.2.3.4\" is an IP address or reads as one; write a domain name, addresses are never allowed",
            ),
            (json!({"mode": "none", "ttl_seconds": 0}), "net.ttl_seconds: 0 is out of range; use 1 to 86400"),
            (json!({"mode": "none", "ttl_seconds": 86_401}), "net.ttl_seconds: 86401 is out of range; use 1 to 86400"),
            (json!({"mode": "none", "ttl_seconds": -1}), "net.ttl_seconds: -1 is out of range; use 1 to 86400"),
            (json!({"mode": "none", "ttl_seconds": 1.5}), "net.ttl_seconds: 1.5 is out of range; use 1 to 86400"),
            (json!({"mode": "none", "ttl_seconds": "60"}), "net.ttl_seconds: \"60\" is not a number of seconds"),
            (
                json!({"mode": "none", "x_ext": {"y": 1}}),
                "net.x_ext: the key \"y\" does not begin with x_; rename or remove it",
            ),
            (json!({"mode": "none", "x_ext": []}), "net.x_ext: an array is not an object"),
            (
                json!({"mode": "none", "deny\n": []}),
                "net.\"deny\\n\": unknown field; remove it or use one of mode, preset, allow, ttl_seconds, x_ext",
            ),
        ];
        for (value, message) in cases {
            let error = NetCapability::from_value(&value).unwrap_err().to_string();
            assert_eq!(error, message, "{value}");
        }
    }

    #[test]
    fn an_endless_allowlist_is_refused() {
        let allow: Vec<String> = (0..=MAX_ALLOW_ENTRIES).map(|n| format!("h{n}.example.com:443")).collect();
        let error = NetCapability::from_value(&json!({"mode": "allowlist", "allow": allow})).unwrap_err();
        assert_eq!(error.to_string(), "net.allow has 4097 entries; at most 4096 are taken");
    }
}
