//! The daemon's own door: `nexusd status`, `drain` and `undrain` ask the daemon that works in the configuration's
//! `work_dir`, over a Unix socket in its folder.
//!
//! ```text
//! one line {"ask":"status"} ─▶ daemon/control.rs ─▶ one line {"status":{…}} or {"error":"…"}
//! ```
//!
//! Promises: only the daemon's user and root are answered; a request is a line of bounded length, and either side waits a
//! bounded time. A path longer than a socket address takes (unix(7): 107 bytes) is reached by way of its folder.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use conduits::DirectiveId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::config::Config;

/// The socket's name in the daemon's own folder.
pub(crate) const SOCKET: &str = "nexusd.sock";

/// Longest request and answer, in bytes.
pub(crate) const MAX_LINE: u64 = 1024 * 1024;

/// Longest wait of either side for the other.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(5);

/// How often `drain --wait` looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub enum Request {
    /// How it stands.
    Status,
    /// Take on nothing new, until [`Request::Undrain`], also after a restart.
    Drain,
    /// Take on directives again.
    Undrain,
}

/// The answer: how it stands after what was asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Done.
    Status(Box<Status>),
    /// Not done; why.
    Error(String),
}

/// How a daemon stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// As `nexusd -version` says it.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Seconds since its start.
    pub up_seconds: u64,
    /// The mothership, without credentials.
    pub server_url: String,
    /// The profiles whose driver works: those that are asked for.
    pub profiles: Vec<String>,
    /// Directives that may run at a time.
    pub slots: usize,
    /// Those that are here, also while their end is being told.
    pub directives: Vec<Held>,
    /// Nothing new is taken on, as `nexusd drain` asked.
    pub drained: bool,
    /// Why directives cannot be taken on; empty when they can.
    pub not_ready: Vec<String>,
    /// Seconds since the mothership last answered.
    pub last_contact_seconds: Option<u64>,
    /// Output on disk that has not arrived yet, in bytes.
    pub spool_bytes: u64,
    /// Reports on disk that have not arrived yet.
    pub outbox_entries: u64,
    /// Unix time at which the client certificate ends.
    pub certificate_ends: Option<i64>,
}

/// A directive that is here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Which one.
    pub directive_id: DirectiveId,
    /// For how long, in seconds.
    pub seconds: u64,
}

/// Why the daemon was not asked, or did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error(
        "no nexusd runs with work_dir {}: nobody listens at {}; name its configuration with -config",
        work_dir.display(), socket.display()
    )]
    NotRunning {
        /// As configured.
        work_dir: PathBuf,
        /// Where it would listen.
        socket: PathBuf,
    },
    /// The socket is another user's.
    #[error("{} is another user's: ask as the user that nexusd runs as, or as root", .0.display())]
    NotOurs(PathBuf),
    /// The conversation broke off.
    #[error("nexusd did not answer at {}: {source}", socket.display())]
    Io {
        /// Where.
        socket: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The daemon did not do it.
    #[error("{0}")]
    Refused(String),
    /// Directives are left after the time that was given.
    #[error("{} directives still run: {}", .0.len(), .0.join(", "))]
    StillRunning(Vec<String>),
}

/// Asks the daemon of this configuration.
///
/// # Errors
/// [`ControlError`].
pub async fn ask(config: &Config, request: Request) -> Result<Status, ControlError> {
    let socket = config.state_dir().join(SOCKET);
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ControlError::NotRunning { work_dir: config.work_dir.clone(), socket: socket.clone() }
        }
        io::ErrorKind::PermissionDenied => ControlError::NotOurs(socket.clone()),
        _ => ControlError::Io { socket: socket.clone(), source },
    };
    let conversation = async {
        let mut stream = at(&socket, |path| UnixStream::connect(path.to_owned())).await?;
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = String::new();
        BufReader::new(stream.take(MAX_LINE)).read_line(&mut answer).await?;
        serde_json::from_str::<Answer>(&answer).map_err(io::Error::from)
    };
    let timed = tokio::time::timeout(TIMEOUT, conversation).await;
    match timed.map_err(|_| io::Error::from(io::ErrorKind::TimedOut)).and_then(|answer| answer).map_err(fail)? {
        Answer::Status(status) => Ok(*status),
        Answer::Error(why) => Err(ControlError::Refused(why)),
    }
}

