//! `require!`: a test says what it needs of the machine. Absent, the test is skipped aloud; where the environment's
//! `NEXUS_REQUIRE` names the need (or `all`), it fails instead.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What a test may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// User id 0.
    Root,
    /// Unprivileged user namespaces that really can be made.
    Userns,
    /// A bubblewrap that really starts something.
    Bwrap,
    /// socat.
    Socat,
    /// git.
    Git,
    /// The container image that `tools/test-image.sh` makes.
    Podman,
    /// Network namespaces joined by a veth pair: root and iproute2.
    NetBed,
    /// An IPv6 loopback.
    Ipv6,
    /// cgroup v1 controllers that can be written.
    CgroupV1,
    /// cgroup v2 with controllers that can be written.
    CgroupV2,
    /// cgroup controllers of either version that can be written.
    Cgroups,
    /// Landlock in the kernel.
    Landlock,
    /// seccomp filters in the kernel.
    Seccomp,
    /// `/dev/kvm`.
    Kvm,
    /// A C compiler and make.
    Compiler,
    /// Python 3.
    Python,
    /// The Debian root directory that `tools/test-rootfs.sh` makes.
    Rootfs,
    /// Python 3 beneath `/usr`, with venv and the pip that it brings.
    Venv,
    /// Node and npm beneath `/usr`.
    Node,
    /// A Java compiler and run-time beneath `/usr`.
    Java,
    /// A Go toolchain beneath `/usr`.
    Go,
    /// cargo and rustc of one toolchain, wherever it is.
    Rust,
    /// Perl beneath `/usr`.
    Perl,
    /// tar, gzip and xz beneath `/usr`.
    Archivers,
    /// OpenSSH's client and ssh-keygen beneath `/usr`.
    Ssh,
    /// OpenSSH's server, where Debian has it.
    Sshd,
    /// curl beneath `/usr`.
    Curl,
    /// wget beneath `/usr`.
    Wget,
    /// PostgreSQL's client beneath `/usr`.
    Psql,
    /// Redis's client beneath `/usr`.
    RedisCli,
    /// apt-get and dpkg-deb beneath `/usr`.
    Apt,
    /// The sqlite3 shell beneath `/usr`.
    Sqlite,
    /// gdb and strace beneath `/usr`.
    Debuggers,
    /// ps beneath `/usr`.
    Procps,
    /// less beneath `/usr`.
    Pager,
    /// systemd-analyze.
    Systemd,
    /// libfaketime and its wrapper beneath `/usr`.
    Faketime,
    /// newuidmap and newgidmap, which give an ordinary user subordinate ids.
    Subids,
    /// OpenSSL's command.
    Openssl,
    /// nginx with its module for JavaScript, where Debian has it.
    Nginx,
    /// tinyproxy.
    Tinyproxy,
    /// promtool, which tries Prometheus' rules.
    Promtool,
    /// groff, which renders manual pages.
    Groff,
    /// ShellCheck, which reads shell scripts.
    Shellcheck,
    /// A machine that the tests may change as they like: `make test-vm` boots one.
    Vm,
}

