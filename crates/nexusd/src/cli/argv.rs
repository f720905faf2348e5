//! Single-dash long flags, as the deployment guide writes them, rewritten to the double dash.

use std::ffi::{OsStr, OsString};

/// What the rewriting must know of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// The next argument is its value, whatever it looks like.
    Value,
    /// Nothing, or a value after `=` alone.
    Nothing,
}

/// Rewrites `-name` and `-name=value` to `--name` and `--name=value`. `known` answers for a long flag's name.
///
/// - The program's name, and everything from `--` on, stay untouched: what follows belongs to a command.
/// - An argument that is the value of the flag before it stays untouched: a token may begin with a dash.
/// - An unknown word of several letters (`-confg`) is rewritten too, so that the parser speaks of that word and of
///   the flag it resembles, not of a cluster of one-letter flags. A single letter (`-h`) stays.
#[must_use]
pub fn rewrite(args: impl IntoIterator<Item = OsString>, known: &dyn Fn(&str) -> Option<Takes>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut out: Vec<OsString> = args.next().into_iter().collect();
    let mut is_value = false;
    while let Some(arg) = args.next() {
        if is_value {
            is_value = false;
            out.push(arg);
            continue;
        }
        if arg == "--" {
            out.push(arg);
            out.extend(args);
            return out;
        }
        let Some((name, has_value)) = long_name(&arg) else {
            out.push(arg);
            continue;
        };
        is_value = !has_value && known(&name) == Some(Takes::Value);
        let double = arg.as_encoded_bytes().starts_with(b"--");
        out.push(if double { arg } else { [OsStr::new("-"), &arg].into_iter().collect() });
    }
    out
}

/// The name of a long flag, with one dash or two, and whether a value follows after `=`.
fn long_name(arg: &OsStr) -> Option<(String, bool)> {
    // A value after `=` need not be UTF-8, the name before it must be.
    let bytes = arg.as_encoded_bytes();
    let end = bytes.iter().position(|byte| *byte == b'=');
    let name = std::str::from_utf8(bytes.get(..end.unwrap_or(bytes.len()))?).ok()?;
    let bare = name.strip_prefix("--").or_else(|| name.strip_prefix('-').filter(|bare| bare.len() > 1))?;
    let word = bare.starts_with(|c: char| c.is_ascii_alphabetic())
        && bare.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    word.then(|| (bare.to_owned(), end.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Option<Takes> {
        match name {
            "config" | "enroll-token" | "env" => Some(Takes::Value),
            "doctor" | "enroll-with-csr" => Some(Takes::Nothing),
            _ => None,
        }
    }

    #[test]
    fn single_dashes_become_double_ones_where_a_flag_stands() {
        let table: [(&str, &str); 14] = [
            ("nexusd -config x -doctor", "nexusd --config x --doctor"),
            ("nexusd -config=x -doctor=true", "nexusd --config=x --doctor=true"),
            ("nexusd --config x --doctor", "nexusd --config x --doctor"),
            ("nexusd -h -V", "nexusd -h -V"),
            ("nexusd -", "nexusd -"),
            ("nexusd -confg x", "nexusd --confg x"),
            ("nexusd -9x -=y -.z", "nexusd -9x -=y -.z"),
            // The value of a flag is left alone, whatever it looks like.
            ("nexusd -enroll-token -Zm9v -doctor", "nexusd --enroll-token -Zm9v --doctor"),
            ("nexusd --enroll-token -doctor -doctor", "nexusd --enroll-token -doctor --doctor"),
            ("nexusd -enroll-token=-x -doctor", "nexusd --enroll-token=-x --doctor"),
            ("nexusd -enroll-with-csr -doctor", "nexusd --enroll-with-csr --doctor"),
            // What follows -- belongs to the command.
            ("nexusd run -config x -- ls -la -config", "nexusd run --config x -- ls -la -config"),
            ("nexusd run -env -- -doctor", "nexusd run --env -- --doctor"),
            ("-config -config x", "-config --config x"),
        ];
        for (given, expected) in table {
            let args = given.split(' ').map(OsString::from);
            let expected: Vec<OsString> = expected.split(' ').map(OsString::from).collect();
            assert_eq!(rewrite(args, &known), expected, "{given}");
        }
    }
}
