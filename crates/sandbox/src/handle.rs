//! A run that has been started: its way from set-up over release to its end, and the ladder of its killing.
//!
//! ```text
//!  SIGTERM to all inside ──grace──► SIGKILL to all inside ──1 s──► SIGKILL to the outermost process
//!   (frame to the helper)            (frame to the helper)          (the kernel takes the namespace with it)
//! ```

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use guest::frame::{Ended, Failed, Frame, How, Order, Step};
use sys::cgroup::{Census, Group};
use sys::spawn::Status;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::armed::Around;
use crate::control::Heard;
use crate::exit::CommandStatus;
use crate::process::Running;
use crate::{EndedBy, Exit, Layers, Stop, Usage, container, darwinautomation, exit_code, host};

/// How long the set-up of a sandbox may take.
pub const READY_TIMEOUT: Duration = Duration::from_secs(10);

/// Grace after the timeout.
const TIMEOUT_GRACE: Duration = Duration::from_secs(2);

/// How long the helper may take to obey an order to kill, and to end after its report.
const HELPER_GRACE: Duration = Duration::from_secs(1);

/// How long the helper may take to end after its report: a host run kills what is left in that time.
const REPORT_GRACE: Duration = Duration::from_secs(8);

/// How long after the outermost process the helper may take to be gone.
const GONE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often the removal of a cgroup is tried while its last processes go, and the pause between two attempts.
const REMOVE_ATTEMPTS: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// What is said of a socket that comes a second time, or to a run without a proxy.
const UNASKED: &str = "the sandbox's helper sent a socket that nobody asked for";

/// What is said of a container that never came.
const NOBODY_CAME: &str = ": nothing in the container connected to nexusd; the engine must run on this machine and in its file \
                           system (docker context, DOCKER_HOST)";

/// Most of the engine's own messages that is kept.
const MAX_DIAGNOSTICS: usize = 4096;

/// How often the pipe of these messages is read: as much as one of the largest kind holds (pipe(7), 1 MiB).
const MOST_READS: usize = 256;

