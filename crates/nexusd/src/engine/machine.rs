//! How large this machine is, and which configured limits no machine of that size can keep.

use std::io;
use std::path::Path;

use super::MIB;
use crate::config::LimitSettings;

/// The machine's size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Machine {
    pub(super) memory_bytes: u64,
    pub(super) processors: u32,
}

/// A configured limit that is larger than the machine: a directive could never reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{key} {asked} is more than this machine has ({has}): set at most that, or leave it out")]
pub struct Beyond {
    key: &'static str,
    asked: u64,
    has: u64,
}

impl Machine {
    pub(super) fn read() -> io::Result<Self> {
        let memory_bytes = sys::machine::memory_bytes()?;
        let processors = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX));
        Ok(Self { memory_bytes, processors })
    }

    /// The first limit that is too large for this machine, with facilities on a disk of so many bytes.
    pub(super) fn beyond(self, limits: &LimitSettings, disk_bytes: u64) -> Option<Beyond> {
        let table = [
            ("limits.memory_mb", limits.memory_mb, self.memory_bytes / MIB),
            ("limits.cpu", limits.cpu, u64::from(self.processors) * 1000),
            ("limits.disk_mb", limits.disk_mb, disk_bytes / MIB),
        ];
        table.into_iter().find_map(|(key, asked, has)| {
            let asked = asked.filter(|asked| *asked > has)?;
            Some(Beyond { key, asked, has })
        })
    }
}

/// The bytes of the disk that holds `path`, or is going to; a file system that cannot be asked is not taken for a small one.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    let here = |path: &Path| if path.as_os_str().is_empty() { Path::new(".").to_owned() } else { path.to_owned() };
    let space = path.ancestors().find_map(|path| sys::disk::space(&here(path)).ok());
    space.map_or(u64::MAX, |space| space.total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Platform};

    #[test]
    fn a_limit_may_be_as_large_as_the_machine_and_no_larger() {
        let machine = Machine { memory_bytes: 2048 * MIB, processors: 2 };
        let built_in = Config::built_in(Platform::Linux, &|_| None).unwrap().limits;
        let said = |memory_mb, cpu, disk_mb| {
            let limits = LimitSettings { memory_mb, cpu, disk_mb, ..built_in.clone() };
            machine.beyond(&limits, 1000 * MIB).map(|beyond| beyond.to_string())
        };
        assert_eq!(said(None, None, None), None);
        assert_eq!(said(Some(2048), Some(2000), Some(1000)), None);
        let tail = ": set at most that, or leave it out";
        for (limits, expected) in [
            ((Some(2049), None, None), "limits.memory_mb 2049 is more than this machine has (2048)"),
            ((None, Some(2001), None), "limits.cpu 2001 is more than this machine has (2000)"),
            ((None, None, Some(1001)), "limits.disk_mb 1001 is more than this machine has (1000)"),
        ] {
            assert_eq!(said(limits.0, limits.1, limits.2), Some(format!("{expected}{tail}")));
        }
    }
}
