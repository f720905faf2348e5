//! Git, never on the host: its configuration executes commands, and a sandbox could have written it.
//!
//! Every step runs a script of ours in a fresh bwrap sandbox over the facility, with the host's `/usr`, under the
//! facility's uid, whatever the directive's own profile is ([`Engine::git_driver`] has the one exception). What the script
//! prints is read with a bound.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use conduits::DirectiveId;
use sandbox::{
    BaseEnvironment, CommandLine, Driver, Environment, Exit, Limits, NetworkPath, PreparedRun, ProxyVariables, RunName,
    Stop, StopReason, Workspace, WorkspaceAccess, WorkspaceCwd, WorkspaceFiles,
};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::disk::DiskGuard;
use super::stop::StopSwitch;
use crate::engine::Engine;
use crate::run::{RunError, Scratch};

/// The longest that the lines kept apart may be together, in bytes.
const LEAD_BYTES: usize = 4096;

/// The most of a step's messages that is kept, in bytes.
const MESSAGES_KEPT: usize = 16 * 1024;

/// One step: a script, and what it may reach.
#[derive(Debug)]
pub struct Step<'a> {
    /// Short, for the sandbox's name.
    pub name: &'static str,
    /// What it runs in.
    pub driver: Driver,
    /// Run by `/bin/sh -c` in the workspace, which `$CYBROS_WORKSPACE` names; `$NEXUS_SCRATCH` is a folder that is gone with it.
    pub script: &'a str,
    /// Values for the script; they reach it as data.
    pub variables: &'a [(&'a str, &'a str)],
    /// The folder on the host that is `/workspace`.
    pub folder: &'a Path,
    /// Whether it may be written to.
    pub access: WorkspaceAccess,
    /// Whose it is.
    pub files: WorkspaceFiles,
    /// What the step may add to the disk, where that is watched.
    pub disk: Option<&'a DiskGuard>,
    /// The way to the network.
    pub network: NetworkPath,
    /// What it may use: what the directive may, for what is in the repository runs on its account.
    pub limits: Limits,
    /// What its standard input is; nothing where there is none.
    pub input: Option<OwnedFd>,
    /// The longest it may take.
    pub timeout: Duration,
    /// Lines of its standard output that are kept apart, its first ones.
    pub lead: usize,
    /// The most of the rest that is kept: half from its beginning, half from its end.
    pub keep: usize,
}

/// What a step came to.
#[derive(Debug)]
pub struct StepEnd {
    /// How it ended.
    pub exit: Exit,
    /// Its standard output, within the bound.
    pub output: Kept,
    /// The end of its standard error.
    pub messages: String,
    /// Why it was ended, where it took more of the disk than it may.
    pub breach: Option<String>,
}

/// Why a step could not be run at all.
#[derive(Debug, thiserror::Error)]
#[error("git cannot be run in a sandbox here: {0}")]
pub struct StepError(String);

