//! How a foreign value is shown inside a one-line message: quoted, escaped, shortened.

/// The most characters of a foreign value that a message repeats.
const SHOWN_CHARS: usize = 60;

/// `value` in double quotes, control and quote characters escaped, cut after [`SHOWN_CHARS`] characters.
///
/// The result never holds a line break, whatever the value is: messages go to a log line and to a directive's
/// stderr, where a foreign line break would let the sender forge a line.
pub(crate) fn quote(value: &str) -> String {
    let mut shown: String = value.chars().take(SHOWN_CHARS).flat_map(escape).collect();
    if value.chars().nth(SHOWN_CHARS).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

fn escape(c: char) -> Vec<char> {
    // `escape_debug` leaves bidirectional overrides and the Unicode line separators alone in some positions.
    let invisible =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    if invisible {
        c.escape_unicode().collect()
    } else if c == '\'' {
        vec![c]
    } else {
        c.escape_debug().collect()
    }
}

/// A JSON value as a message shows it: strings quoted, everything else as compact JSON, shortened.
pub(crate) fn quote_json(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => quote(text),
        serde_json::Value::Array(_) => "an array".to_owned(),
        serde_json::Value::Object(_) => "an object".to_owned(),
        other => other.to_string().chars().take(SHOWN_CHARS).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{quote, quote_json};
    use serde_json::json;

    #[test]
    fn a_foreign_value_stays_on_one_line() {
        assert_eq!(quote("a\nb\0\"c\u{2028}\u{202e}"), "\"a\\nb\\0\\\"c\\u{2028}\\u{202e}\"");
        assert_eq!(quote("it's"), "\"it's\"");
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        assert_eq!(quote(&"é".repeat(61)), format!("\"{}…\"", "é".repeat(60)));
        assert_eq!(quote(&"é".repeat(60)), format!("\"{}\"", "é".repeat(60)));
    }

    #[test]
    fn other_json_is_named_by_kind() {
        assert_eq!(quote_json(&json!([1])), "an array");
        assert_eq!(quote_json(&json!({"a": 1})), "an object");
        assert_eq!(quote_json(&json!(-1.5)), "-1.5");
        assert_eq!(quote_json(&json!(null)), "null");
    }
}
