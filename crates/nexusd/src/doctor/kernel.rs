//! What the kernel says of itself, from `/proc` and `/sys`. Reading is here, judging in `rows`.

use std::path::Path;

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
    /// `/sys/fs/cgroup/cgroup.controllers`: there only on a host with cgroup v2 alone.
    pub(super) cgroup2_controllers: Option<String>,
    /// `/proc/self/cgroup`
    pub(super) own_cgroup: Option<String>,
    /// Whether this process may make cgroups beneath its own.
    pub(super) cgroup_writable: bool,
}

impl Kernel {
    pub(super) fn read() -> Self {
        let text = |path: &str| std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let own_cgroup = text("/proc/self/cgroup");
        let cgroup2_controllers = text("/sys/fs/cgroup/cgroup.controllers");
        let dir = own_cgroup_dir(own_cgroup.as_deref().unwrap_or_default(), cgroup2_controllers.is_some());
        Self {
            userns_clone: text("/proc/sys/kernel/unprivileged_userns_clone"),
            max_user_namespaces: text("/proc/sys/user/max_user_namespaces"),
            apparmor_restrict: text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            seccomp_actions: text("/proc/sys/kernel/seccomp/actions_avail"),
            landlock_abi: landlock_abi(),
            cgroup_writable: rustix::fs::access(Path::new(&dir), rustix::fs::Access::WRITE_OK).is_ok(),
            cgroup2_controllers,
            own_cgroup,
        }
    }

    /// The version 1 controllers of this process (cgroups(7): `id:controllers:path`).
    pub(super) fn cgroup1_controllers(&self) -> Vec<&str> {
        let lines = self.own_cgroup.as_deref().unwrap_or_default().lines();
        lines
            .filter_map(|line| line.split(':').nth(1))
            .flat_map(|list| list.split(','))
            .filter(|name| !name.is_empty())
            .collect()
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

/// The directory of this process's cgroup: of version 2, or of version 1's pids controller on a hybrid host.
fn own_cgroup_dir(own: &str, v2: bool) -> String {
    let path_of = |wanted: &str| {
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            controllers.split(',').any(|name| name == wanted).then_some(path)
        })
    };
    let (root, path) = if v2 { ("/sys/fs/cgroup", path_of("")) } else { ("/sys/fs/cgroup/pids", path_of("pids")) };
    format!("{root}{}", path.unwrap_or("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_found_in_both_versions() {
        let hybrid = "9:pids:/a\n8:cpu,cpuacct:/b\n0::/c";
        assert_eq!(own_cgroup_dir(hybrid, false), "/sys/fs/cgroup/pids/a");
        assert_eq!(own_cgroup_dir("0::/user.slice/x", true), "/sys/fs/cgroup/user.slice/x");
        assert_eq!(own_cgroup_dir("", true), "/sys/fs/cgroup/");
        let kernel = Kernel { own_cgroup: Some(hybrid.to_owned()), ..Kernel::default() };
        assert_eq!(kernel.cgroup1_controllers(), ["pids", "cpu", "cpuacct"]);
    }
}
