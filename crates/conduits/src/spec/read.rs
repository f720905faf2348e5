//! Reading a specification out of JSON, field by field, so that each fault can say where it is.

use serde_json::{Map, Value};
use std::collections::BTreeMap;

use super::{
    ArtifactSpec, DirectiveSpec, EnvName, FacilityRef, MAX_ARGUMENT_BYTES, MAX_COLLECT, MAX_ENV_BYTES, RepoUrl,
    SpecError, SpecLimits, WORKSPACE_MOUNT, default_shell,
};
use crate::capability::{CapabilityError, FsCapability, NetCapability};
use crate::ids::IdError;
use crate::profile::SandboxProfile;
use crate::text::{quote, quote_json};

/// The capabilities there are.
const CAPABILITIES: [&str; 2] = ["net", "fs"];

/// An object of the specification and the path that leads to it, empty or ending with a dot.
struct Section<'a> {
    path: &'static str,
    map: Option<&'a Map<String, Value>>,
}

impl<'a> Section<'a> {
    fn field(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map?.get(key).filter(|value| !value.is_null())
    }

    fn wrong_type(&self, key: &str, value: &Value, expected: &'static str) -> SpecError {
        SpecError::WrongType { field: self.field(key), value: quote_json(value), expected }
    }

    fn invalid(&self, key: &str, value: &str, why: &'static str) -> SpecError {
        SpecError::Invalid { field: self.field(key), value: quote(value), why }
    }

    /// The object at `key`; an absent one is empty.
    fn section(&self, key: &str, path: &'static str) -> Result<Section<'a>, SpecError> {
        match self.get(key) {
            None => Ok(Section { path, map: None }),
            Some(Value::Object(map)) => Ok(Section { path, map: Some(map) }),
            Some(other) => Err(self.wrong_type(key, other, "an object")),
        }
    }

    /// The text at `key`; an empty one, which other servers send for "not set", counts as absent.
    fn text(&self, key: &str) -> Result<Option<&'a str>, SpecError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) if text.contains('\0') => {
                Err(self.invalid(key, text, "contains a NUL byte; remove it"))
            }
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(key, other, "a string")),
        }
    }

    /// A count; 0 counts as absent.
    fn count(&self, key: &str) -> Result<Option<u64>, SpecError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(count) => Ok(Some(count).filter(|count| *count > 0)),
                None => Err(self.wrong_type(key, value, "a whole number of 0 or more")),
            },
        }
    }

    fn flag(&self, key: &str) -> Result<bool, SpecError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.wrong_type(key, other, "true or false")),
        }
    }
}

pub(super) fn spec(value: &Value) -> Result<DirectiveSpec, SpecError> {
    let Value::Object(map) = value else {
        return Err(SpecError::WrongType { field: "spec".to_owned(), value: quote_json(value), expected: "an object" });
    };
    let root = Section { path: "", map: Some(map) };
    let profile = match root.text("sandbox_profile")? {
        None => SandboxProfile::default(),
        Some(text) => text.parse().map_err(SpecError::Profile)?,
    };
    let capabilities = capabilities(&root)?;
    let limits = root.section("limits", "limits.")?;
    Ok(DirectiveSpec {
        directive_id: id(root.text("directive_id")?, "directive_id")?,
        facility: facility(&root)?,
        sandbox_profile: profile,
        command: command(&root)?,
        shell: shell(&root, profile)?,
        cwd: root.text("cwd")?.unwrap_or_default().to_owned(),
        timeout_seconds: root.count("timeout_seconds")?,
        limits: SpecLimits {
            cpu_millicores: limits.count("cpu")?,
            memory_mb: limits.count("memory_mb")?,
            disk_mb: limits.count("disk_mb")?,
            max_output_bytes: limits.count("max_output_bytes")?,
            max_diff_bytes: limits.count("max_diff_bytes")?,
        },
        net: match capabilities.get("net") {
            None => NetCapability::default(),
            Some(net) => NetCapability::from_value(net).map_err(SpecError::Capability)?,
        },
        fs: fs(&capabilities, profile)?,
        artifacts: artifacts(&root)?,
        env: env(&root)?,
    })
}

fn id<T: std::str::FromStr<Err = IdError>>(text: Option<&str>, field: &'static str) -> Result<T, SpecError> {
    match text {
        None => Err(SpecError::Missing { field: field.to_owned(), mend: "name it" }),
        Some(text) => text.parse().map_err(|source| SpecError::Id { field, source }),
    }
}

fn facility(root: &Section<'_>) -> Result<FacilityRef, SpecError> {
    let facility = root.section("facility", "facility.")?;
    let mount = facility.text("mount")?.unwrap_or(WORKSPACE_MOUNT);
    if mount != WORKSPACE_MOUNT {
        return Err(facility.invalid(
            "mount",
            mount,
            "is not where facilities are mounted; use /workspace or leave it out",
        ));
    }
    Ok(FacilityRef {
        id: id(facility.text("id")?, "facility.id")?,
        mount: mount.to_owned(),
        repo_url: match facility.text("repo_url")? {
            None => None,
            Some(text) => Some(text.parse::<RepoUrl>().map_err(SpecError::RepoUrl)?),
        },
    })
}