/// Why a run could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The driver does not work on this host.
    #[error("driver {driver} is not available: {reason}")]
    Unavailable {
        /// The driver.
        driver: &'static str,
        /// Why, with the mend.
        reason: String,
    },
    /// The driver cannot do what the run asks for.
    #[error("driver {driver} cannot run this: {reason}")]
    Unsupported {
        /// The driver.
        driver: &'static str,
        /// What.
        reason: String,
    },
    /// A limit that the directive or the configuration names cannot be enforced here.
    #[error("limit {limit} cannot be enforced on this host: {reason}")]
    Limit {
        /// The limit.
        limit: &'static str,
        /// Why.
        reason: String,
    },
    /// The working directory is missing, no directory, or leads out of the workspace.
    #[error("cwd {cwd}: {reason}")]
    Cwd {
        /// The directory.
        cwd: String,
        /// Why.
        reason: String,
    },
    /// A file or directory of the host that the run needs cannot be used.
    #[error("{what}: {source}")]
    Host {
        /// Which.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// The sandbox's process could not be started.
    #[error("cannot start the sandbox: {0}")]
    Spawn(#[from] sys::spawn::SpawnError),
    /// The sandbox ended or failed before it was set up.
    #[error("{0}")]
    SetUp(String),
    /// The set-up took too long.
    #[error("the sandbox was not set up within {seconds} s{said}")]
    TimedOut {
        /// How long it was waited for.
        seconds: u64,
        /// What the engine said, after a colon; or nothing.
        said: String,
    },
    /// Nobody takes the sandbox's listening socket any more.
    #[error("the egress proxy is gone before the sandbox was set up")]
    ProxyGone,
}

/// A run that has been started. Dropping it kills the run.
#[derive(Debug)]
pub struct RunHandle {
    process: Running,
    around: Around,
    heard_end: bool,
    released: Option<Instant>,
    report: Option<Ended>,
    reported: Option<Instant>,
    /// What brought the end about, once something other than the command does.
    ending: Option<Ending>,
    status: Option<Status>,
}

/// A kill ladder under way.
#[derive(Clone, Copy, Debug)]
struct Ending {
    cause: Cause,
    kill_at: Instant,
    killed: Option<Instant>,
    forced: bool,
}

#[derive(Clone, Copy, Debug)]
enum Cause {
    Timeout,
    Stop(Stop),
}

impl RunHandle {
    pub(crate) fn new(process: Running, around: Around) -> Self {
        Self {
            process,
            around,
            heard_end: false,
            released: None,
            report: None,
            reported: None,
            ending: None,
            status: None,
        }
    }

    /// Waits until everything is set up and the command waits for its release, at most [`READY_TIMEOUT`] (containers: longer).
    ///
    /// # Errors
    /// The sandbox could not be set up; what there is of it is killed when the handle is dropped.
    pub async fn ready(&mut self) -> Result<(), LaunchError> {
        let within = self.around.ready_within;
        let meets = self.around.meeting.is_some();
        let met = &mut false;
        let set_up = async {
            self.meet().await?;
            *met = true;
            self.set_up().await
        };
        match timeout(within, set_up).await {
            Ok(result) => result,
            Err(_) => {
                let missed = if meets && !*met { NOBODY_CAME } else { "" };
                let said = format!("{missed}{}", with_colon(&self.diagnostics()));
                Err(LaunchError::TimedOut { seconds: within.as_secs(), said })
            }
        }
    }

    /// Waits for the helper where it has to come for its descriptors.
    async fn meet(&mut self) -> Result<(), LaunchError> {
        let Some(meeting) = self.around.meeting.take() else { return Ok(()) };
        let gone = tokio::select! {
            biased;
            met = meeting.hand_over() => {
                return met.map_err(|error| LaunchError::SetUp(format!("the container's socket: {error}")));
            }
            status = self.process.ended() => status.ok(),
        };
        Err(LaunchError::SetUp(self.engine_failure(gone)))
    }

    async fn set_up(&mut self) -> Result<(), LaunchError> {
        loop {
            match self.around.control.next().await {
                Ok(Heard::Frame(Frame::Network, Some(fd))) => match &mut self.around.outlet {
                    Some(outlet) => outlet.enter(fd)?,
                    None => return Err(LaunchError::SetUp(UNASKED.to_owned())),
                },
                Ok(Heard::Frame(Frame::Listener, Some(fd))) => match self.around.outlet.take() {
                    Some(outlet) => outlet.pass(fd).await?,
                    None => return Err(LaunchError::SetUp(UNASKED.to_owned())),
                },
                Ok(Heard::Frame(Frame::Ready, _)) if self.around.outlet.is_none() => return Ok(()),
                Ok(Heard::Frame(Frame::Failed(failed), _)) => return Err(LaunchError::SetUp(self.describe(failed))),
                Ok(Heard::Frame(frame, _)) => {
                    return Err(LaunchError::SetUp(format!("the sandbox's helper said {frame:?} out of turn")));
                }
                Ok(Heard::End) => {
                    self.heard_end = true;
                    let status = self.process.ended().await;
                    return Err(LaunchError::SetUp(self.engine_failure(status.ok())));
                }
                Err(error) => return Err(LaunchError::SetUp(error.to_string())),
            }
        }
    }

    /// Lets the command go. The timeout counts from here.
    ///
    /// # Errors
    /// None today; a sandbox that is gone is found by [`RunHandle::wait`].
    pub fn release(&mut self) -> Result<(), LaunchError> {
        self.around.control.send(&Frame::Release);
        self.released = Some(Instant::now());
        Ok(())
    }

    /// Waits for the end, and brings it about when `stop` or the timeout says so. Everything that the run started is
    /// dead when this returns. Cancel-safe: it may be dropped and called again.
    pub async fn wait(&mut self, mut stop: watch::Receiver<Option<Stop>>) -> Exit {
        let begun = *self.released.get_or_insert_with(Instant::now);
        let deadline = begun.checked_add(self.around.timeout);
        let mut stoppable = true;
        let order = *stop.borrow_and_update();
        self.stop(order);
        while self.status.is_none() {
            let next = self.next_step(deadline);
            tokio::select! {
                biased;
                heard = self.around.control.next(), if !self.heard_end => self.hear(heard),
                status = self.process.ended() => self.status = Some(status.unwrap_or(Status::Exited(1))),
                changed = stop.changed(), if stoppable => {
                    stoppable = changed.is_ok();
                    let order = *stop.borrow_and_update();
                    self.stop(order);
                }
                () = sleep_until_some(next) => self.step(deadline),
            }
        }
        self.finish(begun).await
    }

    /// Kills the run without ever letting its command go.
    pub fn abandon(self) {}

    /// A way to see the run's processes, where it has a cgroup.
    #[must_use]
    pub fn census(&self) -> Census {
        self.around.group.as_ref().map(Group::census).unwrap_or_default()
    }

    /// What is in force around the run.
    #[must_use]
    pub fn layers(&self) -> &Layers {
        &self.around.layers
    }

    /// Process id of the outermost process, for logs.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn hear(&mut self, heard: Result<Heard, crate::control::ControlError>) {
        match heard {
            Ok(Heard::Frame(Frame::Exited(ended), _)) if self.report.is_none() => {
                self.report = Some(ended);
                self.reported = Some(Instant::now());
            }
            Ok(Heard::Frame(Frame::Failed(failed), _)) => {
                tracing::warn!(?failed, "the sandbox's helper failed");
            }
            Ok(Heard::End) => self.heard_end = true,
            other => {
                // Whoever speaks like this is not the helper any more.
                tracing::error!(?other, "the sandbox's helper is not itself: the run is killed");
                self.heard_end = true;
                self.kill_outermost();
            }
        }
    }

    /// Takes an order to stop; a later one can only shorten the grace.
    fn stop(&mut self, order: Option<Stop>) {
        let Some(order) = order else { return };
        let kill_at = Instant::now() + order.grace;
        match &mut self.ending {
            Some(ending) => ending.kill_at = ending.kill_at.min(kill_at),
            None => self.begin(Cause::Stop(order), kill_at),
        }
    }

    fn begin(&mut self, cause: Cause, kill_at: Instant) {
        if self.report.is_none() {
            self.ending = Some(Ending { cause, kill_at, killed: None, forced: false });
            self.around.control.send(&Frame::Signal(Order::Terminate));
        }
    }

    /// When something has to be done by the clock.
    fn next_step(&self, deadline: Option<Instant>) -> Option<Instant> {
        if let Some(reported) = self.reported {
            return Some(reported + REPORT_GRACE);
        }
        match &self.ending {
            None => deadline,
            Some(Ending { forced: true, .. }) => None,
            Some(Ending { killed: Some(killed), .. }) => Some(*killed + HELPER_GRACE),
            Some(ending) => Some(ending.kill_at),
        }
    }

    fn step(&mut self, deadline: Option<Instant>) {
        let now = Instant::now();
        if self.reported.is_some_and(|reported| now >= reported + REPORT_GRACE) {
            self.reported = None;
            self.kill_outermost();
            return;
        }
        match &mut self.ending {
            None if deadline.is_some_and(|deadline| now >= deadline) => self.begin(Cause::Timeout, now + TIMEOUT_GRACE),
            None => {}
            Some(ending) if ending.killed.is_none() && now >= ending.kill_at => {
                ending.killed = Some(now);
                self.around.control.send(&Frame::Signal(Order::Kill));
            }
            Some(ending) if ending.killed.is_some_and(|killed| now >= killed + HELPER_GRACE) => {
                ending.forced = true;
                self.kill_outermost();
            }
            Some(_) => {}
        }
    }

    fn kill_outermost(&mut self) {
        if let Err(error) = self.process.kill() {
            tracing::error!(%error, "cannot kill the sandbox's outermost process");
        }
        if let Some(group) = &self.around.group {
            group.kill();
        }
    }

    /// Makes sure that nothing is left, and says how it ended.
    async fn finish(&mut self, begun: Instant) -> Exit {
        let wall = begun.elapsed();
        // A container's helper may live on without podman: it is told.
        self.around.control.hang_up();
        // The helper's report may still lie in the socket; its end of file says that PID 1 is gone too.
        let gone = async {
            while !self.heard_end {
                let heard = self.around.control.next().await;
                self.hear(heard);
            }
        };
        if timeout(GONE_TIMEOUT, gone).await.is_err() {
            tracing::error!("the sandbox's helper outlived its sandbox");
        } else if self.status == Some(Status::Exited(0))
            && let Some(trace) = self.around.trace.take()
        {
            trace.forget();
        }
        let (mut oom_kills, mut peak, mut cpu, mut note, mut pids_refused) = (None, None, None, None, None);
        if let Some(group) = self.around.group.take() {
            oom_kills = group.oom_kills();
            peak = group.peak_memory();
            cpu = group.cpu_time();
            pids_refused = group.pids_refused();
            note = pids_refused.and_then(note_of_refused);
            let name = group.name().to_owned();
            if !remove(group).await {
                tracing::warn!(group = name, "processes are left in the cgroup of a run that has ended");
            }
        }
        let micros = |get: fn(&Ended) -> u64| Duration::from_micros(self.report.as_ref().map_or(0, get));
        let largest = self.report.map_or(0, |ended| ended.max_rss_kib.saturating_mul(1024));
        let (user, system) =
            cpu.unwrap_or_else(|| (micros(|ended| ended.user_micros), micros(|ended| ended.system_micros)));
        let usage = Usage { wall, user, system, peak_rss_bytes: peak.unwrap_or(largest) };
        let command = self.report.map(|ended| match ended.how {
            How::Code(code) => CommandStatus::Code(i32::from(code)),
            How::Signal(signal) => CommandStatus::Signal(i32::from(signal)),
        });
        let cause = self.ending.map(|ending| ending.cause);
        if self.around.layers.driver == container::NAME {
            oom_kills = self.report.map(|ended| ended.oom_kills);
            pids_refused = self.report.map(|ended| ended.pids_refused);
            note = pids_refused.and_then(note_of_refused);
        }
        let oom = oom_kills.unwrap_or(0);
        let ended = ended_by(cause, command, oom, || self.engine_failure(self.status));
        let code = exit_code(&ended, command.map(CommandStatus::code));
        if oom > 0 && ended != EndedBy::OutOfMemory {
            // cgroup v1 kills one process where version 2 ends the run; the command may have done without it.
            let killed = format!("the memory limit was reached, processes killed: {oom}");
            note = Some(note.map_or(killed.clone(), |other: String| format!("{killed}; {other}")));
        }
        if [host::NAME, darwinautomation::NAME].contains(&self.around.layers.driver) && self.report.is_some() {
            // All that the helper of a host run says when nothing failed: what it had to wait for.
            let said = self.diagnostics();
            note = note.or_else(|| Some(said.clone()).filter(|said| !said.is_empty()));
        }
        Exit { ended, code, usage, pids_refused, oom_kills, note }
    }

    /// What the engine said, shortened: the last of it, for the verdict comes after warnings and progress.
    fn diagnostics(&mut self) -> String {
        let Ok(copy) = self.around.diagnostics.try_clone() else { return String::new() };
        let (mut file, mut text, mut buffer) = (File::from(copy), Vec::new(), [0; 4096]);
        // What one pipe can hold, whoever goes on writing.
        for _ in 0..MOST_READS {
            match file.read(&mut buffer) {
                Ok(count) if count > 0 => text.extend_from_slice(buffer.get(..count).unwrap_or_default()),
                _ => break,
            }
        }
        let tail = text.len().saturating_sub(MAX_DIAGNOSTICS);
        String::from_utf8_lossy(text.get(tail..).unwrap_or_default()).trim().to_owned()
    }

    fn engine_failure(&mut self, status: Option<Status>) -> String {
        let said = self.diagnostics();
        if !said.is_empty() {
            return (self.around.explain)(&said);
        }
        match status {
            Some(Status::Exited(code)) => format!("the sandbox ended with code {code} and without a report"),
            Some(Status::Killed(signal)) => format!("the sandbox was killed by signal {signal}"),
            None => "the sandbox ended without a report".to_owned(),
        }
    }

    fn describe(&mut self, failed: Failed) -> String {
        let step = match failed.step {
            Step::Listen => "cannot listen on the proxy's port inside the sandbox",
            Step::PassListener => "cannot pass the listening socket out of the sandbox",
            Step::StartSocat => "cannot start socat inside the sandbox (bwrap.socat_path)",
            Step::AwaitSocat => "socat does not listen inside the sandbox",
            Step::EnterCwd => "cannot enter the working directory inside the sandbox",
            Step::Fork => "cannot make the command's process",
            Step::OpenNetwork => "cannot pass the sandbox's network out of it",
            Step::Plan => "the helper did not understand its plan",
        };
        let reason = match failed.errno {
            0 => String::new(),
            errno => format!(": {}", std::io::Error::from_raw_os_error(i32::from(errno))),
        };
        format!("{step}{reason}{}", with_colon(&self.diagnostics()))
    }
}

