//! Where an attack takes place: drivers in one of the four settings, and around them what an attacker would like to have.
//!
//! Each scene has a thread of its own, in a mount namespace of its own: what is planted in the host's `/etc`, `/home` and
//! `/run` is there for this thread and what it starts, and for nobody else. Beneath an ordinary user's daemon the
//! thread gives up root for good before it makes the drivers; whatever they start inherits that, as from a process of
//! that user.

use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{Gid, Uid};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use rustix::thread::UnshareFlags;
use sandbox::{Driver, LaunchError, Limits, RootSource};
use testkit::require::Need;

use super::attack::{Layer, Verdict};
use super::program;
use crate::bed::{Bed, Outcome, Run};

/// An ordinary user: nobody, whom every system has.
const ORDINARY: u32 = 65_534;

/// The address of the host outside of its loopback, where a scene has a network (RFC 5737, RFC 3849).
pub(crate) const OUTSIDE: &str = "192.0.2.77";
const OUTSIDE_SIX: &str = "2001:db8::77";

/// What root left in the facility: the attack program, a device node for everybody, a setuid program, and one with file
/// capabilities.
const LEFT: [&str; 4] = ["attack", "node-for-all", "setuid", "capable"];

/// The value of `security.capability` (linux/capability.h, revision 2) that gives CAP_NET_RAW, effective at once.
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Under what an attack runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// A distribution's root directory instead of the host's `/usr`.
    pub(crate) rootfs: bool,
    /// An ordinary user's daemon instead of root's.
    pub(crate) ordinary: bool,
}

impl Setting {
    pub(crate) const ALL: [Self; 4] = [
        Self { rootfs: false, ordinary: false },
        Self { rootfs: true, ordinary: false },
        Self { rootfs: false, ordinary: true },
        Self { rootfs: true, ordinary: true },
    ];

    /// Those that this machine has.
    pub(crate) fn here() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|setting| !(setting.rootfs && in_the_machine()))
    }

    pub(crate) fn name(self) -> &'static str {
        match (self.rootfs, self.ordinary) {
            (false, false) => "/usr, root's daemon",
            (true, false) => "rootfs, root's daemon",
            (false, true) => "/usr, a user's daemon",
            (true, true) => "rootfs, a user's daemon",
        }
    }
}

/// Whether this is the machine in the machine.
pub(crate) fn in_the_machine() -> bool {
    Need::Vm.missing().is_none()
}

/// The stage, the victim, and what is planted around.
pub(crate) struct Scene {
    pub(crate) setting: Setting,
    pub(crate) bed: Bed,
    pub(crate) planted: Planted,
    pub(crate) victim: Victim,
    runtime: tokio::runtime::Runtime,
}

/// What is made before root is given up.
pub(crate) struct Planted {
    dir: PathBuf,
    /// Tells what has a name beyond this scene from that of others.
    unique: String,
    unix: Vec<UnixListener>,
    pub(crate) network: Option<Network>,
}

/// Who listens outside.
pub(crate) struct Network {
    pub(crate) tcp: Vec<TcpListener>,
    pub(crate) udp: Vec<UdpSocket>,
    port: u16,
}

/// A process of the host with the sandbox's uid.
pub(crate) struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Victim {
    pub(crate) fn has_ended(&self) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    }
}

