//! Collect: what a directive changed (snapshots and a diff) and what it made (artifacts).
//!
//! A directive that asks for nothing of this, or works in a folder that is no git work tree, costs one `stat`.

use std::time::{Duration, Instant};

use conduits::{DirectiveId, DriverKind, LogStream};
use sandbox::{NetworkPath, WorkspaceAccess, WorkspaceFiles};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admit::Admitted;
use super::artifacts::{self, Patience};
use super::disk::DiskGuard;
use super::git::{self, Kept, Step, StepEnd};
use super::stop::StopSwitch;
use crate::engine::Engine;
use crate::facility::Occupied;
use crate::logs::Logs;

/// The longest that one look at the repository may take.
const LOOK_WITHIN: Duration = Duration::from_secs(60);

/// The longest that looking through the workspace and reading what matches may take.
const LIST_WITHIN: Duration = Duration::from_secs(60);

/// The work tree as a tree object, untracked files included, and what changed since another one.
///
/// Everything is done in a repository of the step's own, beside the directive's: of that one, the objects are read, the
/// commit of HEAD, and what it ignores. Its configuration, hooks, attributes and index are the directive's work; here no
/// filter, fsmonitor, hook, text conversion or external diff is configured, whatever they say. The index begins as HEAD's
/// tree and not as a copy, for an index can tell git to overlook a file. Submodules are taken out of it, else git would
/// look into them with a git of their own; nested repositories come back as the commit that they stand at.
///
/// Prints HEAD's commit (or an empty line), the tree, and the diff. 4: some files could not be taken up.
const LOOK: &str = r#"
test -e .git || exit 3
path() { git rev-parse --path-format=absolute --git-path "$1"; }
head=$(git rev-parse --quiet --verify HEAD) || head=
objects=$(path objects) && ignored=$(path info/exclude) && format=$(git rev-parse --show-object-format) || exit
git init --quiet --bare --template= --object-format="$format" "$NEXUS_SCRATCH/look" || exit
export GIT_DIR="$NEXUS_SCRATCH/look" GIT_WORK_TREE="$CYBROS_WORKSPACE"
if test "$NEXUS_BEFORE"; then
    export GIT_ALTERNATE_OBJECT_DIRECTORIES="$objects"
else
    export GIT_OBJECT_DIRECTORY="$objects"
fi
git read-tree "$head" 2>/dev/null || git read-tree --empty || exit
tab=$(printf '\t')
git ls-files -z --stage | tr '\0\n' '\n\0' | sed -n "s/^160000 [^$tab]*$tab//p" | tr '\n\0' '\0\n' |
    git update-index -z --force-remove --stdin || exit
git -c core.excludesFile="$ignored" -c advice.addEmbeddedRepo=false add --all --ignore-errors -- . ':(exclude,top).nexus'
added=$?
test $added -le 1 || exit $added
tree=$(git write-tree) || exit
printf '%s\n%s\n' "$head" "$tree"
if test "$NEXUS_BEFORE"; then
    git diff-tree -r -p --binary --no-ext-diff --no-textconv --no-color "$NEXUS_BEFORE" "$tree" || exit
fi
test $added -eq 0 || exit 4
"#;

/// What [`LOOK`] ends with where it could not take up every file.
const NOT_WHOLE: i32 = 4;

/// What was collected; empty where nothing was asked for.
#[derive(Debug, Default)]
pub struct Collected {
    /// HEAD before the command.
    pub snapshot_before: Option<String>,
    /// HEAD after it.
    pub snapshot_after: Option<String>,
    /// The changes to the work tree.
    pub diff: Option<Vec<u8>>,
    /// The middle of the diff was left out.
    pub diff_truncated: bool,
    /// The manifest of the files that `artifacts.collect` matched.
    pub artifacts: Vec<Value>,
}

/// The repository as the run found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    head: Option<String>,
    tree: String,
}

/// The state before the command, where a diff is asked for and there is a repository.
pub async fn snapshot_before(
    engine: &Engine,
    id: &DirectiveId,
    admitted: &Admitted,
    occupied: &Occupied,
    stop: &StopSwitch,
) -> Option<Result<Snapshot, String>> {
    let asked = admitted.spec.artifacts.always_diff || admitted.spec.facility.repo_url.is_some();
    if !asked || std::fs::symlink_metadata(occupied.path.join(".git")).is_err() {
        return None;
    }
    Some(before(engine, id, admitted, occupied, stop).await)
}

/// The tree's objects stay in the repository, so that the diff finds them: under the directive's disk limit.
async fn before(
    engine: &Engine,
    id: &DirectiveId,
    admitted: &Admitted,
    occupied: &Occupied,
    stop: &StopSwitch,
) -> Result<Snapshot, String> {
    let disk = DiskGuard::begin(engine, admitted, occupied).await?;
    let step = Step { name: "snapshot", disk: Some(&disk), ..look(engine, admitted, occupied) };
    let end = git::run(engine, id, step, stop.watch()).await.map_err(|error| error.to_string())?;
    Ok(read(&end)?.0)
}

