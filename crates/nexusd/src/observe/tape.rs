//! The debug tape (`debug_tape.*`): what is said with the mothership, a line of JSON for each call, without secrets.
//!
//! ```text
//! {"answer":{…},"at":"2026-01-31T12:00:00.123Z","method":"POST","ms":4,"path":"/conduits/v1/polls","request":{…},"status":200}
//! ```
//!
//! Promises: no call waits for it (what the disk is too slow for is counted, as `lost` on the next line); no token, key,
//! variable's value, credential of a URL or byte of output is written (a command's own text is); the file is for its owner alone, and with the one
//! before it (`.1`) takes at most `max_bytes`, but for a line that is longer than half of that.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::DebugTapeSettings;

/// Lines that wait to be written.
const QUEUE: usize = 256;

/// Longest text of a value that is written whole, in bytes.
const MAX_TEXT: usize = 512;

/// Where calls are told of. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tape {
    lines: mpsc::Sender<Line>,
    lost: Arc<AtomicU64>,
}

/// One call.
#[derive(Debug)]
struct Line {
    at: Timestamp,
    text: Map<String, Value>,
}

/// Writes the tape.
#[derive(Debug)]
pub struct Writer {
    lines: mpsc::Receiver<Line>,
    lost: Arc<AtomicU64>,
    path: PathBuf,
    max_bytes: u64,
    file: File,
    written: u64,
}

/// One call, as it went.
#[derive(Debug)]
pub struct Spoken<'a> {
    /// The method's name.
    pub method: &'a str,
    /// The path and the query.
    pub path: &'a str,
    /// What was sent.
    pub request: Option<&'a [u8]>,
    /// Status and body, or why there is none.
    pub answer: Result<(u16, &'a [u8]), String>,
    /// From the call to its answer.
    pub took: Duration,
}

/// The tape and its writer, where it is enabled.
///
/// # Errors
/// The file cannot be opened.
pub async fn open(settings: &DebugTapeSettings) -> io::Result<Option<(Tape, Writer)>> {
    if !settings.enabled {
        return Ok(None);
    }
    let (sender, lines) = mpsc::channel(QUEUE);
    let (path, max_bytes) = (settings.path.clone(), settings.max_bytes);
    let file = append_to(&path).await?;
    let written = file.metadata().await?.len();
    let lost = Arc::<AtomicU64>::default();
    let tape = Tape { lines: sender, lost: Arc::clone(&lost) };
    Ok(Some((tape, Writer { lines, lost, path, max_bytes, file, written })))
}

async fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    // Whoever can make links there is not to say where this goes.
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    options.open(path).await
}

impl Tape {
    /// Tells of a call. Never waits.
    pub fn tell(&self, spoken: &Spoken<'_>) {
        let mut text = Map::new();
        text.insert("ms".to_owned(), json!(u64::try_from(spoken.took.as_millis()).unwrap_or(u64::MAX)));
        text.insert("method".to_owned(), json!(spoken.method));
        text.insert("path".to_owned(), json!(spoken.path));
        if let Some(request) = spoken.request {
            text.insert("request".to_owned(), body(request));
        }
        match &spoken.answer {
            Ok((status, answer)) => {
                text.insert("status".to_owned(), json!(status));
                text.insert("answer".to_owned(), body(answer));
            }
            Err(why) => drop(text.insert("error".to_owned(), json!(why))),
        }
        if self.lines.try_send(Line { at: Timestamp::now(), text }).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Writes until `stop`, then what is waiting.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let line = tokio::select! {
                biased;
                line = self.lines.recv() => line,
                () = stop.cancelled() => None,
            };
            let Some(line) = line else { break };
            if let Err(error) = self.write(line).await {
                tracing::warn!(path = %self.path.display(), %error, "the debug tape cannot be written, and ends here");
                return;
            }
        }
        if let Err(error) = self.file.flush().await {
            tracing::warn!(path = %self.path.display(), %error, "the debug tape's end is not written");
        }
    }

    async fn write(&mut self, line: Line) -> io::Result<()> {
        let mut text = Map::new();
        text.insert("at".to_owned(), json!(format!("{:.3}", line.at)));
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            text.insert("lost".to_owned(), json!(lost));
        }
        text.extend(line.text);
        let mut bytes = serde_json::to_vec(&text)?;
        bytes.push(b'\n');
        if self.written > 0 && self.written + bytes.len() as u64 > self.max_bytes / 2 {
            self.file.flush().await?;
            tokio::fs::rename(&self.path, earlier(&self.path)).await?;
            self.file = append_to(&self.path).await?;
            self.written = 0;
        }
        self.file.write_all(&bytes).await?;
        self.file.flush().await?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// The file before this one.
