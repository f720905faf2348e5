//! The sandbox: the very line, driver, proxy and limits that a directive gets.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use conduits::{DirectiveId, FinishedRequest, NetMode, SandboxProfile};
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::verdict::Seen;
use crate::directive::report::{Reporter, TerminalDesk};
use crate::directive::stop::StopSwitch;
use crate::directive::{Order, carry_out};
use crate::engine::Engine;
use crate::logs::Logs;
use crate::run::facility::Folder;

/// Longest that a run may take, in seconds: firewalls that drop what is sent make every connection wait for two.
const TIMEOUT: u64 = 60;

/// Most that is read of what a run printed.
const MAX_OUTPUT: u64 = 256 * 1024;

/// The memory a run is given, and what it then takes, in MiB.
pub(super) const MEMORY_MB: u64 = 64;
pub(super) const TAKES_MB: u64 = 160;

/// The processes a run is given, and what it then starts.
pub(super) const PIDS: u64 = 32;
pub(super) const STARTS: u64 = 64;

/// The file that whoever stays behind holds.
pub(super) const LOCK: &str = "stays";

/// One profile's sandbox, in a folder of its own.
#[derive(Debug)]
pub(super) struct Inside<'a> {
    pub(super) engine: &'a Engine,
    pub(super) profile: SandboxProfile,
    pub(super) folder: Folder,
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) report: FinishedRequest,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Ran {
    fn ended_by(&self) -> Option<&str> {
        self.report.artifacts_manifest.get("ended_by").and_then(Value::as_str)
    }

    /// Why it said less than it should have.
    pub(super) fn why(&self) -> String {
        let last = self.stderr.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        format!("the run ended with code {}: {last}", self.report.exit_code.unwrap_or(-1))
    }
}

impl Inside<'_> {
    /// Whether the operator lets anything out at all.
    pub(super) fn has_proxy(&self) -> bool {
        self.engine.config.operator.net_ceiling != NetMode::None
    }

    /// Runs a command; the limits are those of the specification.
    ///
    /// # Errors
    /// Its output cannot be kept.
    pub(super) async fn run(&self, command: &str, limits: Value) -> Result<Ran, String> {
        let id = DirectiveId::generate();
        let listed = json!({ "mode": "allowlist", "allow": ["listed.invalid:443"] });
        let net = if self.has_proxy() { listed } else { json!({ "mode": "none" }) };
        let spec = json!({
            "directive_id": id,
            "facility": { "id": "prove" },
            "sandbox_profile": self.profile.as_str(),
            "command": command,
            "timeout_seconds": TIMEOUT,
            "limits": limits,
            "capabilities": { "net": net },
        });
        let fail = |error: io::Error| format!("cannot keep what the run prints: {error}");
        let (mut stdout, mut stderr) = (buffer("stdout").map_err(fail)?, buffer("stderr").map_err(fail)?);
        let copy = |file: &File| file.as_fd().try_clone_to_owned();
        let tasks = TaskTracker::new();
        let logs = Logs::to_files(
            copy(&stdout).map_err(fail)?,
            copy(&stderr).map_err(fail)?,
            &tasks,
            CancellationToken::new(),
        );
        let reporter = Reporter::Terminal(TerminalDesk::new(logs));
        let order = Order { spec, id, folder: Some(self.folder.path.clone()), input: None, received: Instant::now() };
        carry_out(self.engine, order, &reporter, &StopSwitch::default()).await;
        let Reporter::Terminal(desk) = reporter else { return Err("the run had no terminal".to_owned()) };
        let report = desk.into_end().ok_or("the run ended without a result")?;
        tasks.close();
        tasks.wait().await;
        Ok(Ran { report, stdout: text(&mut stdout).map_err(fail)?, stderr: text(&mut stderr).map_err(fail)? })
    }

    /// Whether a process that left its session and its parents outlives the command.
    pub(super) async fn survivors(&self) -> Result<Seen, String> {
        let ran = self.run(&format!("./probe probe stay {LOCK}"), json!({})).await?;
        let lock = self.folder.path.join(LOCK);
        let seen = match (ran.stdout.trim(), is_held(&lock)) {
            ("open", Ok(true)) => Seen::Open,
            ("open", Ok(false)) => Seen::Shut("it ended with its command".to_owned()),
            ("open", Err(error)) => Seen::Unknown(format!("its file cannot be looked at: {error}")),
            _ => Seen::Unknown(ran.why()),
        };
        // Whoever is left ends when its file is gone.
        match std::fs::remove_file(&lock) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(format!("cannot remove its file: {error}")),
            _ => Ok(seen),
        }
    }

    /// Whether more memory than was given can be had.
    pub(super) async fn memory(&self) -> Result<Seen, String> {
        let command = format!("echo tries; ./probe probe memory {TAKES_MB}");
        let ran = self.run(&command, json!({ "memory_mb": MEMORY_MB })).await?;
        Ok(limited(&ran, "oom"))
    }

    /// Whether more processes than were given can be had.
    pub(super) async fn processes(&self) -> Result<Seen, String> {
        let ran = self.run(&format!("echo tries; ./probe probe processes {STARTS}"), json!({})).await?;
        Ok(limited(&ran, "pids"))
    }
}

