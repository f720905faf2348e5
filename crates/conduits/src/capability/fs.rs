//! The fs capability: which parts of the workspace and of the host a directive may read and write.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::fmt;
use std::str::FromStr;

use super::{CapabilityError, Fields};
use crate::text::quote;

/// The most entries of one list.
pub const MAX_FS_ENTRIES: usize = 256;

pub(crate) const FIELDS: [&str; 4] = ["read", "write", "writable_roots", "read_only_subpaths"];

/// The selector grammar as a regular expression; the parser below and this one agree.
pub(crate) const SELECTOR_PATTERN: &str =
    r"^(?:workspace:\*\*|(?:workspace|host):(?:/(?!\.{1,2}(?:/|$))[^/*\u0000-\u001f\u007f-\u009f]+)+/?)$";
/// The host directory grammar as a regular expression; the parser below and this one agree.
pub(crate) const HOST_DIRECTORY_PATTERN: &str =
    r"^(?:/(?!\.{1,2}(?:/|$))[^/*\s\u0085\ufeff\u0000-\u001f\u007f-\u009f]+)+/?$";

/// Why a selector or host directory is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// None of the three forms.
    #[error("{0} is not a selector; use workspace:**, workspace:/path or host:/absolute/path")]
    Form(String),
    /// A path that does not begin with a slash.
    #[error("{0} is not an absolute path; begin it with '/'")]
    Relative(String),
    /// `/` alone.
    #[error("{0} names the root; name a directory beneath it (the whole workspace is workspace:**)")]
    Root(String),
    /// A `.` or `..` component, or an empty one.
    #[error("{0} has a '.', '..' or empty component; write the path without them")]
    Component(String),
    /// White space in a host directory, a control character or `*` anywhere.
    #[error("{value} contains {character:?}, which is not allowed there")]
    Character {
        /// The text, quoted and shortened.
        value: String,
        /// The first offending character.
        character: char,
    },
}

/// One selector of `read` or `write`. Paths have no `.`, `..` or empty component and no trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    /// `workspace:**`: the whole workspace.
    WorkspaceAll,
    /// `workspace:/path`: the path relative to the workspace, without the leading slash.
    Workspace(String),
    /// `host:/absolute/path`: an absolute path of the host. Profiles trusted and host only.
    Host(String),
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text == "workspace:**" {
            return Ok(Self::WorkspaceAll);
        }
        let (scope, path) = text.split_once(':').ok_or_else(|| SelectorError::Form(quote(text)))?;
        match scope {
            "workspace" => {
                absolute(path, text, |_| false).map(|path| Self::Workspace(path.trim_start_matches('/').to_owned()))
            }
            "host" => absolute(path, text, |_| false).map(|path| Self::Host(path.to_owned())),
            _ => Err(SelectorError::Form(quote(text))),
        }
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;

    fn try_from(text: String) -> Result<Self, SelectorError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WorkspaceAll => f.write_str("workspace:**"),
            Self::Workspace(path) => write!(f, "workspace:/{path}"),
            Self::Host(path) => write!(f, "host:{path}"),
        }
    }
}

/// Checks an absolute path and drops one trailing slash. `whole` is what the message shows.
fn absolute<'a>(path: &'a str, whole: &str, banned: impl Fn(char) -> bool) -> Result<&'a str, SelectorError> {
    let Some(rest) = path.strip_prefix('/') else {
        return Err(SelectorError::Relative(quote(whole)));
    };
    // A `*` would be a literal file name here, though whoever writes one means a wildcard.
    if let Some(character) = path.chars().find(|c| c.is_control() || *c == '*' || banned(*c)) {
        return Err(SelectorError::Character { value: quote(whole), character });
    }
    if rest.is_empty() {
        return Err(SelectorError::Root(quote(whole)));
    }
    let trimmed = rest.strip_suffix('/').unwrap_or(rest);
    if trimmed.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(SelectorError::Component(quote(whole)));
    }
    Ok(path.strip_suffix('/').unwrap_or(path))
}

/// `capabilities.fs`, validated. Without a workspace selector in `write` the workspace is read-only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FsCapability {
    /// What may be read.
    pub read: Vec<Selector>,
    /// What may be written.
    pub write: Vec<Selector>,
    /// Absolute host directories that may be written.
    pub writable_roots: Vec<String>,
    /// Absolute host directories beneath those that stay read-only.
    pub read_only_subpaths: Vec<String>,
}

impl FsCapability {
    /// Reads the document. Unknown fields, wrong types and selectors outside the grammar are errors.
    pub fn from_value(value: &Value) -> Result<Self, CapabilityError> {
        let fields = Fields::of("fs", value, &FIELDS)?;
        Ok(Self {
            read: list(&fields, "read", str::parse)?,
            write: list(&fields, "write", str::parse)?,
            writable_roots: list(&fields, "writable_roots", host_directory)?,
            read_only_subpaths: list(&fields, "read_only_subpaths", host_directory)?,
        })
    }

    /// The document again; reading it gives the same value.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| {
            if value.as_array().is_some_and(|items| !items.is_empty()) {
                map.insert(key.to_owned(), value);
            }
        };
        put("read", json!(self.read));
        put("write", json!(self.write));
        put("writable_roots", json!(self.writable_roots));
        put("read_only_subpaths", json!(self.read_only_subpaths));
        Value::Object(map)
    }

    /// The first part that reaches into the host outside the workspace, as `field: value`; `None` where there is
    /// none. Profiles without such a reach refuse it.
    #[must_use]
    pub fn host_part(&self) -> Option<String> {
        let selector = |field: &str, list: &[Selector]| {
            list.iter().find(|s| matches!(s, Selector::Host(_))).map(|s| format!("{field}: {}", quote(&s.to_string())))
        };
        let directory = |field: &str, list: &[String]| list.first().map(|path| format!("{field}: {}", quote(path)));
        selector("fs.read", &self.read)
            .or_else(|| selector("fs.write", &self.write))
            .or_else(|| directory("fs.writable_roots", &self.writable_roots))
            .or_else(|| directory("fs.read_only_subpaths", &self.read_only_subpaths))
    }
}