impl Need {
    /// Every need.
    pub const ALL: &'static [Self] = &[
        Self::Root,
        Self::Userns,
        Self::Bwrap,
        Self::Socat,
        Self::Git,
        Self::Podman,
        Self::NetBed,
        Self::Ipv6,
        Self::CgroupV1,
        Self::CgroupV2,
        Self::Cgroups,
        Self::Landlock,
        Self::Seccomp,
        Self::Kvm,
        Self::Compiler,
        Self::Python,
        Self::Rootfs,
        Self::Venv,
        Self::Node,
        Self::Java,
        Self::Go,
        Self::Rust,
        Self::Perl,
        Self::Archivers,
        Self::Ssh,
        Self::Sshd,
        Self::Curl,
        Self::Wget,
        Self::Psql,
        Self::RedisCli,
        Self::Apt,
        Self::Sqlite,
        Self::Debuggers,
        Self::Procps,
        Self::Pager,
        Self::Systemd,
        Self::Faketime,
        Self::Subids,
        Self::Openssl,
        Self::Nginx,
        Self::Tinyproxy,
        Self::Promtool,
        Self::Groff,
        Self::Shellcheck,
        Self::Vm,
    ];

    /// The word for it in `NEXUS_REQUIRE`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Userns => "userns",
            Self::Bwrap => "bwrap",
            Self::Socat => "socat",
            Self::Git => "git",
            Self::Podman => "podman",
            Self::NetBed => "netbed",
            Self::Ipv6 => "ipv6",
            Self::CgroupV1 => "cgroupv1",
            Self::CgroupV2 => "cgroupv2",
            Self::Cgroups => "cgroups",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Kvm => "kvm",
            Self::Compiler => "compiler",
            Self::Python => "python",
            Self::Rootfs => "rootfs",
            Self::Venv => "venv",
            Self::Node => "node",
            Self::Java => "java",
            Self::Go => "go",
            Self::Rust => "rust",
            Self::Perl => "perl",
            Self::Archivers => "archivers",
            Self::Ssh => "ssh",
            Self::Sshd => "sshd",
            Self::Curl => "curl",
            Self::Wget => "wget",
            Self::Psql => "psql",
            Self::RedisCli => "rediscli",
            Self::Apt => "apt",
            Self::Sqlite => "sqlite",
            Self::Debuggers => "debuggers",
            Self::Procps => "procps",
            Self::Pager => "pager",
            Self::Systemd => "systemd",
            Self::Faketime => "faketime",
            Self::Subids => "subids",
            Self::Openssl => "openssl",
            Self::Nginx => "nginx",
            Self::Tinyproxy => "tinyproxy",
            Self::Promtool => "promtool",
            Self::Groff => "groff",
            Self::Shellcheck => "shellcheck",
            Self::Vm => "vm",
        }
    }

    /// Why the machine does not have it; `None` where it has.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!is_root()).then(|| "the tests do not run as root".to_owned()),
            Self::Userns => runs("unshare", &["--user", "--map-root-user", "true"]),
            Self::Bwrap => {
                runs("bwrap", &["--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "true"])
            }
            Self::Socat => runs("socat", &["-V"]),
            Self::Git => runs("git", &["--version"]),
            Self::Podman => {
                let marker = Containers::of_tests().folder.join(".complete");
                (!marker.exists()).then(|| format!("no {}: tools/test-image.sh makes it", marker.display()))
            }
            Self::NetBed => Self::Root.missing().or_else(|| runs("unshare", &["--net", "ip", "link", "show"])),
            Self::Ipv6 => std::net::TcpListener::bind("[::1]:0").err().map(|e| format!("[::1]: {e}")),
            Self::CgroupV1 => writable_controller(&["/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory"]),
            Self::CgroupV2 => cgroup_v2(),
            Self::Cgroups => Self::CgroupV1
                .missing()
                .zip(Self::CgroupV2.missing())
                .map(|(v1, v2)| format!("version 1: {v1}; version 2: {v2}")),
            Self::Landlock => landlock(),
            Self::Seccomp => word_in("/proc/sys/kernel/seccomp/actions_avail", "errno"),
            Self::Kvm => {
                std::fs::File::options().read(true).write(true).open("/dev/kvm").err().map(|e| format!("/dev/kvm: {e}"))
            }
            Self::Compiler => runs("cc", &["--version"]).or_else(|| runs("make", &["--version"])),
            Self::Python => runs("python3", &["--version"]),
            Self::Rootfs => {
                let marker = test_rootfs().join(".complete");
                (!marker.exists()).then(|| format!("no {}: tools/test-rootfs.sh makes it", marker.display()))
            }
            Self::Venv => each_beneath_usr(&[("python3", &["-c", "import venv, ensurepip"])]),
            Self::Node => each_beneath_usr(&[("node", &["--version"]), ("npm", &["--version"])]),
            Self::Java => each_beneath_usr(&[("javac", &["-version"]), ("java", &["-version"])]),
            Self::Go => each_beneath_usr(&[("go", &["version"])]),
            Self::Rust => runs("cargo", &["--version"]).or_else(|| runs("rustc", &["--print", "sysroot"])),
            Self::Perl => each_beneath_usr(&[("perl", &["-MPOSIX", "-e", "1"])]),
            Self::Archivers => {
                each_beneath_usr(&[("tar", &["--version"]), ("gzip", &["--version"]), ("xz", &["--version"])])
            }
            // ssh-keygen has no way to a good end that does nothing.
            Self::Ssh => each_beneath_usr(&[("ssh", &["-V"]), ("which", &["ssh-keygen"])]),
            Self::Sshd => each_beneath_usr(&[("which", &["/usr/sbin/sshd"])]),
            Self::Curl => each_beneath_usr(&[("curl", &["--version"])]),
            Self::Wget => each_beneath_usr(&[("wget", &["--version"])]),
            Self::Psql => each_beneath_usr(&[("psql", &["--version"])]),
            Self::RedisCli => each_beneath_usr(&[("redis-cli", &["--version"])]),
            Self::Apt => each_beneath_usr(&[("apt-get", &["--version"]), ("dpkg-deb", &["--version"])]),
            Self::Sqlite => each_beneath_usr(&[("sqlite3", &["-version"])]),
            Self::Debuggers => each_beneath_usr(&[("gdb", &["--version"]), ("strace", &["-V"])]),
            Self::Procps => each_beneath_usr(&[("ps", &["--version"])]),
            Self::Pager => each_beneath_usr(&[("less", &["--version"])]),
            Self::Systemd => runs("systemd-analyze", &["--version"]),
            Self::Faketime => each_beneath_usr(&[("faketime", &["-f", "+1d", "true"])]),
            Self::Subids => each_beneath_usr(&[("which", &["newuidmap", "newgidmap"])]),
            Self::Openssl => each_beneath_usr(&[("openssl", &["version"])]),
            Self::Nginx => each_beneath_usr(&[("nginx", &["-v"])]).or_else(|| {
                let module = Path::new("/usr/lib/nginx/modules/ngx_http_js_module.so");
                (!module.exists()).then(|| format!("no {}", module.display()))
            }),
            Self::Tinyproxy => each_beneath_usr(&[("tinyproxy", &["-v"])]),
            Self::Promtool => each_beneath_usr(&[("promtool", &["--version"])]),
            Self::Groff => runs("groff", &["--version"]),
            Self::Shellcheck => runs("shellcheck", &["--version"]),
            Self::Vm => {
                word_in("/proc/cmdline", "nexus.vm").map(|_| "make test-vm runs it in a machine of its own".to_owned())
            }
        }
    }
}

