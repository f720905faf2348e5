//! bubblewrap's own messages, with the command that mends what they complain about.

/// What a message says, and what mends it; the first that fits counts.
const MENDS: &[(&[&str], &str)] = &[
    (
        &["Failed to create NETLINK_ROUTE socket"],
        "the daemon may not use netlink: add AF_NETLINK to RestrictAddressFamilies= in its unit",
    ),
    (
        &["RTM_NEWADDR", "loopback:"],
        "AppArmor restricts user namespaces: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0 \
         (for good: in /etc/sysctl.d/99-bwrap-userns.conf)",
    ),
    (
        &["Can't mount proc"],
        "a part of /proc is covered where the daemon runs: take ProtectKernelLogs=, ProtectKernelTunables= and paths in \
         /proc out of its unit; in a container, unmask /proc",
    ),
    (&["Can't set hostname"], "the daemon may not name its sandboxes: take ProtectHostname= out of its unit"),
    (
        &["max_user_namespaces: Read-only file system"],
        "/proc/sys is read-only where the daemon runs: take ProtectKernelTunables= out of its unit",
    ),
    // bubblewrap adds to it that the creation failed, so this comes before that.
    (
        &["ENOSPC", "No space left on device", "max_user_namespaces"],
        "no further user namespace is allowed: sudo sysctl user.max_user_namespaces=15000",
    ),
    (
        &["No permissions to creat", "Creating new namespace failed", "Operation not permitted"],
        "user namespaces are off or restricted: sudo sysctl kernel.unprivileged_userns_clone=1, and where it exists \
         sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0; in a unit of systemd, no RestrictNamespaces=",
    ),
    (&["Unknown option"], "this bubblewrap is too old: 0.8 or later is needed"),
];

/// The message, and the mend where it is known.
pub(super) fn explain(said: &str) -> String {
    let said = said.trim();
    let known = MENDS.iter().find(|(words, _)| words.iter().any(|word| said.contains(word)));
    known.map_or_else(|| said.to_owned(), |(_, mend)| format!("{said} ({mend})"))
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
            ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "ProtectKernelLogs="),
            ("bwrap: Can't set hostname to nexus: Operation not permitted", "ProtectHostname="),
            (
                "bwrap: cannot open /proc/sys/user/max_user_namespaces: Read-only file system",
                "ProtectKernelTunables= out",
            ),
            (
                "bwrap: loopback: Failed to create NETLINK_ROUTE socket: Address family not supported by protocol",
                "AF_NETLINK",
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
