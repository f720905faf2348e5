//! Podman's own messages, with the command that mends what they complain about.

/// What a message says, and what mends it; the first that fits counts.
const MENDS: &[(&[&str], &str)] = &[
    (&["could not find \"netavark\""], "sudo apt install -y netavark"),
    (
        &["image not known", "no such image", "unable to find a name and tag match", "short-name"],
        "podman pull the image as this user, or set container.pull: missing",
    ),
    (
        &["newuidmap", "newgidmap", "no subuid ranges", "cannot find UID/GID"],
        "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER; podman system migrate",
    ),
    (
        &["unauthorized", "authentication required", "denied: requested access"],
        "podman login to the registry as this user",
    ),
    (
        &["no such host", "connection refused", "i/o timeout", "network is unreachable", "Temporary failure in name"],
        "the registry cannot be reached: check container.image and this machine's network",
    ),
    (&["manifest unknown", "not found: manifest"], "the registry has no such tag: check container.image"),
    (
        &["unknown version specified", "doesn't support cgroup", "cgroups: cgroup"],
        "the OCI runtime does not bear this host's cgroups: sudo apt install -y runc, and runtime = \"runc\" in containers.conf",
    ),
    (&["sd-bus call", "systemd cgroup", "no systemd"], "set cgroup_manager = \"cgroupfs\" in containers.conf"),
    (&["exec format error"], "the image is for another kind of processor"),
];

/// The message, and the mend where it is known.
pub(super) fn explain(said: &str) -> String {
    // The last line is the verdict; before it are warnings and progress.
    let verdict = said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let verdict = verdict.strip_prefix("Error: ").unwrap_or(verdict);
    let known = MENDS.iter().find(|(words, _)| words.iter().any(|word| said.contains(word)));
    known.map_or_else(|| format!("podman: {verdict}"), |(_, mend)| format!("podman: {verdict} ({mend})"))
}

#[cfg(test)]
mod tests {
    use super::explain;

    #[test]
    fn each_known_complaint_has_its_mend() {
        let table = [
            ("Error: ubuntu:24.04: image not known", "podman: ubuntu:24.04: image not known (podman pull"),
            (
                "time=\"x\" level=warning msg=\"y\"\nError: cannot find newuidmap: exec: \"newuidmap\"\n",
                "podman: cannot find newuidmap: exec: \"newuidmap\" (sudo usermod",
            ),
            ("Error: dial tcp: lookup registry.test: no such host", "cannot be reached"),
            ("Error: runc: something else", "podman: runc: something else"),
            ("", "podman: "),
        ];
        for (said, begins) in table {
            assert!(explain(said).contains(begins), "{said:?}: {}", explain(said));
        }
        assert!(!explain("Error: runc: something else").contains('('));
    }
}
