//! Podman and Docker: containers for commands that are trusted with the host's kernel, and with no more of it than a container
//! shows.
//!
//! ```text
//!  nexusd ── podman run ── conmon ── runc ─► nexus-init (PID 1, the facility's uid, no capability) ── the command
//!     └───────── control socket, stdout, stderr: handed through as they are ──────────┘
//!
//!  nexusd ── docker run ─► dockerd ── containerd ── runc ─► nexus-init ── the command
//!     ▲└── control socket, stdout, stderr, by a socket in a folder ───┘│
//!     └────────────────── connects, once ──────────────────────────────┘
//! ```
//! The helper gets its plan, and the command its outputs, over descriptors that podman hands through and that the helper
//! comes for where the runtime is Docker: the command never is an argument, both streams stay apart and byte for byte, and
//! there is no file for them. The end of the control socket ends the helper and with it the container, also where the
//! daemon was killed; what the runtime keeps of a container that it could not remove is found by its label.
//!
//! Leaves to others: the image, which the runtime has or fetches; its configuration, which stays the operator's.

mod args;
mod cli;
mod explain;
mod helper;
mod limits;
mod look;
mod meeting;
mod runtime;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use guest::frame::{Bridge, Frame, Plan};
use sys::spawn::{Image, Program, Resource, Stage};

use crate::armed::{Armed, Around};
use crate::bwrap::host as failed;
use crate::control::Control;
use crate::drivers::Owner;
use crate::engine::Engine;
use crate::outlet::Outlet;
use crate::run::{NetworkPath, PreparedRun, ProxyAttachment, WorkspaceFiles};
use crate::{CgroupLayer, DriverSettings, LaunchError, Layers, LimitLayer, NetworkLayer, Starts};

use args::Arguments;
use cli::Cli;
use helper::Helper;
use limits::{Ceilings, Own};
pub(crate) use meeting::Meeting;
pub use runtime::ContainerRuntime;
use runtime::{Facts, Found};

/// This driver's name.
pub(crate) const NAME: &str = "container";

/// How long a container may take to start: a store that others use is locked for whole seconds.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The same where its image is to be fetched before.
const FETCHED_WITHIN: Duration = Duration::from_secs(15 * 60);

/// Most processes that there may be, where /proc does not say (proc_sys_kernel(5), pid_max).
const PID_MAX: u64 = 32_768;

/// `container.*` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSettings {
    /// What runs containers.
    pub runtime: ContainerRuntime,
    /// Its command: a path, or a name to look up in the daemon's search path.
    pub program: PathBuf,
    /// The image.
    pub image: String,
    /// Whether it may be fetched.
    pub pull: ImagePull,
    /// The operator's further arguments.
    pub run_args: Vec<String>,
    /// What it needs of the daemon's environment: `HOME`, `XDG_RUNTIME_DIR` and the like.
    pub environment: Vec<(String, String)>,
}

/// Whether an image may be fetched (podman-run(1), docker-run(1), `--pull`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImagePull {
    /// It must be there.
    Never,
    /// Where it is not there.
    Missing,
    /// Before every run.
    Always,
}

impl ImagePull {
    /// As both runtimes have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Missing => "missing",
            Self::Always => "always",
        }
    }
}

/// The network of containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContainerNetwork {
    /// The host's: the proxy is asked for by variables, and nothing keeps a command from going around it.
    Host,
    /// None but the proxy.
    Isolated,
}

/// The driver.
#[derive(Debug)]
pub(crate) struct Container {
    settings: ContainerSettings,
    cli: Cli,
    owner: Owner,
    /// [`args::LABEL`] of this daemon's containers.
    label: PathBuf,
    /// The helper, as a file that can be mounted.
    helper: Helper,
    known: Mutex<Option<Known>>,
    /// The image that a container was tried of.
    tried: Mutex<Option<String>>,
    starts: Starts,
    /// Containers whose end was not orderly.
    stale: Stale,
    /// Names the folders where helpers come for their descriptors.
    meetings: AtomicU64,
}

/// What was found at the last look.
#[derive(Clone, Debug)]
struct Known {
    facts: Facts,
    image: Option<Found>,
}

/// Names of containers that may be left.
type Stale = Arc<Mutex<Vec<String>>>;

/// A container that may be left, until it is known to be gone.
#[derive(Debug)]
pub(crate) struct Trace {
    name: String,
    stale: Stale,
}

impl Trace {
    /// It ended as it should: the runtime has removed it.
    pub(crate) fn forget(mut self) {
        self.name.clear();
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            self.stale.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.name));
        }
    }
}

