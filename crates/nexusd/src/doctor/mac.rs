//! The rows that only a Mac has. Pure.

use conduits::SandboxProfile;
use sandbox::Permission;

use super::facts::Facts;
use super::programs::Ran;
use super::report::Row;

/// What gives consent. Commands without these permissions work but for what needs them.
const CONSENT_MEND: &str = "System Settings > Privacy & Security: allow nexusd, or the terminal that starts it";

/// Said of what a Mac without the profile does not need.
const NO_AUTOMATION: &str = "not needed (darwin-automation is not offered)";

/// What is wrong where there is no automation on a Mac.
const AUTOMATION_MEND: &str = "offer only host in supported_sandbox_profiles";

/// With it, what macOS lets scripts do: consent belongs to whoever starts them.
pub(super) fn osascript(facts: &Facts) -> Row {
    let name = "osascript";
    if !facts.offers(SandboxProfile::DarwinAutomation) {
        return Row::skip(name, NO_AUTOMATION);
    }
    if let Ran::Missing | Ran::Failed(_) = facts.osascript {
        return Row::fail(name, facts.osascript.complaint(), "xcode-select --install");
    }
    let permissions = match &facts.permissions {
        Ok(permissions) => permissions.named(),
        // That has a row of its own.
        Err(_) if facts.shortcuts == Ran::Missing => return Row::pass(name, "found"),
        Err(why) => return Row::fail(name, format!("found; {why}"), AUTOMATION_MEND),
    };
    let wanting: Vec<String> = permissions
        .into_iter()
        // What cannot be known now may well be granted.
        .filter(|(_, permission)| matches!(permission, Permission::NotGranted | Permission::NotAsked))
        .map(|(what, permission)| format!("{what} {permission}"))
        .collect();
    if wanting.is_empty() {
        return Row::pass(name, "found");
    }
    Row::warn(name, format!("found; {}", wanting.join(", ")), CONSENT_MEND)
}

pub(super) fn shortcuts(facts: &Facts) -> Row {
    match facts.shortcuts {
        _ if !facts.offers(SandboxProfile::DarwinAutomation) => Row::skip("shortcuts", NO_AUTOMATION),
        Ran::Missing | Ran::Failed(_) => {
            Row::fail("shortcuts", facts.shortcuts.complaint(), "update macOS: it comes with macOS 12 and later")
        }
        _ => Row::pass("shortcuts", "found"),
    }
}
