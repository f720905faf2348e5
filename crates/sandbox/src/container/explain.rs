//! Podman's own messages, with the command that mends what they complain about.

/// What a message says, and what mends it; the first that fits counts.
const MENDS: &[(&[&str], &str)] = &[
    (&["could not find \"netavark\""], "sudo apt install -y netavark"),
    (&["no space left on device", "disk quota exceeded"], "make room where the engine keeps images and containers"),
    (
        &["image not known", "no such image", "unable to find a name and tag match", "short-name"],
        "podman pull the image as this user, or set container.pull: missing",
    ),
    (
        &["invalid reference format", "repository name must be lowercase", "must be lowercase"],
        "container.image is not an image's name: registry/name:tag",
    ),
    (
        &["newuidmap", "newgidmap", "no subuid ranges", "cannot find UID/GID"],
        "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER; podman system migrate",
    ),
    (
        &["unauthorized", "authentication required", "access to the resource is denied", ": denied"],
        "the registry does not give it to this user: check container.image, or podman login as this user",
    ),
    (
        &["manifest unknown", "not found: manifest", "name unknown", "repository name not known"],
        "the registry has no such image or tag: check container.image",
    ),
    (&["too many requests", "toomanyrequests"], "the registry asks for patience: podman pull it once, or podman login"),
    (
        &["x509: ", "tls: ", "server gave HTTP response to HTTPS client"],
        "the registry's TLS is not trusted: certs.d of this machine's containers, or insecure in registries.conf",
    ),
    (
        &["invalid status code from registry", "received unexpected HTTP status", "looking for beginning of value"],
        "the registry does not answer as one does: check container.image, or try again later",
    ),
    (
        &[
            "no such host",
            "connection refused",
            "connection reset by peer",
            "i/o timeout",
            "network is unreachable",
            "Temporary failure in name",
            "Client.Timeout",
            ": EOF",
        ],
        "the registry cannot be reached: check container.image and this machine's network",
    ),
    (
        &["unknown version specified", "doesn't support cgroup", "cgroups: cgroup"],
        "the OCI runtime does not bear this host's cgroups: sudo apt install -y runc, and runtime = \"runc\" in containers.conf",
    ),
    (&["sd-bus call", "systemd cgroup", "no systemd"], "set cgroup_manager = \"cgroupfs\" in containers.conf"),
    (&["exec format error"], "the image is for another kind of processor"),
];

/// Longest part of a message that is passed on, in characters.
const MAX_VERDICT: usize = 600;

/// The message, and the mend where it is known.
pub(super) fn explain(said: &str) -> String {
    let verdict = verdict(said);
    let known = MENDS.iter().find(|(words, _)| words.iter().any(|word| said.contains(word)));
    known.map_or_else(|| format!("podman: {verdict}"), |(_, mend)| format!("podman: {verdict} ({mend})"))
}

/// The line that says what is wrong: one that calls itself an error, or the last; before it are warnings and progress.
fn verdict(said: &str) -> String {
    let mut lines = said.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let last = lines.clone().next().unwrap_or_default();
    let line = lines.find(|line| line.starts_with("Error: ")).unwrap_or(last);
    let line = line.strip_prefix("Error: ").unwrap_or(line);
    // What podman logs (logrus): time="…" level=error msg="…".
    let logged = line.strip_prefix("time=").and_then(|line| line.split_once(" msg="));
    let text = logged.map_or(line.to_owned(), |(_, text)| text.trim_matches('"').replace("\\\"", "\""));
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_VERDICT).collect()
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
            ("Error: reading manifest 1 in r.test/a: denied", "podman login"),
            ("Error: reading manifest 1 in r.test/a: name unknown", "no such image or tag"),
            ("Error: pinging container registry r.test: too many requests to registry", "asks for patience"),
            ("Error: Get \"https://r.test/v2/\": x509: certificate signed by unknown authority", "not trusted"),
            ("Error: invalid status code from registry 500 (Internal Server Error)", "does not answer as one does"),
            ("Error: read tcp 10.0.0.1:2->10.0.0.2:443: read: connection reset by peer", "cannot be reached"),
            ("Error: invalid reference format", "container.image is not an image's name"),
            ("Error: write /x/layers.json: no space left on device", "make room"),
            ("Error: the cause\nmore of it\n", "podman: the cause"),
            (
                "time=\"2026-01-01T00:00:00Z\" level=error msg=\"reading \\\"x\\\": toml\"",
                "podman: reading \"x\": toml",
            ),
            ("\u{1b}[31mred\u{7}", "podman:  [31mred "),
            ("", "podman: "),
        ];
        for (said, begins) in table {
            assert!(explain(said).contains(begins), "{said:?}: {}", explain(said));
        }
        assert!(!explain("Error: runc: something else").contains('('));
        assert!(explain(&"x".repeat(100_000)).len() < 1000);
    }
}
