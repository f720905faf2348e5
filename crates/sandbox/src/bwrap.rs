//! bubblewrap: namespaces, a system-call filter, a root of its own, and an unprivileged user of the host.
//!
//! A root daemon does not start bubblewrap as root: a user namespace whose inner uid maps to the host's root keeps root's
//! rights over files that the namespace does not cover (`/proc/sys/kernel/core_pattern` can be written from inside such a
//! sandbox). It prepares a mount namespace that holds only what a sandbox is built from, changes to an unprivileged uid
//! there, and then starts bubblewrap.

mod args;
mod explain;
pub(crate) mod health;
mod pad;
mod root;

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use guest::frame::{Bridge, Frame, Plan};
use sys::beneath::Beneath;
use sys::idmap::{self, Ids};
use sys::mount::clone_tree;
use sys::spawn::{Image, Program, Stage};

use crate::armed::{Armed, Around};
use crate::control::Control;
use crate::drivers::Owner;
use crate::engine::Engine;
use crate::knockout::{Knockout, Knockouts};
use crate::limits::Fence;
use crate::outlet::Outlet;
use crate::run::{NetworkPath, PreparedRun, ProxyAttachment, WorkspaceAccess, WorkspaceFiles};
use crate::{DriverSettings, DriversError, LaunchError, Layers, NetworkLayer, READY_TIMEOUT, RootSource, Starts};

use args::{Arguments, Mask, PROXY_SOCKET, Tree};
use pad::Pad;
use root::{LargeEtc, Root};

// Where it is looked for by the other drivers.
pub(crate) use crate::finding::{find_program, host, open_null};

/// This driver's name.
pub(crate) const NAME: &str = "bwrap";

/// Size of /tmp where the run does not say.
const DEFAULT_TMP: u64 = 512 * 1024 * 1024;

/// The only trees that Landlock lets a command write.
const WRITABLE: [&str; 5] = ["/workspace", "/tmp", "/run", "/dev", "/proc"];

/// The driver, with everything that is the same for every run.
#[derive(Debug)]
pub(crate) struct Bwrap {
    program: PathBuf,
    /// What its processes are called.
    name: PathBuf,
    owner: Owner,
    base: Base,
    /// Its root is the host's /usr with an /etc of our own.
    host_usr: bool,
    masks: Vec<Mask>,
    filter: OwnedFd,
    /// By what the daemon's own files are shown as the sandbox's, once that has been asked for.
    mapping: OnceLock<OwnedFd>,
    /// What a test leaves out.
    left_out: Knockouts,
}

/// What sandboxes are built from.
#[derive(Debug)]
enum Base {
    /// A prepared mount namespace, where the daemon is root: the root of the sandboxes lies in its memory.
    Pad(Pad),
    /// The root on the disk, and what bubblewrap mounts on it, for an ordinary user.
    Folder { root: PathBuf, trees: Vec<Tree> },
}

