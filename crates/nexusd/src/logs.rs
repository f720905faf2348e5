//! The output of one directive on its way to whoever reads it: nothing lost, nothing twice.
//!
//! ```text
//!   pipe ──> redact ──> budget ──┬─ head ──> chunk ──> spool ──> upload (8 in flight) ──> mothership
//!   notice ──────────────────────┤                       (disk)
//!                                └─ rest ──> tail ring (disk), overflow files ── at the end ──> chunk …
//! ```
//!
//! Promises: a slow or absent mothership slows neither the command nor other directives; memory per directive stays below
//! 4 MiB whatever the output; bytes are on disk (in the page cache) before they are sent, and a chunk's bytes never change
//! once its number is taken, so that a crash at any point neither loses nor doubles one; all that is shipped fits
//! `max_output_bytes`; secrets are replaced wherever chunks are cut. A directive that writes nothing leaves no file.
//!
//! Leaves to others: what the output means, when the command ends (`directive`), what is reported at the end
//! ([`outbox`](crate::outbox)). The other sink, for `nexusd run`, is the terminal: bytes as they are, no limit.

pub mod budget;
pub mod redact;

mod checksum;
mod files;
mod lease;
mod overflow;
mod pipes;
mod pump;
mod queue;
mod recover;
mod ring;
mod segment;
mod spool;
mod stage;
mod terminal;

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use conduits::LogStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::client::DirectiveCalls;

pub(crate) use checksum::checksum;
pub use overflow::{Overflow, OverflowFile};
pub(crate) use recover::clear;
pub use recover::{Leftover, SetAside, recover};
pub(crate) use spool::boot_id;

/// Commands to the pump that may wait in line.
const COMMAND_QUEUE: usize = 64;
/// How often it is looked whether the mothership answers, while an end waits for its log.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// It answers while an answer is not older: probes come every 1.5 s.
const STILL_THERE: Duration = Duration::from_secs(5);
/// Largest chunk that the protocol allows by default, in bytes.
pub const MAX_CHUNK_BYTES: usize = 262_144;

/// How one directive's output is treated.
#[derive(Debug)]
pub struct LogSettings {
    /// Bound of all that is shipped, both streams together, in bytes.
    pub max_output_bytes: u64,
    /// Bound of one chunk, 1 to [`MAX_CHUNK_BYTES`] bytes (values outside are cut to it).
    pub chunk_bytes: usize,
    /// How long bytes are gathered while requests are in flight.
    pub flush_interval: Duration,
    /// `<work_dir>/.nexus/spool`; the directive's folder is made beneath it with its first byte.
    pub spool_root: PathBuf,
    /// Where what does not fit is kept; `None` drops it (and says so).
    pub overflow: Option<Overflow>,
    /// Texts to hide beside the directive's token and PEM private keys (credentials of `repo_url`).
    pub secrets: Vec<String>,
    /// Counts over all directives.
    pub counters: Arc<LogCounters>,
}

/// Byte counts over all directives, for the metrics page.
#[derive(Debug, Default)]
pub struct LogCounters {
    /// Read from commands.
    pub bytes_in: AtomicU64,
    /// Acknowledged by the mothership.
    pub bytes_shipped: AtomicU64,
    /// Not shipped, for they went beyond the limit.
    pub bytes_truncated: AtomicU64,
    /// In spools now.
    pub spool_bytes: AtomicU64,
    /// Refused by the mothership for good.
    pub bytes_refused: AtomicU64,
}

impl LogCounters {
    fn add(counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// How reading the output ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// True when every writer closed its end; false when something still held one as the time was over.
    pub complete: bool,
}

/// What went wrong with keeping the output. The command is not stalled by it, but its log is no longer whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogTrouble {
    /// The disk of the spool is full.
    #[error("the disk that holds the spool is full; free space in work_dir")]
    DiskFull,
    /// The spool cannot be written.
    #[error("the spool cannot be written: {0}")]
    Spool(String),
    /// The mothership refused a chunk for good.
    #[error("the mothership refused the log: {0}")]
    Refused(String),
    /// This process's own standard output or error cannot be written.
    #[error("{0} cannot be written, so what the command printed is not whole: {1}")]
    Output(LogStream, String),
    /// Whoever read this process's standard output does no more: there is nobody to write for.
    #[error("nobody reads standard output any more")]
    ReaderGone,
}

/// What became of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamSummary {
    /// Chunks cut, numbered from 0.
    pub chunks: u64,
    /// Bytes in those chunks: output, notices and marker.
    pub bytes: u64,
    /// Chunks acknowledged.
    pub acknowledged: u64,
    /// Bytes read from the command.
    pub seen: u64,
    /// Bytes of output left out between head and tail.
    pub left_out: u64,
    /// True when bytes were left out.
    pub truncated: bool,
}

