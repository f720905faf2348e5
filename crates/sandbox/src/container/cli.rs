//! What is asked of podman beside its runs: what this host can do, which image there is, and to remove what is left.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sys::pipe::pipe;
use sys::spawn::{Image, Program, Stage, Status};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use super::explain::explain;
use crate::engine::Engine;
use crate::process;

/// How long an answer may take: a machine that has much to do, and a store that is locked for a while.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Most of an answer, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// How the facts are asked for (podman-info(1)).
const INFO: &str = "{{.Host.CgroupsVersion}} {{.Host.Security.Rootless}} {{.Host.Security.SELinuxEnabled}} {{.Version.Version}} \
                    {{range .Host.CgroupControllers}}{{.}} {{end}}";

/// What podman says of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// 1 or 2.
    pub(super) cgroup_version: u8,
    /// It works as an ordinary user.
    pub(super) rootless: bool,
    /// Files are labelled here.
    pub(super) selinux: bool,
    /// Its own version.
    pub(super) version: String,
    /// The cgroup controllers that it has.
    pub(super) controllers: Vec<String>,
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// `sha256:…` of its configuration: what runs are started from, so that the digest below is theirs.
    pub(super) id: String,
    /// `sha256:…` of its manifest.
    pub(super) digest: String,
}

/// podman's command line.
#[derive(Clone, Debug)]
pub(super) struct Podman {
    pub(super) program: PathBuf,
    /// `NAME=value` each: what it needs of the daemon's own environment.
    pub(super) environment: Vec<CString>,
}

impl Facts {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let cgroup_version = words.next()?.strip_prefix('v')?.parse().ok()?;
        let mut flag = || words.next()?.parse::<bool>().ok();
        let (rootless, selinux) = (flag()?, flag()?);
        let version = words.next()?.to_owned();
        Some(Self { cgroup_version, rootless, selinux, version, controllers: words.map(str::to_owned).collect() })
    }

    /// Whether limits of this controller are kept here, or why not.
    pub(super) fn limits_by(&self, controller: &str) -> Result<(), String> {
        if self.rootless && self.cgroup_version < 2 {
            return Err(
                "podman keeps no limits for an ordinary user under cgroup version 1: run nexusd as root, or boot with \
                        cgroup version 2"
                    .to_owned(),
            );
        }
        if self.controllers.iter().any(|name| name == controller) {
            return Ok(());
        }
        Err(format!(
            "podman does not have the cgroup controller {controller} here: delegate it to this user \
             (systemd: Delegate={controller} for user@.service)"
        ))
    }
}

impl Podman {
    /// What this host can do.
    pub(super) async fn facts(&self, engine: &Engine) -> Result<Facts, String> {
        let text = self.ask(engine, &["info", "--format", INFO]).await?;
        Facts::parse(&text).ok_or_else(|| format!("podman info says {:?}, which is not understood", shortened(&text)))
    }

    /// The image of this name, if it is there.
    ///
    /// # Errors
    /// Podman does not work, or has no such image.
    pub(super) async fn image(&self, engine: &Engine, name: &str) -> Result<Found, String> {
        let text = self.ask(engine, &["image", "inspect", "--format", "{{.Id}} {{.Digest}}", "--", name]).await?;
        let mut words = text.split_whitespace();
        match (words.next(), words.next()) {
            (Some(id), Some(digest)) if is_hex(id) => {
                Ok(Found { id: format!("sha256:{id}"), digest: digest.to_owned() })
            }
            _ => Err(format!("podman image inspect says {:?}, which is not understood", shortened(&text))),
        }
    }

    /// Containers with this label, running or not.
    pub(super) async fn labelled(&self, engine: &Engine, label: &Path) -> Result<Vec<String>, String> {
        let mut filter = format!("label={}=", super::args::LABEL).into_bytes();
        filter.extend(label.as_os_str().as_bytes());
        let words = [OsStr::new("ps"), OsStr::new("--all"), OsStr::new("--quiet"), OsStr::new("--filter")];
        let text = self.run(engine, words.into_iter().chain([OsStr::from_bytes(&filter)])).await?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    }

    /// Kills containers and removes them; one that is gone is no error.
    pub(super) async fn remove(&self, engine: &Engine, names: &[String]) -> Result<(), String> {
        let words = ["rm", "--force", "--ignore", "--time=0", "--volumes", "--"];
        let all = words.into_iter().chain(names.iter().map(String::as_str)).map(OsStr::new);
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
            Ok(Ok((_, _, complained))) => Err(explain(&complained)),
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

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_or_refused() {
        let facts = Facts::parse("v1 false false 4.3.1 cpuset cpu memory pids \n").unwrap();
        assert_eq!((facts.cgroup_version, facts.rootless, facts.version.as_str()), (1, false, "4.3.1"));
        assert_eq!(facts.controllers, ["cpuset", "cpu", "memory", "pids"]);
        assert!(Facts::parse("v2 true true 5.0.0").unwrap().selinux);
        for nonsense in ["", "v2", "v2 yes no 4", "2 true true 4.3.1", "v2 true true", "<no value> false false 4.3.1"] {
            assert_eq!(Facts::parse(nonsense), None, "{nonsense:?}");
        }
    }

    #[test]
    fn who_keeps_limits() {
        let all = vec!["cpu".to_owned(), "memory".to_owned(), "pids".to_owned()];
        let facts =
            |cgroup_version, rootless| Facts { cgroup_version, rootless, controllers: all.clone(), ..Facts::default() };
        assert_eq!(facts(1, false).limits_by("memory"), Ok(()));
        assert_eq!(facts(2, true).limits_by("pids"), Ok(()));
        assert!(facts(1, true).limits_by("memory").unwrap_err().contains("cgroup version 2"));
        assert!(facts(2, true).limits_by("io").unwrap_err().contains("Delegate=io"));
    }
}