impl Bwrap {
    /// Prepares the driver. The outer error is the operator's mistake; the inner text says why it cannot work here.
    pub(crate) fn prepare(
        settings: &DriverSettings,
        owner: Owner,
        own_dir: &Path,
    ) -> Result<Result<Self, String>, DriversError> {
        let Some(program) = find_program(&settings.bwrap_path, &settings.search_path) else {
            let missing = format!(
                "{} is not found: sudo apt install -y bubblewrap, or set bwrap.bwrap_path",
                settings.bwrap_path.display()
            );
            return Ok(Err(missing));
        };
        let as_root = sys::user::effective_uid() == 0;
        let large = if as_root && settings.starts == Starts::Many { LargeEtc::Copied } else { LargeEtc::Mounted };
        let root = Root::plan(settings, large)?;
        let base = if as_root {
            match Pad::begin(&own_dir.join("pad"), &root, &program)? {
                Ok(pad) => Base::Pad(pad),
                Err(reason) => return Ok(Err(reason)),
            }
        } else {
            let folder = own_dir.join("root");
            let trees = root::place::on_disk(&root, &folder)?;
            Base::Folder { root: folder, trees }
        };
        let left_out = Knockouts::of(settings);
        let masks = args::masks(|path| Path::new(path).exists() && !left_out.has(Knockout::Proc));
        let filter = match sys::seccomp::program() {
            Ok(filter) => filter,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let filter = sys::memfd::sealed("nexus-seccomp", &filter, sys::memfd::Executable::No)
            .map_err(|source| DriversError::Prepare { path: "memfd:nexus-seccomp".into(), source })?;
        let host_usr = settings.root == RootSource::HostUsr;
        Ok(Ok(Self {
            program,
            name: own_dir.join(NAME),
            owner,
            base,
            host_usr,
            masks,
            filter,
            mapping: OnceLock::new(),
            left_out,
        }))
    }

    /// Why sandboxes have nothing to start in, where that is so. What is still being made for them is waited for.
    pub(crate) fn lacks(&self) -> Option<String> {
        match &self.base {
            Base::Pad(pad) => pad.made().err(),
            Base::Folder { .. } => None,
        }
    }

    /// Puts a run together.
    pub(crate) fn arm(&self, engine: &Engine, mut run: PreparedRun) -> Result<Armed, LaunchError> {
        if self.left_out.has(Knockout::Cgroup) {
            run.limits = run.limits.without_cgroup();
        }
        let frame = run.plan(run.cwd.inside(), &WRITABLE);
        let fence = Fence::build(engine, NAME, &run)?;
        let (workspace, _) = run.open_workspace()?;
        let route = Route::new(run.network)?;
        check_selected(&workspace, &run.workspace.access, self.owner, self.separate_uid())?;
        for pipe in [&run.stdout, &run.stderr] {
            self.own_pipe(pipe)?;
        }
        let pair = sys::fdpass::socket_pair().map_err(host("a socket pair"))?;
        let diagnostics = engine.diagnostics()?;
        self.own_pipe(&diagnostics.write)?;
        let mut stages = vec![Stage::NewSession];
        stages.extend(fence.stages);
        if let Base::Pad(pad) = &self.base {
            let workspace = self.workspace_tree(&workspace, run.workspace.files)?;
            let pad = pad.made().map_err(|reason| LaunchError::Unavailable { driver: NAME, reason })?;
            stages.extend(self.pad_stages(pad, workspace, route.socket.as_deref())?);
        }
        stages.push(Stage::DieWithParent);
        let tmp_bytes = run.limits.tmp_bytes.map_or(DEFAULT_TMP, |limit| limit.value);
        let argv = self.argv(&run.workspace.host_dir, &run.workspace.access, route.socket.as_deref(), tmp_bytes)?;
        let again = diagnostics.write.try_clone().map_err(host("a descriptor"))?;
        let filter = sys::memfd::reopen(&self.filter).map_err(host("/proc/self/fd"))?;
        let program = Program {
            image: Image::Path(sys::mount::c_path(&self.program).map_err(host("bwrap"))?),
            argv,
            env: vec![c"PATH=/usr/bin:/bin".to_owned(), c"LC_ALL=C".to_owned()],
            stages,
            // The order is that of `guest::fd`, and of args::SECCOMP_FD.
            fds: vec![
                run.stdin.map_or_else(|| engine.null(), Ok)?,
                diagnostics.write,
                again,
                pair.theirs,
                run.stdout,
                run.stderr,
                engine.image()?,
                filter,
            ],
        };
        let mut control = Control::new(pair.ours).map_err(host("the control socket"))?;
        control.send(&Frame::Plan(Plan { bridge: route.bridge, processes: fence.processes, ..frame }));
        let layers = Layers {
            driver: NAME,
            namespaces: vec!["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"],
            seccomp: true,
            no_new_privs: true,
            landlock_abi: engine.facts().landlock_abi,
            uid: self.owner.uid,
            separate_uid: self.separate_uid(),
            cgroup: fence.layer,
            network: route.layer,
            limits: fence.limits,
            image: None,
        };
        let (group, timeout) = (fence.group, run.timeout);
        let around = Around {
            control,
            diagnostics: diagnostics.read,
            outlet: route.outlet,
            group,
            layers,
            timeout,
            explain: explain::explain,
            ready_within: READY_TIMEOUT,
            meeting: None,
            trace: None,
        };
        Ok(Armed::new(program, around))
    }

    /// The version line, such as `bubblewrap 0.8.0`.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Whether sandboxes run as another user than the daemon.
    fn separate_uid(&self) -> bool {
        matches!(self.base, Base::Pad(_))
    }

    /// The sandbox's user opens its outputs by name (`/dev/stderr`): the pipe must be its own.
    fn own_pipe(&self, pipe: &OwnedFd) -> Result<(), LaunchError> {
        if !self.separate_uid() {
            return Ok(());
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(self.owner.uid), rustix::fs::Gid::from_raw(self.owner.gid));
        rustix::fs::fchown(pipe, Some(uid), Some(gid)).map_err(|errno| host("an output pipe")(errno.into()))
    }

    /// The workspace as it is mounted, for a sandbox of another user.
    fn workspace_tree(&self, workspace: &Beneath, files: WorkspaceFiles) -> Result<OwnedFd, LaunchError> {
        let tree = clone_tree(workspace.fd()).map_err(host("the facility"))?;
        if files == WorkspaceFiles::TheDaemons {
            let unsupported = |source: std::io::Error| LaunchError::Unsupported {
                driver: NAME,
                reason: format!(
                    "the facility is the daemon's own, and its file system cannot lend it to the sandbox's user ({source}): \
                     that takes ext4, XFS or btrfs"
                ),
            };
            idmap::map(&tree, self.mapping().map_err(host("a user namespace"))?).map_err(unsupported)?;
        }
        Ok(tree)
    }

    fn mapping(&self) -> std::io::Result<&OwnedFd> {
        if let Some(mapping) = self.mapping.get() {
            return Ok(mapping);
        }
        let own = Ids { uid: sys::user::effective_uid(), gid: sys::user::effective_gid() };
        let made = idmap::mapping(own, Ids { uid: self.owner.uid, gid: self.owner.gid })?;
        Ok(self.mapping.get_or_init(|| made))
    }

    fn pad_stages(
        &self,
        pad: Arc<OwnedFd>,
        workspace: OwnedFd,
        socket: Option<&Path>,
    ) -> Result<Vec<Stage>, LaunchError> {
        let attach = |tree: OwnedFd, at: &std::ffi::CStr| Stage::Attach { tree, at: at.to_owned() };
        let mut stages = vec![Stage::EnterMountNamespace(pad), Stage::OwnMountNamespace];
        stages.push(attach(workspace, c"/pad/workspace"));
        if let Some(path) = socket {
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty())
                .map_err(|errno| host("the proxy's socket")(errno.into()))?;
            let (uid, gid) = (rustix::fs::Uid::from_raw(self.owner.uid), rustix::fs::Gid::from_raw(self.owner.gid));
            rustix::fs::chownat(&fd, c"", Some(uid), Some(gid), rustix::fs::AtFlags::EMPTY_PATH)
                .map_err(|errno| host("the proxy's socket")(errno.into()))?;
            stages.push(attach(clone_tree(fd.as_fd()).map_err(host("the proxy's socket"))?, c"/pad/proxy.sock"));
        }
        if !self.left_out.has(Knockout::Uid) {
            stages.push(Stage::ChangeUser { uid: self.owner.uid, gid: self.owner.gid });
        }
        Ok(stages)
    }

