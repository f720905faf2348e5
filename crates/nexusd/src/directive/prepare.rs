//! Prepare: an empty facility is filled from `repo_url` before the command runs.
//!
//! The clone is made in a sandbox, in a folder beside the facility that becomes the facility by one rename when it is
//! whole: an interrupted one leaves nothing in it. It goes out through the egress proxy under the directive's own
//! network policy.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use conduits::{DirectiveId, LogStream, RepoUrl};
use sandbox::{Driver, WorkspaceAccess, WorkspaceFiles};

use super::admit::Admitted;
use super::disk::DiskGuard;
use super::git::{self, Step, StepError};
use super::network::{Network, NetworkError};
use super::stop::StopSwitch;
use crate::engine::Engine;
use crate::facility::{Occupied, Owner, hand_over_folder};
use crate::logs::Logs;

/// The longest a clone may take where the directive's own timeout is longer.
const LONGEST_CLONE: Duration = Duration::from_secs(30 * 60);

/// The URL comes as a variable, after `--`: it can be neither an option nor a piece of script. The credentials come as the
/// step's standard input, a file in memory that git's helper reads by its descriptor: so they are in no argument, no
/// variable and no file. The helper is asked for the URL's own origin alone: a server that redirects elsewhere does not get
/// them there. The empty one before it takes out those of the configuration.
const CLONE: &str = r#"exec 9<&0 </dev/null
exec git -c core.hooksPath=/dev/null -c credential.helper= -c "credential.$NEXUS_REPO_ORIGIN.helper=!cat /dev/fd/9; :" \
    clone --depth 1 --no-recurse-submodules -- "$NEXUS_REPO_URL" ."#;

/// Why the workspace could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The step could not run.
    #[error(transparent)]
    Step(#[from] StepError),
    /// No egress proxy for the step.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// git said no.
    #[error("git clone ended with exit code {code}")]
    Clone {
        /// Its exit code.
        code: i32,
    },
    /// It took more of the disk than the directive may, or nobody could tell.
    #[error("{0}")]
    Disk(String),
    /// The file system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Whether there is something to prepare.
pub fn needed(admitted: &Admitted, occupied: &Occupied) -> bool {
    occupied.empty && admitted.spec.facility.repo_url.is_some()
}

/// Fills the facility.
///
/// # Errors
/// [`PrepareError`]; the facility is as empty as before.
pub async fn prepare(
    engine: &Engine,
    id: &DirectiveId,
    admitted: &Admitted,
    occupied: &Occupied,
    logs: &Logs,
    stop: &StopSwitch,
) -> Result<(), PrepareError> {
    let Some(url) = &admitted.spec.facility.repo_url else { return Ok(()) };
    let credentials = credentials(url)?;
    let staging = engine.config.state_dir().join("prepare").join(admitted.spec.facility.id.as_str());
    make_staging(engine, engine.git_driver(admitted.driver), &staging)
        .map_err(|source| PrepareError::Io { what: "make the folder of the clone", source })?;
    let plain = if url.credentials().is_some() { url.without_credentials() } else { url.expose().to_owned() };
    let cloned = clone(engine, id, admitted, (&plain, credentials), &staging, logs, stop).await;
    let placed = cloned.and_then(|()| {
        own(engine, engine.git_driver(admitted.driver), &staging, occupied.owner)
            .and_then(|()| place(&staging, &occupied.path))
            .map_err(|source| PrepareError::Io { what: "put the clone into the facility", source })
    });
    if placed.is_err() {
        remove(&staging).map_err(|source| PrepareError::Io { what: "remove the failed clone", source })?;
    }
    placed
}

/// Scheme, host and port of a URL; of a scp-like one, all of it.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url.get(host..).and_then(|rest| rest.find('/')).map_or(url.len(), |at| host + at);
    url.get(..end).unwrap_or(url)
}

