//! bubblewrap's own messages, with the command that mends what they complain about.

/// The message, and the mend where it is known.
pub(super) fn explain(said: &str) -> String {
    let said = said.trim();
    let mend = if said.contains("RTM_NEWADDR") || said.contains("loopback:") {
        "AppArmor restricts user namespaces: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0 \
         (for good: in /etc/sysctl.d/99-bwrap-userns.conf)"
    } else if said.contains("ENOSPC") || said.contains("No space left on device") {
        // bubblewrap adds to it that the creation failed, so this comes before that.
        "no further user namespace is allowed: sudo sysctl user.max_user_namespaces=15000"
    } else if said.contains("No permissions to creat")
        || said.contains("Creating new namespace failed")
        || said.contains("Operation not permitted")
    {
        "user namespaces are off or restricted: sudo sysctl kernel.unprivileged_userns_clone=1, and where it exists \
         sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    } else if said.contains("Unknown option") {
        "this bubblewrap is too old: 0.8 or later is needed"
    } else {
        return said.to_owned();
    };
    format!("{said} ({mend})")
}

#[cfg(test)]
mod tests {
    use super::explain;

    #[test]
    fn each_known_complaint_has_its_mend() {
        let table = [
            ("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted", "apparmor_restrict_unprivileged_userns=0"),
            (
                "bwrap: No permissions to create new namespace, likely because the kernel does not allow",
                "unprivileged_userns_clone=1",
            ),
            (
                "bwrap: No permissions to creating new namespace, likely because the kernel does not allow",
                "unprivileged_userns_clone=1",
            ),
            ("bwrap: Creating new namespace failed: Operation not permitted", "unprivileged_userns_clone=1"),
            (
                "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
                "user.max_user_namespaces=15000",
            ),
            ("bwrap: Unknown option --disable-userns", "0.8 or later"),
        ];
        for (said, mend) in table {
            let text = explain(said);
            assert!(text.starts_with(said) && text.contains(mend), "{text}");
        }
        assert_eq!(explain(" bwrap: Can't find source path /x\n"), "bwrap: Can't find source path /x");
    }
}
