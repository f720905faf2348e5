//! The audit file: one JSON line for each attempt, whoever made it.
//!
//! Connections hand events to a bounded queue and go on; one task writes them, in batches, and
//! rotates the file. A slow or full disk therefore never slows a connection: what finds the queue
//! full is counted, and a line says how many events are missing where they are missing.
//!
//! One process writes a file (each daemon locks its `work_dir`, and `nexusd run` has one of its own). Anybody may move the file
//! away or remove it: it is made anew.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Events that wait for the writer; more are counted and dropped.
pub const AUDIT_QUEUE: usize = 8192;
/// Events written with one call.
const BATCH: usize = 512;
/// How long a line waits for others that go with it.
const GATHER: Duration = Duration::from_millis(20);

/// Where and how much.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// The file, such as `<work_dir>/.nexus/audit/egress.jsonl`; its directory must exist.
    pub path: PathBuf,
    /// Bytes at which the file is rotated.
    pub rotate_bytes: u64,
    /// How many rotated files (`.1` is the newest) are kept.
    pub keep: u32,
}

impl AuditSettings {
    /// 64 MiB a file, four old ones.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path, rotate_bytes: 64 * 1024 * 1024, keep: 4 }
    }
}

/// The file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the egress audit file {}: {source}; its directory must exist and be writable", path.display())]
pub struct AuditError {
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// One attempt, as its line stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AuditEvent {
    /// When the attempt began, RFC 3339 in UTC.
    pub ts: jiff::Timestamp,
    /// Whose attempt.
    #[serde(serialize_with = "as_str")]
    pub directive_id: Arc<str>,
    /// `CONNECT`, `HTTP` or `SOCKS5`; `TCP` from a program that knows no proxy, `DNS` for a name that is not told it.
    pub method: &'static str,
    /// The host as judged, or what was sent instead of one, made printable.
    pub dest_host: String,
    /// The port; 0 where there was none.
    pub dest_port: u16,
    /// The address that was dialled.
    pub resolved_ip: Option<IpAddr>,
    /// `allow` or `deny`.
    pub decision: &'static str,
    /// The code.
    pub reason_code: &'static str,
    /// The name in the TLS hello, or in brackets why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Bytes sent to the origin.
    pub bytes_up: u64,
    /// Bytes received from the origin.
    pub bytes_down: u64,
    /// How long it took.
    pub duration_ms: u64,
}

/// A gap: so many events were dropped before this line.
#[derive(Serialize)]
struct Gap {
    ts: jiff::Timestamp,
    audit_events_dropped: u64,
}

/// A handle for proxies to record events with; cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditLog {
    queue: mpsc::Sender<AuditEvent>,
    dropped: Arc<AtomicU64>,
}

impl AuditLog {
    /// Opens the file and starts its writer on `tasks`. The writer ends when `cancel` is cancelled
    /// or the last handle is dropped, after writing what was queued.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn start(
        settings: AuditSettings,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Self, AuditError> {
        let file = open(&settings.path).await.map_err(|source| AuditError { path: settings.path.clone(), source })?;
        let (queue, events) = mpsc::channel(AUDIT_QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer { settings, file, events, dropped: Arc::clone(&dropped), failing: false };
        tasks.spawn(writer.run(cancel));
        Ok(Self { queue, dropped })
    }

    /// Queues an event; `false` if it had to be dropped.
    pub(crate) fn record(&self, event: AuditEvent) -> bool {
        let queued = self.queue.try_send(event).is_ok();
        if !queued {
            self.dropped.fetch_add(1, Relaxed);
        }
        queued
    }
}

struct File {
    inner: tokio::fs::File,
    bytes: u64,
    /// Device and inode.
    identity: (u64, u64),
    /// It ends in the middle of a line: whoever wrote that was killed, or the disk was full.
    torn: bool,
}

struct Writer {
    settings: AuditSettings,
    file: File,
    events: mpsc::Receiver<AuditEvent>,
    dropped: Arc<AtomicU64>,
    failing: bool,
}

impl Writer {
    async fn run(mut self, cancel: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let count = tokio::select! {
                count = self.events.recv_many(&mut batch, BATCH) => count,
                () = cancel.cancelled(), if !self.events.is_closed() => {
                    self.events.close();
                    continue;
                }
            };
            if (1..BATCH).contains(&count) {
                // A write costs more than a connection: the lines of the next moment go with these.
                cancel.run_until_cancelled(tokio::time::sleep(GATHER)).await;
                while batch.len() < BATCH
                    && let Ok(event) = self.events.try_recv()
                {
                    batch.push(event);
                }
            }
            let (events, missing) = (batch.len() as u64, self.dropped.swap(0, Relaxed));
            let lines = lines(&mut batch, missing);
            if !lines.is_empty() {
                let result = self.write(&lines).await;
                if result.is_err() {
                    self.dropped.fetch_add(events + missing, Relaxed);
                }
                self.report(result);
            }
            if count == 0 {
                return;
            }
        }
    }

