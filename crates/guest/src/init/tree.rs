//! The descendants of a host run: whoever was started by the command, however far it has run away.
//!
//! The supervisor is a subreaper, so a process whose parents are gone is its child: following /proc from here finds every
//! one. Each is signalled through a pidfd that was opened before it was looked at again, so a pid that was given to
//! somebody else meanwhile is not hit.

use alloc::collections::BTreeMap;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::ops::ControlFlow;
use core::str::from_utf8;
use core::time::Duration;

use super::clock::Instant;
use super::{file, os, socket};

/// How long the descendants are hunted: a fork bomb may stay ahead, the cgroup's kill is what ends it.
const HUNT: Duration = Duration::from_secs(5);

/// Pause between two rounds of the hunt, in milliseconds.
const ROUND: i32 = 2;

/// Longest target of a link that is compared: longer ones are cut.
const LONGEST_LINK: usize = 4096;

/// Longer than /proc/<pid>/stat gets.
const LONGEST_STAT: usize = 2048;

/// A process in /proc: its parent, and when it began, which no two processes of one pid share.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    parent: i32,
    zombie: bool,
    began: u64,
}

/// Sends a signal to every descendant.
pub(crate) fn signal_descendants(signal: i32) {
    for (pid, entry) in descendants() {
        signal_one(pid, entry, signal);
    }
}

/// Kills every descendant and collects it.
pub(crate) fn kill_descendants() {
    let begin = Instant::now();
    while os::has_children() && begin.elapsed() < HUNT {
        let found = descendants();
        for (pid, entry) in found {
            signal_one(pid, entry, os::SIGKILL);
        }
        while os::wait_any().is_some() {}
        socket::pause(ROUND);
    }
}

/// The same of everything in this PID namespace, whose PID 1 this is.
pub(crate) fn kill_namespace() {
    let begin = Instant::now();
    while os::has_children() && begin.elapsed() < HUNT {
        os::signal_all(os::SIGKILL);
        while os::wait_any().is_some() {}
        socket::pause(ROUND);
    }
}

/// Whether a descendant has one of this process's pipes open.
pub(crate) fn descendant_holds(fds: &[i32]) -> bool {
    if !os::has_children() {
        return false;
    }
    let mut buffer = [MaybeUninit::uninit(); LONGEST_LINK];
    let own: Vec<Vec<u8>> = fds
        .iter()
        .filter_map(|fd| file::read_link(&path(format!("/proc/self/fd/{fd}")), &mut buffer).ok().map(<[u8]>::to_vec))
        .collect();
    descendants().into_keys().any(|pid| {
        let folder = format!("/proc/{pid}/fd");
        let seen = file::each_name(&path(folder.clone()), |name| {
            let link = path(format!("{folder}/{}", String::from_utf8_lossy(name)));
            match file::read_link(&link, &mut buffer) {
                Ok(target) if own.iter().any(|own| own == target) => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        });
        seen.is_ok_and(|seen| seen.is_break())
    })
}

/// What is made of numbers and names in /proc has no NUL.
fn path(text: String) -> CString {
    CString::new(text).unwrap_or_default()
}

fn signal_one(pid: i32, entry: Entry, signal: i32) {
    let Ok(process) = os::open_process(pid) else { return };
    if look_at(pid).is_some_and(|now| now.began == entry.began) {
        os::signal_process(&process, signal);
    }
}

/// All processes below this one that have not ended.
fn descendants() -> BTreeMap<i32, Entry> {
    let mut all: BTreeMap<i32, Entry> = BTreeMap::new();
    let listed = file::each_name(c"/proc", |name| {
        if let Some(pid) = number(name)
            && let Some(entry) = look_at(pid)
        {
            all.insert(pid, entry);
        }
        ControlFlow::Continue(())
    });
    if listed.is_err() {
        return BTreeMap::new();
    }
    let own = os::own_pid();
    let mut below: BTreeMap<i32, Entry> = BTreeMap::new();
    loop {
        let more: Vec<_> = all
            .iter()
            .filter(|(pid, entry)| {
                !below.contains_key(pid) && (entry.parent == own || below.contains_key(&entry.parent))
            })
            .map(|(pid, entry)| (*pid, *entry))
            .collect();
        if more.is_empty() {
            below.retain(|_, entry| !entry.zombie);
            return below;
        }
        below.extend(more);
    }
}

fn look_at(pid: i32) -> Option<Entry> {
    let mut buffer = [MaybeUninit::uninit(); LONGEST_STAT];
    parse(file::read_start(&path(format!("/proc/{pid}/stat")), &mut buffer).ok()?)
}

/// /proc/<pid>/stat: the name in brackets may hold anything, so the fields are counted from the last bracket (proc(5)).
fn parse(stat: &[u8]) -> Option<Entry> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = stat.get(end_of_name + 1..)?;
    let mut fields = rest.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let zombie = matches!(fields.next()?, b"Z" | b"X");
    let parent = number(fields.next()?)?;
    let began = number(fields.nth(17)?)?;
    Some(Entry { parent, zombie, began })
}

fn number<N: core::str::FromStr>(text: &[u8]) -> Option<N> {
    from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(parent: i32, zombie: bool, began: u64) -> Option<Entry> {
        Some(Entry { parent, zombie, began })
    }

    #[test]
    fn the_fields_are_those_after_the_name() {
        let line = |name: &str, state: &str| {
            format!("7 ({name}) {state} 42 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9 9\n")
        };
        let table = [
            (line("sh", "S"), entry(42, false, 123_456)),
            (line("a) R 1 (b", "Z"), entry(42, true, 123_456)),
            (line("x\ny", "X"), entry(42, true, 123_456)),
            (String::from("7 (sh) S 42 7"), None),
            (String::from("7 sh S"), None),
            (String::new(), None),
        ];
        for (stat, expected) in table {
            assert!(parse(stat.as_bytes()) == expected, "{stat}");
        }
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(look_at(own).is_some_and(|entry| !entry.zombie && entry.began > 0));
    }
}
