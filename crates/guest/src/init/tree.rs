//! The descendants of a host run: whoever was started by the command, however far it has run away.
//!
//! The supervisor is a subreaper, so a process whose parents are gone is its child: following /proc from here finds every
//! one. Each is signalled through a pidfd that was opened before it was looked at again, so a pid that was given to
//! somebody else meanwhile is not hit.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::time::{Duration, Instant};

use super::os;

/// How long the descendants are hunted: a fork bomb may stay ahead, the cgroup's kill is what ends it.
const HUNT: Duration = Duration::from_secs(5);

/// Pause between two rounds of the hunt, in milliseconds.
const ROUND: i32 = 2;

/// A process in /proc: its parent, and when it began, which no two processes of one pid share.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    parent: i32,
    zombie: bool,
    began: u64,
}

/// Sends a signal to every descendant.
pub(crate) fn signal_descendants(signal: c_int) {
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
        os::poll_two(-1, -1, ROUND);
    }
}

/// Whether a descendant has one of this process's pipes open.
pub(crate) fn descendant_holds(fds: &[c_int]) -> bool {
    if !os::has_children() {
        return false;
    }
    let link = |path: String| std::fs::read_link(path).ok();
    let own: Vec<_> = fds.iter().filter_map(|fd| link(format!("/proc/self/fd/{fd}"))).collect();
    descendants().into_keys().any(|pid| {
        let Ok(open) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        open.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| own.contains(&target)))
    })
}

fn signal_one(pid: i32, entry: Entry, signal: c_int) {
    // SAFETY: plain numbers and a null siginfo; the descriptor is ours and closed below.
    unsafe {
        let pidfd = os::syscall(os::SYS_PIDFD_OPEN, pid, 0);
        if pidfd < 0 {
            return;
        }
        if look_at(pid).is_some_and(|now| now.began == entry.began) {
            os::syscall(os::SYS_PIDFD_SEND_SIGNAL, pidfd, signal, std::ptr::null::<u8>(), 0);
        }
        os::close_one(pidfd);
    }
}

/// All processes below this one that have not ended.
fn descendants() -> BTreeMap<i32, Entry> {
    let Ok(listing) = std::fs::read_dir("/proc") else { return BTreeMap::new() };
    let pids = listing.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let all: BTreeMap<i32, Entry> = pids.filter_map(|pid| Some((pid, look_at(pid)?))).collect();
    let own = i32::try_from(std::process::id()).unwrap_or(0);
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

/// /proc/<pid>/stat: the name in brackets may hold anything, so the fields are counted from the last bracket (proc(5)).
fn look_at(pid: i32) -> Option<Entry> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let began = fields.nth(17)?.parse().ok()?;
    Some(Entry { parent, zombie, began })
}
