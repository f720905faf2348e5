//! The working directory of a command, as a path that stays in the workspace.
//!
//! Parsing is pure and by text alone. Whether the directory exists, and whether a link on the way leads out, is
//! asked of the kernel beneath the facility's descriptor (`sys::beneath`) when the run is launched.

use std::fmt;
use std::path::Path;

/// Where the workspace is inside an isolated sandbox.
const ROOT: &str = "/workspace";

/// Longest path, in bytes (PATH_MAX less the terminating NUL).
const MAX_PATH: usize = 4095;

/// A normalised path relative to the workspace: no `.`, no `..`, no empty component. Empty for the workspace itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct WorkspaceCwd(String);

/// Why a path cannot be the working directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CwdError {
    /// It leaves the workspace after normalisation.
    #[error("cwd {path:?} leads to {leads:?}, out of the workspace: give a path below /workspace, or a relative one")]
    Outside {
        /// The path as given, shortened.
        path: String,
        /// The same, normalised.
        leads: String,
    },
    /// It has a NUL byte or is longer than a path may be.
    #[error("cwd {path:?} has a NUL byte or is longer than 4095 bytes")]
    Unusable {
        /// The path as given, shortened.
        path: String,
    },
}

impl WorkspaceCwd {
    /// Parses the empty text, `.`, `/workspace`, `/workspace/x` or a relative `x`.
    ///
    /// # Errors
    /// The path leaves the workspace, or no kernel would take it.
    pub fn parse(text: &str) -> Result<Self, CwdError> {
        let shown = || text.chars().take(200).collect();
        if text.len() > MAX_PATH || text.contains('\0') {
            return Err(CwdError::Unusable { path: shown() });
        }
        // What counts is where the path leads once it is normalised, not what it passes on the way.
        let mut parts: Vec<&str> = Vec::new();
        let from = if text.starts_with('/') { "" } else { ROOT };
        for part in from.split('/').chain(text.split('/')) {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                name => parts.push(name),
            }
        }
        match parts.split_first() {
            Some((&first, rest)) if ROOT.strip_prefix('/') == Some(first) => Ok(Self(rest.join("/"))),
            _ => Err(CwdError::Outside {
                path: shown(),
                leads: format!("/{}", parts.join("/")).chars().take(200).collect(),
            }),
        }
    }

    /// The path relative to the workspace; empty for the workspace itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path relative to the workspace, `.` for the workspace itself: what the `*at` calls take.
    #[must_use]
    pub fn relative(&self) -> &Path {
        Path::new(if self.0.is_empty() { "." } else { &self.0 })
    }

    /// The path inside an isolated sandbox.
    #[must_use]
    pub fn inside(&self) -> String {
        if self.0.is_empty() { ROOT.to_owned() } else { format!("{ROOT}/{}", self.0) }
    }
}

impl fmt::Display for WorkspaceCwd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inside())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, prop_assert, proptest};

    use super::*;

    #[test]
    fn accepted_paths() {
        for (text, expected) in [
            ("", ""),
            (".", ""),
            ("./", ""),
            ("/workspace", ""),
            ("/workspace/", ""),
            ("/workspace/x", "x"),
            ("/workspace//x/./y/", "x/y"),
            ("x", "x"),
            ("x/../y", "y"),
            ("x/y/../..", ""),
            ("a b/ü", "a b/ü"),
            ("...", "..."),
            ("/workspace/../workspace", ""),
            ("../workspace/x", "x"),
            ("//workspace/x", "x"),
            ("/etc/../workspace/x", "x"),
        ] {
            assert_eq!(WorkspaceCwd::parse(text).unwrap().as_str(), expected, "{text:?}");
        }
    }

    #[test]
    fn refused_paths() {
        for text in [
            "..",
            "../..",
            "x/../..",
            "/",
            "/etc",
            "/workspacex",
            "/workspace/..",
            "/workspace/../etc",
            "../workspacex",
        ] {
            assert!(matches!(WorkspaceCwd::parse(text), Err(CwdError::Outside { .. })), "{text:?}");
        }
        assert!(matches!(WorkspaceCwd::parse("a\0b"), Err(CwdError::Unusable { .. })));
        assert!(matches!(WorkspaceCwd::parse(&"x".repeat(4096)), Err(CwdError::Unusable { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn what_parses_is_normal_and_stays(text in "[a./]{0,24}|/workspace[a./]{0,24}|.{0,40}") {
            if let Ok(cwd) = WorkspaceCwd::parse(&text) {
                prop_assert!(!cwd.as_str().starts_with('/'));
                prop_assert!(cwd.as_str().is_empty() || cwd.as_str().split('/').all(|part| !matches!(part, "" | "." | "..")));
                prop_assert!(WorkspaceCwd::parse(cwd.as_str()) == Ok(cwd.clone()));
                prop_assert!(WorkspaceCwd::parse(&cwd.inside()) == Ok(cwd));
            }
        }
    }
}
