//! Podman: containers for commands that are trusted with the host's kernel, and with no more of it than a container shows.
//!
//! ```text
//!  nexusd ── podman run ── conmon ── runc ─► nexus-init (PID 1, the facility's uid, no capability) ── the command
//!     └───────── control socket, stdout, stderr: handed through as they are ──────────┘
//! ```
//! The helper gets its plan, and the command its outputs, over descriptors that podman hands through: the command never is
//! an argument, both streams stay apart and byte for byte, and there is no file for them. The end of the control
//! socket ends the helper and with it the container, also where the daemon was killed; what podman keeps of a container that
//! it could not remove is found by its label.
//!
//! Leaves to others: the image, which podman has or fetches; the host's containers.conf, which stays the operator's.

mod args;
mod explain;
mod limits;
mod podman;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use guest::frame::{Bridge, Frame, Plan};
use sys::beneath::Beneath;
use sys::spawn::{Image, Program, Resource, Stage};

use crate::armed::{Armed, Around};
use crate::bwrap::host as failed;
use crate::control::Control;
use crate::drivers::Owner;
use crate::engine::Engine;
use crate::outlet::Outlet;
use crate::run::{NetworkPath, PreparedRun, ProxyAttachment, WorkspaceFiles};
use crate::{
    CgroupLayer, CommandLine, DriverSettings, Environment, Health, LaunchError, Layers, LimitLayer, Limits,
    NetworkLayer, RunName, Starts, Workspace, WorkspaceAccess, WorkspaceCwd,
};

use args::Arguments;
use limits::{Ceilings, Own};
use podman::{Facts, Found, Podman};

/// This driver's name.
pub(crate) const NAME: &str = "container";

/// How long a container may take to start: a store that others use is locked for whole seconds.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The same where its image is to be fetched before.
const FETCHED_WITHIN: Duration = Duration::from_secs(15 * 60);

/// How long the trial's command may take.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// Most processes that there may be, where /proc does not say (proc_sys_kernel(5), pid_max).
const PID_MAX: u64 = 32_768;

/// `container.*` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerSettings {
    /// podman: a path, or a name to look up in the daemon's search path.
    pub program: PathBuf,
    /// The image.
    pub image: String,
    /// Whether it may be fetched.
    pub pull: ImagePull,
    /// Whether containers have a network of their own.
    pub network: ContainerNetwork,
    /// The operator's further arguments.
    pub run_args: Vec<String>,
    /// What podman needs of the daemon's environment: `HOME`, `XDG_RUNTIME_DIR` and the like.
    pub environment: Vec<(String, String)>,
}

/// Whether an image may be fetched (podman-run(1), `--pull`).
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
    /// As podman has it.
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
pub enum ContainerNetwork {
    /// The host's: the proxy is asked for by variables, and nothing keeps a command from going around it.
    Host,
    /// None but the proxy.
    Isolated,
}

