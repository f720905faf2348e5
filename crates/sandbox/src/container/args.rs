//! The arguments of `podman run` and `docker run`: a pure function, snapshot-tested whole (podman-run(1), docker-run(1)).
//!
//! Values are arguments of their own or parts of one that have been checked: no shell is ever asked.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use super::limits::Ceilings;
use super::runtime::ContainerRuntime;
use super::{ContainerNetwork, ImagePull, meeting};
use crate::WorkspaceAccess;
use crate::run::Selected;

/// Where the helper is inside.
pub(super) const HELPER: &str = "/.nexus-init";

/// Says whose a container is: the drivers' folder, by which the next daemon finds what is left.
pub(super) const LABEL: &str = "io.nexus.dir";

/// The descriptors after the first three that the helper gets: control socket, standard output, standard error.
const PRESERVED: usize = 3;

/// Most of /dev/shm, in bytes.
const MAX_SHM: u64 = 64 * 1024 * 1024;

/// Everything the arguments depend on.
#[derive(Clone, Debug)]
pub(super) struct Arguments<'a> {
    pub(super) runtime: ContainerRuntime,
    pub(super) program: &'a Path,
    /// Of the container.
    pub(super) name: &'a str,
    /// Value of [`LABEL`].
    pub(super) label: &'a Path,
    pub(super) helper: &'a Path,
    /// `/etc/hosts` of a container without a network.
    pub(super) hosts: &'a Path,
    /// An id or a name.
    pub(super) image: &'a str,
    pub(super) pull: ImagePull,
    pub(super) network: ContainerNetwork,
    pub(super) workspace: &'a Path,
    pub(super) access: &'a WorkspaceAccess,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The engine works as an ordinary user.
    pub(super) rootless: bool,
    /// The host labels files.
    pub(super) selinux: bool,
    /// Whether somebody writes to its standard input.
    pub(super) input: bool,
    /// Where the helper comes for its descriptors, where the client does not hand them through.
    pub(super) meeting: Option<&'a Path>,
    /// Folders that the image wants on the host's disk.
    pub(super) volumes: &'a [String],
    pub(super) ceilings: &'a Ceilings,
    /// The operator's own.
    pub(super) run_args: &'a [String],
}

/// The arguments, from the program's name to the helper's.
pub(super) fn arguments(plan: &Arguments<'_>) -> Vec<OsString> {
    let mut args = List(vec![plan.program.into()]);
    args.add(["run", "--rm", &format!("--name={}", plan.name)]);
    args.0.push(joined(&format!("--label={LABEL}="), plan.label));
    args.add([format!("--pull={}", plan.pull.as_str())]);
    // What the helper itself says comes by the client's standard error; nothing is kept on the disk.
    args.add(["--log-driver=none", "--cap-drop=ALL", "--security-opt=no-new-privileges"]);
    args.add(["--hostname=nexus", "--no-healthcheck", "--init=false", "--ipc=private", "--cgroupns=private"]);
    // What a run writes is bounded where it may write at all: an image's folders that are everybody's would be on the
    // host's disk.
    args.add(["--read-only".to_owned(), format!("--user={}:{}", plan.uid, plan.gid)]);
    match plan.runtime {
        ContainerRuntime::Podman => podman(&mut args, plan),
        // An engine that maps every container's users elsewhere would keep the facility from its own.
        ContainerRuntime::Docker => args.add(["--userns=host"]),
    }
    args.add([match plan.network {
        ContainerNetwork::Host => "--network=host",
        ContainerNetwork::Isolated => "--network=none",
    }]);
    args.0.extend(plan.ceilings.flags().into_iter().map(OsString::from));
    let tmp = plan.ceilings.tmp_bytes;
    for (at, mode) in [("/tmp", 1777), ("/var/tmp", 1777), ("/run", 755)] {
        args.add([format!("--tmpfs={at}:rw,exec,nosuid,nodev,mode={mode},size={tmp}")]);
    }
    for volume in plan.volumes {
        args.tmpfs(volume, &format!("tmpfs-size={tmp},tmpfs-mode=0755"));
    }
    args.add([format!("--shm-size={}", tmp.min(MAX_SHM))]);
    args.mount(plan.helper, HELPER, true, plan.selinux.then_some("shared"));
    workspace(&mut args, plan);
    if let Some(folder) = plan.meeting {
        args.mount(folder, meeting::FOLDER, true, None);
    }
    args.add(["--workdir=/".to_owned(), format!("--entrypoint={HELPER}")]);
    args.add(plan.run_args);
    args.add([plan.image, "container"]);
    args.add(plan.meeting.map(|_| meeting::SOCKET));
    args.0
}

/// What podman alone has, or has otherwise where nobody says it.
fn podman(args: &mut List, plan: &Arguments<'_>) {
    // Whatever the host's containers.conf has for those who do not say.
    args.add(["--http-proxy=false", "--systemd=false", "--pid=private", "--uts=private", "--image-volume=ignore"]);
    args.add([if plan.rootless { "--userns=keep-id" } else { "--userns=host" }]);
    if plan.network == ContainerNetwork::Isolated {
        // Else podman copies the host's own names into the container's.
        args.add(["--no-hosts"]);
        args.mount(plan.hosts, "/etc/hosts", true, plan.selinux.then_some("shared"));
    }
    args.add([format!("--preserve-fds={PRESERVED}")]);
    if plan.input {
        args.add(["--interactive"]);
    }
}

