//! `${VAR}` and `${VAR:-default}` inside scalar values.
//!
//! Expansion happens after the YAML is read: a variable's value can never add a key, end a string or
//! become a list. `$${` stands for a literal `${`; any other `$` is itself.

use std::borrow::Cow;

/// Longest result: a variable of megabytes is a mistake, and a value repeated must not multiply it.
const MAX_EXPANDED: usize = 64 * 1024;

/// What is wrong with a placeholder, ready for a message.
pub(super) type ExpandProblem = String;

/// Expands every placeholder in `text`; borrowed when there is none. `lookup` answers for one variable.
/// An empty value counts as undefined for `:-`, as in a shell.
pub(super) fn expand<'a>(
    text: &'a str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Cow<'a, str>, ExpandProblem> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let inner = &from[2..];
        let end = inner.find('}').ok_or_else(|| "a ${ without its }: write $${ for a literal one".to_owned())?;
        out.push_str(&value_of(&inner[..end], lookup)?);
        if out.len() > MAX_EXPANDED {
            return Err(format!("expands to more than {MAX_EXPANDED} bytes"));
        }
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

fn value_of(inner: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, ExpandProblem> {
    let (name, fallback) = match inner.split_once(":-") {
        Some((name, fallback)) => (name, Some(fallback)),
        None => (inner, None),
    };
    let mut letters = name.chars();
    let starts = letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_');
    if !starts || !letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
        let shown = super::problem::bare(inner);
        return Err(format!("${{{shown}}} is not a placeholder: write ${{NAME}} or ${{NAME:-default}}"));
    }
    match (lookup(name), fallback) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(fallback)) => Ok(fallback.to_owned()),
        (None, None) => Err(format!("the variable {name} is not set: set it, or write ${{{name}:-default}}")),
    }
}

#[cfg(test)]
mod tests {
    use super::expand;
    use proptest::prelude::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("mothership.example".to_owned()),
            "EMPTY" => Some(String::new()),
            "TRICK" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn placeholders_expand_once_and_only_where_written() {
        let table = [
            ("plain $HOME", Ok("plain $HOME")),
            ("https://${HOST}:3000", Ok("https://mothership.example:3000")),
            ("${HOST}${HOST}", Ok("mothership.examplemothership.example")),
            ("${MISSING:-fallback}", Ok("fallback")),
            ("${MISSING:-}", Ok("")),
            ("${EMPTY:-fallback}", Ok("fallback")),
            ("${EMPTY}", Ok("")),
            ("${HOST:-x}", Ok("mothership.example")),
            ("${MISSING:-a:-b}", Ok("a:-b")),
            // A value is never expanded again: the environment cannot smuggle in a placeholder.
            ("${TRICK}", Ok("${HOST}")),
            ("$${HOST}", Ok("${HOST}")),
            ("$$${HOST}", Ok("$${HOST}")),
            ("${MISSING}", Err("the variable MISSING is not set: set it, or write ${MISSING:-default}")),
            ("${HOST", Err("a ${ without its }: write $${ for a literal one")),
            ("${}", Err("${} is not a placeholder: write ${NAME} or ${NAME:-default}")),
            ("${1A}", Err("${1A} is not a placeholder: write ${NAME} or ${NAME:-default}")),
        ];
        for (text, expected) in table {
            let found = expand(text, &environment);
            let found = found.as_ref().map(AsRef::as_ref).map_err(String::as_str);
            assert_eq!(found, expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_leaves_plain_text_alone(text in "\\PC{0,80}") {
            let result = expand(&text, &|_| Some("v".to_owned()));
            if !text.contains("${") {
                prop_assert_eq!(result.as_deref(), Ok(text.as_str()));
            }
        }
    }
}
