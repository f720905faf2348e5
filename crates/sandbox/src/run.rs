//! What a driver is asked to run: plain values, each of which only parses valid.
//!
//! Leaves to others: whether the run is allowed at all. What is here has been admitted.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use guest::frame::{Bridge, Plan};
use sys::beneath::Beneath;
use sys::netns::Wanted;
use tokio::sync::oneshot;

use crate::{Environment, LaunchError, Limits, SandboxSockets, WorkspaceCwd};

/// Longest name of a run, in bytes: it becomes part of a cgroup's name.
const MAX_NAME: usize = 128;

/// Longest command, in bytes. The kernel takes no single argument of more than 128 KiB (MAX_ARG_STRLEN, execve(2)).
const MAX_SCRIPT: usize = 128 * 1024 - 1;

/// Longest path of a shell, in bytes (PATH_MAX less the terminating NUL).
const MAX_SHELL: usize = 4095;

/// One run, ready to be launched.
#[derive(Debug)]
pub struct PreparedRun {
    /// Names the run in logs and in its cgroup.
    pub name: RunName,
    /// What runs.
    pub command: CommandLine,
    /// Where it runs, relative to the workspace.
    pub cwd: WorkspaceCwd,
    /// The whole environment: nothing is added, nothing is inherited.
    pub environment: Environment,
    /// The directory that the command works in.
    pub workspace: Workspace,
    /// The way to the network.
    pub network: NetworkPath,
    /// What the run may use.
    pub limits: Limits,
    /// The command's standard input; `None`: /dev/null.
    pub stdin: Option<OwnedFd>,
    /// Write end of the pipe that takes standard output. End of file at the read end means that nobody is left.
    pub stdout: OwnedFd,
    /// Write end of the pipe that takes standard error.
    pub stderr: OwnedFd,
    /// How long the command may run, counted from [`crate::RunHandle::release`].
    pub timeout: Duration,
}

impl PreparedRun {
    /// The workspace and the working directory in it, which must not lead out.
    pub(crate) fn open_workspace(&self) -> Result<(Beneath, OwnedFd), LaunchError> {
        let workspace = Beneath::open(&self.workspace.host_dir).map_err(crate::bwrap::host("the facility"))?;
        let cwd = workspace
            .dir(self.cwd.relative())
            .map_err(|error| LaunchError::Cwd { cwd: self.cwd.to_string(), reason: error.to_string() })?;
        Ok((workspace, cwd))
    }

    /// What the helper is told, but for the bridge and the limit of processes.
    pub(crate) fn plan(&self, cwd: String, writable: &[&str]) -> Plan {
        let environment = self.environment.iter().map(|(name, value)| format!("{name}={value}").into_bytes());
        Plan {
            bridge: Bridge::None,
            cwd: cwd.into_bytes(),
            shell: self.command.shell().as_bytes().to_vec(),
            script: self.command.script().to_vec(),
            environment: environment.collect(),
            writable: writable.iter().map(|tree| tree.as_bytes().to_vec()).collect(),
            processes: 0,
            own_network: false,
        }
    }
}

/// The name of a run: `[A-Za-z0-9_.-]{1,128}`, not `.` or `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunName(String);

/// Why a text is no name of a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("run name {name:?} is not 1 to 128 characters of A-Z a-z 0-9 _ . - (and not . or ..)")]
pub struct RunNameError {
    /// The text, shortened.
    pub name: String,
}

impl RunName {
    /// Parses a name.
    ///
    /// # Errors
    /// The text is empty, too long, `.` or `..`, or has another character.
    pub fn parse(text: &str) -> Result<Self, RunNameError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        let valid = (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(plain) && text != "." && text != "..";
        if valid { Ok(Self(text.to_owned())) } else { Err(RunNameError { name: text.chars().take(64).collect() }) }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `<shell> -c <script>`, handed over as data. A script that begins like an option has a space before it: shells would take
/// it for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    shell: String,
    script: Vec<u8>,
}

/// Why a shell and a script make no command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// The shell is not an absolute path.
    #[error("shell {shell:?} is not an absolute path: give one such as /bin/sh")]
    ShellNotAbsolute {
        /// The shell as given, shortened.
        shell: String,
    },
    /// The shell's path is too long or has a NUL byte.
    #[error("shell path of {length} bytes is longer than 4095 bytes or has a NUL byte")]
    ShellPath {
        /// Its length in bytes.
        length: usize,
    },
    /// The script has a NUL byte, which no argument of a program can carry.
    #[error("the command has a NUL byte at offset {offset}: remove it")]
    NulByte {
        /// Offset of the first one.
        offset: usize,
    },
    /// The script is longer than one argument of a program may be.
    #[error(
        "the command is {length} bytes long, more than the {MAX_SCRIPT} that one argument may have: put it in a file of the workspace"
    )]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
}

