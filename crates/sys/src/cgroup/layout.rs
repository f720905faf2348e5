//! Where the daemon may make groups.
//!
//! Version 2: below its own cgroup, when that was delegated to it (systemd's `Delegate=yes`) or is the root. A cgroup with
//! processes cannot hand controllers down (cgroups(7), "no internal processes"), so the daemon first moves itself, and
//! nobody else, into a leaf. Version 1 (hybrid hosts): below its own cgroup of each controller's hierarchy.

use std::fs;
use std::path::{Path, PathBuf};

use super::write;

/// The controllers that limits are set by.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Names of the daemon's subtree and of the leaf that it moves itself to.
const SUBTREE: &str = "nexus";
const LEAF: &str = "nexusd";

/// The version of a cgroup tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// cgroup v2.
    Two,
    /// cgroup v1.
    One,
    /// No usable tree.
    None,
}

/// A directory that groups are made in, and the controllers that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub(super) controllers: Vec<&'static str>,
    pub(super) base: PathBuf,
}

/// One mounted cgroup file system.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// The cgroup that is visible at the mount point.
    root: String,
    point: PathBuf,
    /// `None`: version 2.
    controllers: Option<Vec<String>>,
}

pub(super) fn find() -> Result<(Version, Vec<Hierarchy>), String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
    let mounts = parse_mounts(&read("/proc/self/mountinfo")?);
    let own = parse_own(&read("/proc/self/cgroup")?);
    let mut reasons = Vec::new();
    match two(&mounts, &own) {
        Ok(hierarchy) => return Ok((Version::Two, vec![hierarchy])),
        Err(reason) => reasons.push(format!("version 2: {reason}")),
    }
    let mut found = Vec::new();
    for controller in CONTROLLERS {
        match one(controller, &mounts, &own) {
            Ok(hierarchy) => found.push(hierarchy),
            Err(reason) => reasons.push(format!("{controller}: {reason}")),
        }
    }
    if found.is_empty() { Err(reasons.join("; ")) } else { Ok((Version::One, merged(found))) }
}

/// cpu and cpuacct, or all three, may be one hierarchy: one directory then.
fn merged(found: Vec<Hierarchy>) -> Vec<Hierarchy> {
    let mut merged: Vec<Hierarchy> = Vec::new();
    for hierarchy in found {
        match merged.iter_mut().find(|known| known.base == hierarchy.base) {
            Some(known) => known.controllers.extend(hierarchy.controllers),
            None => merged.push(hierarchy),
        }
    }
    merged
}

fn one(controller: &'static str, mounts: &[Mount], own: &[(Vec<String>, String)]) -> Result<Hierarchy, String> {
    let has = |list: &[String]| list.iter().any(|name| name == controller);
    let mount =
        mounts.iter().find(|mount| mount.controllers.as_deref().is_some_and(has)).ok_or("not mounted as version 1")?;
    let (_, path) = own.iter().find(|(list, _)| has(list)).ok_or("the daemon is in no cgroup of it")?;
    let base = place(mount, path).join(SUBTREE).join(own_name());
    fs::create_dir_all(&base).map_err(|error| format!("{}: {error}", base.display()))?;
    Ok(Hierarchy { controllers: vec![controller], base })
}