fn command(root: &Section<'_>) -> Result<String, SpecError> {
    let Some(command) = root.text("command")? else {
        return Err(SpecError::Missing { field: root.field("command"), mend: "write the command line to run" });
    };
    if command.len() > MAX_ARGUMENT_BYTES {
        return Err(SpecError::TooMuch {
            field: root.field("command"),
            size: command.len(),
            unit: "bytes",
            limit: MAX_ARGUMENT_BYTES,
            mend: "; put a long script into a file of the facility",
        });
    }
    Ok(command.to_owned())
}

fn shell(root: &Section<'_>, profile: SandboxProfile) -> Result<String, SpecError> {
    let shell = root.text("shell")?.unwrap_or(default_shell(profile));
    if !shell.starts_with('/') {
        return Err(root.invalid("shell", shell, "is not an absolute path; write it in full, such as /bin/sh"));
    }
    // PATH_MAX of Linux, with the NUL that ends the path.
    if shell.len() >= 4096 || shell.chars().any(char::is_control) {
        return Err(root.invalid("shell", shell, "is too long or contains a control character; name an executable"));
    }
    Ok(shell.to_owned())
}

/// The capabilities, none but those that are known: what is asked for under another name would be ignored, and the
/// directive would run with other rights than its requester thinks.
fn capabilities<'a>(root: &Section<'a>) -> Result<Section<'a>, SpecError> {
    let section = root.section("capabilities", "capabilities.")?;
    let stranger = |(key, value): &(&String, &Value)| !value.is_null() && !CAPABILITIES.contains(&key.as_str());
    match section.map.into_iter().flatten().find(stranger) {
        Some((key, _)) => Err(SpecError::Capability(CapabilityError::UnknownField {
            field: quote(key),
            known: CAPABILITIES.join(", "),
        })),
        None => Ok(section),
    }
}

fn fs(capabilities: &Section<'_>, profile: SandboxProfile) -> Result<Option<FsCapability>, SpecError> {
    let Some(value) = capabilities.get("fs") else {
        return Ok(None);
    };
    let fs = FsCapability::from_value(value).map_err(SpecError::Capability)?;
    let reaches_host = matches!(profile, SandboxProfile::Trusted | SandboxProfile::Host);
    match fs.host_part() {
        Some(part) if !reaches_host => Err(SpecError::HostPart { part, profile }),
        _ => Ok(Some(fs)),
    }
}

fn artifacts(root: &Section<'_>) -> Result<ArtifactSpec, SpecError> {
    let section = root.section("artifacts", "artifacts.")?;
    let always_diff = section.flag("always_diff")?;
    let patterns = match section.get("collect") {
        None => {
            return Ok(ArtifactSpec { collect: Vec::new(), always_diff });
        }
        Some(Value::Array(patterns)) => patterns,
        Some(other) => return Err(section.wrong_type("collect", other, "an array of strings")),
    };
    if patterns.len() > MAX_COLLECT {
        return Err(SpecError::TooMuch {
            field: section.field("collect"),
            size: patterns.len(),
            unit: "patterns",
            limit: MAX_COLLECT,
            mend: "; use wider ones",
        });
    }
    let pattern = |(index, value): (usize, &Value)| {
        let key = format!("collect[{index}]");
        let text = value.as_str().ok_or_else(|| section.wrong_type(&key, value, "a string"))?;
        if text.is_empty() || text.len() >= 4096 || text.contains('\0') {
            return Err(section.invalid(&key, text, "is empty, too long or contains a NUL byte; write a glob pattern"));
        }
        if text.split('/').any(|part| part == "..") {
            return Err(section.invalid(&key, text, "leads out of the workspace; write it without '..'"));
        }
        Ok(text.to_owned())
    };
    Ok(ArtifactSpec { collect: patterns.iter().enumerate().map(pattern).collect::<Result<_, _>>()?, always_diff })
}

fn env(root: &Section<'_>) -> Result<BTreeMap<EnvName, String>, SpecError> {
    let section = root.section("env", "env.")?;
    let mut env = BTreeMap::new();
    let mut total = 0;
    for (key, value) in section.map.into_iter().flatten().filter(|(_, value)| !value.is_null()) {
        let name: EnvName = key.parse().map_err(SpecError::EnvName)?;
        let text = value.as_str().ok_or_else(|| section.wrong_type(key, value, "a string"))?;
        if text.contains('\0') {
            return Err(section.invalid(key, text, "contains a NUL byte; remove it"));
        }
        let size = key.len() + 1 + text.len();
        total += size;
        let (field, size, limit) = if size > MAX_ARGUMENT_BYTES {
            (section.field(key), size, MAX_ARGUMENT_BYTES)
        } else if total > MAX_ENV_BYTES {
            (root.field("env"), total, MAX_ENV_BYTES)
        } else {
            env.insert(name, text.to_owned());
            continue;
        };
        let mend = "; put long texts into a file of the facility";
        return Err(SpecError::TooMuch { field, size, unit: "bytes", limit, mend });
    }
    Ok(env)
}