/// The driver.
#[derive(Debug)]
pub(crate) struct Container {
    settings: ContainerSettings,
    podman: Podman,
    owner: Owner,
    /// [`args::LABEL`] of this daemon's containers.
    label: PathBuf,
    /// The helper, as a file that podman can mount.
    helper: PathBuf,
    known: Mutex<Option<Known>>,
    /// The image that a container was tried of.
    tried: Mutex<Option<String>>,
    starts: Starts,
    /// Containers whose end was not orderly.
    stale: Stale,
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
    /// It ended as it should: podman has removed it.
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
                "{} is not found: sudo apt install -y podman, or take trusted out of supported_sandbox_profiles",
                container.program.display()
            ));
        };
        let variables = container.environment.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
        let environment =
            variables.collect::<Result<_, _>>().map_err(|error| format!("podman's environment: {error}"))?;
        let helper = own_dir.join("nexus-init");
        write_helper(&helper).map_err(|error| format!("cannot write {}: {error}", helper.display()))?;
        Ok(Self {
            podman: Podman { program, environment },
            settings: container,
            owner,
            label: settings.runtime_dir.clone(),
            helper,
            known: Mutex::new(None),
            tried: Mutex::new(None),
            starts: settings.starts,
            stale: Stale::default(),
        })
    }

    /// Looks at podman and the image anew, and removes what is left of runs that did not end as they should.
    pub(crate) async fn health(&self, engine: &Engine) -> Health {
        let mut details = BTreeMap::from([
            ("program".to_owned(), self.podman.program.display().to_string()),
            ("image".to_owned(), self.settings.image.clone()),
        ]);
        let (version, reason) = match self.look(engine).await {
            Ok(known) => {
                details.insert("rootless".to_owned(), known.facts.rootless.to_string());
                if let Some(image) = &known.image {
                    details.insert("digest".to_owned(), image.digest.clone());
                }
                (format!("podman version {}", known.facts.version), None)
            }
            Err(reason) => (engine.version_of(&self.podman.program).await, Some(reason)),
        };
        Health { healthy: reason.is_none(), version, reason, details }
    }

    async fn look(&self, engine: &Engine) -> Result<Known, String> {
        let earlier = self.known.lock().unwrap_or_else(PoisonError::into_inner).take();
        // What the host can do stays; which image the name means may change.
        let facts = match earlier {
            Some(known) => known.facts,
            None => {
                let facts = self.podman.facts(engine).await?;
                self.note_leftovers(engine).await?;
                facts
            }
        };
        self.sweep(engine).await;
        let image = match (self.podman.image(engine, &self.settings.image).await, self.settings.pull) {
            (Ok(image), _) => Some(image),
            (Err(error), ImagePull::Never) => return Err(error),
            (Err(_), ImagePull::Missing | ImagePull::Always) => None,
        };
        let known = Known { facts, image };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
        if let Some(image) = &known.image
            && self.is_new(image)
        {
            self.trial(engine).await?;
            *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = Some(image.id.clone());
        }
        Ok(known)
    }

    /// Whether a container of this image has not been tried yet. A single command is its own trial.
    fn is_new(&self, image: &Found) -> bool {
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        self.starts == Starts::Many && tried.as_ref() != Some(&image.id)
    }

    /// Runs a real container with the arguments of every other, which has nothing but loopback.
    async fn trial(&self, engine: &Engine) -> Result<(), String> {
        let place = engine.trial_workspace().map_err(|error| error.to_string())?;
        let output = sys::pipe::pipe().map_err(|error| error.to_string())?;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let run = PreparedRun {
            name: RunName::parse(&engine.trial_name()).map_err(|error| text(&error))?,
            command: CommandLine::new("/bin/sh", "exit 0").map_err(|error| text(&error))?,
            cwd: WorkspaceCwd::default(),
            environment: Environment::default(),
            workspace: Workspace { host_dir: place, access: WorkspaceAccess::ReadOnly, files: WorkspaceFiles::Its },
            network: NetworkPath::Isolated,
            limits: Limits::default(),
            stdin: None,
            stdout: output.write.try_clone().map_err(|error| text(&error))?,
            stderr: output.write,
            timeout: TRIAL_TIMEOUT,
        };
        let armed = self.arm(engine, run).map_err(|error| text(&error))?;
        let mut handle = armed.start(engine.spawner()).await.map_err(|error| text(&error))?;
        handle.ready().await.map_err(|error| text(&error))?;
        handle.release().map_err(|error| text(&error))?;
        let (_keep, stop) = tokio::sync::watch::channel(None);
        let exit = handle.wait(stop).await;
        if exit.code == 0 {
            return Ok(());
        }
        let mut said = String::new();
        // Whatever could not be read does not change the verdict.
        std::io::Read::read_to_string(&mut std::fs::File::from(output.read), &mut said).unwrap_or(0);
        Err(format!("the trial container ended with code {} ({:?}): {}", exit.code, exit.ended, said.trim()))
    }

    /// What daemons that are gone have left: nobody else uses this label, and the daemon is one of a kind in its folder.
    async fn note_leftovers(&self, engine: &Engine) -> Result<(), String> {
        let left = self.podman.labelled(engine, &self.label).await?;
        if !left.is_empty() {
            tracing::info!(containers = left.len(), "containers of an earlier nexusd are removed");
        }
        self.stale.lock().unwrap_or_else(PoisonError::into_inner).extend(left);
        Ok(())
    }

    /// Removes what is left. What cannot be removed now is tried again at the next look.
    async fn sweep(&self, engine: &Engine) {
        let stale = std::mem::take(&mut *self.stale.lock().unwrap_or_else(PoisonError::into_inner));
        if stale.is_empty() {
            return;
        }
        if let Err(error) = self.podman.remove(engine, &stale).await {
            tracing::warn!(containers = stale.join(" "), error, "containers that are left could not be removed");
            self.stale.lock().unwrap_or_else(PoisonError::into_inner).extend(stale);
        }
    }

    /// Puts a run together.
    pub(crate) fn arm(&self, engine: &Engine, run: PreparedRun) -> Result<Armed, LaunchError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(Known { facts, image }) = known else {
            let reason = "podman has not been looked at yet".to_owned();
            return Err(LaunchError::Unavailable { driver: NAME, reason });
        };
        let unsupported = |reason: String| LaunchError::Unsupported { driver: NAME, reason };
        if run.workspace.files == WorkspaceFiles::TheDaemons {
            return Err(unsupported("a facility of the daemon's own is not for containers".to_owned()));
        }
        let frame = run.plan(run.cwd.inside(), &[]);
        let (ceilings, limits) = Ceilings::of(&run.limits, &facts, own_limits())?;
        let route = Route::new(run.network)?;
        let workspace = Beneath::open(&run.workspace.host_dir).map_err(failed("the facility"))?;
        workspace
            .dir(run.cwd.relative())
            .map_err(|error| LaunchError::Cwd { cwd: run.cwd.to_string(), reason: error.to_string() })?;
        crate::bwrap::check_selected(&workspace, &run.workspace.access, self.owner, !facts.rootless)?;
        let name = format!("nexus-{}", run.name.as_str());
        let (image_ref, pull) = self.image_of_run(image.as_ref());
        let argv = argv(&Arguments {
            program: &self.podman.program,
            name: &name,
            label: &self.label,
            helper: &self.helper,
            image: image_ref,
            pull,
            network: route.kind,
            workspace: &run.workspace.host_dir,
            access: &run.workspace.access,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rootless: facts.rootless,
            selinux: facts.selinux,
            input: run.stdin.is_some(),
            ceilings: &ceilings,
            run_args: &self.settings.run_args,
        })?;
        let pair = sys::fdpass::socket_pair().map_err(failed("a socket pair"))?;
        let diagnostics = engine.diagnostics()?;
        let again = diagnostics.write.try_clone().map_err(failed("a descriptor"))?;
        self.own_pipes(&facts, [&run.stdout, &run.stderr])?;
        let program = Program {
            image: Image::Path(sys::mount::c_path(&self.podman.program).map_err(failed("podman"))?),
            argv,
            env: self.podman.environment.clone(),
            // conmon leaves a file where it works when memory ran out.
            stages: vec![Stage::NewSession, Stage::WorkingDirectory(engine.own_dir_fd()?), Stage::DieWithParent],
            // The order is that of `guest::fd`.
            fds: vec![
                run.stdin.map_or_else(|| engine.null(), Ok)?,
                diagnostics.write,
                again,
                pair.theirs,
                run.stdout,
                run.stderr,
            ],
        };
        let layers = self.layers(facts, &route, limits, image.clone());
        let mut control = Control::new(pair.ours).map_err(failed("the control socket"))?;
        control.send(&Frame::Plan(Plan { bridge: route.bridge, ..frame }));
        let around = Around {
            control,
            diagnostics: diagnostics.read,
            outlet: route.outlet,
            group: None,
            layers,
            timeout: run.timeout,
            explain: explain::explain,
            ready_within: if pull == ImagePull::Never { READY_WITHIN } else { FETCHED_WITHIN },
            trace: Some(Trace { name, stale: Arc::clone(&self.stale) }),
        };
        Ok(Armed::new(program, around))
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
            seccomp: true,
            no_new_privs: true,
            landlock_abi: None,
            uid: self.owner.uid,
            separate_uid: !facts.rootless,
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
    fn own_pipes(&self, facts: &Facts, pipes: [&std::os::fd::OwnedFd; 2]) -> Result<(), LaunchError> {
        if facts.rootless {
            return Ok(());
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(self.owner.uid), rustix::fs::Gid::from_raw(self.owner.gid));
        pipes.into_iter().try_for_each(|pipe| {
            rustix::fs::fchown(pipe, Some(uid), Some(gid)).map_err(|errno| failed("an output pipe")(errno.into()))
        })
    }
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
    words.collect::<Result<_, _>>().map_err(|error| failed("an argument of podman")(error.into()))
}

/// The helper as a file that a container's user may execute.
fn write_helper(path: &Path) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o755).open(path)?;
    file.write_all(guest::HELPER)?;
    // Whatever the daemon's umask keeps to itself.
    file.set_permissions(std::fs::Permissions::from_mode(0o755))
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
