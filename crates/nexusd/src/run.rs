//! `nexusd run`: one command through the very line, driver, proxy and limits that a directive gets, without a control
//! plane. Its output is the terminal's, its exit code the process's.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use conduits::{DirectiveId, DriverKind, FinishedRequest, FinishedStatus, NetMode, SandboxProfile};
use sandbox::StopReason;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::cli::RunArgs;
use crate::config::Config;
use crate::directive::report::{Reporter, TerminalDesk};
use crate::directive::stop::StopSwitch;
use crate::directive::{Order, carry_out};
use crate::engine::{Engine, EngineError, Surroundings};
use crate::facility::FacilityError;
use crate::logs::{LogTrouble, Logs};
use crate::observe::metrics::WorkSample;
use crate::rootfs::progress::Audience;
use crate::rootfs::{self, RootfsError, Wanted};
use crate::signals::{Leave, Signals};

pub(crate) mod facility;
mod scratch;
mod stdin;

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
    /// Another run works in the folder.
    #[error("--facility {path} is in use by nexusd, process {holder}; wait for it, or name another folder", path = path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// Its process id, as it wrote it down.
        holder: String,
    },
    /// The folder is a facility of a daemon, which cannot be had.
    #[error(transparent)]
    Facility(#[from] FacilityError),
    /// Longer than the operator allows.
    #[error("--timeout {} s is above limits.max_timeout ({} s) of the configuration", asked.as_secs_f64(), max.as_secs_f64())]
    Timeout {
        /// As asked.
        asked: Duration,
        /// As allowed.
        max: Duration,
    },
    /// Standard input cannot be handed on.
    #[error("cannot hand standard input on: {0}")]
    Input(io::Error),
    /// Whoever read standard output does no more.
    #[error("nobody reads standard output any more")]
    ReaderGone,
    /// The folder is one that sandboxed runs write to.
    #[error(
        "--facility {path} belongs to the sandbox's user: what an untrusted run left there could steer profile `{profile}`; name \
         another folder, or set facility.allow_privilege_mix",
        path = path.display(),
        profile = profile.as_str()
    )]
    PrivilegeMix {
        /// The folder.
        path: PathBuf,
        /// What was asked for.
        profile: SandboxProfile,
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

/// How a run ended.
#[derive(Debug)]
pub struct RunEnd {
    /// What a mothership would have been told.
    pub report: FinishedRequest,
    /// The exit code of `nexusd run`: the command's own, or 128 and the signal's number where a signal to nexusd ended it.
    pub code: i32,
}

/// Runs the command and says how it ended; `temp` is where folders for the time of the run are made. `file` tells whether
/// `config` was read from a file: without one, the person at the terminal is the operator, and what he asks for is what he
/// allows.
///
/// # Errors
/// The run could not be set up; a command that fails is no error.
pub async fn run(
    args: RunArgs,
    config: Config,
    file: bool,
    around: Surroundings,
    temp: &Path,
) -> Result<RunEnd, RunError> {
    // First of all: what is asked for from here on waits to be heard.
    let mut signals = Signals::new().map_err(RunError::Signals)?;
    let scratch = Scratch::in_memory(temp)?;
    let config = for_one_run(config, &args, file, scratch.path())?;
    if rootfs::is_wanted(&config) {
        // A person is shown how far it is; a script gets the command's output alone.
        let audience = Some(Audience::of_stderr()).filter(|audience| *audience != Audience::Lines);
        rootfs::command::ensure_here(&Wanted::of(&config), audience, &mut signals).await?;
    }
    let counters = Arc::default();
    let metrics = Arc::new(crate::engine::metrics(&counters, Arc::new(WorkSample::default)));
    let give_up = CancellationToken::new();
    let engine = Engine::new(config, around, metrics, counters, &give_up).await?;
    if engine.config.driver_of(args.profile) == DriverKind::Container {
        // The image is named by what podman has now.
        engine.check_health().await;
    }
    let folder = facility::take(&engine, args.facility.as_deref(), temp, args.profile).await?;
    let (input, pump) = stdin::open(io::stdin().as_fd()).map_err(RunError::Input)?.unzip();
    let id = DirectiveId::generate();
    let order =
        Order { spec: spec_of(&id, &args), id, folder: Some(folder.path.clone()), input, received: Instant::now() };
    let logs = output(&engine, args.json).map_err(RunError::Terminal)?;
    let reporter = Reporter::Terminal(TerminalDesk::new(logs.clone()));
    let asked = {
        let stop = StopSwitch::default();
        let pump = async {
            if let Some(pump) = pump {
                pump.run().await;
            }
        };
        until_its_end(carry_out(&engine, order, &reporter, &stop), pump, &stop, &mut signals).await
    };
    give_up.cancel();
    engine.tasks.close();
    engine.tasks.wait().await;
    engine.drivers.tidy().await;
    match logs.summary().trouble {
        Some(LogTrouble::ReaderGone) => return Err(RunError::ReaderGone),
        Some(trouble) => return Err(RunError::Output(trouble)),
        None => {}
    }
    let Reporter::Terminal(desk) = reporter else { return Err(RunError::NoEnd) };
    let report = desk.into_end().ok_or(RunError::NoEnd)?;
    let code = code_of(&report, asked);
    Ok(RunEnd { report, code })
}

/// The configuration of a run of its own: the operator's limits, programs, roots and rules of egress stay; its state is
/// the run's, and gone with it.
fn for_one_run(mut config: Config, args: &RunArgs, file: bool, state: &Path) -> Result<Config, RunError> {
    config.work_dir = state.to_owned();
    config.bwrap.proxy_socket_dir = state.join("proxy");
    config.supported_sandbox_profiles = vec![args.profile];
    if !file {
        config.operator.net_ceiling = NetMode::Unrestricted;
        config.min_free_bytes = 0;
    }
    if let Some(asked) = args.timeout {
        let max = config.limits.max_timeout;
        if file && asked > max {
            return Err(RunError::Timeout { asked, max });
        }
        config.limits.default_timeout = asked;
        config.limits.max_timeout = max.max(asked);
    }
    Ok(config)
}

/// Where the command's output goes: to nexusd's own streams; with `--json`, where standard output is for the report alone,
/// all of it to standard error.
fn output(engine: &Engine, json: bool) -> io::Result<Logs> {
    let stderr = io::stderr().as_fd().try_clone_to_owned()?;
    let stdout = if json { stderr.try_clone()? } else { io::stdout().as_fd().try_clone_to_owned()? };
    Ok(Logs::to_files(stdout, stderr, &engine.tasks, CancellationToken::new()))
}

/// Carries the line to its end, fed by the pump. The first signal asks the command to end and gives it its grace, the
/// second ends it at once. Says which the first one was.
async fn until_its_end(
    line: impl Future<Output = ()>,
    pump: impl Future<Output = ()>,
    stop: &StopSwitch,
    signals: &mut Signals,
) -> Option<Leave> {
    let mut asked = None;
    let mut line = std::pin::pin!(line);
    let mut fed = std::pin::pin!(async {
        pump.await;
        std::future::pending::<()>().await;
    });
    loop {
        tokio::select! {
            biased;
            () = &mut line => return asked,
            leave = signals.leave() => match asked {
                None => {
                    asked = Some(leave);
                    stop.stop(StopReason::Cancel);
                }
                // No grace is left: see `grace_of`.
                Some(_) => stop.stop(StopReason::LeaseLost),
            },
            () = &mut fed => {}
        }
    }
}

/// A run that a signal ended exits as a program that the signal ended would: whoever reads only the code is not told of a
/// success.
fn code_of(report: &FinishedRequest, asked: Option<Leave>) -> i32 {
    match asked {
        Some(leave) if report.status == FinishedStatus::Canceled => 128 + leave.number(),
        _ => report.exit_code.unwrap_or(1),
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
