//! Writing limits, and reading back what the kernel made of them.

use std::fs;
use std::io;
use std::path::Path;

use super::{CgroupError, Version, write};

/// The period that processor time is shared out over, in microseconds (the kernel's default).
const CPU_PERIOD: u64 = 100_000;

/// The smallest share of a period that the kernel takes, in microseconds.
const MIN_CPU_QUOTA: u64 = 1_000;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Memory and swap together, in bytes.
    Memory,
    /// Processor time, in thousandths of one core.
    CpuMillicores,
    /// Processes and threads.
    Pids,
}

/// How far a limit is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Wholly.
    Whole,
    /// Memory is limited, swap is not: this kernel does not count it.
    WithoutSwap,
}

impl Quantity {
    pub(super) fn controller(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::CpuMillicores => "cpu",
            Self::Pids => "pids",
        }
    }
}

pub(super) fn set(dir: &Path, version: Version, quantity: Quantity, value: u64) -> Result<Applied, CgroupError> {
    let quota = value.saturating_mul(CPU_PERIOD).div_ceil(1000).max(MIN_CPU_QUOTA);
    match (quantity, version) {
        (Quantity::Pids, _) => set_exact(dir, "pids.max", value).map(|()| Applied::Whole),
        (Quantity::CpuMillicores, Version::Two) => {
            write(&dir.join("cpu.max"), &format!("{quota} {CPU_PERIOD}")).map(|()| Applied::Whole)
        }
        (Quantity::CpuMillicores, _) => {
            write(&dir.join("cpu.cfs_period_us"), &CPU_PERIOD.to_string())?;
            set_exact(dir, "cpu.cfs_quota_us", quota).map(|()| Applied::Whole)
        }
        (Quantity::Memory, Version::Two) => {
            set_bytes(dir, "memory.max", value)?;
            // One process that runs out of memory ends the run, not a random part of it.
            write(&dir.join("memory.oom.group"), "1")?;
            Ok(optional(write(&dir.join("memory.swap.max"), "0")))
        }
        (Quantity::Memory, _) => {
            set_bytes(dir, "memory.limit_in_bytes", value)?;
            Ok(optional(set_bytes(dir, "memory.memsw.limit_in_bytes", value)))
        }
    }
}

fn optional(swap: Result<(), CgroupError>) -> Applied {
    if swap.is_ok() { Applied::Whole } else { Applied::WithoutSwap }
}

fn set_exact(dir: &Path, file: &str, value: u64) -> Result<(), CgroupError> {
    write(&dir.join(file), &value.to_string())?;
    confirm(dir, file, |read| read == value)
}

/// The kernel rounds bytes down to pages.
fn set_bytes(dir: &Path, file: &str, value: u64) -> Result<(), CgroupError> {
    write(&dir.join(file), &value.to_string())?;
    confirm(dir, file, |read| read <= value && value - read < 65_536)
}

/// A limit that was written into something that is no cgroup, or that the kernel cut, is no limit.
fn confirm(dir: &Path, file: &str, holds: impl Fn(u64) -> bool) -> Result<(), CgroupError> {
    let path = dir.join(file);
    let text = fs::read_to_string(&path).map_err(|source| CgroupError { path: path.clone(), source })?;
    if text.trim().parse().is_ok_and(holds) {
        return Ok(());
    }
    let source = io::Error::other(format!("the kernel keeps {:?} instead of the limit", text.trim()));
    Err(CgroupError { path, source })
}