impl Container {
    /// Prepares the driver; the text says why it cannot work here.
    pub(crate) fn prepare(settings: &DriverSettings, owner: Owner, own_dir: &Path) -> Result<Self, String> {
        let container = settings.container.clone()?;
        let Some(program) = crate::bwrap::find_program(&container.program, &settings.search_path) else {
            return Err(format!(
                "{} is not found: {}, or take trusted out of supported_sandbox_profiles",
                container.program.display(),
                container.runtime.installed_by()
            ));
        };
        let variables = container.environment.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
        let environment = variables
            .collect::<Result<_, _>>()
            .map_err(|error| format!("the container engine's environment: {error}"))?;
        let helper = Helper::write(own_dir).map_err(|error| format!("cannot write the helper: {error}"))?;
        Ok(Self {
            cli: Cli { runtime: container.runtime, program, environment },
            settings: container,
            owner,
            label: settings.runtime_dir.clone(),
            helper,
            known: Mutex::new(None),
            tried: Mutex::new(None),
            starts: settings.starts,
            stale: Stale::default(),
            meetings: AtomicU64::new(0),
        })
    }

    /// Puts a run together.
    pub(crate) fn arm(&self, engine: &Engine, run: PreparedRun) -> Result<Armed, LaunchError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Known { facts, image }) = known else {
            let reason = format!("{} has not been looked at yet", self.cli.runtime.as_str());
            return Err(LaunchError::Unavailable { driver: NAME, reason });
        };
        let unsupported = |reason: String| LaunchError::Unsupported { driver: NAME, reason };
        if run.workspace.files == WorkspaceFiles::TheDaemons {
            return Err(unsupported("a facility of the daemon's own is not for containers".to_owned()));
        }
        let frame = run.plan(run.cwd.inside(), &[]);
        let (ceilings, limits) = Ceilings::of(self.cli.runtime, &run.limits, &facts, own_limits())?;
        let (workspace, _) = run.open_workspace()?;
        let route = Route::new(run.network)?;
        crate::bwrap::check_selected(&workspace, &run.workspace.access, self.owner, self.hands_over())?;
        let name = format!("nexus-{}", run.name.as_str());
        let pull = self.image_of_run(image.as_ref()).1;
        let pair = sys::fdpass::socket_pair().map_err(failed("a socket pair"))?;
        let diagnostics = engine.diagnostics()?;
        self.own_pipes([&run.stdout, &run.stderr])?;
        let input = run.stdin.is_some();
        let ways = self.ways(engine, pair.theirs, [run.stdout, run.stderr], run.stdin, diagnostics.write)?;
        let argv = argv(&Arguments {
            runtime: self.cli.runtime,
            program: &self.cli.program,
            name: &name,
            label: &self.label,
            helper: &self.helper.path,
            hosts: &self.helper.hosts,
            image: self.image_of_run(image.as_ref()).0,
            pull,
            network: route.kind,
            workspace: &run.workspace.host_dir,
            access: &run.workspace.access,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rootless: facts.rootless,
            selinux: facts.selinux,
            input,
            meeting: ways.meeting.as_ref().map(Meeting::folder),
            volumes: image.as_ref().map_or(&[], |image| &image.volumes),
            ceilings: &ceilings,
            run_args: &self.settings.run_args,
        })?;
        let program = Program {
            image: Image::Path(sys::mount::c_path(&self.cli.program).map_err(failed("the container engine"))?),
            argv,
            env: self.cli.environment.clone(),
            // conmon leaves a file where it works when memory ran out.
            stages: vec![Stage::NewSession, Stage::WorkingDirectory(engine.own_dir_fd()?), Stage::DieWithParent],
            fds: ways.of_client,
        };
        let layers = self.layers(facts, &route, limits, image);
        let mut control = Control::new(pair.ours).map_err(failed("the control socket"))?;
        let own_network = route.kind == ContainerNetwork::Isolated;
        control.send(&Frame::Plan(Plan { bridge: route.bridge, own_network, ..frame }));
        let around = Around {
            control,
            diagnostics: diagnostics.read,
            outlet: route.outlet,
            group: None,
            layers,
            timeout: run.timeout,
            explain: explain::explainer(self.cli.runtime),
            ready_within: if pull == ImagePull::Never { READY_WITHIN } else { FETCHED_WITHIN },
            meeting: ways.meeting,
            trace: Some(Trace { name, stale: Arc::clone(&self.stale) }),
        };
        Ok(Armed::new(program, around))
    }

    /// How the helper gets its descriptors: by way of the client, or it comes for them.
    fn ways(
        &self,
        engine: &Engine,
        control: OwnedFd,
        outputs: [OwnedFd; 2],
        input: Option<OwnedFd>,
        diagnostics: OwnedFd,
    ) -> Result<Ways, LaunchError> {
        let again = diagnostics.try_clone().map_err(failed("a descriptor"))?;
        let [stdout, stderr] = outputs;
        if self.cli.runtime.hands_through() {
            let input = input.map_or_else(|| engine.null(), Ok)?;
            // The order is that of `guest::fd`.
            let of_client = vec![input, diagnostics, again, control, stdout, stderr];
            return Ok(Ways { of_client, meeting: None });
        }
        let name = format!("meet-{}", self.meetings.fetch_add(1, Ordering::Relaxed));
        let descriptors = [control, stdout, stderr].into_iter().chain(input).collect();
        let meeting = Meeting::open(engine.own_dir(), &name, self.owner, descriptors);
        let meeting = Some(meeting.map_err(failed("a folder for the container's socket"))?);
        Ok(Ways { of_client: vec![engine.null()?, diagnostics, again], meeting })
    }

    /// Whether the facility is another user's than the daemon.
    fn hands_over(&self) -> bool {
        self.owner.uid != sys::user::effective_uid()
    }

    /// By its id where it is there: what the name means may change between the look and the run.
    fn image_of_run<'a>(&'a self, image: Option<&'a Found>) -> (&'a str, ImagePull) {
        match (image, self.settings.pull) {
            (Some(image), ImagePull::Never | ImagePull::Missing) => (&image.id, ImagePull::Never),
            (_, pull) => (&self.settings.image, pull),
        }
    }

    fn layers(&self, facts: Facts, route: &Route, limits: Vec<LimitLayer>, image: Option<Found>) -> Layers {
        Layers {
            driver: NAME,
            namespaces: match route.kind {
                ContainerNetwork::Isolated => vec!["cgroup", "ipc", "mnt", "net", "pid", "uts"],
                ContainerNetwork::Host => vec!["cgroup", "ipc", "mnt", "pid", "uts"],
            },
            seccomp: facts.seccomp,
            no_new_privs: true,
            landlock_abi: None,
            uid: self.owner.uid,
            separate_uid: self.hands_over(),
            cgroup: match facts.cgroup_version {
                2 => CgroupLayer::V2(facts.controllers),
                _ => CgroupLayer::V1(facts.controllers),
            },
            network: route.layer,
            limits,
            image: image.map(|image| image.digest),
        }
    }

    /// The command opens its outputs by name (`/dev/stderr`): the pipe must be its user's.
    fn own_pipes(&self, pipes: [&OwnedFd; 2]) -> Result<(), LaunchError> {
        if !self.hands_over() {
            return Ok(());
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(self.owner.uid), rustix::fs::Gid::from_raw(self.owner.gid));
        pipes.into_iter().try_for_each(|pipe| {
            rustix::fs::fchown(pipe, Some(uid), Some(gid)).map_err(|errno| failed("an output pipe")(errno.into()))
        })
    }
}