fn host_directory(text: &str) -> Result<String, SelectorError> {
    // U+FEFF is white space to ECMA-262's `\s`, not to Unicode: refused, so that every reader of the schema agrees.
    absolute(text, text, |c| c.is_whitespace() || c == '\u{feff}').map(str::to_owned)
}

fn list<T>(
    fields: &Fields<'_>,
    key: &str,
    parse: impl Fn(&str) -> Result<T, SelectorError>,
) -> Result<Vec<T>, CapabilityError> {
    let texts = fields.strings(key, MAX_FS_ENTRIES)?.unwrap_or_default();
    let field = |index| format!("{}[{index}]", fields.path(key));
    let parse_one = |(index, text): (usize, &&str)| {
        parse(text).map_err(|source| CapabilityError::Selector { field: field(index), source })
    };
    texts.iter().enumerate().map(parse_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn selectors_read_and_show() {
        let cases = [
            ("workspace:**", Some(Selector::WorkspaceAll)),
            ("workspace:/src", Some(Selector::Workspace("src".to_owned()))),
            ("workspace:/src/[id]/a b/", Some(Selector::Workspace("src/[id]/a b".to_owned()))),
            ("workspace:/.git", Some(Selector::Workspace(".git".to_owned()))),
            ("workspace:/...", Some(Selector::Workspace("...".to_owned()))),
            ("host:/opt/data", Some(Selector::Host("/opt/data".to_owned()))),
            ("", None),
            ("workspace", None),
            ("workspace:", None),
            ("workspace:/", None),
            ("workspace:src", None),
            ("workspace:*", None),
            ("workspace:/src/**", None),
            ("workspace:/a//b", None),
            ("workspace://a", None),
            ("workspace:/../etc", None),
            ("workspace:/a/..", None),
            ("workspace:/./a", None),
            ("workspace:/a\nb", None),
            ("workspace:/a\0", None),
            ("host:/", None),
            ("host:etc", None),
            ("host:/etc/../root", None),
            ("HOST:/etc", None),
            ("file:/etc", None),
            ("/etc", None),
        ];
        for (text, want) in cases {
            assert_eq!(text.parse::<Selector>().ok(), want, "{text:?}");
        }
    }

    #[test]
    fn host_directories_have_no_white_space() {
        let good = json!({"writable_roots": ["/srv/data/"], "read_only_subpaths": ["/srv/data/.git"]});
        let fs = FsCapability::from_value(&good).unwrap();
        assert_eq!(fs.writable_roots, ["/srv/data"]);
        assert_eq!(FsCapability::from_value(&fs.to_value()).unwrap(), fs);
        for bad in ["/a b", "/a\tb", "/a\u{a0}b", "a", "/", "/a/../b", "/a//b", "", "/*"] {
            let error = FsCapability::from_value(&json!({"writable_roots": [bad]})).unwrap_err().to_string();
            assert!(error.starts_with("fs.writable_roots[0]: ") && !error.contains('\n'), "{bad:?}: {error}");
        }
    }

    #[test]
    fn refusals_name_the_field() {
        let cases = [
            (json!([]), "fs: an array is not an object"),
            (
                json!({"reed": []}),
                "fs.\"reed\": unknown field; remove it or use one of read, write, writable_roots, read_only_subpaths",
            ),
            (json!({"write": "workspace:**"}), "fs.write: \"workspace:**\" is not an array of strings"),
            (json!({"read": ["workspace:**", 1]}), "fs.read[1]: 1 is not a string"),
            (
                json!({"write": ["workspace:**", "workspace:/../x"]}),
                "fs.write[1]: \"workspace:/../x\" has a '.', '..' or empty component; write the path without them",
            ),
        ];
        for (value, message) in cases {
            assert_eq!(FsCapability::from_value(&value).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn the_part_outside_the_workspace_is_found_in_every_field() {
        let part = |value: Value| FsCapability::from_value(&value).unwrap().host_part();
        assert_eq!(part(json!({"read": ["workspace:**"], "write": null})), None);
        assert_eq!(part(json!({"read": ["workspace:**", "host:/a"]})).unwrap(), "fs.read: \"host:/a\"");
        assert_eq!(part(json!({"write": ["host:/a"]})).unwrap(), "fs.write: \"host:/a\"");
        assert_eq!(part(json!({"writable_roots": ["/a"]})).unwrap(), "fs.writable_roots: \"/a\"");
        assert_eq!(part(json!({"read_only_subpaths": ["/a"]})).unwrap(), "fs.read_only_subpaths: \"/a\"");
    }

    proptest! {
        #[test]
        fn what_parses_shows_and_parses_back(text in "(workspace|host):/[ -~]{1,30}|\\PC*") {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert_eq!(&selector.to_string().parse::<Selector>().unwrap(), &selector);
                if let Selector::Workspace(path) | Selector::Host(path) = &selector {
                    prop_assert!(path.trim_start_matches('/').split('/').all(|p| !matches!(p, "" | "." | "..")));
                }
            }
        }
    }
}