    async fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if !self.file.is_at(&self.settings.path).await {
            self.file = open(&self.settings.path).await?;
        }
        if self.file.bytes > 0 && self.file.bytes + lines.len() as u64 > self.settings.rotate_bytes {
            rotate(&self.settings).await?;
            self.file = open(&self.settings.path).await?;
        }
        // Only one line is lost where one is torn.
        let torn = std::mem::replace(&mut self.file.torn, true);
        if torn {
            self.file.inner.write_all(b"\n").await?;
        }
        self.file.inner.write_all(lines).await?;
        self.file.inner.flush().await?;
        self.file.torn = false;
        self.file.bytes += lines.len() as u64 + u64::from(torn);
        Ok(())
    }

    /// Says once that the file cannot be written, and once that it can again.
    fn report(&mut self, result: io::Result<()>) {
        match result {
            Err(error) if !self.failing => {
                tracing::error!(path = %self.settings.path.display(), %error, "egress audit events are being lost");
                self.failing = true;
            }
            Ok(()) if self.failing => {
                tracing::info!(path = %self.settings.path.display(), "egress audit events are written again");
                self.failing = false;
            }
            _ => {}
        }
    }
}

impl File {
    /// Whether it is still what has this name.
    async fn is_at(&self, path: &Path) -> bool {
        tokio::fs::symlink_metadata(path).await.is_ok_and(|found| (found.dev(), found.ino()) == self.identity)
    }
}

fn lines(batch: &mut Vec<AuditEvent>, missing: u64) -> Vec<u8> {
    let mut lines = Vec::new();
    if missing > 0 {
        push_line(&mut lines, &Gap { ts: jiff::Timestamp::now(), audit_events_dropped: missing });
    }
    for event in batch.drain(..) {
        push_line(&mut lines, &event);
    }
    lines
}

fn as_str<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

fn push_line(lines: &mut Vec<u8>, value: &impl Serialize) {
    let before = lines.len();
    match serde_json::to_writer(&mut *lines, value) {
        Ok(()) => lines.push(b'\n'),
        Err(error) => {
            lines.truncate(before);
            tracing::error!(%error, "an egress audit event cannot be written as JSON");
        }
    }
}

async fn open(path: &Path) -> io::Result<File> {
    let path = path.to_owned();
    let open = move || {
        // A link in place of the file could make the daemon write elsewhere.
        let flags = i32::try_from((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC).bits()).unwrap_or(0);
        let mut options = std::fs::OpenOptions::new();
        let file = options.append(true).create(true).mode(0o600).custom_flags(flags).open(&path)?;
        let found = file.metadata()?;
        let (bytes, identity) = (found.len(), (found.dev(), found.ino()));
        let mut last = [b'\n'];
        // Not the same descriptor: a pipe that is open for reading, too, is never seen to have lost its reader.
        if bytes > 0 {
            let reader = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(&path)?;
            reader.read_exact_at(&mut last, bytes - 1)?;
        }
        Ok(File { inner: tokio::fs::File::from_std(file), bytes, identity, torn: last != *b"\n" })
    };
    tokio::task::spawn_blocking(open).await.map_err(io::Error::other)?
}

/// `egress.jsonl` to `.1`, `.1` to `.2` and so on; the oldest is overwritten.
async fn rotate(settings: &AuditSettings) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = settings.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    if settings.keep == 0 {
        return tokio::fs::remove_file(&settings.path).await;
    }
    for number in (1..settings.keep).rev() {
        match tokio::fs::rename(numbered(number), numbered(number + 1)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    tokio::fs::rename(&settings.path, numbered(1)).await
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
