//! One directive, from its lease to its report, in a straight line:
//!
//! ```text
//! admit ─▶ occupy ─▶ prepare ─▶ arm ─▶ start ─▶ release ─▶ wait ─▶ collect ─▶ ship ─▶ finished
//!   │         │         │        │       │                  ▲        (the sandbox is set up while
//!   └─────────┴─────────┴────────┴───────┴── Ended ─────────┘         `started` is in flight)
//! ```
//!
//! Every way out becomes one [`Ended`], and [`carry_out`] reports it in one place. Beside the line run the
//! heartbeats ([`keep`]), the shipping of the log ([`crate::logs`]) and the egress proxy ([`network`]).
//! `nexusd run` goes down the same line with another [`Reporter`].

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use conduits::{DirectiveId, DirectiveSpec, LogStream, NetMode, SandboxProfile};
use jiff::Timestamp;
use sandbox::{
    Armed, CommandLine, EndedBy, Exit, PreparedRun, RunHandle, RunName, StopReason, Workspace, WorkspaceFiles,
};
use serde_json::Value;
use tracing::{debug, info};

pub mod admit;
mod artifacts;
pub mod collect;
pub mod disk;
pub mod ended;
mod environment;
pub mod fs_access;
pub mod git;
pub mod keep;
pub mod lease;
pub mod network;
pub mod prepare;
pub mod report;
pub mod stop;
mod summary;

use admit::Admitted;
use disk::DiskGuard;
use ended::Ended;
use network::{Network, ProxyAddress};
use report::{Begun, Reporter};
use stop::StopSwitch;

use crate::engine::{Engine, driver};
use crate::facility::Occupied;
use crate::logs::Logs;

/// How long output is still read after the command has ended: only the host driver can leave somebody behind who
/// holds the pipe.
const DRAIN: Duration = Duration::from_secs(2);

/// How long the end is held back for chunks that the mothership has not acknowledged while it answers.
pub const SHIP_WITHIN: Duration = Duration::from_secs(60);

/// A directive as it was handed over.
#[derive(Debug)]
pub struct Order {
    /// Which one.
    pub id: DirectiveId,
    /// Its specification as it came, not yet read: a bad one becomes a refusal.
    pub spec: Value,
    /// Works in this folder instead of a facility's (`nexusd run --facility`).
    pub folder: Option<PathBuf>,
    /// The command's standard input; without one it reads nothing (`nexusd run` has one).
    pub input: Option<OwnedFd>,
    /// When it was handed over.
    pub received: Instant,
}

/// Where the time of a directive went.
#[derive(Debug, Default, Clone, Copy)]
struct Times {
    start: Duration,
    run: Duration,
    ship: Duration,
}

