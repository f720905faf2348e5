//! What only the inside of a container can tell: how often its limits struck.

use alloc::vec::Vec;
use core::ffi::CStr;

use super::file;

/// Where the container's own cgroup is shown, version 2 and version 1 (cgroups(7)), and the line of the count.
const MEMORY: [&CStr; 2] = [c"/sys/fs/cgroup/memory.events", c"/sys/fs/cgroup/memory/memory.oom_control"];
const PIDS: [&CStr; 2] = [c"/sys/fs/cgroup/pids.events", c"/sys/fs/cgroup/pids/pids.events"];

/// Most that is read of such a file, in bytes.
const MOST: usize = 1024;

/// How often the kernel killed a process of this container for want of memory, and how many processes it was refused; 0 where
/// that is not shown.
pub(crate) fn counted() -> (u64, u64) {
    let number = |places: [&CStr; 2], line: &[u8]| {
        let text: Option<Vec<u8>> = places.iter().find_map(|place| file::read_file(place, MOST).ok());
        text.map_or(0, |text| number_after(&text, line))
    };
    (number(MEMORY, b"oom_kill "), number(PIDS, b"max "))
}

fn number_after(text: &[u8], name: &[u8]) -> u64 {
    let mut lines = text.split(|&byte| byte == b'\n');
    let digits = lines.find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    digits.iter().filter(|byte| byte.is_ascii_digit()).take(18).fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_in_both_versions() {
        assert_eq!(number_after(b"low 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n", b"oom_kill "), 2);
        assert_eq!(number_after(b"oom_kill_disable 0\nunder_oom 0\noom_kill 41\n", b"oom_kill "), 41);
        assert_eq!(number_after(b"max 7\n", b"max "), 7);
        for nothing in [&b""[..], b"oom_kill", b"oom_kill x", b"max 3"] {
            assert_eq!(number_after(nothing, b"oom_kill "), 0);
        }
    }
}