/// What became of the output of a directive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogSummary {
    /// By [`LogStream::index`].
    pub streams: [StreamSummary; 2],
    /// Files beneath the facility that hold what was left out.
    pub overflow: Vec<OverflowFile>,
    /// Why the log is not whole, when it is not.
    pub trouble: Option<LogTrouble>,
    /// True when every chunk is acknowledged.
    pub complete: bool,
}

impl LogSummary {
    /// One stream's part.
    #[must_use]
    pub fn stream(&self, stream: LogStream) -> &StreamSummary {
        let [stdout, stderr] = &self.streams;
        match stream {
            LogStream::Stdout => stdout,
            LogStream::Stderr => stderr,
        }
    }

    /// The value of `artifacts_manifest.log`: how many chunks and bytes each stream has, so that a reader knows when it
    /// has them all.
    #[must_use]
    pub fn manifest(&self) -> serde_json::Value {
        let stream = |s: &StreamSummary| serde_json::json!({ "chunks": s.chunks, "bytes": s.bytes, "seen": s.seen, "left_out": s.left_out });
        let [stdout, stderr] = &self.streams;
        serde_json::json!({ "stdout": stream(stdout), "stderr": stream(stderr), "complete": self.complete })
    }

    /// The value of `artifacts_manifest.log_overflow`; `None` when nothing was kept there.
    #[must_use]
    pub fn overflow_manifest(&self) -> Option<serde_json::Value> {
        if self.overflow.is_empty() {
            return None;
        }
        let files = self.overflow.iter().map(|file| {
            let value = serde_json::json!({ "path": file.path, "bytes": file.bytes, "complete": file.complete });
            (file.stream.as_str().to_owned(), value)
        });
        Some(serde_json::Value::Object(files.collect()))
    }
}

/// The output of one directive. Cheap to clone. Everything behind it ends by itself when the log is sealed
/// ([`Logs::shipped`]), its last chunk acknowledged and the last clone dropped, or at once (keeping the spool) when its token is
/// cancelled. To be held until the end is told: a process that is killed before that leaves the numbers of its chunks, so that
/// the next one goes on behind them.
#[derive(Debug, Clone)]
pub struct Logs {
    commands: mpsc::Sender<Command>,
    progress: watch::Receiver<Progress>,
    calls: Option<DirectiveCalls>,
    /// What the spool says of the numbers stays on disk while anybody holds this: until the end is told.
    _held: Arc<DropGuard>,
}

/// What the handle asks of the task behind it.
#[derive(Debug)]
enum Command {
    Read(LogStream, tokio::net::unix::pipe::Receiver),
    Notice(LogStream, Vec<u8>),
    Hide(String),
    End(Duration, oneshot::Sender<Drained>),
    Seal,
}

/// What the task shows.
#[derive(Debug, Clone, Default)]
struct Progress {
    summary: LogSummary,
    sealed: bool,
    /// All that can be shipped is, whole or not: the task only waits to be let go.
    over: bool,
}

