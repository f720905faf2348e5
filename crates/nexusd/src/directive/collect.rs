//! Collect: what a directive changed (snapshots and a diff) and what it made (artifacts).
//!
//! A directive that asks for nothing of this, or works in a folder that is no git work tree, costs one `stat`.

use std::time::{Duration, Instant};

use conduits::{DirectiveId, LogStream};
use sandbox::NetworkPath;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admit::Admitted;
use super::artifacts::{self, Patience};
use super::git::{self, Kept, Step};
use super::stop::StopSwitch;
use crate::engine::Engine;
use crate::facility::Occupied;
use crate::logs::Logs;

/// The longest that one look at the repository may take.
const LOOK_WITHIN: Duration = Duration::from_secs(60);

/// The longest that looking through the workspace and reading what matches may take.
const LIST_WITHIN: Duration = Duration::from_secs(60);

/// Two object names and a little room.
const NAMES: usize = 4096;

/// Takes the whole work tree, untracked files included, as a tree object, with an index of its own: the
/// repository's index stays as it is. Prints HEAD's commit (or an empty line), then the tree.
const SNAPSHOT: &str = r"
test -e .git || exit 3
git rev-parse --quiet --verify HEAD || echo
export GIT_INDEX_FILE=/tmp/index
cp .git/index /tmp/index 2>/dev/null
git add --all -- . ':(exclude,top).nexus' && git write-tree
";

/// `diff-tree` is plumbing: it looks at no configuration that formats, and is told to run no program.
const DIFF: &str =
    r#"exec git diff-tree -r -p --binary --no-ext-diff --no-textconv --no-color "$NEXUS_BEFORE" "$NEXUS_AFTER""#;

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
    Some(snapshot(engine, id, admitted, occupied, stop.watch()).await)
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
            Ok((before, after, kept)) => {
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

async fn diff(
    engine: &Engine,
    id: &DirectiveId,
    admitted: &Admitted,
    occupied: &Occupied,
    before: Result<Snapshot, String>,
) -> Result<(Snapshot, Snapshot, Kept), String> {
    let before = before?;
    // The command has ended: a cancel no longer concerns what it left. The time is bounded by the steps themselves.
    let never = || watch::Sender::new(None).subscribe();
    let after = snapshot(engine, id, admitted, occupied, never()).await?;
    if before.tree == after.tree {
        return Ok((before, after, Kept::default()));
    }
    let limit = admitted.spec.limits.max_diff_bytes.unwrap_or(conduits::directive::DEFAULT_MAX_DIFF_BYTES);
    let step = Step {
        name: "diff",
        script: DIFF,
        variables: &[("NEXUS_BEFORE", &before.tree), ("NEXUS_AFTER", &after.tree)],
        folder: &occupied.path,
        network: NetworkPath::Isolated,
        limits: admitted.limits,
        input: None,
        timeout: LOOK_WITHIN,
        // The line that says what is missing must fit, too.
        keep: usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(64),
    };
    let end = git::run(engine, id, step, never()).await.map_err(|error| error.to_string())?;
    match end.exit.code {
        0 => Ok((before, after, end.output)),
        code => Err(format!("git diff-tree ended with {code}: {}", end.messages.trim())),
    }
}

async fn snapshot(
    engine: &Engine,
    id: &DirectiveId,
    admitted: &Admitted,
    occupied: &Occupied,
    stop: watch::Receiver<Option<sandbox::Stop>>,
) -> Result<Snapshot, String> {
    let step = Step {
        name: "snapshot",
        script: SNAPSHOT,
        variables: &[],
        folder: &occupied.path,
        network: NetworkPath::Isolated,
        limits: admitted.limits,
        input: None,
        timeout: LOOK_WITHIN,
        keep: NAMES,
    };
    let end = git::run(engine, id, step, stop).await.map_err(|error| error.to_string())?;
    if end.exit.code != 0 {
        return Err(format!("git ended with {}: {}", end.exit.code, end.messages.trim()));
    }
    parse_snapshot(&end.output.bytes()).ok_or_else(|| "git printed no object names".to_owned())
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