fn earlier(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// A body as it is written: JSON without secrets; of anything else only the length.
fn body(bytes: &[u8]) -> Value {
    match serde_json::from_slice(bytes) {
        Ok(value) => without_secrets(false, value),
        Err(_) if bytes.is_empty() => Value::Null,
        Err(_) => json!(format!("({} bytes that are no JSON)", bytes.len())),
    }
}

/// Names of values that are secrets, or output of commands; a part of the name is enough. All that lies beneath one is hidden.
const HIDDEN: [&str; 11] =
    ["token", "secret", "password", "key", "credential", "authorization", "bytes", "csr", "certificate", "pem", "diff"];

/// Names among those that say nothing secret.
const SHOWN: [&str; 3] = ["token_type", "max_output_bytes", "max_diff_bytes"];

/// The variables of a command, whose names are their users' own.
const VARIABLES: &str = "env";

fn is_hidden(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name == VARIABLES || (HIDDEN.iter().any(|part| name.contains(part)) && !SHOWN.contains(&name.as_str()))
}

fn without_secrets(hidden: bool, value: Value) -> Value {
    match value {
        Value::String(text) if hidden => json!(format!("({} bytes)", text.len())),
        Value::String(text) => Value::String(shortened(without_userinfo(&text))),
        Value::Array(list) => list.into_iter().map(|value| without_secrets(hidden, value)).collect(),
        Value::Object(map) => map
            .into_iter()
            .map(|(name, value)| {
                let value = without_secrets(hidden || is_hidden(&name), value);
                (name, value)
            })
            .collect(),
        other => other,
    }
}

/// A URL without the user and the password that it may carry, wherever it stands in the text.
fn without_userinfo(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        shown.push_str(before);
        shown.push_str("://");
        let end = after.find(|c: char| c == '/' || c == '?' || c == '#' || c.is_whitespace()).unwrap_or(after.len());
        let (authority, others) = after.split_at(end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                shown.push_str("***@");
                shown.push_str(host);
            }
            None => shown.push_str(authority),
        }
        rest = others;
    }
    shown.push_str(rest);
    shown
}

fn shortened(text: String) -> String {
    if text.len() <= MAX_TEXT {
        return text;
    }
    let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}… ({} bytes)", text.get(..end).unwrap_or_default(), text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(path: PathBuf, max_bytes: u64) -> DebugTapeSettings {
        DebugTapeSettings { enabled: true, path, max_bytes }
    }

    fn told(tape: &Tape, path: &str, request: &Value) {
        let request = serde_json::to_vec(request).unwrap();
        let answer = Ok((200, &b"{\"directive_token\":\"secret-2\"}"[..]));
        let took = Duration::from_millis(7);
        tape.tell(&Spoken { method: "POST", path, request: Some(&request), answer, took });
    }

    #[test]
    fn no_secret_is_shown() {
        let long = "x".repeat(600);
        let cases = [
            (json!({"directive_token": "abc"}), json!({"directive_token": "(3 bytes)"})),
            (json!({"a": [{"enroll_token": "abc"}]}), json!({"a": [{"enroll_token": "(3 bytes)"}]})),
            (json!({"env": {"HOME": "/x", "N": ""}}), json!({"env": {"HOME": "(2 bytes)", "N": "(0 bytes)"}})),
            (json!({"env": ["N=secret"]}), json!({"env": ["(8 bytes)"]})),
            (
                json!({"credentials": {"user": "u", "all": [{"x": "yz"}]}}),
                json!({"credentials": {"user": "(1 bytes)", "all": [{"x": "(2 bytes)"}]}}),
            ),
            (json!({"bytes": "b3V0", "seq": 4}), json!({"bytes": "(4 bytes)", "seq": 4})),
            (
                json!({"csr_pem": "x", "limits": {"max_output_bytes": 5}}),
                json!({"csr_pem": "(1 bytes)", "limits": {"max_output_bytes": 5}}),
            ),
            (json!({"repo_url": "https://u:p@h.example/x@y"}), json!({"repo_url": "https://***@h.example/x@y"})),
            (
                json!({"command": "git clone https://t@h/r; curl http://h/"}),
                json!({"command": "git clone https://***@h/r; curl http://h/"}),
            ),
            (json!({"command": long}), json!({"command": format!("{}… (600 bytes)", "x".repeat(512))})),
            (json!({"Private_Key": ["a", "bc"]}), json!({"Private_Key": ["(1 bytes)", "(2 bytes)"]})),
        ];
        for (said, expected) in cases {
            assert_eq!(body(said.to_string().as_bytes()), expected);
        }
        assert_eq!(body(b"<html>"), json!("(6 bytes that are no JSON)"));
        assert_eq!(body(b""), Value::Null);
    }

    #[tokio::test]
    async fn a_line_for_each_call_and_no_more_bytes_than_allowed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tape");
        let (tape, writer) = open(&settings(path.clone(), 4096)).await.unwrap().unwrap();
        for n in 0..60 {
            told(&tape, "/conduits/v1/polls", &json!({"n": n}));
        }
        let stop = CancellationToken::new();
        stop.cancel();
        writer.run(stop).await;
        let (now, before) = (std::fs::read_to_string(&path).unwrap(), std::fs::read_to_string(earlier(&path)).unwrap());
        assert!(now.len() <= 2048 && before.len() <= 2048 && !now.is_empty(), "{} {}", now.len(), before.len());
        let last: Value = serde_json::from_str(now.lines().next_back().unwrap()).unwrap();
        assert_eq!(last["request"], json!({"n": 59}));
        assert_eq!((&last["status"], &last["ms"], &last["method"]), (&json!(200), &json!(7), &json!("POST")));
        assert!(last["at"].as_str().unwrap().parse::<Timestamp>().is_ok(), "{last}");
        assert!(!now.contains("secret-2"));
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_link_is_not_followed_and_none_is_made_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("tape"), dir.path().join("target"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        open(&settings(path.clone(), 4096)).await.unwrap_err();
        assert!(!target.exists());
        let off = DebugTapeSettings { enabled: false, ..settings(path, 4096) };
        assert!(open(&off).await.unwrap().is_none());
    }
}
