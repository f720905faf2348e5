//! Prepare: an empty facility is filled from `repo_url` before the command runs.
//!
//! The clone is made in a sandbox, in a folder beside the facility that becomes the facility by one rename when it is
//! whole: an interrupted one leaves nothing in it. It goes out through the egress proxy under the directive's own
//! network policy.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use conduits::{DirectiveId, LogStream};

use super::admit::Admitted;
use super::git::{self, Step, StepError};
use super::network::{Network, NetworkError};
use super::stop::StopSwitch;
use crate::engine::Engine;
use crate::facility::Occupied;
use crate::logs::Logs;

/// The longest a clone may take where the directive's own timeout is longer.
const LONGEST_CLONE: Duration = Duration::from_secs(30 * 60);

/// The URL comes as a variable, after `--`: it can be neither an option nor a piece of script.
const CLONE: &str =
    r#"exec git -c core.hooksPath=/dev/null clone --depth 1 --no-recurse-submodules -- "$NEXUS_REPO_URL" ."#;

/// Why the workspace could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A URL with a password in it.
    #[error("repo_url carries credentials, which this nexusd does not hand over; use a URL without them")]
    Credentials,
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
    if url.credentials().is_some_and(|(_, password)| password.is_some()) {
        return Err(PrepareError::Credentials);
    }
    let staging = engine.config.state_dir().join("prepare").join(admitted.spec.facility.id.as_str());
    make_staging(engine, &staging)
        .map_err(|source| PrepareError::Io { what: "make the folder of the clone", source })?;
    let cloned = clone(engine, id, admitted, url.expose(), &staging, logs, stop).await;
    let placed = cloned.and_then(|()| {
        place(&staging, &occupied.path)
            .map_err(|source| PrepareError::Io { what: "put the clone into the facility", source })
    });
    if placed.is_err() {
        remove(&staging).map_err(|source| PrepareError::Io { what: "remove the failed clone", source })?;
    }
    placed
}

async fn clone(
    engine: &Engine,
    id: &DirectiveId,
    admitted: &Admitted,
    url: &str,
    staging: &Path,
    logs: &Logs,
    stop: &StopSwitch,
) -> Result<(), PrepareError> {
    let (network, path) = Network::open_in_bwrap(engine, id, admitted, logs)?;
    let step = Step {
        name: "prepare",
        script: CLONE,
        variables: &[("NEXUS_REPO_URL", url)],
        folder: staging,
        network: path,
        timeout: admitted.timeout.min(LONGEST_CLONE),
        keep: 0,
    };
    let end = git::run(engine, id, step, stop.watch()).await;
    network.close().await;
    let end = end?;
    for line in end.messages.lines() {
        logs.notice(LogStream::Stderr, &format!("[prepare] {line}")).await;
    }
    match end.exit.code {
        0 => Ok(()),
        code => Err(PrepareError::Clone { code }),
    }
}

fn make_staging(engine: &Engine, staging: &Path) -> std::io::Result<()> {
    remove(staging)?;
    if let Some(parent) = staging.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    fs::DirBuilder::new().mode(0o700).create(staging)?;
    let owner = engine.git_drivers().owner(sandbox::Driver::Bwrap);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::lchown(staging, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(())
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
