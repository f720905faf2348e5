//! The JSON Schemas (draft 2020-12) of the two capability documents, made from the constants and patterns that the
//! parsers use. `docs/protocol/*.schema.json` hold what these functions say; a test keeps both alike.
//!
//! The schemas say everything that the parsers check, so a document passes one exactly when it passes the other.

use serde_json::{Value, json};

use crate::capability::{
    HOST_DIRECTORY_PATTERN, MAX_ALLOW_ENTRIES, MAX_FS_ENTRIES, MAX_TTL_SECONDS, NetMode, NetPreset, SELECTOR_PATTERN,
    entry_pattern,
};

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The schema of `capabilities.net`.
#[must_use]
pub fn net_capability() -> Value {
    let modes: Vec<&str> = NetMode::ALL.iter().map(|mode| mode.as_str()).collect();
    let presets: Vec<Value> = NetPreset::ALL.iter().map(|preset| json!(preset)).chain([Value::Null]).collect();
    json!({
        "$schema": DRAFT,
        "$id": "https://github.com/cybros/nexus/docs/protocol/net-capability.schema.json",
        "title": "Net capability",
        "description": "Which network destinations a directive may reach. Null equals absent.",
        "type": "object",
        "additionalProperties": false,
        "required": ["mode"],
        "properties": {
            "mode": {
                "description": "none: nothing; allowlist: the entries of allow; unrestricted: every public destination.",
                "enum": modes,
            },
            "preset": {
                "description": "Where the rules come from. A label: mode and allow alone are enforced.",
                "enum": presets,
            },
            "allow": {
                "description": "Destinations as host:port; host is localhost, a domain of at least two labels, or *. and such a domain. No IP addresses.",
                "type": ["array", "null"],
                "maxItems": MAX_ALLOW_ENTRIES,
                "items": {"type": "string", "pattern": entry_pattern()},
            },
            "ttl_seconds": {
                "description": "How long after the start the capability holds.",
                "type": ["integer", "null"],
                "minimum": 1,
                "maximum": MAX_TTL_SECONDS,
            },
            "x_ext": {
                "description": "Extensions, ignored here.",
                "type": ["object", "null"],
                "propertyNames": {"pattern": "^x_"},
            },
        },
        "if": {"properties": {"mode": {"const": NetMode::Allowlist}}},
        "then": {"required": ["allow"], "properties": {"allow": {"type": "array"}}},
        "else": {"properties": {"allow": {"type": "null"}}},
    })
}

/// The schema of `capabilities.fs`.
#[must_use]
pub fn fs_capability() -> Value {
    let list = |description: &str, pattern: &str| {
        json!({
            "description": description,
            "type": ["array", "null"],
            "maxItems": MAX_FS_ENTRIES,
            "items": {"type": "string", "pattern": pattern},
        })
    };
    json!({
        "$schema": DRAFT,
        "$id": "https://github.com/cybros/nexus/docs/protocol/fs-capability.schema.json",
        "title": "Fs capability",
        "description": "What a directive may read and write. Without a workspace selector in write the workspace is read-only. Null equals absent. Everything outside the workspace is for the profiles trusted and host only.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "read": list("Selectors: workspace:**, workspace:/path, host:/absolute/path.", SELECTOR_PATTERN),
            "write": list("Selectors: workspace:**, workspace:/path, host:/absolute/path.", SELECTOR_PATTERN),
            "writable_roots": list("Absolute host directories that may be written.", HOST_DIRECTORY_PATTERN),
            "read_only_subpaths": list("Absolute host directories beneath those that stay read-only.", HOST_DIRECTORY_PATTERN),
        },
    })
}

/// A schema as the text of its file: sorted keys, two spaces, a line break at the end.
#[must_use]
pub fn to_file_text(schema: &Value) -> String {
    format!("{:#}\n", sorted(schema))
}

/// The value with the keys of every object inserted in order, for builds in which maps keep that order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            Value::Object(keys.into_iter().filter_map(|key| Some((key.clone(), sorted(map.get(key)?)))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        scalar => scalar.clone(),
    }
}

#[cfg(test)]
mod tests;
