//! What only the inside of a container can tell: how often its memory limit killed.

use alloc::vec::Vec;
use core::ffi::CStr;

use super::file;

/// Where the container's own cgroup is shown: version 2, and version 1 (cgroups(7)). Both have a line `oom_kill N`.
const PLACES: [&CStr; 2] = [c"/sys/fs/cgroup/memory.events", c"/sys/fs/cgroup/memory/memory.oom_control"];

/// Most that is read of such a file, in bytes.
const MOST: usize = 1024;

/// How often the kernel killed a process of this container for want of memory; 0 where that is not shown.
pub(crate) fn oom_kills() -> u64 {
    let text: Option<Vec<u8>> = PLACES.iter().find_map(|place| file::read_file(place, MOST).ok());
    text.map_or(0, |text| counted(&text))
}

fn counted(text: &[u8]) -> u64 {
    let mut lines = text.split(|&byte| byte == b'\n');
    let digits = lines.find_map(|line| line.strip_prefix(b"oom_kill ")).unwrap_or_default();
    digits.iter().filter(|byte| byte.is_ascii_digit()).take(18).fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_read_in_both_versions() {
        assert_eq!(counted(b"low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n"), 2);
        assert_eq!(counted(b"oom_kill_disable 0\nunder_oom 0\noom_kill 41\n"), 41);
        for nothing in [&b""[..], b"oom_kill", b"oom_kill x", b"max 3"] {
            assert_eq!(counted(nothing), 0);
        }
    }
}
