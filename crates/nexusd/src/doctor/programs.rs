//! Asking a program for its version: the one place here that starts a process.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Longest wait for a version.
pub(super) const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest output that is read.
const MAX_OUTPUT: u64 = 16 * 1024;

/// What came of running a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ran {
    /// It ended by itself: whether well, and what it said on both streams.
    Ended { success: bool, output: String },
    /// It is not there.
    Missing,
    /// It could not be run, or did not end in time; why.
    Failed(String),
}

impl Ran {
    /// The first line that begins so, of a program that ended well.
    pub(super) fn line(&self, start: &str) -> Option<&str> {
        match self {
            Self::Ended { success: true, output } => output.lines().find(|line| line.starts_with(start)),
            _ => None,
        }
    }

    /// What it said last, for a message.
    pub(super) fn complaint(&self) -> String {
        match self {
            Self::Ended { output, .. } => {
                output.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing").to_owned()
            }
            Self::Missing => "not found".to_owned(),
            Self::Failed(why) => why.clone(),
        }
    }
}

/// Runs a program with nothing on its standard input, for at most `limit`; it is killed then.
#[allow(clippy::disallowed_methods, reason = "the version of a host's program, outside every sandbox and directive")]
pub(super) async fn run(program: &OsStr, args: &[&str], limit: Duration) -> Ran {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ran::Missing,
        Err(error) => return Ran::Failed(format!("cannot be run: {error}")),
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let outcome = tokio::time::timeout(limit, async {
        let (out, err) = tokio::join!(bounded(stdout), bounded(stderr));
        (child.wait().await, out + &err)
    });
    match outcome.await {
        Ok((Ok(status), output)) => Ran::Ended { success: status.success(), output },
        Ok((Err(error), _)) => Ran::Failed(error.to_string()),
        Err(_) => Ran::Failed(format!("did not answer within {} s", limit.as_secs())),
    }
}

async fn bounded(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe
        && let Err(error) = pipe.take(MAX_OUTPUT).read_to_end(&mut bytes).await
    {
        return format!("its output cannot be read: {error}");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn programs_are_bounded() {
        let second = Duration::from_secs(1);
        let run = |script: &'static str| async move { run(OsStr::new("/bin/sh"), &["-c", script], second).await };
        assert_eq!(run("echo out; echo err >&2").await, Ran::Ended { success: true, output: "out\nerr\n".to_owned() });
        assert_eq!(run("echo no; exit 3").await, Ran::Ended { success: false, output: "no\n".to_owned() });
        assert_eq!(run("sleep 60").await, Ran::Failed("did not answer within 1 s".to_owned()));
        let missing = super::run(OsStr::new("/nonexistent/program"), &[], second).await;
        assert_eq!(missing, Ran::Missing);
        // Endless output fills the pipe and is cut; the program is killed.
        assert!(matches!(run("yes").await, Ran::Ended { .. } | Ran::Failed(_)));
    }
}
