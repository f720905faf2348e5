//! `nexusd run`: one command through the very line, driver, proxy and limits that a directive gets, without a control
//! plane. Its output is the terminal's, its exit code the process's.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use conduits::{DirectiveId, FinishedRequest, NetMode, SandboxProfile};
use sandbox::{Driver, StopReason};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli::RunArgs;
use crate::config::Config;
use crate::directive::report::{Reporter, TerminalDesk};
use crate::directive::stop::StopSwitch;
use crate::directive::{Order, carry_out};
use crate::engine::{Engine, EngineError, Surroundings};
use crate::logs::{LogTrouble, Logs};
use crate::rootfs::progress::Audience;
use crate::rootfs::{self, RootfsError, Wanted};
use crate::signals::Signals;

mod scratch;

pub use scratch::Scratch;

/// The one facility that a run of its own has.
const FACILITY: &str = "run";

/// Why the command was not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The folder for the run's own state.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Folder {
        /// What was being done.
        what: &'static str,
        /// To which folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The facility belongs to somebody whose files are not handed over unasked.
    #[error(
        "--facility {path} belongs to uid {owner}, but the sandbox runs as uid {sandbox} and could not write there; nexusd \
         does not give away a folder: name an empty one, run nexusd as an ordinary user who owns it, or chown it to \
         {sandbox} where you mean that",
        path = path.display()
    )]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The sandbox's uid.
        sandbox: u32,
    },
    /// Standard output or standard error is closed.
    #[error("cannot write to standard output or standard error: {0}")]
    Terminal(io::Error),
    /// What the command printed is lost, in part at least.
    #[error(transparent)]
    Output(LogTrouble),
    /// The sandboxes' root.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// Signals cannot be listened to.
    #[error("cannot listen to signals: {0}")]
    Signals(io::Error),
    /// The line ended without an end.
    #[error("the run ended without a result")]
    NoEnd,
}

/// Runs the command and says how it ended; `temp` is where folders for the time of the run are made. `file` tells whether `config` was read from a file: without one, the
/// person at the terminal is the operator, and what he asks for is what he allows.
///
/// # Errors
/// The run could not be set up; a command that fails is no error.
pub async fn run(
    args: RunArgs,
    mut config: Config,
    file: bool,
    around: Surroundings,
    temp: &Path,
) -> Result<FinishedRequest, RunError> {
    let scratch = Scratch::in_memory(temp)?;
    config.work_dir = scratch.path().to_owned();
    config.bwrap.proxy_socket_dir = scratch.path().join("proxy");
    config.supported_sandbox_profiles = vec![args.profile];
    if let Some(timeout) = args.timeout {
        config.limits.default_timeout = timeout;
        config.limits.max_timeout = timeout;
    }
    if !file {
        config.operator.net_ceiling = NetMode::Unrestricted;
        config.min_free_bytes = 0;
    }
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    if rootfs::is_wanted(&config) {
        // A person is shown how far it is; a script gets the command's output alone.
        let audience = Some(Audience::of_stderr()).filter(|audience| *audience != Audience::Lines);
        rootfs::command::ensure_here(&Wanted::of(&config), audience, &mut signals).await?;
    }
    let counters = Arc::default();
    let metrics = Arc::new(crate::engine::metrics(&counters));
    let give_up = CancellationToken::new();
    let engine = Engine::new(config, around, metrics, counters, &give_up).await?;
    // Without a folder of the user's, an empty one of the run's own: on the disk, for it may be filled.
    let own_folder = args.facility.is_none().then(|| Scratch::new(temp)).transpose()?;
    let folder = args.facility.as_deref().or(own_folder.as_ref().map(Scratch::path)).unwrap_or(temp);
    let folder = settle_owner(&engine, folder, args.profile)?;
    let id = DirectiveId::generate();
    let order = Order { spec: spec_of(&id, &args), id, folder: Some(folder), received: Instant::now() };
    let logs = Logs::to_terminal(&engine.tasks, CancellationToken::new()).map_err(RunError::Terminal)?;
    let reporter = Reporter::Terminal(TerminalDesk::new(logs.clone()));
    let stop = StopSwitch::default();
    {
        let mut line = Box::pin(carry_out(&engine, order, &reporter, &stop));
        tokio::select! {
            () = &mut line => {}
            () = async { signals.leave().await; stop.stop(StopReason::Cancel); signals.leave().await; stop.stop(StopReason::LeaseLost) } => line.await,
            () = async { stop.stopped().await; std::future::pending().await } => {}
        }
    }
    give_up.cancel();
    engine.tasks.close();
    engine.tasks.wait().await;
    if let Some(trouble) = logs.summary().trouble {
        return Err(RunError::Output(trouble));
    }
    match reporter {
        Reporter::Terminal(desk) => desk.into_end().ok_or(RunError::NoEnd),
        Reporter::Mothership(_) => Err(RunError::NoEnd),
    }
}

/// The specification that a mothership would have sent.
fn spec_of(id: &DirectiveId, args: &RunArgs) -> Value {
    let mut net = json!({ "mode": args.net.as_str() });
    if args.net == NetMode::Allowlist {
        net["allow"] = args.allow.iter().map(ToString::to_string).collect::<Vec<_>>().into();
    }
    let env: serde_json::Map<String, Value> =
        args.env.iter().map(|(name, value)| (name.as_str().to_owned(), Value::from(value.as_str()))).collect();
    json!({
        "directive_id": id,
        "facility": { "id": FACILITY },
        "sandbox_profile": args.profile.as_str(),
        "command": args.script,
        "capabilities": { "net": net },
        "env": env,
    })
}

/// A folder that the person at the terminal names is never given away: handing over `/` or `/etc` would hand the host
/// to the sandbox's uid. Only an empty one of root's changes its owner, itself alone; everything else is refused with
/// the command that whoever means it can run. Gives the folder's own path, behind links.
fn settle_owner(engine: &Engine, folder: &Path, profile: SandboxProfile) -> Result<PathBuf, RunError> {
    let fail = |what| move |source| RunError::Folder { what, path: folder.to_owned(), source };
    // By descriptor, so that what is looked at is what changes its owner, also behind a link.
    let directory = rustix::fs::OFlags::DIRECTORY.bits().cast_signed();
    let opened = fs::OpenOptions::new().read(true).custom_flags(directory).open(folder);
    let opened = opened.map_err(fail("open --facility"))?;
    let owner = opened.metadata().map_err(fail("read --facility"))?.uid();
    let real = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).map_err(fail("find --facility"))?;
    let sandbox = engine.drivers.owner(Driver::Bwrap);
    let confined = matches!(profile, SandboxProfile::Untrusted | SandboxProfile::Trusted);
    if !confined || owner == sandbox.uid {
        return Ok(real);
    }
    let listing = rustix::fs::Dir::read_from(&opened).map_err(|errno| fail("read --facility")(errno.into()))?;
    let empty = listing.flatten().all(|entry| matches!(entry.file_name().to_bytes(), b"." | b".."));
    if owner != 0 || !empty {
        return Err(RunError::Owner { path: folder.to_owned(), owner, sandbox: sandbox.uid });
    }
    std::os::unix::fs::fchown(&opened, Some(sandbox.uid), Some(sandbox.gid)).map_err(fail("hand over --facility"))?;
    Ok(real)
}