/// Waits until the daemon has no directive any more, at most `within`; `None` for as long as it takes.
///
/// # Errors
/// [`ControlError`].
pub async fn until_idle(config: &Config, within: Option<Duration>) -> Result<Status, ControlError> {
    let began = Instant::now();
    loop {
        let status = ask(config, Request::Status).await?;
        if status.directives.is_empty() {
            return Ok(status);
        }
        if within.is_some_and(|within| began.elapsed() >= within) {
            let ids = status.directives.into_iter().map(|held| held.directive_id.to_string());
            return Err(ControlError::StillRunning(ids.collect()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Does something with a socket's path; with one too long for a socket address, by way of its folder's descriptor.
pub(crate) async fn at<T, F>(socket: &Path, act: impl FnOnce(&Path) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    const LONGEST: usize = 107;
    let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    if socket.as_os_str().len() <= LONGEST || !cfg!(target_os = "linux") {
        return act(socket).await;
    }
    let folder = File::open(folder)?;
    act(&Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)).await
}

impl Status {
    /// For people.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("{} (process {}), up {}\n", self.version, self.pid, span(self.up_seconds));
        let mut row = |name: &str, value: String| text.push_str(&format!("  {name:<18}{value}\n"));
        row(
            "ready",
            if self.not_ready.is_empty() { "yes".to_owned() } else { format!("no: {}", self.not_ready.join("; ")) },
        );
        let silent = self
            .last_contact_seconds
            .map_or("has not answered yet".to_owned(), |seconds| format!("answered {} ago", span(seconds)));
        row("mothership", format!("{} {silent}", self.server_url));
        let profiles = if self.profiles.is_empty() { "none".to_owned() } else { self.profiles.join(", ") };
        row("profiles", profiles);
        row("directives", format!("{} of {}", self.directives.len(), self.slots));
        for held in &self.directives {
            row("", format!("{} for {}", held.directive_id, span(held.seconds)));
        }
        row("output waiting", format!("{} bytes", self.spool_bytes));
        row("reports waiting", self.outbox_entries.to_string());
        if let Some(ends) = self.certificate_ends {
            let ends = jiff::Timestamp::from_second(ends).map_or_else(|_| ends.to_string(), |at| at.to_string());
            row("certificate", format!("ends {ends}"));
        }
        text
    }
}

/// A time as people say it: `3h 12m`, `12 s`.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_shown_row_by_row() {
        let quiet = Status {
            version: "nexusd 0.1.0".to_owned(),
            pid: 7,
            up_seconds: 11_530,
            server_url: "https://m.example".to_owned(),
            profiles: vec!["untrusted".to_owned(), "host".to_owned()],
            slots: 4,
            directives: Vec::new(),
            drained: false,
            not_ready: Vec::new(),
            last_contact_seconds: Some(4),
            spool_bytes: 0,
            outbox_entries: 0,
            certificate_ends: Some(1_800_000_000),
        };
        insta::assert_snapshot!(quiet.render(), @r"
        nexusd 0.1.0 (process 7), up 3h 12m
          ready             yes
          mothership        https://m.example answered 4 s ago
          profiles          untrusted, host
          directives        0 of 4
          output waiting    0 bytes
          reports waiting   0
          certificate       ends 2027-01-15T08:00:00Z
        ");
        let busy = Status {
            profiles: Vec::new(),
            directives: vec![Held { directive_id: "d-1".parse().unwrap(), seconds: 75 }],
            not_ready: vec!["drained".to_owned(), "no driver".to_owned()],
            last_contact_seconds: None,
            certificate_ends: None,
            ..quiet
        };
        insta::assert_snapshot!(busy.render(), @r"
        nexusd 0.1.0 (process 7), up 3h 12m
          ready             no: drained; no driver
          mothership        https://m.example has not answered yet
          profiles          none
          directives        1 of 4
                            d-1 for 1m 15s
          output waiting    0 bytes
          reports waiting   0
        ");
        assert_eq!([span(59), span(60), span(3600), span(90_000)], ["59 s", "1m 0s", "1h 0m", "1d 1h"]);
    }

    #[test]
    fn a_request_is_one_line() {
        assert_eq!(serde_json::to_string(&Request::Drain).unwrap(), r#"{"ask":"drain"}"#);
        assert_eq!(serde_json::to_string(&Answer::Error("x".to_owned())).unwrap(), r#"{"error":"x"}"#);
    }
}