fn two(mounts: &[Mount], own: &[(Vec<String>, String)]) -> Result<Hierarchy, String> {
    let mount = mounts.iter().find(|mount| mount.controllers.is_none()).ok_or("not mounted")?;
    let (_, path) = own.iter().find(|(list, _)| list.is_empty()).ok_or("the daemon is in no cgroup of it")?;
    let here = place(mount, path);
    let offered = fs::read_to_string(here.join("cgroup.controllers")).map_err(|error| error.to_string())?;
    let usable: Vec<&'static str> =
        CONTROLLERS.into_iter().filter(|name| offered.split_whitespace().any(|given| given == *name)).collect();
    if usable.is_empty() {
        return Err(format!("{} has none of the controllers memory, cpu, pids", here.display()));
    }
    let pid = std::process::id().to_string();
    let is_root = path == "/" && mount.root == "/";
    // Started again, or one of several in one process: the daemon is in its leaf already.
    let parent = if here.file_name().is_some_and(|name| name == LEAF) {
        here.parent().unwrap_or(&here).to_owned()
    } else {
        here.clone()
    };
    if !is_root && parent == here {
        let leaf = here.join(LEAF);
        fs::create_dir_all(&leaf).map_err(|error| {
            format!("{} is not delegated to the daemon ({error}); set Delegate=yes in its unit", here.display())
        })?;
        write(&leaf.join("cgroup.procs"), &pid).map_err(|error| error.to_string())?;
    }
    let enable =
        |dir: &Path| usable.iter().try_for_each(|name| write(&dir.join("cgroup.subtree_control"), &format!("+{name}")));
    let base = parent.join(SUBTREE).join(own_name());
    let made = enable(&parent)
        .map_err(|error| error.to_string())
        .and_then(|()| fs::create_dir_all(&base).map_err(|error| error.to_string()))
        .and_then(|()| enable(&parent.join(SUBTREE)).map_err(|error| error.to_string()))
        .and_then(|()| enable(&base).map_err(|error| error.to_string()));
    match made {
        Ok(()) => Ok(Hierarchy { controllers: usable, base }),
        Err(reason) => {
            if !is_root && parent == here {
                // Back where it was: whoever manages this cgroup expects it there.
                write(&here.join("cgroup.procs"), &pid).map_err(|error| error.to_string())?;
                drop(fs::remove_dir(here.join(LEAF)));
            }
            Err(format!(
                "{reason}; other processes share the daemon's cgroup, or it is not delegated: set Delegate=yes in its unit"
            ))
        }
    }
}

/// The directory of a cgroup: below the mount point, less what the mount's root takes away.
fn place(mount: &Mount, path: &str) -> PathBuf {
    let below = if mount.root == "/" { path } else { path.strip_prefix(mount.root.as_str()).unwrap_or("") };
    mount.point.join(below.trim_start_matches('/'))
}

/// Unique among the daemons of this host that live.
fn own_name() -> String {
    std::process::id().to_string()
}

/// The cgroup mounts of a mountinfo text (proc_pid_mountinfo(5)).
fn parse_mounts(text: &str) -> Vec<Mount> {
    text.lines()
        .filter_map(|line| {
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ').skip(3);
            let (root, point) = (head.next()?.to_owned(), PathBuf::from(head.next()?));
            let mut tail = tail.split(' ');
            let controllers = match tail.next()? {
                "cgroup2" => None,
                "cgroup" => Some(tail.nth(1)?.split(',').map(str::to_owned).collect()),
                _ => return None,
            };
            Some(Mount { root, point, controllers })
        })
        .collect()
}

/// The controllers and the path of each line of /proc/self/cgroup; version 2 has no controllers there (cgroups(7)).
fn parse_own(text: &str) -> Vec<(Vec<String>, String)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let controllers = fields.next()?.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
            Some((controllers, fields.next()?.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_a_hybrid_host() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:5 - cgroup cgroup rw,cpu,cpuacct\n\
            41 31 0:38 /docker/1 /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].controllers.as_deref().unwrap(), ["rw", "cpu", "cpuacct"]);
        assert_eq!((mounts[1].root.as_str(), mounts[1].controllers.clone()), ("/docker/1", None));
        assert_eq!(place(&mounts[0], "/a/b"), PathBuf::from("/sys/fs/cgroup/cpu/a/b"));
        assert_eq!(place(&mounts[1], "/docker/1/x"), PathBuf::from("/sys/fs/cgroup/unified/x"));
        assert_eq!(place(&mounts[1], "/docker/1"), PathBuf::from("/sys/fs/cgroup/unified/"));
    }

    #[test]
    fn own_groups() {
        let own = parse_own("5:cpu,cpuacct:/x:y\n1:name=systemd:/\n0::/user.slice\n");
        assert_eq!(own[0], (vec!["cpu".to_owned(), "cpuacct".to_owned()], "/x:y".to_owned()));
        assert_eq!(own[2], (vec![], "/user.slice".to_owned()));
    }
}
