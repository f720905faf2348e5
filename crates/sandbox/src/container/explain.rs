//! A runtime's own messages, with the command that mends what they complain about.

use super::runtime::ContainerRuntime;

/// What a message says, and what mends it; the first that fits counts. `ENGINE` is the runtime's command.
const MENDS: &[(&[&str], &str)] = &[
    (
        &["Cannot connect to the Docker daemon", "failed to connect to the docker API"],
        "start Docker's engine on this machine: sudo systemctl start docker",
    ),
    (
        &[
            "permission denied while trying to connect to the Docker daemon",
            "permission denied while trying to connect to the docker API",
        ],
        "sudo usermod --append --groups docker of nexusd's user, which makes that user as good as root",
    ),
    (
        &["context not found", "docker context"],
        "docker context use default, or DOCKER_CONTEXT and DOCKER_HOST of nexusd's unit",
    ),
    (
        &["bind source path does not exist"],
        "Docker's engine does not see nexusd's files: it must run on this machine and in its file system",
    ),
    (&["could not find \"netavark\""], "sudo apt install -y netavark"),
    (&["no space left on device", "disk quota exceeded"], "make room where the engine keeps images and containers"),
    (
        &["image not known", "no such image", "No such image", "unable to find a name and tag match", "short-name"],
        "ENGINE pull the image as this user, or set container.pull: missing",
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
        &[
            "unauthorized",
            "authentication required",
            "access to the resource is denied",
            "pull access denied",
            ": denied",
        ],
        "the registry does not give it to this user: check container.image, or ENGINE login as this user",
    ),
    (
        &["manifest unknown", "not found: manifest", "name unknown", "repository name not known"],
        "the registry has no such image or tag: check container.image",
    ),
    (&["too many requests", "toomanyrequests"], "the registry asks for patience: ENGINE pull it once, or ENGINE login"),
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
pub(super) fn explain(runtime: ContainerRuntime, said: &str) -> String {
    let (engine, verdict) = (runtime.as_str(), verdict(said));
    let known = MENDS.iter().find(|(words, _)| words.iter().any(|word| said.contains(word)));
    let mend = known.map(|(_, mend)| format!(" ({})", mend.replace("ENGINE", engine)));
    format!("{engine}: {verdict}{}", mend.unwrap_or_default())
}

/// [`explain`] for one that is known already.
pub(super) fn explainer(runtime: ContainerRuntime) -> fn(&str) -> String {
    match runtime {
        ContainerRuntime::Podman => |said| explain(ContainerRuntime::Podman, said),
        ContainerRuntime::Docker => |said| explain(ContainerRuntime::Docker, said),
    }
}

/// The line that says what is wrong: one that calls itself an error, or the last; before it are warnings and progress.
fn verdict(said: &str) -> String {
    // Docker's client goes on to where its help is.
    let hint = |line: &&str| !(line.ends_with("for more information") || line.starts_with("See 'docker"));
    let mut lines = said.lines().rev().map(str::trim).filter(|line| !line.is_empty()).filter(hint);
    let last = lines.clone().next().unwrap_or_default();
    let mut line = lines.find(|line| line.starts_with("Error: ")).unwrap_or(last);
    for opening in ["Error: ", "docker: ", "Error response from daemon: "] {
        line = line.strip_prefix(opening).unwrap_or(line);
    }
    // What podman logs (logrus): time="…" level=error msg="…".
    let logged = line.strip_prefix("time=").and_then(|line| line.split_once(" msg="));
    let text = logged.map_or(line.to_owned(), |(_, text)| text.trim_matches('"').replace("\\\"", "\""));
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_VERDICT).collect()
}

#[cfg(test)]
mod tests {
    use super::ContainerRuntime::{Docker, Podman};
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
            assert!(explain(Podman, said).contains(begins), "{said:?}: {}", explain(Podman, said));
        }
        assert!(!explain(Podman, "Error: runc: something else").contains('('));
        assert!(explain(Podman, &"x".repeat(100_000)).len() < 1000);
    }

    #[test]
    fn what_docker_says() {
        let table = [
            (
                "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n",
                "docker: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running? (start",
            ),
            (
                "Unable to find image 'x:1' locally\ndocker: Error response from daemon: pull access denied for x, repository \
                 does not exist or may require 'docker login'\n\nRun 'docker run --help' for more information\n",
                "docker login as this user",
            ),
            (
                "docker: Error response from daemon: something else.\n\nRun 'docker run --help' for more information\n",
                "docker: something else.",
            ),
            ("Error response from daemon: No such image: x:1\n", "docker: No such image: x:1 (docker pull the image"),
            (
                "docker: Error response from daemon: invalid mount config for type \"bind\": bind source path does not exist: /x.\nSee 'docker run --help'.\n",
                "in its file system",
            ),
        ];
        for (said, begins) in table {
            assert!(explain(Docker, said).contains(begins), "{said:?}: {}", explain(Docker, said));
        }
    }
}
