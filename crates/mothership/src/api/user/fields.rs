//! Which fields a new directive may have, at every level.
//!
//! Daemons ignore what they do not know, so that newer servers can say more. Here people write by hand: a misspelt limit
//! that is dropped in silence is a directive without that limit. Inside `capabilities.net` and `capabilities.fs` the
//! contract's own parser is as strict.

use conduits::code;
use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// The fields at the top: DirectiveSpec's, and the facility by either of its names.
const TOP: &[&str] = &[
    "facility_id",
    "facility",
    "sandbox_profile",
    "command",
    "shell",
    "cwd",
    "timeout_seconds",
    "limits",
    "capabilities",
    "artifacts",
    "env",
];
/// The fields of those that are objects. `env` has what names it likes.
const NESTED: &[(&str, &[&str])] = &[
    ("facility", &["id", "mount", "repo_url"]),
    ("limits", &["cpu", "memory_mb", "disk_mb", "max_output_bytes", "max_diff_bytes"]),
    ("capabilities", &["net", "fs"]),
    ("artifacts", &["collect", "always_diff"]),
];
/// Characters of a wrong name that are repeated.
const SHOWN: usize = 60;

/// Refuses the first field that there is not.
///
/// # Errors
/// 422, with the field's path and the nearest one that there is.
pub(super) fn refuse_unknown(fields: &Map<String, Value>) -> Result<(), Refusal> {
    refuse("", fields, TOP)?;
    for (section, known) in NESTED {
        if let Some(Value::Object(inner)) = fields.get(*section) {
            refuse(&format!("{section}."), inner, known)?;
        }
    }
    Ok(())
}

fn refuse(path: &str, fields: &Map<String, Value>, known: &[&str]) -> Result<(), Refusal> {
    let Some(stranger) = fields.keys().find(|name| !known.contains(&name.as_str())) else {
        return Ok(());
    };
    let shown: String = stranger.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    let meant = nearest(stranger, known).map(|name| format!(", did you mean {path}{name}?")).unwrap_or_default();
    Err(Refusal::invalid(
        code::INVALID_PARAMETER,
        format!("{path}{shown}: there is no such field{meant} (fields: {})", known.join(", ")),
    ))
}

/// The known name that takes the fewest changes to become, where they are few enough for a slip of the pen.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let slips = |word: &str| 1 + word.len() / 4;
    if name.len() > SHOWN {
        return None;
    }
    let distances = known.iter().map(|word| (distance(name, word), *word));
    distances.filter(|(distance, word)| *distance <= slips(word)).min_by_key(|(distance, _)| *distance).map(|(_, w)| w)
}

/// How many characters must be inserted, removed or replaced (Levenshtein), row by row.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (line, a) in from.chars().enumerate() {
        let mut diagonal = line;
        let mut left = line + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(to.chars()) {
            let above = *cell;
            left = (diagonal + usize::from(a != b)).min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn distances() {
        for (from, to, expected) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("fss", "fs", 1), ("memroy", "memory", 2), ("cpu", "env", 3)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
            assert_eq!(distance(to, from), expected, "{to} {from}");
        }
    }

    #[test]
    fn a_slip_is_guessed_and_nonsense_is_not() {
        let told = |value: Value| {
            let Value::Object(fields) = value else { panic!("an object") };
            refuse_unknown(&fields).map_err(|refusal| refusal.detail.into_owned())
        };
        assert_eq!(
            told(json!({ "limits": { "memroy_mb": 5 } })),
            Err("limits.memroy_mb: there is no such field, did you mean limits.memory_mb? (fields: cpu, memory_mb, disk_mb, max_output_bytes, max_diff_bytes)".to_owned())
        );
        assert_eq!(
            told(json!({ "artifacts": { "zebra\n": 5 } })),
            Err("artifacts.zebra\\n: there is no such field (fields: collect, always_diff)".to_owned())
        );
        assert!(told(json!({ "timeout": 5 })).unwrap_err().starts_with("timeout: there is no such field"));
        assert!(told(json!({ "command": "x", "env": { "ANY": "thing" }, "limits": null })).is_ok());
    }
}
