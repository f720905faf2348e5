//! The arguments of bubblewrap: a pure function, snapshot-tested whole.
//!
//! The order of the mounts is part of the protection: what comes later covers what came before.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::WorkspaceAccess;
use crate::knockout::{Knockout, Knockouts};

/// The uid and gid inside.
pub(crate) const INSIDE_ID: u32 = 1000;

/// The descriptor that bubblewrap reads the system-call filter from.
pub(crate) const SECCOMP_FD: i32 = 7;

/// Where the proxy's socket is inside, when socat is the bridge.
pub(crate) const PROXY_SOCKET: &str = "/.nexus/proxy.sock";

/// Most of /run and of /dev/shm, in bytes each.
const MAX_SMALL_TMPFS: u64 = 64 * 1024 * 1024;

/// Most of the tmpfs that holds the mount points of a narrowed workspace.
const EMPTY_WORKSPACE: u64 = 1024 * 1024;

/// One more mount of a host file or directory, read-only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    /// Where bubblewrap finds it.
    pub(crate) source: PathBuf,
    /// Where it is inside.
    pub(crate) at: PathBuf,
}

/// What is hidden or made read-only in /proc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mask {
    /// The file reads as nothing can be read.
    File(&'static str),
    /// The directory is empty.
    Directory(&'static str),
    /// It stays as it is, but read-only.
    ReadOnly(&'static str),
}

/// Everything the arguments depend on.
#[derive(Clone, Debug)]
pub(crate) struct Arguments<'a> {
    /// What the process is called: a path in the drivers' own directory, by which one that a killed daemon left is found.
    pub(crate) name: &'a Path,
    /// The prepared root directory.
    pub(crate) root: &'a Path,
    /// Mounts on top of it.
    pub(crate) trees: &'a [Tree],
    /// What is masked in /proc.
    pub(crate) masks: &'a [Mask],
    /// Where bubblewrap finds the workspace.
    pub(crate) workspace: &'a Path,
    /// What the command may do there.
    pub(crate) access: &'a WorkspaceAccess,
    /// Where bubblewrap finds the proxy's socket, when socat is the bridge.
    pub(crate) proxy_socket: Option<&'a Path>,
    /// Size of /tmp in bytes.
    pub(crate) tmp_bytes: u64,
    /// What a test leaves out.
    pub(crate) left_out: &'a Knockouts,
}

/// The arguments, from the program's name to the helper's.
pub(crate) fn arguments(plan: &Arguments<'_>) -> Vec<OsString> {
    let mut args = List(vec![plan.name.into()]);
    for namespace in ["user", "pid", "net", "ipc", "uts", "cgroup"] {
        if namespace != "net" || !plan.left_out.has(Knockout::Net) {
            args.add([format!("--unshare-{namespace}")]);
        }
    }
    // No further user namespace inside, whatever the system-call filter lets through.
    if !plan.left_out.has(Knockout::Userns) {
        args.add(["--disable-userns"]);
    }
    args.add(["--die-with-parent", "--new-session", "--as-pid-1"]);
    args.add(["--cap-drop", "ALL", "--hostname", "nexus", "--clearenv"]);
    let (id, filter) = (INSIDE_ID.to_string(), SECCOMP_FD.to_string());
    args.add(["--uid", &id, "--gid", &id]);
    if !plan.left_out.has(Knockout::Seccomp) {
        args.add(["--seccomp", &filter]);
    }
    // 1. The root: everything below is mounted on top of it. Read-only with all that is mounted in it.
    args.mount("--ro-bind", plan.root, Path::new("/"));
    for tree in plan.trees {
        args.mount("--ro-bind", &tree.source, &tree.at);
    }
    // 2. /proc of the sandbox's own processes, then what is hidden in it.
    args.add(["--proc", "/proc"]);
    for mask in plan.masks {
        match mask {
            Mask::File(path) => args.mount("--ro-bind", Path::new("/dev/null"), Path::new(path)),
            Mask::Directory(path) => {
                args.tmpfs("0555", 4096, path);
                args.add(["--remount-ro", path]);
            }
            Mask::ReadOnly(path) => args.mount("--ro-bind", Path::new(path), Path::new(path)),
        }
    }
    // 3. A minimal /dev, itself read-only: it is a tmpfs without a bound.
    args.add(["--dev", "/dev"]);
    args.tmpfs("1777", plan.tmp_bytes.min(MAX_SMALL_TMPFS), "/dev/shm");
    args.add(["--remount-ro", "/dev"]);
    // 4. Memory that can be written, each with a bound: without one each may take half of the host's. Late, because
    // bubblewrap reads the list of mounts again at each of the ones above.
    args.tmpfs("1777", plan.tmp_bytes, "/tmp");
    args.tmpfs("0755", plan.tmp_bytes.min(MAX_SMALL_TMPFS), "/run");
    // 5. The workspace.
    workspace(&mut args, plan.workspace, plan.access);
    if let Some(socket) = plan.proxy_socket {
        args.mount("--bind", socket, Path::new(PROXY_SOCKET));
    }
    // The helper runs from its sealed memory file: no path inside leads to it.
    args.add(["--chdir", "/", "--"]);
    args.add([format!("/proc/self/fd/{}", guest::fd::IMAGE)]);
    args.add(["sandbox"]);
    args.0
}

fn workspace(args: &mut List, source: &Path, access: &WorkspaceAccess) {
    let inside = Path::new("/workspace");
    match access {
        WorkspaceAccess::ReadWrite => args.mount("--bind", source, inside),
        WorkspaceAccess::ReadOnly => args.mount("--ro-bind", source, inside),
        WorkspaceAccess::Only(selected) => {
            args.tmpfs("0755", EMPTY_WORKSPACE, "/workspace");
            for selection in selected {
                let kind = if selection.writable { "--bind" } else { "--ro-bind" };
                args.mount(kind, &source.join(selection.path.as_str()), &inside.join(selection.path.as_str()));
            }
            args.add(["--remount-ro", "/workspace"]);
        }
    }
}

/// Arguments as they are gathered.
struct List(Vec<OsString>);

impl List {
    fn add<S: AsRef<std::ffi::OsStr>>(&mut self, args: impl IntoIterator<Item = S>) {
        self.0.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
    }

    fn mount(&mut self, kind: &str, source: &Path, at: &Path) {
        self.0.extend([kind.into(), source.into(), at.into()]);
    }

    fn tmpfs(&mut self, mode: &str, bytes: u64, at: &str) {
        self.add(["--perms", mode, "--size", &bytes.to_string(), "--tmpfs", at]);
    }
}

/// What is masked in /proc, of what this kernel has. Container engines hide the same; that most of it is closed to the
/// sandbox's uid anyway is the first lock, this is the second.
pub(crate) fn masks(exists: impl Fn(&str) -> bool) -> Vec<Mask> {
    let files = [
        "/proc/kcore",
        "/proc/keys",
        "/proc/kmsg",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/timer_list",
        "/proc/timer_stats",
    ];
    let directories = ["/proc/acpi", "/proc/asound", "/proc/scsi"];
    let read_only = ["/proc/bus", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    let all =
        files.map(Mask::File).into_iter().chain(directories.map(Mask::Directory)).chain(read_only.map(Mask::ReadOnly));
    all.filter(|mask| match mask {
        Mask::File(path) | Mask::Directory(path) | Mask::ReadOnly(path) => exists(path),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Selected, WorkspaceCwd};

    fn shown(plan: &Arguments<'_>) -> String {
        let mut text = String::new();
        for arg in arguments(plan) {
            let arg = arg.to_string_lossy().into_owned();
            text.push_str(if arg.starts_with("--") { "\n" } else { " " });
            text.push_str(&arg);
        }
        text.trim_start().to_owned()
    }

    static NONE: std::sync::LazyLock<Knockouts> = std::sync::LazyLock::new(Knockouts::default);

    fn plan<'a>(masks: &'a [Mask], trees: &'a [Tree], access: &'a WorkspaceAccess) -> Arguments<'a> {
        let (root, workspace) = (Path::new("/pad/root"), Path::new("/pad/workspace"));
        let name = Path::new("/w/.nexus/runtime/drivers-7-0/bwrap");
        Arguments {
            name,
            root,
            trees,
            masks,
            workspace,
            access,
            proxy_socket: None,
            tmp_bytes: 536_870_912,
            left_out: &NONE,
        }
    }

    #[test]
    fn the_whole_command_line() {
        let masks = masks(|_| true);
        insta::assert_snapshot!(shown(&plan(&masks, &[], &WorkspaceAccess::ReadWrite)));
    }

    #[test]
    fn an_ordinary_user_s_command_line_with_socat_and_a_narrowed_workspace() {
        let select = |path: &str, writable| Selected { path: WorkspaceCwd::parse(path).unwrap(), writable };
        let access = WorkspaceAccess::Only(vec![select("src", false), select("out/deep", true)]);
        let trees = [
            Tree { source: "/usr".into(), at: "/usr".into() },
            Tree { source: "/opt/go".into(), at: "/opt/go".into() },
        ];
        let masks = masks(|path| path == "/proc/kcore");
        let mut plan = plan(&masks, &trees, &access);
        (plan.proxy_socket, plan.tmp_bytes) = (Some(Path::new("/run/p.sock")), 1_048_576);
        insta::assert_snapshot!(shown(&plan));
    }

    #[test]
    fn a_read_only_workspace_is_mounted_so() {
        let args = arguments(&plan(&[], &[], &WorkspaceAccess::ReadOnly));
        let at = args.iter().position(|arg| arg == "/workspace").unwrap();
        assert_eq!(args[at - 2], "--ro-bind");
    }
}
