//! What is asked of the runtime beside its runs: what this host can do, which image there is, and to remove what is left.
//! [`super::runtime`] has the words.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sys::pipe::pipe;
use sys::spawn::{Image, Program, Stage, Status};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use super::args::joined;
use super::explain::explain;
use super::runtime::{ContainerRuntime, Facts, Found};
use crate::engine::Engine;
use crate::process;

/// How long an answer may take: a machine that has much to do, and a store that is locked for a while.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Most of an answer, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// The runtime's command line.
#[derive(Clone, Debug)]
pub(super) struct Cli {
    pub(super) runtime: ContainerRuntime,
    pub(super) program: PathBuf,
    /// `NAME=value` each: what it needs of the daemon's own environment.
    pub(super) environment: Vec<CString>,
}

impl Cli {
    /// What this host can do.
    pub(super) async fn facts(&self, engine: &Engine) -> Result<Facts, String> {
        let text = self.ask(engine, &self.runtime.info()).await?;
        let facts = self.runtime.facts(&text, engine.has_swap()).ok_or_else(|| self.puzzled("info", &text))?;
        self.runtime.fits(&facts).map(|()| facts)
    }

    /// The image of this name, if it is there.
    ///
    /// # Errors
    /// The runtime does not work, or has no such image, or one that cannot be run.
    pub(super) async fn image(&self, engine: &Engine, name: &str) -> Result<Found, String> {
        let text = self.ask(engine, &self.runtime.image(name)).await?;
        let found = self.runtime.found(&text).ok_or_else(|| self.puzzled("image inspect", &text))?;
        self.runtime.takes(&found).map(|()| found)
    }

    fn puzzled(&self, asked: &str, text: &str) -> String {
        format!("{} {asked} says {:?}, which is not understood", self.runtime.as_str(), shortened(text))
    }

    /// Containers with this label, running or not.
    pub(super) async fn labelled(&self, engine: &Engine, label: &Path) -> Result<Vec<String>, String> {
        let filter = self.runtime.filter(&joined(&format!("label={}=", super::args::LABEL), label));
        let words = [OsStr::new("ps"), OsStr::new("--all"), OsStr::new("--quiet"), OsStr::new("--filter")];
        let text = self.run(engine, words.into_iter().chain([filter.as_os_str()])).await?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    /// Kills containers and removes them; one that is gone is no error.
    pub(super) async fn remove(&self, engine: &Engine, names: &[String]) -> Result<(), String> {
        let all = self.runtime.removal().iter().copied().chain(names.iter().map(String::as_str)).map(OsStr::new);
        match self.run(engine, all.clone()).await {
            Ok(_) => Ok(()),
            // Where nobody watched a container end, podman finds out by failing to end it.
            Err(_) => self.run(engine, all).await.map(drop),
        }
    }

    async fn ask(&self, engine: &Engine, words: &[&str]) -> Result<String, String> {
        self.run(engine, words.iter().map(OsStr::new)).await
    }

    /// Runs it to its end, and gives what it printed, or what it complained of.
    async fn run<'a>(&self, engine: &Engine, words: impl Iterator<Item = &'a OsStr>) -> Result<String, String> {
        let mut argv = vec![sys::mount::c_path(&self.program).map_err(|error| error.to_string())?];
        for word in words {
            argv.push(CString::new(word.as_bytes()).map_err(|error| error.to_string())?);
        }
        match tokio::time::timeout(ANSWER_WITHIN, self.answer(engine, argv)).await {
            Ok(Ok((Status::Exited(0), said, _))) => Ok(said),
            Ok(Ok((status, _, complained))) if complained.trim().is_empty() => {
                Err(format!("{} ended without a word: {}", self.program.display(), in_words(status)))
            }
            Ok(Ok((_, said, complained))) if self.runtime.is_gone(&complained) => Ok(said),
            Ok(Ok((_, _, complained))) => Err(explain(self.runtime, &complained)),
            Ok(Err(error)) => Err(format!("{}: {error}", self.program.display())),
            Err(_) => Err(format!("{} did not answer within {} s", self.program.display(), ANSWER_WITHIN.as_secs())),
        }
    }

    async fn answer(&self, engine: &Engine, argv: Vec<CString>) -> Result<(Status, String, String), String> {
        let text = |error: std::io::Error| error.to_string();
        let (out, complaints) = (pipe().map_err(text)?, pipe().map_err(text)?);
        let image = argv.first().cloned().ok_or("there is nothing to run")?;
        let program = Program {
            image: Image::Path(image),
            argv,
            env: self.environment.clone(),
            stages: vec![Stage::NewSession, Stage::DieWithParent],
            fds: vec![engine.null().map_err(|error| error.to_string())?, out.write, complaints.write],
        };
        let mut running = process::start(engine.spawner(), program).await.map_err(|error| error.to_string())?;
        let read = |fd| async move {
            let mut bytes = Vec::new();
            let receiver = Receiver::from_owned_fd(fd)?;
            receiver.take(MAX_ANSWER).read_to_end(&mut bytes).await?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        for end in [&out.read, &complaints.read] {
            rustix::io::ioctl_fionbio(end, true).map_err(|errno| text(errno.into()))?;
        }
        let (said, complained) = tokio::try_join!(read(out.read), read(complaints.read)).map_err(text)?;
        Ok((running.ended().await.map_err(text)?, said, complained))
    }
}

fn shortened(text: &str) -> String {
    text.trim().chars().take(200).collect()
}

fn in_words(status: Status) -> String {
    match status {
        Status::Exited(code) => format!("code {code}"),
        Status::Killed(signal) => format!("signal {signal}"),
    }
}
