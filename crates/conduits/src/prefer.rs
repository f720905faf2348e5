//! `Prefer: wait=N` and `Preference-Applied: wait` (RFC 7240).

/// The value of the `Prefer` header that asks the server to hold its answer for up to `seconds`.
#[must_use]
pub fn format_wait(seconds: u64) -> String {
    format!("wait={seconds}")
}

/// The value of the `Preference-Applied` header of a server that holds answers.
pub const APPLIED_WAIT: &str = "wait";

/// The seconds of the first `wait` preference in a `Prefer` header's value; `None` where there is none or its value
/// is not a number. Names are compared without case, a value may be quoted, parameters are ignored; of a preference
/// given twice the first counts (RFC 7240 §2). Several header lines are joined with commas by the caller.
#[must_use]
pub fn parse_wait(value: &str) -> Option<u64> {
    let (_, seconds) = preferences(value).find(|(name, _)| name.eq_ignore_ascii_case("wait"))?;
    let digits = seconds.strip_prefix('"').and_then(|s| s.strip_suffix('"')).unwrap_or(seconds);
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Whether a `Preference-Applied` header's value says that `wait` was honoured, with or without a value.
#[must_use]
pub fn is_wait_applied(value: &str) -> bool {
    preferences(value).any(|(name, _)| name.eq_ignore_ascii_case("wait"))
}

/// Name and value of each preference. Commas and semicolons inside quoted strings do not occur in the preferences
/// that matter here, and at worst make an unknown preference into two.
fn preferences(value: &str) -> impl Iterator<Item = (&str, &str)> {
    value.split(',').map(|preference| {
        let head = preference.split(';').next().unwrap_or_default();
        let (name, value) = head.split_once('=').unwrap_or((head, ""));
        (name.trim(), value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wait_is_found_among_others() {
        let cases = [
            ("wait=25", Some(25)),
            ("Wait = 25", Some(25)),
            ("respond-async, wait=10", Some(10)),
            ("respond-async;x=1, WAIT=\"10\"; foo=bar, wait=99", Some(10)),
            ("wait=0", Some(0)),
            ("", None),
            ("wait", None),
            ("wait=", None),
            ("wait=-1", None),
            ("wait=+1", None),
            ("wait=1.5", None),
            ("wait=abc", None),
            ("waiting=5", None),
            ("wait=99999999999999999999", None),
        ];
        for (value, want) in cases {
            assert_eq!(parse_wait(value), want, "{value:?}");
        }
    }

    #[test]
    fn applied_with_or_without_value() {
        for (value, want) in
            [("wait", true), ("wait=25", true), ("x, Wait", true), ("", false), ("respond-async", false)]
        {
            assert_eq!(is_wait_applied(value), want, "{value:?}");
        }
        assert!(is_wait_applied(APPLIED_WAIT));
    }

    proptest! {
        #[test]
        fn what_is_formatted_parses(seconds in any::<u64>(), other in any::<String>()) {
            prop_assert_eq!(parse_wait(&format_wait(seconds)), Some(seconds));
            let _parsed = parse_wait(&other);
        }
    }
}
