//! How large this machine is.

use std::io;

/// Its memory, in bytes.
///
/// # Errors
/// The system does not say.
#[cfg(not(target_os = "macos"))]
pub fn memory_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let total = |line: &str| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok();
    let kib = text.lines().find_map(total).ok_or_else(|| io::Error::other("it has no MemTotal line"))?;
    Ok(kib.saturating_mul(1024))
}

/// Its memory, in bytes.
///
/// # Errors
/// The system does not say.
#[cfg(target_os = "macos")]
pub fn memory_bytes() -> io::Result<u64> {
    crate::macos::memory_bytes()
}

/// What names this start of the machine; empty where the system has no such name.
#[must_use]
#[cfg(not(target_os = "macos"))]
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What names this start of the machine; empty where the system has no such name.
#[must_use]
#[cfg(target_os = "macos")]
pub fn boot_id() -> String {
    crate::macos::boot_id().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_has_some() {
        assert!(super::memory_bytes().unwrap() > 64 << 20);
    }
}