impl CommandLine {
    /// A command line from an absolute shell and a script without NUL bytes.
    ///
    /// # Errors
    /// The shell is not absolute, or one of the two cannot be an argument of a program.
    pub fn new(shell: &str, script: impl Into<Vec<u8>>) -> Result<Self, CommandLineError> {
        let mut script = script.into();
        if !shell.starts_with('/') {
            return Err(CommandLineError::ShellNotAbsolute { shell: shell.chars().take(128).collect() });
        }
        if shell.len() > MAX_SHELL || shell.contains('\0') {
            return Err(CommandLineError::ShellPath { length: shell.len() });
        }
        if let Some(offset) = script.iter().position(|&byte| byte == 0) {
            return Err(CommandLineError::NulByte { offset });
        }
        if script.len() > MAX_SCRIPT {
            return Err(CommandLineError::TooLong { length: script.len() });
        }
        // `-c` is followed by further options, then by the script (sh(1)); `--` between them is for some shells the script.
        if matches!(script.first(), Some(b'-' | b'+')) {
            script.insert(0, b' ');
        }
        Ok(Self { shell: shell.to_owned(), script })
    }

    /// Absolute path of the shell, inside the sandbox.
    #[must_use]
    pub fn shell(&self) -> &str {
        &self.shell
    }

    /// What follows `-c`.
    #[must_use]
    pub fn script(&self) -> &[u8] {
        &self.script
    }
}

/// The directory that the command works in: `/workspace` inside an isolated sandbox, itself for the host driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Absolute path on the host.
    pub host_dir: PathBuf,
    /// What the command may do there.
    pub access: WorkspaceAccess,
    /// Whose files it is made of.
    pub files: WorkspaceFiles,
}

/// Whose files a workspace is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkspaceFiles {
    /// The driver's: [`crate::Drivers::owner`].
    Its,
    /// The daemon's own, who trusts the command with them: it finds them as its own, and what it writes is the daemon's.
    TheDaemons,
}

/// What the command may do in the workspace. The host driver takes [`WorkspaceAccess::ReadWrite`] alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkspaceAccess {
    /// All of it.
    ReadWrite,
    /// Reading only.
    ReadOnly,
    /// These paths alone exist; the rest of the workspace is an empty read-only directory.
    Only(Vec<Selected>),
}

/// One path of the workspace that a run may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Relative to the workspace, normalised.
    pub path: WorkspaceCwd,
    /// Whether it may be written.
    pub writable: bool,
}

/// How a run reaches the network.
#[derive(Debug)]
pub enum NetworkPath {
    /// A network of its own whose only way out is the egress proxy at 127.0.0.1:9080.
    Proxied(ProxyAttachment),
    /// A network of its own without any way out (git for diffs and snapshots).
    Isolated,
    /// The host's network. The bwrap driver refuses it.
    HostNetwork,
}

/// Where the egress proxy of a run takes its connections from.
#[derive(Debug)]
pub enum ProxyAttachment {
    /// The sandbox's own listening socket, sent out of it before the run is ready. It is non-blocking.
    Listener(oneshot::Sender<TcpListener>),
    /// The same with the sockets of a name service, which are made in the sandbox's network.
    ListenerWithNames {
        /// Takes them all.
        to: oneshot::Sender<SandboxSockets>,
        /// Which.
        wanted: Wanted,
    },
    /// A Unix socket of the proxy, mounted into the sandbox, that socat forwards 127.0.0.1:9080 to.
    Socket {
        /// The socket on the host.
        path: PathBuf,
        /// socat, as an absolute path inside the sandbox.
        socat: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "019ab-1.x_Y", &"x".repeat(128)] {
            assert_eq!(RunName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "a b", "ü", "a\0", &"x".repeat(129)] {
            assert!(RunName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn command_lines_are_arguments() {
        let line = CommandLine::new("/bin/sh", "echo '$x'\n\"").unwrap();
        assert_eq!((line.shell(), line.script()), ("/bin/sh", b"echo '$x'\n\"".as_slice()));
        for (command, script) in
            [("-x", " -x"), ("+x", " +x"), ("- -", " - -"), ("x -c", "x -c"), (" -x", " -x"), ("", "")]
        {
            assert_eq!(CommandLine::new("/bin/sh", command).unwrap().script(), script.as_bytes(), "{command:?}");
        }
        assert!(matches!(CommandLine::new("sh", "x"), Err(CommandLineError::ShellNotAbsolute { .. })));
        assert!(matches!(CommandLine::new("", "x"), Err(CommandLineError::ShellNotAbsolute { .. })));
        assert!(matches!(CommandLine::new("/bin/\0sh", "x"), Err(CommandLineError::ShellPath { .. })));
        assert_eq!(CommandLine::new("/bin/sh", "a\0b"), Err(CommandLineError::NulByte { offset: 1 }));
        assert!(CommandLine::new("/bin/sh", vec![b'x'; MAX_SCRIPT]).is_ok());
        assert!(matches!(
            CommandLine::new("/bin/sh", vec![b'x'; MAX_SCRIPT + 1]),
            Err(CommandLineError::TooLong { .. })
        ));
    }
}
