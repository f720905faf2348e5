//! What this kernel offers, as far as it can be read off.

use std::fs;

/// A yes-or-no setting of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// It is on.
    On,
    /// It is off.
    Off,
    /// This kernel does not have it.
    Absent,
}

/// What matters to sandboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFacts {
    /// `kernel.unprivileged_userns_clone` (Debian's and Ubuntu's own): off forbids user namespaces.
    pub unprivileged_userns_clone: Setting,
    /// `kernel.apparmor_restrict_unprivileged_userns`: on takes the capabilities in a user namespace away.
    pub apparmor_restrict_userns: Setting,
    /// `user.max_user_namespaces`; `None` when it cannot be read.
    pub max_user_namespaces: Option<u64>,
    /// Whether system-call filters work.
    pub seccomp: bool,
    /// Landlock's ABI; `None` where the kernel has none or it is off.
    pub landlock_abi: Option<u32>,
    /// The kernel's release, such as `6.8.0-41-generic`.
    pub release: String,
}

impl KernelFacts {
    /// Reads them.
    #[must_use]
    pub fn read() -> Self {
        Self {
            unprivileged_userns_clone: setting("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restrict_userns: setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            max_user_namespaces: read("/proc/sys/user/max_user_namespaces").and_then(|text| text.parse().ok()),
            seccomp: fs::exists("/proc/sys/kernel/seccomp/actions_avail").unwrap_or(false),
            landlock_abi: landlock_abi(),
            release: rustix::system::uname().release().to_string_lossy().into_owned(),
        }
    }
}

impl KernelFacts {
    /// Whether the kernel is of this version, major and minor, or a later one.
    #[must_use]
    pub fn is_at_least(&self, version: (u32, u32)) -> bool {
        let mut numbers = self.release.split(|other: char| !other.is_ascii_digit()).map(|number| number.parse().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) => (major, minor) >= version,
            _ => false,
        }
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn setting(path: &str) -> Setting {
    match read(path).as_deref() {
        None => Setting::Absent,
        Some("0") => Setting::Off,
        Some(_) => Setting::On,
    }
}

#[cfg(not(target_os = "linux"))]
const fn landlock_abi() -> Option<u32> {
    None
}

/// The version query of landlock_create_ruleset(2).
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn landlock_abi() -> Option<u32> {
    const VERSION: libc::c_uint = 1;
    // SAFETY: a query by version takes no memory.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0_usize, VERSION) };
    u32::try_from(abi).ok().filter(|&abi| abi > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        let of = |release: &str| KernelFacts { release: release.to_owned(), ..KernelFacts::read() };
        for (release, expected) in [
            ("5.14.0", true),
            ("5.14", true),
            ("6.1.0-41-amd64", true),
            ("10.0-rc1", true),
            ("5.4.0-150-generic", false),
            ("5.13.19", false),
            ("4.18.0-553.el8.x86_64", false),
            ("strange", false),
        ] {
            assert_eq!(of(release).is_at_least((5, 14)), expected, "{release}");
        }
    }

    #[test]
    fn the_kernel_has_a_name() {
        let facts = KernelFacts::read();
        assert!(facts.release.starts_with(|first: char| first.is_ascii_digit()), "{facts:?}");
    }
}
