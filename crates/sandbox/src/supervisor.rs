//! The helper of a host run where the embedded one, which calls Linux's kernel itself, cannot run: the same words on the same
//! descriptors ([`guest::frame`], [`guest::fd`]), by the standard library.
//!
//! ```text
//!  Plan ──► Ready ──► Release ──► command ──► its end ──► drain ──► kill what is left ──► Exited
//! ```
//!
//! Promises: the command runs in a process group of its own; the end of the control socket, which comes with the daemon's, ends
//! everything that is known of the run. What is known: whoever is in the command's group, descends from it, or did when the
//! processes were looked at last. On systems that give orphans to their first process, one that leaves group and parents between
//! two looks is lost.

mod tree;

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use guest::frame::{Decoder, Ended, Failed, Frame, How, MAX_TO_HELPER, Order, Plan, Step};
use rustix::process::{Signal, WaitOptions, wait};
use sys::spawn::inherited;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use tree::Tree;

/// How long what a command left behind may go on.
const DRAIN: Duration = Duration::from_secs(2);

/// How often it is looked at meanwhile.
const DRAIN_STEP: Duration = Duration::from_millis(20);

/// How often the processes are looked at while the command runs, so that one that leaves its parents is known.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How long the descendants are hunted: a fork bomb may stay ahead.
const HUNT: Duration = Duration::from_secs(5);

/// Pause between two rounds of the hunt.
const ROUND: Duration = Duration::from_millis(5);

/// The arguments that start a program as this.
const ARGUMENTS: [&str; 2] = ["nexus-init", "host"];

/// Whether the program was started as the helper: by nobody but the daemon, whose own name is another.
#[must_use]
pub fn is_asked_for(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> bool {
    ARGUMENTS.iter().all(|expected| arguments.next().is_some_and(|argument| argument == *expected))
}

/// Runs until the command has ended or the daemon is gone; the exit code says only whether that was orderly.
///
/// # Errors
/// The descriptors are not there, or the runtime cannot be made.
pub fn run() -> io::Result<u8> {
    // The end of the control socket says that the daemon is gone; then everything is killed, and not before.
    sys::processes::live_without_parent();
    sys::processes::adopt_orphans();
    // As in every sandbox, however tight the daemon's own is.
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let outputs = [inherited(guest::fd::STDOUT)?, inherited(guest::fd::STDERR)?];
    let control = std::os::unix::net::UnixStream::from(inherited(guest::fd::CONTROL)?);
    control.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let control = UnixStream::from_std(control)?;
        let mut supervisor = Supervisor {
            control,
            decoder: Decoder::new(MAX_TO_HELPER),
            outputs,
            plan: None,
            tree: Tree::default(),
            ended: None,
        };
        let orderly = supervisor.supervise().await;
        supervisor.kill_all().await;
        if let (Ok(true), Some((how, _))) = (&orderly, supervisor.ended) {
            supervisor.report(how).await?;
            return Ok(0);
        }
        orderly.map(|_| 1)
    })
}

struct Supervisor {
    control: UnixStream,
    decoder: Decoder,
    outputs: [OwnedFd; 2],
    plan: Option<Plan>,
    tree: Tree,
    /// How the command ended, and when.
    ended: Option<(How, Instant)>,
}