/// The Debian root directory for tests, where [`Need::Rootfs`] is met: `NEXUS_TEST_ROOTFS`, or the one in the cache folder.
#[must_use]
pub fn test_rootfs() -> PathBuf {
    named("NEXUS_TEST_ROOTFS").unwrap_or_else(|| cache().join("nexus-test-rootfs"))
}

/// What podman works with in tests: a store and a configuration of their own, where [`Need::Podman`] is met.
#[derive(Clone, Debug)]
pub struct Containers {
    folder: PathBuf,
}

impl Containers {
    /// The image that is there: a Debian without git and curl.
    pub const IMAGE: &str = "localhost/nexus-test:latest";

    /// Those that `tools/test-image.sh` makes.
    #[must_use]
    pub fn of_tests() -> Self {
        Self { folder: cache().join("nexus-test-containers") }
    }

    /// The variables by which podman finds them.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        vec![
            ("CONTAINERS_CONF".to_owned(), file("containers.conf")),
            ("CONTAINERS_STORAGE_CONF".to_owned(), file("storage.conf")),
            ("HOME".to_owned(), "/root".to_owned()),
            ("PATH".to_owned(), SANDBOX_PATH.to_owned()),
        ]
    }

    /// A `docker` in a folder of this name in `dir`, which takes Docker's command line and runs its containers by podman.
    ///
    /// # Panics
    /// It cannot be written.
    #[must_use]
    pub fn docker_in(&self, dir: &Path) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = dir.join("docker-bin");
        std::fs::create_dir_all(&folder).unwrap();
        let program = folder.join("docker");
        std::fs::write(&program, include_str!("docker.py")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    /// podman, ready to be asked something.
    #[must_use]
    pub fn podman(&self) -> Command {
        let mut command = Command::new("podman");
        command.envs(self.environment());
        command
    }
}

fn named(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn cache() -> PathBuf {
    named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache"))).unwrap_or_default()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where sandboxes look for programs: what a user has in a folder of their own is not there.
const SANDBOX_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why one of the programs does not run to a good end from where sandboxes look for it.
fn each_beneath_usr(programs: &[(&str, &[&str])]) -> Option<String> {
    programs.iter().find_map(|(program, arguments)| {
        ended(program, Command::new(program).args(*arguments).env("PATH", SANDBOX_PATH))
    })
}

/// Why the program does not run to a good end.
fn runs(program: &str, arguments: &[&str]) -> Option<String> {
    ended(program, Command::new(program).args(arguments))
}

fn ended(program: &str, command: &mut Command) -> Option<String> {
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            Some(format!("{program}: {}: {}", output.status, text.lines().next().unwrap_or_default()))
        }
        Err(error) => Some(format!("{program}: {error}")),
    }
}