/// What became of a run that asked for more than it was given. A host that cannot keep the limit refuses the run: nothing
/// runs without it, and that is said.
fn limited(ran: &Ran, limit: &str) -> Seen {
    let mut said = ran.stdout.lines();
    match (said.next(), said.next()) {
        (Some("tries"), Some("open")) => Seen::Open,
        (Some("tries"), Some(shut)) => Seen::Shut(shut.trim_start_matches("shut ").to_owned()),
        (Some("tries"), None) if ran.ended_by() == Some(limit) => Seen::Shut(format!("ended by its limit: {limit}")),
        // As `sandbox::LaunchError::Limit` says it.
        (None, _) => match ran.stderr.split_once("cannot be enforced on this host: ") {
            Some((_, why)) => Seen::Refused(why.trim().to_owned()),
            None => Seen::Unknown(ran.why()),
        },
        _ => Seen::Unknown(ran.why()),
    }
}

/// Whether somebody holds the lock on a file. Whoever made the file is not trusted with what is opened.
pub(super) fn is_held(path: &Path) -> io::Result<bool> {
    let file =
        rustix::fs::open(path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(target_os = "linux")]
fn buffer(name: &str) -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?))
}

/// There is no sandbox whose words it would take.
#[cfg(not(target_os = "linux"))]
fn buffer(_: &str) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

fn text(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each end that a run at its limit may have, and only what was seen to be had is a leak.
    #[test]
    fn a_limit_holds_leaks_or_is_not_known() {
        let ran = |stdout: &str, stderr: &str, ended_by: Option<&str>| Ran {
            report: FinishedRequest {
                exit_code: Some(137),
                artifacts_manifest: ended_by.map(|why| ("ended_by".to_owned(), why.into())).into_iter().collect(),
                ..FinishedRequest::new(conduits::FinishedStatus::Failed)
            },
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
        };
        let refusal = "[nexusd] limit pids cannot be enforced on this host: no cgroups\n";
        let cases = [
            (ran("tries\nopen\n", "", None), Seen::Open),
            (ran("tries\nopen\n", "", Some("oom")), Seen::Open),
            (ran("tries\nshut Cannot allocate memory\n", "", None), Seen::Shut("Cannot allocate memory".to_owned())),
            (ran("tries\n", "", Some("oom")), Seen::Shut("ended by its limit: oom".to_owned())),
            (ran("", refusal, Some("engine")), Seen::Refused("no cgroups".to_owned())),
        ];
        for (ran, expected) in cases {
            assert_eq!(limited(&ran, "oom"), expected, "{ran:?}");
        }
        // It never tried, or something else ended it.
        for ran in [ran("", "", Some("oom")), ran("", "gone\n", None), ran("tries\n", "", Some("timeout"))] {
            assert!(matches!(limited(&ran, "oom"), Seen::Unknown(_)), "{ran:?}");
        }
    }

    #[test]
    fn who_holds_the_lock_has_stayed() {
        let dir = tempfile::tempdir().unwrap();
        let (lock, link) = (dir.path().join("lock"), dir.path().join("link"));
        let file = File::create(&lock).unwrap();
        assert!(!is_held(&lock).unwrap());
        file.lock().unwrap();
        assert!(is_held(&lock).unwrap());
        std::os::unix::fs::symlink(&lock, &link).unwrap();
        is_held(&link).unwrap_err();
        is_held(&dir.path().join("none")).unwrap_err();
    }
}