impl Supervisor {
    /// Until the command has ended and nothing has to be waited for (`true`), or the daemon wants everything dead.
    async fn supervise(&mut self) -> io::Result<bool> {
        let mut children = signal(SignalKind::child())?;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let drained = self.ended.is_some();
            tokio::select! {
                read = self.control.read(&mut buffer) => {
                    let count = read?;
                    if count == 0 || !self.hear(buffer.get(..count).unwrap_or_default()).await? {
                        return Ok(false);
                    }
                }
                _ = children.recv() => self.reap(),
                _ = look.tick(), if !drained && self.tree.is_planted() => self.tree.look(),
                () = sleep(DRAIN_STEP), if drained => {}
            }
            if self.has_drained() {
                return Ok(true);
            }
        }
    }

    /// Takes what the daemon says; `false` when it wants everything dead.
    async fn hear(&mut self, bytes: &[u8]) -> io::Result<bool> {
        self.decoder.push(bytes);
        loop {
            match self.decoder.next_frame() {
                Ok(None) => return Ok(true),
                Ok(Some(Frame::Plan(plan))) if self.plan.is_none() => {
                    if !plan.cwd.is_empty()
                        && let Err(error) = std::env::set_current_dir(OsStr::from_bytes(&plan.cwd))
                    {
                        return self.give_up(Step::EnterCwd, &error).await;
                    }
                    self.plan = Some(plan);
                    self.say(&Frame::Ready).await?;
                }
                Ok(Some(Frame::Release)) if !self.tree.is_planted() && self.ended.is_none() => {
                    let Some(plan) = self.plan.take() else {
                        return self.give_up(Step::Plan, &io::ErrorKind::InvalidData.into()).await;
                    };
                    self.start(&plan)?;
                }
                Ok(Some(Frame::Signal(Order::Terminate))) => {
                    self.tree.look();
                    self.tree.signal(Signal::TERM);
                }
                Ok(Some(Frame::Signal(Order::Kill))) => return Ok(false),
                Ok(Some(_)) | Err(_) => {
                    return self.give_up(Step::Plan, &io::ErrorKind::InvalidData.into()).await;
                }
            }
        }
    }

    /// Starts `<shell> -c <script>`; a shell that cannot be run is the command's own end.
    #[allow(clippy::disallowed_methods, reason = "the command of a host run, without any isolation")]
    fn start(&mut self, plan: &Plan) -> io::Result<()> {
        let [stdout, stderr] = &self.outputs;
        let mut command = Command::new(OsStr::from_bytes(&plan.shell));
        command.arg("-c").arg(OsStr::from_bytes(&plan.script)).env_clear().process_group(0);
        command.stdout(Stdio::from(stdout.try_clone()?)).stderr(Stdio::from(stderr.try_clone()?));
        for variable in &plan.environment {
            let mut parts = variable.splitn(2, |byte| *byte == b'=').map(OsStr::from_bytes);
            if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                command.env(name, value);
            }
        }
        match command.spawn() {
            Ok(child) => self.tree.plant(i32::try_from(child.id()).unwrap_or(0)),
            Err(error) => {
                let shell = String::from_utf8_lossy(&plan.shell).into_owned();
                let mut stderr = std::fs::File::from(stderr.try_clone()?);
                // Whoever does not listen any more is not told.
                stderr.write_all(complaint(&shell, &error).as_bytes()).unwrap_or_default();
                self.ended = Some((How::Code(code_of(&error)), Instant::now()));
            }
        }
        Ok(())
    }

    /// Collects every child that has ended: also orphans, where they become this process's.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if self.tree.is_root(pid.as_raw_nonzero().get()) && self.ended.is_none() {
                let number = |value: i32| u8::try_from(value).unwrap_or(u8::MAX);
                let how = match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => How::Code(number(code)),
                    (None, signal) => How::Signal(number(signal.unwrap_or(0))),
                };
                self.ended = Some((how, Instant::now()));
            }
        }
    }

    /// Whether nothing of the command is left, or has been waited for long enough.
    fn has_drained(&mut self) -> bool {
        let Some((_, since)) = self.ended else { return false };
        self.reap();
        self.tree.look();
        if self.tree.is_empty() {
            return true;
        }
        let over = since.elapsed() >= DRAIN;
        if over {
            // Who has the pipes open cannot be seen here.
            complain("a process that the command left behind may have held its output for 2 s more, and was killed");
        }
        over
    }

    /// Kills everything that is known of the run.
    async fn kill_all(&mut self) {
        let begun = Instant::now();
        loop {
            self.reap();
            self.tree.look();
            if self.tree.is_empty() || begun.elapsed() > HUNT {
                return;
            }
            self.tree.signal(Signal::KILL);
            sleep(ROUND).await;
        }
    }

    async fn report(&mut self, how: How) -> io::Result<()> {
        let (user_micros, system_micros, max_rss_kib) = sys::processes::usage_of_children();
        let ended = Ended { how, user_micros, system_micros, max_rss_kib, oom_kills: 0, pids_refused: 0 };
        self.say(&Frame::Exited(ended)).await
    }

    /// Reports what failed; the run is over.
    async fn give_up(&mut self, step: Step, error: &io::Error) -> io::Result<bool> {
        let errno = error.raw_os_error().and_then(|errno| u16::try_from(errno).ok()).unwrap_or(0);
        self.say(&Frame::Failed(Failed { step, errno })).await?;
        Ok(false)
    }

    async fn say(&mut self, frame: &Frame) -> io::Result<()> {
        self.control.write_all(&frame.encode()).await
    }
}

/// As shells do: 127 when there is no such program, 126 when it cannot be run.
fn code_of(error: &io::Error) -> u8 {
    if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
}

/// The line about a shell that cannot be run, without the number that Rust adds to the system's words.
fn complaint(shell: &str, error: &io::Error) -> String {
    let words = error.to_string();
    let words = words.split(" (os error").next().unwrap_or_default();
    format!("nexus: {shell}: {words}\n")
}

/// A line on standard error. Nobody can be told when even that fails.
fn complain(text: &str) {
    io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_that_cannot_be_run_is_said_as_shells_say_it() {
        for (errno, code, line) in [
            (2, 127, "nexus: /bin/zsh: No such file or directory\n"),
            (13, 126, "nexus: /bin/zsh: Permission denied\n"),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!((code_of(&error), complaint("/bin/zsh", &error).as_str()), (code, line));
        }
    }

    #[test]
    fn nobody_is_the_helper_by_chance() {
        let asked = |words: &[&str]| is_asked_for(words.iter().map(Into::into));
        assert!(asked(&["nexus-init", "host"]));
        for words in [&["nexusd"] as &[&str], &["nexusd", "host"], &["nexus-init"], &["nexus-init", "sandbox"], &[]] {
            assert!(!asked(words), "{words:?}");
        }
    }
}
