//! The processes of this host, as a list: who is whose child, and in which group.

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub pid: i32,
    /// Its parent's.
    pub parent: i32,
    /// Its process group's.
    pub group: i32,
    /// When it began, in the system's own unit: two processes of one number differ in it.
    pub began: u64,
    /// It has ended, and nobody has collected it yet.
    pub is_zombie: bool,
}

/// All processes that this one may see, as they are now or were a moment ago.
#[must_use]
pub fn all() -> Vec<Entry> {
    #[cfg(target_os = "macos")]
    return crate::macos::processes();
    #[cfg(not(target_os = "macos"))]
    from_proc()
}

/// Whether there is a process of this number, whoever's it is (kill(2) with signal 0). One that has ended and nobody has
/// collected counts.
#[must_use]
pub fn lives(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else { return false };
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

/// This process does not end with the one that made it: what has to be done then is its own to do.
pub fn live_without_parent() {
    // Where there is no such request, none was made.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(None).unwrap_or(());
}

/// This process's orphaned descendants become its children, where the system has that.
pub fn adopt_orphans() {
    // Where it cannot be, orphans are found by their group, and by having been seen before.
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap_or(());
}

/// User and system time in microseconds, and the largest resident size in KiB, of all children that were waited for
/// (getrusage(2)).
#[must_use]
#[allow(unsafe_code)]
pub fn usage_of_children() -> (u64, u64, u64) {
    // macOS counts bytes.
    const UNIT: u64 = if cfg!(target_os = "macos") { 1024 } else { 1 };
    // SAFETY: the struct is plain numbers, which the call writes.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    let micros = |time: libc::timeval| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(time.tv_usec).unwrap_or(0))
    };
    (micros(usage.ru_utime), micros(usage.ru_stime), u64::try_from(usage.ru_maxrss).unwrap_or(0) / UNIT)
}

#[cfg(not(target_os = "macos"))]
fn from_proc() -> Vec<Entry> {
    let names = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| parse(pid, &std::fs::read(format!("/proc/{pid}/stat")).ok()?)).collect()
}

/// /proc/<pid>/stat: the name in brackets may hold anything, so the fields are counted from the last bracket (proc(5)).
#[cfg(any(test, not(target_os = "macos")))]
fn parse(pid: i32, stat: &[u8]) -> Option<Entry> {
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let began = fields.nth(16)?.parse().ok()?;
    Some(Entry { pid, parent, group, began, is_zombie })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_those_after_the_name() {
        let line = |name: &str, state: &str| {
            format!("7 ({name}) {state} 42 6 5 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 123456 9 9\n")
        };
        let entry = |is_zombie| Some(Entry { pid: 7, parent: 42, group: 6, began: 123_456, is_zombie });
        for (stat, expected) in [
            (line("sh", "S"), entry(false)),
            (line("a) R 1 (b", "Z"), entry(true)),
            (line("x\ny", "X"), entry(true)),
            ("7 (sh) S 42 7".to_owned(), None),
            ("7 sh S".to_owned(), None),
        ] {
            assert_eq!(parse(7, stat.as_bytes()), expected, "{stat}");
        }
    }

    #[test]
    fn this_process_is_among_them() {
        let own = i32::try_from(std::process::id()).unwrap();
        let found = all();
        let entry = found.iter().find(|entry| entry.pid == own).unwrap();
        assert!(!entry.is_zombie && entry.began > 0 && entry.parent > 0);
        assert!(lives(std::process::id()) && lives(1));
        for nobody in [0, u32::MAX, (1 << 22) + 1] {
            assert!(!lives(nobody), "{nobody}");
        }
    }
}