/// The descriptors of a run: those that the client is started with, and where the helper comes for the others.
struct Ways {
    of_client: Vec<OwnedFd>,
    meeting: Option<Meeting>,
}

/// How a run's connections reach its proxy.
struct Route {
    kind: ContainerNetwork,
    bridge: Bridge,
    outlet: Option<Outlet>,
    layer: NetworkLayer,
}

impl Route {
    fn new(network: NetworkPath) -> Result<Self, LaunchError> {
        let isolated = |bridge, outlet, layer| Self { kind: ContainerNetwork::Isolated, bridge, outlet, layer };
        match network {
            NetworkPath::HostNetwork => {
                Ok(Self { kind: ContainerNetwork::Host, bridge: Bridge::None, outlet: None, layer: NetworkLayer::Host })
            }
            NetworkPath::Isolated => Ok(isolated(Bridge::None, None, NetworkLayer::Isolated)),
            NetworkPath::Proxied(ProxyAttachment::Listener(sender)) => {
                Ok(isolated(Bridge::Builtin, Some(Outlet::Plain(sender)), NetworkLayer::ProxyListener))
            }
            NetworkPath::Proxied(ProxyAttachment::ListenerWithNames { .. } | ProxyAttachment::Socket { .. }) => {
                Err(LaunchError::Unsupported {
                    driver: NAME,
                    reason: "its proxy listens inside the container, without a name service".to_owned(),
                })
            }
        }
    }
}

fn argv(plan: &Arguments<'_>) -> Result<Vec<CString>, LaunchError> {
    let words = args::arguments(plan).into_iter().map(|word| CString::new(word.into_vec()));
    words.collect::<Result<_, _>>().map_err(|error| failed("an argument of the container engine")(error.into()))
}

/// What the daemon itself is held to.
fn own_limits() -> Own {
    use rustix::process::{Resource as Kind, getrlimit};
    let pid_max = std::fs::read_to_string("/proc/sys/kernel/pid_max").ok();
    let pid_max = pid_max.and_then(|text| text.trim().parse().ok()).unwrap_or(PID_MAX);
    Own {
        nofile: Resource::OpenFiles.ceiling().min(getrlimit(Kind::Nofile).maximum.unwrap_or(u64::MAX)),
        processes: getrlimit(Kind::Nproc).maximum.unwrap_or(u64::MAX).min(pid_max),
    }
}