fn workspace(args: &mut List, plan: &Arguments<'_>) {
    let label = plan.selinux.then_some("private");
    match plan.access {
        WorkspaceAccess::ReadWrite => args.mount(plan.workspace, "/workspace", false, label),
        WorkspaceAccess::ReadOnly => args.mount(plan.workspace, "/workspace", true, label),
        WorkspaceAccess::Only(selected) => {
            args.tmpfs("/workspace", "tmpfs-size=1048576,tmpfs-mode=0755,ro");
            for Selected { path, writable } in selected {
                args.mount(&plan.workspace.join(path.relative()), &path.inside(), !writable, label);
            }
        }
    }
}

struct List(Vec<OsString>);

impl List {
    fn add<I: IntoIterator>(&mut self, words: I)
    where
        I::Item: AsRef<str>,
    {
        self.0.extend(words.into_iter().map(|word| OsString::from(word.as_ref())));
    }

    fn tmpfs(&mut self, at: &str, options: &str) {
        let mut word = OsString::from("--mount=type=tmpfs,");
        word.push(field("destination=", at.as_ref()));
        word.push(format!(",{options}"));
        self.0.push(word);
    }

    fn mount(&mut self, source: &Path, at: &str, read_only: bool, label: Option<&str>) {
        let mut word = OsString::from("--mount=type=bind,");
        word.push(field("source=", source.as_os_str()));
        word.push(",");
        word.push(field("destination=", at.as_ref()));
        if read_only {
            word.push(",ro");
        }
        if let Some(label) = label {
            word.push(format!(",relabel={label}"));
        }
        self.0.push(word);
    }
}

/// A field of a list that a runtime reads as comma-separated values (RFC 4180, section 2).
pub(super) fn field(name: &str, value: &OsStr) -> OsString {
    let plain = [name.as_bytes(), value.as_bytes()].concat();
    if !plain.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
        return OsString::from_vec(plain);
    }
    let doubled = plain.iter().flat_map(|&byte| std::iter::repeat_n(byte, if byte == b'"' { 2 } else { 1 }));
    let quoted = std::iter::once(b'"').chain(doubled).chain(std::iter::once(b'"'));
    OsString::from_vec(quoted.collect())
}

pub(super) fn joined(before: &str, path: &Path) -> OsString {
    OsString::from_vec([before.as_bytes(), path.as_os_str().as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkspaceCwd;

    fn plan<'a>(access: &'a WorkspaceAccess, ceilings: &'a Ceilings) -> Arguments<'a> {
        Arguments {
            runtime: ContainerRuntime::Podman,
            program: Path::new("/usr/bin/podman"),
            name: "nexus-d1",
            label: Path::new("/var/lib/nexusd/.nexus/runtime"),
            helper: Path::new("/var/lib/nexusd/.nexus/runtime/drivers-1-0/nexus-init"),
            hosts: Path::new("/var/lib/nexusd/.nexus/runtime/drivers-1-0/hosts"),
            image: "sha256:abc",
            pull: ImagePull::Never,
            network: ContainerNetwork::Isolated,
            workspace: Path::new("/srv/a b:c\"d/f1"),
            access,
            uid: 64017,
            gid: 64017,
            rootless: false,
            selinux: false,
            input: false,
            meeting: None,
            volumes: &[],
            ceilings,
            run_args: &[],
        }
    }

    fn lines(plan: &Arguments<'_>) -> String {
        arguments(plan).iter().map(|word| format!("{}\n", word.to_str().unwrap())).collect()
    }

    #[test]
    fn a_run_without_a_network() {
        let ceilings = Ceilings { tmp_bytes: 1 << 20, ..Ceilings::default() };
        insta::assert_snapshot!(lines(&plan(&WorkspaceAccess::ReadWrite, &ceilings)));
    }

    #[test]
    fn a_rootless_run_with_everything() {
        let only = |text: &str, writable| Selected { path: WorkspaceCwd::parse(text).unwrap(), writable };
        let access = WorkspaceAccess::Only(vec![only("src", false), only("out/x", true)]);
        let ceilings = Ceilings {
            memory_bytes: Some(64 << 20),
            cpu_millicores: Some(1500),
            pids: Some(100),
            nofile: Some(1024),
            fsize_bytes: Some(1 << 30),
            processes: Some(30_000),
            tmp_bytes: 512 << 20,
        };
        let run_args = ["--device=/dev/null".to_owned()];
        insta::assert_snapshot!(lines(&Arguments {
            rootless: true,
            selinux: true,
            input: true,
            image: "docker.io/library/ubuntu:24.04",
            pull: ImagePull::Missing,
            network: ContainerNetwork::Host,
            run_args: &run_args,
            ..plan(&access, &ceilings)
        }));
    }

    #[test]
    fn a_run_by_docker() {
        let only = |text: &str, writable| Selected { path: WorkspaceCwd::parse(text).unwrap(), writable };
        let access = WorkspaceAccess::Only(vec![only("src", false), only("out,x", true)]);
        let ceilings = Ceilings { memory_bytes: Some(64 << 20), tmp_bytes: 1 << 20, ..Ceilings::default() };
        let volumes = ["/var/lib/data".to_owned(), "/a,b".to_owned()];
        insta::assert_snapshot!(lines(&Arguments {
            runtime: ContainerRuntime::Docker,
            program: Path::new("/usr/bin/docker"),
            meeting: Some(Path::new("/var/lib/nexusd/.nexus/runtime/drivers-1-0/meet-0")),
            volumes: &volumes,
            input: true,
            ..plan(&access, &ceilings)
        }));
    }

    #[test]
    fn fields_are_quoted_where_they_must_be() {
        for (value, expected) in [
            ("/a b:c'd", "source=/a b:c'd"),
            ("/a,ro", "\"source=/a,ro\""),
            ("/a\"b", "\"source=/a\"\"b\""),
            ("/a\nb", "\"source=/a\nb\""),
        ] {
            assert_eq!(field("source=", OsStr::new(value)), expected);
        }
    }
}