/// Carries one directive to its end and reports it. Never fails: whatever happens is in the report.
pub async fn carry_out(engine: &Engine, order: Order, reporter: &Reporter, stop: &StopSwitch) {
    let mut times = Times::default();
    let line = async {
        match place(engine, &order, stop).await {
            Ok((admitted, occupied)) => {
                let logs = reporter.open_logs(engine, &order.id, Some((&admitted, &occupied)));
                let ended = run(engine, &order, &admitted, &occupied, reporter, &logs, stop, &mut times).await;
                let profile = admitted.spec.sandbox_profile;
                // The facility stays occupied until the end is reported.
                report(engine, &order, profile, ended, reporter, &logs, stop, times).await;
            }
            Err(unplaced) => {
                let logs = reporter.open_logs(engine, &order.id, None);
                let ended = unplaced.end(reporter, &logs, stop).await;
                report(engine, &order, asked_profile(&order.spec), ended, reporter, &logs, stop, times).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = line => {}
        // Heartbeats go on until the report is made; losing the lease turns the switch, which ends the line.
        never = reporter.keep(stop) => match never {},
    }
}

/// The profile that a specification asks for, as far as it says so: one that is refused is counted under it, too.
fn asked_profile(spec: &Value) -> SandboxProfile {
    let asked = spec.get("sandbox_profile").and_then(Value::as_str);
    SandboxProfile::ALL
        .iter()
        .copied()
        .find(|profile| Some(profile.as_str()) == asked)
        .unwrap_or(SandboxProfile::Untrusted)
}

/// A directive that never got as far as a sandbox.
enum Unplaced {
    Refused { ended_by: &'static str, why: String },
    Stopped(StopReason),
}

impl Unplaced {
    async fn end(self, reporter: &Reporter, logs: &Logs, stop: &StopSwitch) -> Ended {
        match self {
            Self::Refused { ended_by, why } => refuse(reporter, logs, stop, ended_by, &why).await,
            Self::Stopped(reason) => Ended::stopped_before_the_run(reason),
        }
    }
}

/// Admits the directive and takes its facility.
async fn place(engine: &Engine, order: &Order, stop: &StopSwitch) -> Result<(Admitted, Occupied), Unplaced> {
    let refused = |ended_by, why: &dyn std::fmt::Display| Unplaced::Refused { ended_by, why: why.to_string() };
    let spec = DirectiveSpec::from_value(&order.spec).map_err(|error| refused("refused", &error))?;
    if spec.directive_id != order.id {
        return Err(refused(
            "refused",
            &format!("directive_id {} is not the id of the lease, {}", spec.directive_id, order.id),
        ));
    }
    let admitted = admit::admit(spec, &engine.facts()).map_err(|refusal| refused("refused", &refusal))?;
    if let Some(folder) = &order.folder {
        return Ok((admitted, Occupied::folder(folder).map_err(|error| refused("facility", &error))?));
    }
    tokio::select! {
        biased;
        occupied = engine.facilities.occupy(&admitted.spec.facility.id, admitted.spec.sandbox_profile) => {
            Ok((admitted, occupied.map_err(|error| refused("facility", &error))?))
        }
        reason = stop.stopped() => Err(Unplaced::Stopped(reason)),
    }
}

/// What a command in a container with the host's network is told.
const SOFT_NETWORK: &str = "[egress] this container has the host's network: its proxy is asked for by the environment, and nothing \
                            keeps a command from going around it (container.network: isolated does)";

/// What a process of the host is told, whose directive names what it may reach.
const NO_NETWORK: &str =
    "[egress] a process of the host has the host's network: nothing keeps it to capabilities.net.allow";

/// Everything between admission and the end of the command.
#[expect(clippy::too_many_arguments, reason = "the line is where everything comes together")]
async fn run(
    engine: &Engine,
    order: &Order,
    admitted: &Admitted,
    occupied: &Occupied,
    reporter: &Reporter,
    logs: &Logs,
    stop: &StopSwitch,
    times: &mut Times,
) -> Ended {
    let mut begun = None;
    if prepare::needed(admitted, occupied) {
        // The clone works in the folder that the sandbox is going to mount: nothing can be set up beside it.
        if let Some(ended) = reporter.started(summary::before_launch(engine, admitted), stop).await.no_go() {
            return ended;
        }
        begun = Some(Begun::Go);
        if let Err(error) = prepare::prepare(engine, &order.id, admitted, occupied, logs, stop).await {
            logs.notice(LogStream::Stderr, &format!("[prepare] failed: {error}")).await;
            return match stop.reason() {
                Some(reason) => Ended::stopped_before_the_run(reason),
                None => Ended::before_the_run("prepare"),
            };
        }
    }
    let before = collect::snapshot_before(engine, &order.id, admitted, occupied, stop).await;
    let disk = match DiskGuard::begin(engine, admitted, occupied).await {
        Ok(disk) => disk,
        Err(why) if begun.is_some() => return failed(logs, "engine", &why).await,
        Err(why) => return refuse(reporter, logs, stop, "engine", &why).await,
    };

    let (armed, network) = match arm(engine, order, admitted, occupied, logs) {
        Ok(armed) => armed,
        Err(error) if begun.is_some() => return failed(logs, "engine", error.as_ref()).await,
        Err(error) => return refuse(reporter, logs, stop, "engine", error.as_ref()).await,
    };
    debug!(after_ms = millis(order.received.elapsed()), "armed");
    let summary = summary::of_armed(engine, admitted, armed.layers(), disk.kept_by());
    let started = async {
        match begun {
            Some(begun) => begun,
            None => reporter.started(summary, stop).await,
        }
    };
    let ready = async {
        let mut handle = engine.drivers.start(armed).await?;
        handle.ready().await.map(|()| handle)
    };
    let (begun, ready) = tokio::join!(started, ready);
    debug!(after_ms = millis(order.received.elapsed()), "started and ready");
    let mut handle = match (begun.no_go(), ready) {
        (Some(ended), ready) => {
            drop(ready.map(RunHandle::abandon));
            network.close().await;
            return ended;
        }
        (None, Err(error)) => {
            network.close().await;
            return failed(logs, "engine", &error).await;
        }
        (None, Ok(handle)) => handle,
    };
    told_of_network(engine, admitted, network.address(), logs).await;
    times.start = order.received.elapsed();
    engine.metrics.directive_started(admitted.driver, times.start);

    if let Err(error) = handle.release() {
        network.close().await;
        return failed(logs, "engine", &error).await;
    }
    let (exit, breach) = wait(handle, &disk, logs, stop).await;
    // What is collected from here on is not the command's.
    drop(disk);
    debug!(after_ms = millis(order.received.elapsed()), "command ended");
    times.run = exit.usage.wall;
    engine.metrics.oom_kills.inc_by(exit.oom_kills.unwrap_or(0));
    explain(logs, admitted, &exit, breach.as_deref()).await;
    if !logs.end_of_output(DRAIN).await.complete {
        logs.notice(
            LogStream::Stderr,
            "[nexusd] a process that the command left behind still holds its output: not waited for",
        )
        .await;
    }
    let egress = network.close().await;
    let mut ended = Ended::after_the_run(&exit, egress);
    ended.soft_network = !engine.enforces_network(admitted.driver);
    ended.collected = collect::collect(engine, &order.id, admitted, occupied, before, logs, stop).await;
    ended
}

/// A proxy that the command is only asked to use: that is said, and its credential kept out of the log. So is a list of
/// destinations that nothing keeps it to. Not before the start is accepted: the mothership takes no log of what has not started.
async fn told_of_network(engine: &Engine, admitted: &Admitted, proxy: Option<&ProxyAddress>, logs: &Logs) {
    if let Some(proxy) = proxy {
        logs.hide(&proxy.secret).await;
        logs.notice(LogStream::Stderr, SOFT_NETWORK).await;
    } else if admitted.spec.net.mode == NetMode::Allowlist && !engine.enforces_network(admitted.driver) {
        logs.notice(LogStream::Stderr, NO_NETWORK).await;
    }
}

/// Waits for the command's end, and brings it about when the disk or the log does not allow it to go on; the text then says
/// why.
async fn wait(mut handle: RunHandle, disk: &DiskGuard, logs: &Logs, stop: &StopSwitch) -> (Exit, Option<String>) {
    let census = handle.census();
    let mut ended = std::pin::pin!(handle.wait(stop.watch()));
    let (breach, reason, its_own) = tokio::select! {
        biased;
        exit = &mut ended => return match disk.last_look().await {
            Some(breach) => (too_far(exit), Some(breach.to_string())),
            None => (exit, None),
        },
        breach = disk.breach(census) => (breach.to_string(), StopReason::DiskFull, breach.is_its_own()),
        trouble = logs.trouble() => (format!("ended: {trouble}"), stop::reason_of(&trouble), false),
    };
    stop.stop(reason);
    let exit = ended.await;
    (if its_own { too_far(exit) } else { exit }, Some(breach))
}

/// A command that took more than it may is no success, nor a failure of its own, also when it ended before it was stopped.
fn too_far(exit: Exit) -> Exit {
    match exit.ended {
        EndedBy::Exited | EndedBy::Signal(_) => {
            let ended = EndedBy::Stopped(StopReason::DiskFull);
            let code = sandbox::exit_code(&ended, Some(exit.code));
            Exit { ended, code, ..exit }
        }
        _ => exit,
    }
}

/// Puts the run together, with the way out that it is to have.
fn arm(
    engine: &Engine,
    order: &Order,
    admitted: &Admitted,
    occupied: &Occupied,
    logs: &Logs,
) -> Result<(Armed, Network), Box<dyn std::error::Error + Send + Sync>> {
    let spec = &admitted.spec;
    let (network, path) = Network::open(engine, &order.id, admitted, logs)?;
    let run = PreparedRun {
        name: RunName::parse(order.id.as_str())?,
        command: CommandLine::new(&spec.shell, spec.command.as_bytes())?,
        cwd: admitted.cwd.clone(),
        environment: environment::of(engine, &order.id, admitted, occupied, network.address())?,
        workspace: Workspace {
            host_dir: occupied.path.clone(),
            access: admitted.access.clone(),
            files: WorkspaceFiles::Its,
        },
        network: path,
        limits: admitted.limits,
        stdin: order.input.as_ref().map(OwnedFd::try_clone).transpose()?,
        stdout: logs.pipe(LogStream::Stdout)?,
        stderr: logs.pipe(LogStream::Stderr)?,
        timeout: admitted.timeout,
    };
    let armed = engine.drivers.arm(driver(admitted.driver), run)?;
    Ok((armed, network))
}

/// Refused before the run: `started`, a line on stderr that says why, and the end.
async fn refuse(
    reporter: &Reporter,
    logs: &Logs,
    stop: &StopSwitch,
    ended_by: &'static str,
    why: &(dyn std::fmt::Display + Sync),
) -> Ended {
    match reporter.started(summary::of_refused(), stop).await {
        Begun::Go => failed(logs, ended_by, why).await,
        Begun::Stopped(reason) => Ended::stopped_before_the_run(reason),
        Begun::Refused(refusal) => {
            let reason = Some(format!("{why}; and the mothership refused the start: {refusal}"));
            Ended { reason, ..Ended::before_the_run(ended_by) }
        }
    }
}

/// Failed after `started` was accepted: the line and the end.
async fn failed(logs: &Logs, ended_by: &'static str, why: &(dyn std::fmt::Display + Sync)) -> Ended {
    logs.notice(LogStream::Stderr, &format!("[nexusd] {why}")).await;
    Ended::before_the_run(ended_by)
}

/// Says on stderr what the exit code alone does not.
async fn explain(logs: &Logs, admitted: &Admitted, exit: &Exit, breach: Option<&str>) {
    let line = match &exit.ended {
        EndedBy::Exited | EndedBy::Signal(_) => None,
        EndedBy::TimedOut => Some(format!("ended by its timeout of {} s", admitted.timeout.as_secs_f64())),
        EndedBy::OutOfMemory => Some("ended by its memory limit".to_owned()),
        EndedBy::Engine(why) => Some(format!("the sandbox failed: {why}")),
        EndedBy::Stopped(StopReason::Cancel) => Some("canceled".to_owned()),
        EndedBy::Stopped(StopReason::Shutdown) => Some("canceled: nexusd shuts down".to_owned()),
        EndedBy::Stopped(StopReason::LeaseLost) => Some("killed: the lease is lost".to_owned()),
        EndedBy::Stopped(StopReason::DiskFull) => Some(breach.unwrap_or("ended: the disk is full").to_owned()),
        EndedBy::Stopped(StopReason::LogFailed) => Some(breach.unwrap_or("ended: its log is refused").to_owned()),
    };
    for line in line.iter().chain(&exit.note) {
        logs.notice(LogStream::Stderr, &format!("[nexusd] {line}")).await;
    }
}

/// Ships what is left of the log and hands the end over, in this order.
#[expect(clippy::too_many_arguments, reason = "the end of the line is where everything comes together")]
async fn report(
    engine: &Engine,
    order: &Order,
    profile: SandboxProfile,
    ended: Ended,
    reporter: &Reporter,
    logs: &Logs,
    stop: &StopSwitch,
    mut times: Times,
) {
    let ended_at = Instant::now();
    let log = logs.shipped(SHIP_WITHIN).await;
    debug!(after_ms = millis(order.received.elapsed()), "log shipped");
    let (status, exit_code, ended_by) = (ended.status, ended.exit_code, ended.ended_by);
    let finished = ended.into_report(&log, Timestamp::now());
    reporter.finished(finished, stop).await;
    times.ship = ended_at.elapsed();
    engine.metrics.directive_ended(status, engine.config.driver_of(profile), profile, order.received.elapsed());
    info!(
        profile = profile.as_str(),
        status = status.as_str(),
        exit_code,
        ended_by = ended_by.unwrap_or("exit"),
        start_ms = millis(times.start),
        run_ms = millis(times.run),
        ship_ms = millis(times.ship),
        total_ms = millis(order.received.elapsed()),
        stdout_bytes = log.stream(LogStream::Stdout).seen,
        stderr_bytes = log.stream(LogStream::Stderr).seen,
        "directive ended"
    );
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_directive_is_counted_under_what_it_asked_for() {
        use serde_json::json;
        for (spec, profile) in [
            (json!({ "sandbox_profile": "trusted" }), SandboxProfile::Trusted),
            (json!({ "sandbox_profile": "host", "command": 7 }), SandboxProfile::Host),
            (json!({}), SandboxProfile::Untrusted),
            (json!({ "sandbox_profile": "none such" }), SandboxProfile::Untrusted),
            (json!("nonsense"), SandboxProfile::Untrusted),
        ] {
            assert_eq!(asked_profile(&spec), profile, "{spec}");
        }
    }
}