/// The credentials of the URL as git's helper answers them (git-credential(1): a line each; a [`RepoUrl`] has no control
/// characters, encoded or not), in a sealed file in memory.
fn credentials(url: &RepoUrl) -> Result<Option<OwnedFd>, PrepareError> {
    let Some((name, password)) = url.credentials() else { return Ok(None) };
    let password = password.unwrap_or_default();
    let answer = format!("username={name}\npassword={password}\n");
    let file = sys::memfd::sealed("nexus-credentials", answer.as_bytes(), sys::memfd::Executable::No);
    file.map(Some).map_err(|source| PrepareError::Io { what: "hand the credentials over", source })
}

async fn clone(
    engine: &Engine,
    id: &DirectiveId,
    admitted: &Admitted,
    (url, credentials): (&str, Option<OwnedFd>),
    staging: &Path,
    logs: &Logs,
    stop: &StopSwitch,
) -> Result<(), PrepareError> {
    let disk = DiskGuard::of(engine, admitted, staging).await.map_err(PrepareError::Disk)?;
    let driver = engine.git_driver(admitted.driver);
    let (network, path) = match driver {
        Driver::Bwrap => Network::open_in_bwrap(engine, id, admitted, logs)?,
        _ => Network::open(engine, id, admitted, logs)?,
    };
    let step = Step {
        name: "prepare",
        driver,
        script: CLONE,
        variables: &[("NEXUS_REPO_URL", url), ("NEXUS_REPO_ORIGIN", origin(url))],
        folder: staging,
        access: WorkspaceAccess::ReadWrite,
        files: WorkspaceFiles::Its,
        disk: Some(&disk),
        network: path,
        limits: admitted.limits,
        input: credentials,
        timeout: admitted.timeout.min(LONGEST_CLONE),
        lead: 0,
        keep: 0,
    };
    let end = git::run(engine, id, step, stop.watch()).await;
    network.close().await;
    let end = end?;
    for line in end.messages.lines() {
        logs.notice(LogStream::Stderr, &format!("[prepare] {line}")).await;
    }
    match (end.breach, end.exit.code) {
        (Some(breach), _) => Err(PrepareError::Disk(breach)),
        (None, 0) => Ok(()),
        (None, code) => Err(PrepareError::Clone { code }),
    }
}

fn make_staging(engine: &Engine, driver: Driver, staging: &Path) -> std::io::Result<()> {
    remove(staging)?;
    if let Some(parent) = staging.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    fs::DirBuilder::new().mode(0o700).create(staging)?;
    let owner = engine.git_drivers().owner(driver);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(staging, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(())
}

/// The clone is the sandbox's user's; whoever else works in the facility would be told by git that it is not his.
fn own(engine: &Engine, driver: Driver, staging: &Path, owner: Owner) -> std::io::Result<()> {
    let cloned_by = engine.git_drivers().owner(driver);
    if cloned_by.uid == owner.uid { Ok(()) } else { hand_over_folder(staging, owner.uid, owner.gid) }
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Renames the clone over the empty facility. What the daemon keeps there (`.nexus`) moves along.
fn place(staging: &Path, facility: &Path) -> std::io::Result<()> {
    let kept = facility.join(".nexus");
    if fs::symlink_metadata(&kept).is_ok() {
        remove(&staging.join(".nexus"))?;
        fs::rename(&kept, staging.join(".nexus"))?;
    }
    fs::rename(staging, facility)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for (url, expected) in [
            ("https://git.example:8443/a/b.git", "https://git.example:8443"),
            ("http://git.example", "http://git.example"),
            ("git@git.example:a/b.git", "git@git.example:a"),
        ] {
            assert_eq!(origin(url), expected);
        }
    }

    #[test]
    fn credentials_are_one_line_each() {
        let of = |text: &str| credentials(&text.parse::<RepoUrl>().unwrap());
        assert!(of("https://git.example/a").unwrap().is_none());
        assert!(of("https://u:p@git.example/a").unwrap().is_some());
        // What keeps a value to its line.
        assert!("https://u:p%0aurl=x@git.example/a".parse::<RepoUrl>().is_err());
    }
}
