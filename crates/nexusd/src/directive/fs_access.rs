//! `capabilities.fs` as mounts of the workspace. Pure: selectors in, what the sandbox may see out.

use std::collections::BTreeMap;

use conduits::{FsCapability, SandboxProfile, Selector};
use sandbox::{CwdError, Selected, WorkspaceAccess, WorkspaceCwd};

/// Why an fs capability cannot be kept here.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Paths of the host are not handed out by this driver.
    #[error(
        "capabilities.{part} names a path of the host, which profile `{profile}` of this nexusd does not narrow to; leave it out"
    )]
    HostPart {
        /// Field and value.
        part: String,
        /// The profile of the directive.
        profile: SandboxProfile,
    },
    /// The profile host has the daemon's own rights: a narrower file system would be a promise without a wall.
    #[error(
        "capabilities.fs narrows the workspace, which profile `{0}` cannot enforce; leave it out or use profile untrusted"
    )]
    NotEnforced(SandboxProfile),
    /// A selector outside the workspace.
    #[error("capabilities.fs: {0}")]
    Path(#[from] CwdError),
}

/// What the workspace looks like from inside.
///
/// # Errors
/// The capability asks for what the profile cannot give or enforce.
pub fn workspace_access(fs: &FsCapability, profile: SandboxProfile) -> Result<WorkspaceAccess, AccessError> {
    if let Some(part) = fs.host_part() {
        return Err(AccessError::HostPart { part, profile });
    }
    let whole = |selectors: &[Selector]| selectors.contains(&Selector::WorkspaceAll);
    if whole(&fs.write) {
        return Ok(WorkspaceAccess::ReadWrite);
    }
    if matches!(profile, SandboxProfile::Host | SandboxProfile::DarwinAutomation) {
        return Err(AccessError::NotEnforced(profile));
    }
    // What is written is read, too: a path in both lists is writable.
    let mut selected = BTreeMap::new();
    for (selectors, writable) in [(&fs.read, false), (&fs.write, true)] {
        for selector in selectors {
            if let Selector::Workspace(path) = selector {
                selected.insert(path.clone(), writable);
            }
        }
    }
    // Without any path named, nothing narrows what may be read: the workspace is there, read-only.
    if selected.is_empty() || (whole(&fs.read) && selected.values().all(|writable| !writable)) {
        return Ok(WorkspaceAccess::ReadOnly);
    }
    let mut parts = Vec::with_capacity(selected.len() + 1);
    if whole(&fs.read) {
        parts.push(Selected { path: WorkspaceCwd::default(), writable: false });
    }
    for (path, writable) in selected {
        parts.push(Selected { path: WorkspaceCwd::parse(&path)?, writable });
    }
    Ok(WorkspaceAccess::Only(parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn access(fs: &Value, profile: SandboxProfile) -> Result<WorkspaceAccess, String> {
        workspace_access(&FsCapability::from_value(fs).unwrap(), profile).map_err(|error| error.to_string())
    }

    fn only(parts: &[(&str, bool)]) -> WorkspaceAccess {
        let part = |(path, writable): &(&str, bool)| Selected {
            path: WorkspaceCwd::parse(path).unwrap(),
            writable: *writable,
        };
        WorkspaceAccess::Only(parts.iter().map(part).collect())
    }

    #[test]
    fn selectors_become_mounts() {
        let untrusted = SandboxProfile::Untrusted;
        let cases = [
            (json!({}), WorkspaceAccess::ReadOnly),
            (json!({"read": ["workspace:**"]}), WorkspaceAccess::ReadOnly),
            (json!({"write": ["workspace:**"]}), WorkspaceAccess::ReadWrite),
            (json!({"read": ["workspace:/a"], "write": ["workspace:**"]}), WorkspaceAccess::ReadWrite),
            (json!({"read": ["workspace:/a"]}), only(&[("a", false)])),
            (json!({"write": ["workspace:/out"]}), only(&[("out", true)])),
            (json!({"read": ["workspace:/a"], "write": ["workspace:/a/b"]}), only(&[("a", false), ("a/b", true)])),
            (json!({"read": ["workspace:/a"], "write": ["workspace:/a"]}), only(&[("a", true)])),
            (json!({"read": ["workspace:**"], "write": ["workspace:/out"]}), only(&[("", false), ("out", true)])),
        ];
        for (fs, expected) in cases {
            assert_eq!(access(&fs, untrusted), Ok(expected), "{fs}");
        }
    }

    #[test]
    fn what_nobody_could_enforce_is_refused() {
        assert!(access(&json!({"read": ["host:/etc"]}), SandboxProfile::Host).unwrap_err().contains("host:/etc"));
        assert!(
            access(&json!({"write": ["workspace:/out"]}), SandboxProfile::Host).unwrap_err().contains("cannot enforce")
        );
        assert_eq!(access(&json!({"write": ["workspace:**"]}), SandboxProfile::Host), Ok(WorkspaceAccess::ReadWrite));
    }
}