impl Logs {
    /// Output that goes to the mothership. Its task is spawned on `tasks`; `cancel` stops it at once and leaves the spool
    /// for [`recover`].
    #[must_use]
    pub fn to_mothership(
        calls: DirectiveCalls,
        settings: LogSettings,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> Self {
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let (show, progress) = watch::channel(Progress::default());
        let flush_interval = settings.flush_interval;
        let mut stage = stage::Stage::new(calls.id(), settings);
        stage.spool.renew(calls.current_token());
        let stage = (stage, flush_interval);
        let let_go = CancellationToken::new();
        tasks.spawn(pump::Pump::new(stage, calls.clone(), inbox, show).run(cancel, let_go.clone()));
        Self { commands, progress, calls: Some(calls), _held: Arc::new(let_go.drop_guard()) }
    }

    /// What an earlier process left of a directive's output; `notice`, `end_of_output` and `shipped` go on where it
    /// stopped, within the limits it had.
    ///
    /// # Errors
    /// The spool cannot be read.
    pub fn recovered(
        leftover: Leftover,
        calls: DirectiveCalls,
        settings: LogSettings,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> io::Result<Self> {
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let flush_interval = settings.flush_interval;
        let stage = stage::Stage::recovered(leftover, settings)?;
        let (show, progress) = watch::channel(Progress { summary: stage.summary(), ..Progress::default() });
        let let_go = CancellationToken::new();
        let pump = pump::Pump::new((stage, flush_interval), calls.clone(), inbox, show);
        tasks.spawn(pump.run(cancel, let_go.clone()));
        Ok(Self { commands, progress, calls: Some(calls), _held: Arc::new(let_go.drop_guard()) })
    }

    /// Output that goes to these two descriptors, byte for byte.
    #[must_use]
    pub fn to_files(stdout: OwnedFd, stderr: OwnedFd, tasks: &TaskTracker, cancel: CancellationToken) -> Self {
        let file = |fd| tokio::fs::File::from_std(std::fs::File::from(fd));
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let (show, progress) = watch::channel(Progress::default());
        tasks.spawn(terminal::run(file(stdout), file(stderr), inbox, show, cancel));
        Self { commands, progress, calls: None, _held: Arc::new(CancellationToken::new().drop_guard()) }
    }

    /// A pipe for one stream. The write end (close-on-exec, blocking) is for the sandbox driver; its last copy closed is
    /// the end of the output. May be called again (a preparing step has pipes of its own).
    ///
    /// # Errors
    /// No descriptors left, or the log is already sealed.
    pub fn pipe(&self, stream: LogStream) -> io::Result<OwnedFd> {
        let sys::pipe::Pipe { read, write } = sys::pipe::pipe()?;
        rustix::io::ioctl_fionbio(&read, true)?;
        let receiver = tokio::net::unix::pipe::Receiver::from_owned_fd(read)?;
        self.commands
            .try_send(Command::Read(stream, receiver))
            .map_err(|error| io::Error::other(format!("the log takes no more pipes: {error}")))?;
        Ok(write)
    }

    /// A line of our own (`[egress] …`, `[prepare] …`, a refusal), on a line by itself; a line end is added where it lacks
    /// one. Does not use up the output's share of the limit; dropped, with a warning, once notices have used up theirs.
    pub async fn notice(&self, stream: LogStream, text: &str) {
        let mut line = text.as_bytes().to_vec();
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        self.command(Command::Notice(stream, line)).await;
    }

    /// Hides one more text in all output that is read from now on.
    pub async fn hide(&self, secret: &str) {
        self.command(Command::Hide(secret.to_owned())).await;
    }

    /// Reads what is left until every writer has closed, for at most `drain`; then closes the pipes and, when output was
    /// held back beyond the first half of the limit, lets the last half go out.
    pub async fn end_of_output(&self, drain: Duration) -> Drained {
        let (reply, answer) = oneshot::channel();
        self.command(Command::End(drain, reply)).await;
        answer.await.unwrap_or(Drained { complete: false })
    }

    /// Seals the log (no notices after this) and waits until every chunk is acknowledged; `within` counts only time in
    /// which the mothership is reachable. What is not acknowledged by then goes on being shipped.
    pub async fn shipped(&self, within: Duration) -> LogSummary {
        self.command(Command::Seal).await;
        let mut progress = self.progress.clone();
        let done = async {
            if progress.wait_for(|p| p.over || (p.sealed && p.summary.complete)).await.is_err() {
                tracing::debug!("the log's task has ended; what it showed last is the answer");
            }
        };
        tokio::select! {
            () = done => {}
            () = self.reachable_time(within) => {}
        }
        self.progress.borrow().summary.clone()
    }

    /// The counts as they are now.
    #[must_use]
    pub fn summary(&self) -> LogSummary {
        self.progress.borrow().summary.clone()
    }

    /// Completes with the trouble when keeping the output fails (the directive then ends with that reason); never, when it
    /// does not.
    pub async fn trouble(&self) -> LogTrouble {
        let mut progress = self.progress.clone();
        let found =
            progress.wait_for(|p| p.summary.trouble.is_some()).await.ok().and_then(|p| p.summary.trouble.clone());
        match found {
            Some(trouble) => trouble,
            None => std::future::pending().await,
        }
    }

    /// Completes when `time` has passed in which the mothership answered, if not us then others: one that takes everything but
    /// this log counts as unreachable again and again, for moments.
    async fn reachable_time(&self, time: Duration) {
        let Some(calls) = &self.calls else { return tokio::time::sleep(time).await };
        let reach = calls.mothership().reach();
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(LOOK_EVERY);
            tokio::time::sleep(step).await;
            let answers = reach.last_success().is_some_and(|at| at.elapsed() < STILL_THERE);
            if answers || !reach.is_down() {
                left = left.saturating_sub(step);
            }
        }
    }

    async fn command(&self, command: Command) {
        // Refused only when the task has ended (sealed or cancelled): then there is nobody to tell.
        if let Err(error) = self.commands.send(command).await {
            tracing::debug!(command = ?error.0, "the log is closed");
        }
    }
}