/// Does something in a scene, on a thread of its own.
pub(crate) fn within<T: Send>(
    setting: Setting,
    network: bool,
    left_out: &[Layer],
    act: impl FnOnce(&Scene) -> T + Send,
) -> T {
    // Not the scene's own to remove: by then it may have given up the right to.
    let dir = tempfile::tempdir().unwrap();
    let work = || act(&Scene::new(dir.path(), setting, network, left_out));
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Scene {
    fn new(dir: &Path, setting: Setting, network: bool, left_out: &[Layer]) -> Self {
        let planted = Planted::new(dir, setting, network);
        if setting.ordinary {
            become_ordinary();
        }
        let bed = Bed::with(|settings| {
            if setting.rootfs {
                settings.root = RootSource::Rootfs(planted.rootfs());
            }
            knock_out(settings, left_out);
        });
        let scene = Self {
            setting,
            victim: victim(&bed),
            bed,
            planted,
            runtime: tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap(),
        };
        scene.furnish();
        scene
    }

    /// What an attacker would like to have, beside the facility and in it.
    fn furnish(&self) {
        let dir = self.bed.dir.path();
        mode(dir, 0o755);
        std::fs::write(dir.join("key"), "a key of the daemon's\n").unwrap();
        mode(&dir.join("key"), 0o600);
        for name in ["beside", "other"] {
            std::fs::create_dir(dir.join(name)).unwrap();
            mode(&dir.join(name), 0o777);
            std::fs::write(dir.join(name).join("file"), "untouched\n").unwrap();
            mode(&dir.join(name).join("file"), 0o666);
        }
        let facility = self.bed.facility();
        // For whatever uid the attack has when that layer is left out.
        mode(&facility, 0o777);
        for name in LEFT {
            std::fs::rename(self.planted.dir.join(name), facility.join(name)).unwrap();
        }
        std::fs::write(facility.join("own"), "own\n").unwrap();
        mode(&facility.join("own"), 0o666);
        std::fs::write(facility.join("closed"), "of the daemon's user alone\n").unwrap();
        mode(&facility.join("closed"), 0o600);
        symlink(dir.join("key"), facility.join("link-to-key")).unwrap();
        symlink("/workspace/own", facility.join("link-to-own")).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.bed.dir.path().join(name)
    }

    /// Fills in what only this scene knows.
    pub(crate) fn word(&self, word: &str) -> String {
        let owner = self.bed.drivers.owner(Driver::Bwrap);
        let port = self.planted.network.as_ref().map_or(0, |network| network.port);
        word.replace("{dir}", &self.bed.dir.path().display().to_string())
            .replace("{pid}", &self.victim.0.id().to_string())
            .replace("{uid}", &owner.uid.to_string())
            .replace("{port}", &port.to_string())
            .replace("{four}", OUTSIDE)
            .replace("{six}", OUTSIDE_SIX)
            .replace("{unique}", &self.planted.unique)
    }

    /// The attack, in the sandbox.
    pub(crate) fn inside(&self, words: &[&str], limits: Limits) -> Verdict {
        let words: Vec<String> = words.iter().map(|word| self.word(word)).collect();
        let run = Run { shell: "/workspace/attack".into(), limits, ..Run::sh(&words.join("\n")) };
        self.judged(run)
    }

    /// What came of a run.
    pub(crate) fn judged(&self, run: Run) -> Verdict {
        self.runtime.block_on(async {
            let (keep, stop) = tokio::sync::watch::channel(None);
            let (mut handle, stdout, stderr) = match self.bed.start(run).await {
                Ok(started) => started,
                Err(LaunchError::Limit { limit, .. }) => return Verdict::Held(format!("refused: {limit}")),
                Err(error) => panic!("{error}"),
            };
            handle.ready().await.unwrap();
            handle.release().unwrap();
            let exit = handle.wait(stop).await;
            drop(keep);
            let (stdout, stderr) = (crate::bed::text(stdout).await, crate::bed::text(stderr).await);
            verdict(&Outcome { exit, stdout, stderr })
        })
    }

    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// The same outside, where the workspace is the facility: as the sandbox's user, or as the one that the thread has.
    pub(crate) fn outside(&self, words: &[&str], as_sandbox_user: bool) -> Verdict {
        let mut command = Command::new(self.bed.facility().join("attack"));
        let here = self.bed.facility().display().to_string();
        command
            .args(words.iter().map(|word| self.word(word).replace("/workspace", &here)))
            .stdin(Stdio::null())
            .current_dir(self.bed.facility());
        if as_sandbox_user {
            as_owner(&mut command, &self.bed);
        }
        let output = command.output().unwrap();
        line_of(&String::from_utf8_lossy(&output.stdout))
            .unwrap_or_else(|| panic!("{words:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

impl Planted {
    fn new(dir: &Path, setting: Setting, network: bool) -> Self {
        let mut flags = UnshareFlags::NEWNS;
        if network {
            flags |= UnshareFlags::NEWNET;
        }
        #[allow(deprecated, reason = "the call is unsound for FILES alone, which is not asked for")]
        rustix::thread::unshare(flags).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mode(dir, 0o755);
        for name in ["attack", "attack-for-a-daemon"] {
            link_or_copy(&program::compiled(), &dir.join(name));
        }
        let uid = if setting.ordinary { ORDINARY } else { 0 };
        for place in ["/home", "/run", "/var/opt", "/etc/opt"] {
            mount("tmpfs", place, "tmpfs", MountFlags::NOSUID, c"mode=0755").unwrap();
        }
        std::fs::write("/home/file", "somebody's\n").unwrap();
        std::fs::write("/var/opt/file", "a service's\n").unwrap();
        let users = std::fs::read_to_string("/etc/passwd").unwrap();
        std::fs::write(dir.join("passwd"), format!("{users}somebody:x:4321:4321::/home:/bin/sh\n")).unwrap();
        mount_bind(dir.join("passwd"), "/etc/passwd").unwrap();
        std::fs::write("/etc/opt/nexusd.yaml", "server_url: https://example\n").unwrap();
        std::fs::write("/etc/opt/nexusd.key", "a private key\n").unwrap();
        mode(Path::new("/etc/opt/nexusd.key"), 0o600);
        chown("/etc/opt/nexusd.key", Some(uid), Some(uid)).unwrap();
        let sockets = ["/run/user/bus", "/run/podman/podman.sock", "/run/docker.sock", "/run/systemd/private"];
        let unix = sockets.map(|path| {
            std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
            let listener = UnixListener::bind(path).unwrap();
            mode(Path::new(path), 0o777);
            listener
        });
        let unique = unique();
        let abstract_name = SocketAddr::from_abstract_name(format!("nexus-escape-{unique}")).unwrap();
        let unix: Vec<_> = unix.into_iter().chain([UnixListener::bind_addr(&abstract_name).unwrap()]).collect();
        for listener in &unix {
            listener.set_nonblocking(true).unwrap();
        }
        node(Path::new("/run/nodes/disk"));
        node(&dir.join("node-for-all"));
        for name in ["setuid", "capable"] {
            std::fs::copy(program::compiled(), dir.join(name)).unwrap();
            mode(&dir.join(name), if name == "setuid" { 0o4755 } else { 0o755 });
        }
        let capable = dir.join("capable");
        rustix::fs::setxattr(&capable, "security.capability", &NET_RAW, rustix::fs::XattrFlags::empty()).unwrap();
        link_or_copy(&std::env::current_exe().unwrap(), &dir.join("it"));
        chown(dir, Some(uid), Some(uid)).unwrap();
        if setting.rootfs {
            let place = dir.join("rootfs");
            std::fs::create_dir(&place).unwrap();
            mount_bind(testkit::require::test_rootfs(), &place).unwrap();
        }
        Self { dir: dir.to_owned(), unique, unix, network: network.then(Network::new) }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// This test's own program, where everybody may execute it.
    pub(crate) fn test_program(&self) -> PathBuf {
        self.dir.join("it")
    }

    /// Whether anybody has connected to one of the host's Unix sockets.
    pub(crate) fn unix_reached(&self) -> bool {
        self.unix.iter().filter(|listener| listener.accept().is_ok()).count() > 0
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }
}

impl Network {
    /// Addresses on the loopback of the thread's own network, and who listens there.
    fn new() -> Self {
        let batch = [
            "link set lo up",
            &format!("addr add {OUTSIDE}/32 dev lo"),
            &format!("addr add {OUTSIDE_SIX}/128 dev lo nodad"),
            "link add outside type veth peer name inside",
        ];
        let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut ip.stdin.take().unwrap(), batch.join("\n").as_bytes()).unwrap();
        assert!(ip.wait().unwrap().success());
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647").unwrap();
        let tcp = [TcpListener::bind("0.0.0.0:0").unwrap()];
        let port = tcp[0].local_addr().unwrap().port();
        let six = TcpListener::bind(format!("[{OUTSIDE_SIX}]:{port}")).unwrap();
        let loopback = TcpListener::bind(format!("[::1]:{port}")).unwrap();
        let tcp: Vec<_> = tcp.into_iter().chain([six, loopback]).collect();
        let places = [(OUTSIDE.to_owned(), port), (OUTSIDE.to_owned(), 53), ("127.0.0.53".to_owned(), 53)];
        let mut udp: Vec<_> = places.map(|place| UdpSocket::bind(place).unwrap()).into();
        udp.push(UdpSocket::bind((OUTSIDE_SIX, port)).unwrap());
        for listener in &tcp {
            listener.set_nonblocking(true).unwrap();
        }
        for socket in &udp {
            socket.set_nonblocking(true).unwrap();
        }
        Self { tcp, udp, port }
    }

    /// Whether anything has come from inside.
    pub(crate) fn reached(&self) -> bool {
        let mut buffer = [0; 64];
        let connected = self.tcp.iter().filter(|listener| listener.accept().is_ok()).count();
        connected + self.udp.iter().filter(|socket| socket.recv(&mut buffer).is_ok()).count() > 0
    }
}

/// A name that no other scene has.
pub(crate) fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The line in which the attack program says what came of it.
fn line_of(stdout: &str) -> Option<Verdict> {
    let lines = stdout.lines().rev();
    lines.filter_map(|line| line.split_once(' ')).find_map(|(word, how)| match word {
        "held" => Some(Verdict::Held(how.to_owned())),
        "broken" => Some(Verdict::Broken(how.to_owned())),
        "absent" => Some(Verdict::Absent(how.to_owned())),
        _ => None,
    })
}

fn verdict(outcome: &Outcome) -> Verdict {
    if let Some(verdict) = line_of(&outcome.stdout) {
        return verdict;
    }
    assert!(outcome.exit.code > 124, "no verdict: {:?} {} {}", outcome.exit, outcome.stdout, outcome.stderr);
    Verdict::Held(format!("it was ended: {:?}", outcome.exit.ended))
}

fn victim(bed: &Bed) -> Victim {
    let mut command = Command::new("sleep");
    as_owner(command.arg("60"), bed);
    Victim(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
}

fn as_owner(command: &mut Command, bed: &Bed) {
    if sys::user::effective_uid() == 0 {
        let owner = bed.drivers.owner(Driver::Bwrap);
        command.uid(owner.uid).gid(owner.gid);
    }
}

/// Gives up root, for this thread and all that it starts.
fn become_ordinary() {
    let (uid, gid) = (Uid::from_raw(ORDINARY), Gid::from_raw(ORDINARY));
    rustix::thread::set_thread_groups(&[]).unwrap();
    rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
}

/// The same file where it can be: one that is being written is not executed (ETXTBSY), and while another thread starts a
/// process, that one has the descriptor.
fn link_or_copy(from: &Path, to: &Path) {
    std::fs::hard_link(from, to).or_else(|_| std::fs::copy(from, to).map(drop)).unwrap();
}

/// A device node that everybody may use: zeroes without end, whatever its name.
fn node(path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (kind, zero) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 5));
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, rustix::fs::Mode::from_raw_mode(0o666), zero).unwrap();
    mode(path, 0o666);
}

pub(crate) fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[cfg(feature = "knockout")]
fn knock_out(settings: &mut sandbox::DriverSettings, left_out: &[Layer]) {
    settings.knockouts = left_out.iter().filter_map(|layer| layer.knockout()).collect();
    assert_eq!(settings.knockouts.len(), left_out.len());
}

#[cfg(not(feature = "knockout"))]
fn knock_out(_: &mut sandbox::DriverSettings, left_out: &[Layer]) {
    assert!(left_out.is_empty(), "layers are left out by the feature `knockout` alone");
}