/// Everything that is to be kept of the run. What fails is said on stderr and left out: the run itself is over.
pub async fn collect(
    engine: &Engine,
    id: &DirectiveId,
    admitted: &Admitted,
    occupied: &Occupied,
    before: Option<Result<Snapshot, String>>,
    logs: &Logs,
    stop: &StopSwitch,
) -> Collected {
    let mut collected = Collected::default();
    if let Some(before) = before {
        match diff(engine, id, admitted, occupied, before).await {
            Ok((before, after, kept, missing)) => {
                if let Some(missing) = missing {
                    let line = format!("[nexusd] the diff of the work tree is not whole: {missing}");
                    logs.notice(LogStream::Stderr, &line).await;
                }
                collected.snapshot_before = before.head;
                collected.snapshot_after = after.head;
                collected.diff_truncated = kept.truncated();
                collected.diff = Some(kept.bytes()).filter(|diff| !diff.is_empty());
            }
            Err(why) => logs.notice(LogStream::Stderr, &format!("[nexusd] no diff of the work tree: {why}")).await,
        }
    }
    if !admitted.spec.artifacts.collect.is_empty() {
        match list_artifacts(admitted, occupied, stop).await {
            Ok(found) => collected.artifacts = found,
            Err(why) => logs.notice(LogStream::Stderr, &format!("[nexusd] no artifacts: {why}")).await,
        }
    }
    collected
}

/// The list is made on a thread of its own, which ends with the time, and with the next reason to stop.
async fn list_artifacts(admitted: &Admitted, occupied: &Occupied, stop: &StopSwitch) -> Result<Vec<Value>, String> {
    let (globs, folder) = (admitted.spec.artifacts.collect.clone(), occupied.path.clone());
    let given_up = CancellationToken::new();
    // Also where this future is dropped.
    let _on_the_way_out = given_up.clone().drop_guard();
    let patience = Patience { until: Instant::now() + LIST_WITHIN, given_up: given_up.clone() };
    // What stopped the command itself does not concern what it left.
    let mut later = stop.watch();
    later.mark_unchanged();
    let mut listing = tokio::task::spawn_blocking(move || artifacts::manifest(&folder, &globs, &patience));
    let listed = tokio::select! {
        listed = &mut listing => listed,
        Ok(()) = later.changed() => {
            given_up.cancel();
            listing.await
        }
    };
    match listed {
        Ok(listed) => listed.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The state after the command, and the diff to it: the workspace is only read, so the new objects last as long as the step.
async fn diff(
    engine: &Engine,
    id: &DirectiveId,
    admitted: &Admitted,
    occupied: &Occupied,
    before: Result<Snapshot, String>,
) -> Result<(Snapshot, Snapshot, Kept, Option<String>), String> {
    let before = before?;
    let limit = admitted.spec.limits.max_diff_bytes.unwrap_or(conduits::directive::DEFAULT_MAX_DIFF_BYTES);
    let step = Step {
        name: "diff",
        variables: &[("NEXUS_BEFORE", &before.tree)],
        access: WorkspaceAccess::ReadOnly,
        // The line that says what is missing must fit, too.
        keep: usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(64),
        ..look(engine, admitted, occupied)
    };
    // The command has ended: a cancel no longer concerns what it left. The time is bounded by the step itself.
    let never = watch::Sender::new(None).subscribe();
    let end = git::run(engine, id, step, never).await.map_err(|error| error.to_string())?;
    let (after, missing) = read(&end)?;
    Ok((before, after, end.output, missing))
}

fn look<'a>(engine: &Engine, admitted: &Admitted, occupied: &'a Occupied) -> Step<'a> {
    Step {
        name: "look",
        driver: engine.git_driver(admitted.driver),
        script: LOOK,
        variables: &[],
        folder: &occupied.path,
        access: WorkspaceAccess::ReadWrite,
        files: files(admitted.driver),
        disk: None,
        network: NetworkPath::Isolated,
        limits: admitted.limits,
        input: None,
        timeout: LOOK_WITHIN,
        lead: 2,
        keep: 0,
    }
}

/// What the daemon's own user works in is his; git's sandbox, which is another user's where the daemon is root, gets it lent.
fn files(driver: DriverKind) -> WorkspaceFiles {
    match driver {
        DriverKind::Host | DriverKind::DarwinAutomation => WorkspaceFiles::TheDaemons,
        DriverKind::Bwrap | DriverKind::Container | DriverKind::Firecracker => WorkspaceFiles::Its,
    }
}

/// The snapshot that a look printed, and what it says of files that it could not take up.
fn read(end: &StepEnd) -> Result<(Snapshot, Option<String>), String> {
    if let Some(breach) = &end.breach {
        return Err(breach.clone());
    }
    let missing = match end.exit.code {
        0 => None,
        NOT_WHOLE => Some(end.messages.trim().to_owned()),
        code => return Err(format!("git ended with {code}: {}", end.messages.trim())),
    };
    let snapshot = parse_snapshot(end.output.lead()).ok_or("git printed no object names")?;
    Ok((snapshot, missing))
}

/// Object names are checked before they are used as arguments: the repository's own configuration can make git
/// print anything.
fn parse_snapshot(output: &[u8]) -> Option<Snapshot> {
    let name = |text: &str| (text.len() == 40 || text.len() == 64) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let text = std::str::from_utf8(output).ok()?;
    let mut lines = text.lines();
    let (head, tree) = (lines.next()?, lines.next()?);
    if !name(tree) || lines.next().is_some() {
        return None;
    }
    Some(Snapshot { head: name(head).then(|| head.to_owned()), tree: tree.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_object_names_are_believed() {
        let (a, b) = ("a".repeat(40), "b".repeat(40));
        let good = parse_snapshot(format!("{a}\n{b}\n").as_bytes()).unwrap();
        assert_eq!(good, Snapshot { head: Some(a.clone()), tree: b.clone() });
        assert_eq!(parse_snapshot(format!("\n{b}\n").as_bytes()).unwrap().head, None);
        for bad in
            [String::new(), a.clone(), format!("{a}\n--output=/etc/x\n"), format!("{a}\n{b}\n{b}\n"), "\n\n".into()]
        {
            assert_eq!(parse_snapshot(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