fn writable_controller(folders: &[&str]) -> Option<String> {
    folders.iter().find_map(|folder| {
        let tasks = Path::new(folder).join("cgroup.procs");
        std::fs::File::options().append(true).open(&tasks).err().map(|e| format!("{}: {e}", tasks.display()))
    })
}

fn cgroup_v2() -> Option<String> {
    let file = "/sys/fs/cgroup/cgroup.controllers";
    match std::fs::read_to_string(file) {
        Ok(text) if text.contains("memory") && text.contains("pids") => writable_controller(&["/sys/fs/cgroup"]),
        Ok(text) => Some(format!("{file} names {:?}", text.trim())),
        Err(error) => Some(format!("{file}: {error}")),
    }
}

/// The list of security modules, or, where that is not mounted, whether the kernel has the system call.
fn landlock() -> Option<String> {
    let missing = word_in("/sys/kernel/security/lsm", "landlock")?;
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    (!symbols.contains("sys_landlock_create_ruleset")).then_some(missing)
}

fn word_in(file: &str, word: &str) -> Option<String> {
    match std::fs::read_to_string(file) {
        Ok(text) if text.split([',', ' ', '\n']).any(|w| w == word) => None,
        Ok(text) => Some(format!("{file} names {:?}", text.trim())),
        Err(error) => Some(format!("{file}: {error}")),
    }
}

/// Whether a list as in `NEXUS_REQUIRE` insists on the need.
#[must_use]
pub fn insists(list: &str, need: Need) -> bool {
    list.split([',', ' ']).map(str::trim).any(|word| word.eq_ignore_ascii_case(need.word()) || word == "all")
}

/// Whether the need is met. Not met, it prints why, or panics where `NEXUS_REQUIRE` insists.
#[track_caller]
#[must_use]
pub fn met(need: Need) -> bool {
    match judge(need, need.missing(), &std::env::var("NEXUS_REQUIRE").unwrap_or_default()) {
        None => true,
        Some(skipped) => {
            eprintln!("{skipped}");
            false
        }
    }
}

/// The line of a test that is skipped; `None` where nothing is missing.
#[track_caller]
fn judge(need: Need, missing: Option<String>, insist: &str) -> Option<String> {
    let why = missing?;
    assert!(!insists(insist, need), "NEXUS_REQUIRE insists on {}, but {why}", need.word());
    Some(format!("SKIPPED: needs {} ({why})", need.word()))
}

/// Ends the test here, aloud, unless the machine has all of the named [`Need`]s: `require!(Root, Bwrap);`.
#[macro_export]
macro_rules! require {
    ($($need:ident),+ $(,)?) => {
        $(
            if !$crate::require::met($crate::require::Need::$need) {
                return;
            }
        )+
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_names_needs_by_word() {
        assert!(insists("userns,podman", Need::Podman));
        assert!(insists("userns, PODMAN", Need::Podman));
        assert!(insists("all", Need::Kvm));
        assert!(!insists("userns,podman", Need::Bwrap));
        assert!(!insists("", Need::Bwrap));
        let words: std::collections::HashSet<&str> = Need::ALL.iter().map(|need| need.word()).collect();
        assert_eq!(words.len(), Need::ALL.len());
    }

    #[test]
    fn what_is_there_is_met_and_what_is_not_is_skipped() {
        assert_eq!(judge(Need::Kvm, None, "all"), None);
        let skipped = judge(Need::Kvm, Some("not here".to_owned()), "bwrap");
        assert_eq!(skipped.as_deref(), Some("SKIPPED: needs kvm (not here)"));
        assert_eq!(runs("true", &[]), None);
        assert!(runs("false", &[]).is_some_and(|why| why.starts_with("false: exit status: 1")));
        assert!(runs("/nonexistent/program", &[]).is_some());
    }

    #[test]
    #[should_panic(expected = "NEXUS_REQUIRE insists on kvm, but not here")]
    fn what_is_insisted_on_fails() {
        drop(judge(Need::Kvm, Some("not here".to_owned()), "bwrap,kvm"));
    }

    #[test]
    fn the_macro_returns_early_only_when_something_is_missing() {
        fn reached(reached: &mut bool) {
            require!(Seccomp);
            *reached = true;
        }
        let mut here = false;
        reached(&mut here);
        assert_eq!(here, Need::Seccomp.missing().is_none());
    }
}