/// Runs one step to its end.
///
/// # Errors
/// The sandbox could not be started; a script that fails is no error but a [`StepEnd`].
pub async fn run(
    engine: &Engine,
    id: &DirectiveId,
    step: Step<'_>,
    mut stop: watch::Receiver<Option<Stop>>,
) -> Result<StepEnd, StepError> {
    let fail = |error: &dyn std::fmt::Display| StepError(error.to_string());
    let out = sys::pipe::pipe().map_err(|error| fail(&error))?;
    let err = sys::pipe::pipe().map_err(|error| fail(&error))?;
    let place = Place::of(engine, &step).map_err(|error| fail(&error))?;
    // A process of the host's has the host's network, and no workspace is narrowed for it.
    let is_confined = step.driver == Driver::Bwrap;
    let run = PreparedRun {
        // A run's name has at most 128 characters, as an id has: a digest keeps both within it.
        name: RunName::parse(&format!("{}-{}", step.name, uuid::Uuid::now_v7().simple()))
            .map_err(|error| fail(&error))?,
        command: CommandLine::new("/bin/sh", step.script).map_err(|error| fail(&error))?,
        cwd: WorkspaceCwd::default(),
        environment: environment(id, &step, &place).map_err(|error| fail(&error))?,
        workspace: Workspace {
            host_dir: step.folder.to_owned(),
            access: if is_confined { step.access } else { WorkspaceAccess::ReadWrite },
            files: step.files,
        },
        network: if is_confined { step.network } else { NetworkPath::HostNetwork },
        limits: step.limits,
        stdin: step.input,
        stdout: out.write,
        stderr: err.write,
        timeout: step.timeout,
    };
    let armed = engine.git_drivers().arm(step.driver, run).map_err(|error| fail(&error))?;
    let mut handle = engine.git_drivers().start(armed).await.map_err(|error| fail(&error))?;
    handle.ready().await.map_err(|error| fail(&error))?;
    handle.release().map_err(|error| fail(&error))?;
    let (own, census) = (StopSwitch::default(), handle.census());
    let waited = async {
        let mut ended = std::pin::pin!(handle.wait(own.watch()));
        let asked = async {
            match stop.wait_for(Option::is_some).await.ok().and_then(|stop| *stop) {
                Some(stop) => stop.reason,
                // Whoever could ask is gone.
                None => std::future::pending().await,
            }
        };
        let breached = async {
            match step.disk {
                Some(disk) => disk.breach(census).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            exit = &mut ended => {
                let breach = match step.disk {
                    Some(disk) => disk.last_look().await,
                    None => None,
                };
                (exit, breach)
            }
            reason = asked => {
                own.stop(reason);
                (ended.await, None)
            }
            breach = breached => {
                own.stop(StopReason::DiskFull);
                (ended.await, Some(breach))
            }
        }
    };
    let ((exit, breach), output, messages) =
        tokio::join!(waited, read_kept(out.read, step.lead, step.keep), read_kept(err.read, 0, MESSAGES_KEPT));
    let messages = String::from_utf8_lossy(&messages.map_err(|error| fail(&error))?.bytes()).into_owned();
    let (output, breach) = (output.map_err(|error| fail(&error))?, breach.map(|breach| breach.to_string()));
    Ok(StepEnd { exit, output, messages, breach })
}

/// Where a step finds its workspace, and what it may fill.
struct Place {
    workspace: String,
    scratch: String,
    /// Gone with the step.
    _folder: Option<Scratch>,
}

impl Place {
    fn of(engine: &Engine, step: &Step<'_>) -> Result<Self, RunError> {
        if step.driver == Driver::Bwrap {
            return Ok(Self { workspace: "/workspace".to_owned(), scratch: "/tmp".to_owned(), _folder: None });
        }
        // The host's /tmp is everybody's.
        let folder = Scratch::new(&engine.config.state_dir())?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Ok(Self { workspace: text(step.folder), scratch: text(folder.path()), _folder: Some(folder) })
    }
}

fn environment(id: &DirectiveId, step: &Step<'_>, place: &Place) -> Result<Environment, sandbox::EnvironmentError> {
    let mut environment = Environment::base(&BaseEnvironment {
        directive_id: id.as_str(),
        facility_id: "",
        territory_id: "",
        profile: "untrusted",
        workspace: &place.workspace,
        // The facility's own files must not configure the git that looks at it more than its repository does.
        home: &place.scratch,
        private_tmp: step.driver == Driver::Bwrap,
        proxy: match step.network {
            _ if step.driver != Driver::Bwrap => ProxyVariables::None,
            NetworkPath::Proxied(_) => ProxyVariables::Sandbox,
            NetworkPath::Isolated | NetworkPath::HostNetwork => ProxyVariables::None,
        },
    })?;
    let fixed = [
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_TERMINAL_PROMPT", "0"),
        ("GIT_ALLOW_PROTOCOL", "https:http:ssh:git"),
        ("GIT_OPTIONAL_LOCKS", "0"),
        ("NEXUS_SCRATCH", &place.scratch),
    ];
    for (name, value) in fixed.iter().chain(step.variables) {
        environment.set(name, value)?;
    }
    Ok(environment)
}

/// The beginning and the end of a stream, and how much was left out between.
#[derive(Debug, Default)]
pub struct Kept {
    lead: Vec<u8>,
    lead_lines: usize,
    head: Vec<u8>,
    tail: std::collections::VecDeque<u8>,
    cut: u64,
}

impl Kept {
    fn leading(lines: usize) -> Self {
        Self { lead_lines: lines, ..Self::default() }
    }

    fn push(&mut self, mut bytes: &[u8], keep: usize) {
        while self.lead_lines > 0 && !bytes.is_empty() && self.lead.len() < LEAD_BYTES {
            let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
            let (line, rest) = bytes.split_at(end.min(LEAD_BYTES - self.lead.len()));
            self.lead.extend_from_slice(line);
            self.lead_lines -= usize::from(line.ends_with(b"\n"));
            bytes = rest;
        }
        let room = (keep / 2).saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        self.tail.extend(&bytes[room..]);
        let over = self.tail.len().saturating_sub(keep - keep / 2);
        self.tail.drain(..over);
        self.cut += u64::try_from(over).unwrap_or(u64::MAX);
    }

    /// The first lines, kept apart.
    pub fn lead(&self) -> &[u8] {
        &self.lead
    }

    /// Whether something was left out.
    pub fn truncated(&self) -> bool {
        self.cut > 0
    }

    /// Everything kept, with a line between that says what is missing.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = self.head.clone();
        if self.cut > 0 {
            all.extend_from_slice(format!("\n[... {} bytes truncated ...]\n", self.cut).as_bytes());
        }
        let (front, back) = self.tail.as_slices();
        all.extend_from_slice(front);
        all.extend_from_slice(back);
        all
    }
}

