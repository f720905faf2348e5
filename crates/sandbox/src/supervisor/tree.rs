//! The processes of a run: the command's own, its group, and whoever descends from them.

use std::collections::BTreeMap;

use rustix::process::{Pid, Signal, kill_process};
use sys::processes::{Entry, all};

/// A process, and when it began, as far as that could be seen.
type Root = (i32, Option<u64>);

/// What is known of them.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// The command's process, which leads its group.
    root: Option<Root>,
    /// Those that lived at the last look, and when each began.
    known: BTreeMap<i32, u64>,
}

impl Tree {
    /// The command's process.
    pub(super) fn plant(&mut self, root: i32) {
        // It is this process's child and not collected yet, so the number is its own.
        let began = all().iter().find(|entry| entry.pid == root).map(|entry| entry.began);
        self.root = Some((root, began));
    }

    pub(super) fn is_planted(&self) -> bool {
        self.root.is_some()
    }

    pub(super) fn is_root(&self, pid: i32) -> bool {
        self.root.is_some_and(|(root, _)| root == pid)
    }

    /// Nobody lived at the last look.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Looks at all processes of the host.
    pub(super) fn look(&mut self) {
        if let Some(root) = self.root {
            let own = i32::try_from(std::process::id()).unwrap_or(0);
            self.known = grown(&all(), root, own, &self.known);
        }
    }

    /// Signals everybody that lived at the last look and is the same still.
    pub(super) fn signal(&self, signal: Signal) {
        let now = all();
        for entry in now.iter().filter(|entry| self.known.get(&entry.pid) == Some(&entry.began)) {
            if let Some(pid) = Pid::from_raw(entry.pid) {
                // It may have ended meanwhile.
                kill_process(pid, signal).unwrap_or(());
            }
        }
    }
}

/// Who belongs to the run of `root`, out of all processes: who did before and lives, is in its group, or has a parent that
/// belongs to it. Everybody below `own`, the supervisor, does, where orphans become its children. Those that have ended do not,
/// but their children do. Once the command has been collected and its group is empty, its number may be another's.
fn grown(all: &[Entry], (root, began): Root, own: i32, before: &BTreeMap<i32, u64>) -> BTreeMap<i32, u64> {
    let mut found: BTreeMap<i32, Entry> = BTreeMap::new();
    let is_its = !all.iter().any(|entry| entry.pid == root && began.is_some_and(|began| entry.began != began));
    loop {
        let belongs = |entry: &&Entry| {
            entry.pid != own
                && !found.contains_key(&entry.pid)
                && ((is_its && (entry.pid == root || entry.group == root))
                    || entry.parent == own
                    || found.contains_key(&entry.parent)
                    || before.get(&entry.pid) == Some(&entry.began))
        };
        let more: Vec<Entry> = all.iter().filter(belongs).copied().collect();
        if more.is_empty() {
            break;
        }
        found.extend(more.into_iter().map(|entry| (entry.pid, entry)));
    }
    found.into_values().filter(|entry| !entry.is_zombie).map(|entry| (entry.pid, entry.began)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pid: i32, parent: i32, group: i32) -> Entry {
        Entry { pid, parent, group, began: u64::try_from(pid).unwrap_or(0) * 10, is_zombie: false }
    }

    #[test]
    fn who_belongs_to_a_run() {
        let before = BTreeMap::from([(30, 300), (31, 1)]);
        let dead = Entry { is_zombie: true, ..entry(22, 20, 20) };
        let table = [
            ("the command", entry(20, 10, 20), true),
            ("its child", entry(21, 20, 20), true),
            ("one that has ended", dead, false),
            ("the child of that one", entry(23, 22, 23), true),
            ("a grandchild in a group of its own", entry(24, 21, 24), true),
            ("an orphan in its group", entry(25, 1, 20), true),
            ("an orphan that the supervisor got", entry(26, 10, 26), true),
            ("an orphan that was seen before", entry(30, 1, 30), true),
            ("its child", entry(32, 30, 30), true),
            ("another that has the number of one seen before", entry(31, 1, 31), false),
            ("an orphan that nobody saw", entry(33, 1, 33), false),
            ("the supervisor", entry(10, 5, 10), false),
            ("the daemon", entry(5, 1, 5), false),
            ("somebody else's", entry(40, 5, 40), false),
        ];
        let all: Vec<Entry> = table.iter().map(|(_, entry, _)| *entry).collect();
        let found = grown(&all, (20, Some(200)), 10, &before);
        for (what, entry, belongs) in table {
            assert_eq!(found.get(&entry.pid) == Some(&entry.began), belongs, "{what}: {entry:?}");
        }
    }

    /// The numbers of processes come round again.
    #[test]
    fn a_stranger_who_has_the_commands_number_is_left_alone() {
        let all = [entry(20, 5, 20), entry(21, 20, 20), entry(30, 1, 30)];
        let before = BTreeMap::from([(30, 300)]);
        let pids = |began| grown(&all, (20, began), 10, &before).into_keys().collect::<Vec<_>>();
        assert_eq!(pids(Some(200)), [20, 21, 30], "the control");
        assert_eq!(pids(None), [20, 21, 30], "where it could not be seen");
        assert_eq!(pids(Some(100)), [30]);
    }
}
