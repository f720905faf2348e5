//! What the kernel says of itself, from `/proc` and `/sys`. Reading is here, judging in `rows`.

/// The files' contents; `None` where a file is not there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    /// `/proc/sys/kernel/unprivileged_userns_clone` (Debian's switch)
    pub(super) userns_clone: Option<String>,
    /// `/proc/sys/user/max_user_namespaces`
    pub(super) max_user_namespaces: Option<String>,
    /// `/proc/sys/kernel/apparmor_restrict_unprivileged_userns`
    pub(super) apparmor_restrict: Option<String>,
    /// `/proc/sys/kernel/seccomp/actions_avail`
    pub(super) seccomp_actions: Option<String>,
    /// Landlock's ABI, asked of the kernel itself.
    pub(super) landlock_abi: Option<u32>,
}

impl Kernel {
    pub(super) fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        Self {
            userns_clone: text("/proc/sys/kernel/unprivileged_userns_clone"),
            max_user_namespaces: text("/proc/sys/user/max_user_namespaces"),
            apparmor_restrict: text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            seccomp_actions: text("/proc/sys/kernel/seccomp/actions_avail"),
            landlock_abi: landlock_abi(),
        }
    }
}

#[cfg(target_os = "linux")]
fn landlock_abi() -> Option<u32> {
    sys::facts::KernelFacts::read().landlock_abi
}

#[cfg(not(target_os = "linux"))]
const fn landlock_abi() -> Option<u32> {
    None
}