async fn read_kept(read: OwnedFd, lead: usize, keep: usize) -> std::io::Result<Kept> {
    rustix::io::ioctl_fionbio(&read, true)?;
    let mut pipe = pipe::Receiver::from_owned_fd(read)?;
    let mut kept = Kept::leading(lead);
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match pipe.read(&mut buffer).await? {
            0 => return Ok(kept),
            n => kept.push(&buffer[..n], keep),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail_are_kept() {
        let mut kept = Kept::default();
        for piece in [&b"abc"[..], b"defgh", b"ij"] {
            kept.push(piece, 6);
        }
        assert_eq!(kept.bytes(), b"abc\n[... 4 bytes truncated ...]\nhij");
        assert!(kept.truncated());
        let mut whole = Kept::default();
        whole.push(b"abcdef", 6);
        assert_eq!((whole.bytes(), whole.truncated()), (b"abcdef".to_vec(), false));
    }

    #[test]
    fn leading_lines_are_kept_apart_however_they_come() {
        let text = b"one\n\nthree\nfour";
        for size in 1..text.len() {
            let mut kept = Kept::leading(2);
            text.chunks(size).for_each(|piece| kept.push(piece, 4));
            assert_eq!(
                (kept.lead(), &kept.bytes()[..]),
                (&b"one\n\n"[..], &b"th\n[... 6 bytes truncated ...]\nur"[..])
            );
        }
        let mut endless = Kept::leading(1);
        endless.push(&[b'x'; LEAD_BYTES + 3], 10);
        assert_eq!((endless.lead().len(), endless.bytes().len()), (LEAD_BYTES, 3));
    }

    #[test]
    fn nothing_is_kept_of_a_stream_without_room() {
        let mut kept = Kept::default();
        kept.push(b"abc", 0);
        assert_eq!(kept.bytes(), b"\n[... 3 bytes truncated ...]\n");
    }
}