    fn argv(
        &self,
        workspace: &Path,
        access: &WorkspaceAccess,
        socket: Option<&Path>,
        tmp_bytes: u64,
    ) -> Result<Vec<CString>, LaunchError> {
        let (root, trees, workspace, socket) = match &self.base {
            Base::Pad(_) => {
                (Path::new(pad::ROOT), &[][..], Path::new(pad::WORKSPACE), socket.map(|_| Path::new(pad::SOCKET)))
            }
            Base::Folder { root, trees } => (root.as_path(), &trees[..], workspace, socket),
        };
        let plan = Arguments {
            name: &self.name,
            root,
            trees,
            masks: &self.masks,
            workspace,
            access,
            proxy_socket: socket,
            tmp_bytes,
            left_out: &self.left_out,
        };
        let strings = args::arguments(&plan).into_iter().map(|arg| CString::new(arg.into_vec()));
        strings.collect::<Result<_, _>>().map_err(|error| host("an argument of bwrap")(error.into()))
    }
}

/// How a run's connections reach its proxy.
struct Route {
    bridge: Bridge,
    /// Who takes the sandbox's sockets.
    outlet: Option<Outlet>,
    /// The proxy's socket on the host, which is mounted into the sandbox.
    socket: Option<PathBuf>,
    layer: NetworkLayer,
}

impl Route {
    fn new(network: NetworkPath) -> Result<Self, LaunchError> {
        let none = Self { bridge: Bridge::None, outlet: None, socket: None, layer: NetworkLayer::Isolated };
        match network {
            NetworkPath::Proxied(ProxyAttachment::Listener(sender)) => {
                let outlet = Some(Outlet::Plain(sender));
                Ok(Self { bridge: Bridge::Builtin, outlet, layer: NetworkLayer::ProxyListener, ..none })
            }
            NetworkPath::Proxied(ProxyAttachment::ListenerWithNames { to, wanted }) => {
                let outlet = Some(Outlet::WithNames { to, wanted, making: None });
                Ok(Self { bridge: Bridge::BuiltinWithNetwork, outlet, layer: NetworkLayer::ProxyListener, ..none })
            }
            NetworkPath::Proxied(ProxyAttachment::Socket { path, socat }) => {
                let program = socat.into_os_string().into_vec();
                let bridge = Bridge::Socat { program, socket: PROXY_SOCKET.into() };
                Ok(Self { bridge, socket: Some(path), layer: NetworkLayer::ProxySocat, ..none })
            }
            NetworkPath::Isolated => Ok(none),
            NetworkPath::HostNetwork => Err(LaunchError::Unsupported {
                driver: NAME,
                reason: "a sandbox never gets the host's network".to_owned(),
            }),
        }
    }
}

/// Selected paths are taken without links: nobody but the facility's own runs writes there, one at a time. One that may
/// be written and does not exist is made; one that may only be read and does not exist is an error.
pub(crate) fn check_selected(
    workspace: &Beneath,
    access: &WorkspaceAccess,
    owner: Owner,
    hand_over: bool,
) -> Result<(), LaunchError> {
    let WorkspaceAccess::Only(selected) = access else { return Ok(()) };
    for selection in selected {
        let refused = |error: sys::beneath::BeneathError| LaunchError::Unsupported {
            driver: NAME,
            reason: format!("capabilities.fs selects {}: {error}", selection.path),
        };
        if selection.writable
            && workspace.dir(selection.path.relative()).is_err()
            && workspace.read(selection.path.relative()).is_err()
        {
            let made = workspace.make_dirs(selection.path.relative(), 0o755).map_err(refused)?;
            if hand_over {
                sys::owner::hand_over(made.fd(), owner.uid, owner.gid).map_err(host("a selected directory"))?;
            }
        }
        workspace.plain(selection.path.relative()).map_err(refused)?;
    }
    Ok(())
}