/// What ended a run: an order or the timeout, the memory limit, the command itself, or the engine's failure.
fn ended_by(
    cause: Option<Cause>,
    command: Option<CommandStatus>,
    oom_kills: u64,
    engine: impl FnOnce() -> String,
) -> EndedBy {
    let out_of_memory = oom_kills > 0 && command.is_none_or(|command| command.code() != 0);
    match (cause, command) {
        (Some(Cause::Timeout), _) => EndedBy::TimedOut,
        (Some(Cause::Stop(stop)), _) => EndedBy::Stopped(stop.reason),
        (None, _) if out_of_memory => EndedBy::OutOfMemory,
        (None, Some(CommandStatus::Code(_))) => EndedBy::Exited,
        (None, Some(CommandStatus::Signal(signal))) => EndedBy::Signal(signal),
        (None, None) => EndedBy::Engine(engine()),
    }
}

/// What is said of processes that the limit refused.
fn note_of_refused(refused: u64) -> Option<String> {
    (refused > 0).then(|| format!("the limit of processes was reached: {refused} were refused"))
}

/// Removes a cgroup, or leaves the empty directory to be swept away with a later run's: the kernel keeps it for some
/// milliseconds after the last process. Processes that are left are killed; `false` when they do not go.
async fn remove(group: Group) -> bool {
    for attempt in 0..REMOVE_ATTEMPTS {
        if group.try_remove() || group.is_empty() {
            return true;
        }
        if attempt > 0 {
            group.kill();
        }
        tokio::time::sleep(REMOVE_PAUSE).await;
    }
    false
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn with_colon(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StopReason;

    #[test]
    fn what_ended_a_run() {
        use CommandStatus::{Code, Signal};
        let stop = Some(Cause::Stop(Stop { reason: StopReason::Cancel, grace: Duration::ZERO }));
        let engine = || "failed".to_owned();
        let table = [
            (None, Some(Code(0)), 0, EndedBy::Exited),
            (None, Some(Code(0)), 3, EndedBy::Exited),
            (None, Some(Code(137)), 1, EndedBy::OutOfMemory),
            (None, Some(Signal(9)), 1, EndedBy::OutOfMemory),
            (None, None, 1, EndedBy::OutOfMemory),
            (None, Some(Signal(9)), 0, EndedBy::Signal(9)),
            (None, None, 0, EndedBy::Engine("failed".into())),
            (Some(Cause::Timeout), Some(Code(0)), 0, EndedBy::TimedOut),
            (Some(Cause::Timeout), None, 1, EndedBy::TimedOut),
            (stop, Some(Code(0)), 0, EndedBy::Stopped(StopReason::Cancel)),
            (stop, None, 0, EndedBy::Stopped(StopReason::Cancel)),
        ];
        for (cause, command, oom, expected) in table {
            assert_eq!(ended_by(cause, command, oom, engine), expected, "{cause:?} {command:?} {oom}");
        }
    }
}
