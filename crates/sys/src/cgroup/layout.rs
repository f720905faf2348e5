//! Where the daemon may make groups.
//!
//! Version 2: below its own cgroup, when that was delegated to it (systemd's `Delegate=yes`) or is the root. A cgroup with
//! processes cannot hand controllers down (cgroups(7), "no internal processes"), so the daemon first moves itself, and
//! nobody else, into a leaf. Version 1 (hybrid hosts): below its own cgroup of each controller's hierarchy.

use std::fs;
use std::path::{Path, PathBuf};

use super::{CgroupError, write};

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
    /// Whether a cgroup has only the controllers that the one above hands down: version 2.
    inherits: bool,
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
    let of_ours = |list: &Vec<String>| list.iter().any(|name| CONTROLLERS.contains(&name.as_str()));
    let hybrid = mounts.iter().any(|mount| mount.controllers.as_ref().is_some_and(of_ours));
    match two(&mounts, &own) {
        Ok(hierarchy) => return Ok((Version::Two, vec![hierarchy])),
        Err(reason) if !hybrid => return Err(reason),
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
    let hierarchy = Hierarchy { controllers: vec![controller], base, inherits: false };
    hierarchy.make().map_err(|error| error.to_string())?;
    Ok(hierarchy)
}

fn two(mounts: &[Mount], own: &[(Vec<String>, String)]) -> Result<Hierarchy, String> {
    let mount = mounts.iter().find(|mount| mount.controllers.is_none()).ok_or("not mounted")?;
    let (_, path) = own.iter().find(|(list, _)| list.is_empty()).ok_or("the daemon is in no cgroup of it")?;
    let here = place(mount, path);
    // Started again, or one of several in one process, or put there by systemd's DelegateSubgroup=: the daemon is in its
    // leaf already. A cgroup of that name right below the root is somebody's, and what it is beside is not the daemon's.
    let in_leaf = here.file_name().is_some_and(|name| name == LEAF) && here.parent().is_some_and(|dir| !is_root(dir));
    let parent = if in_leaf { here.parent().unwrap_or(&here).to_owned() } else { here.clone() };
    let offered = fs::read_to_string(parent.join("cgroup.controllers")).map_err(|error| error.to_string())?;
    let usable: Vec<&'static str> =
        CONTROLLERS.into_iter().filter(|name| offered.split_whitespace().any(|given| given == *name)).collect();
    if usable.is_empty() {
        return Err(format!("{} has none of the controllers memory, cpu, pids", parent.display()));
    }
    let not_ours = |error: String| {
        format!(
            "{error}; other processes share the daemon's cgroup, or it is not delegated: set Delegate=yes in its unit"
        )
    };
    let leaf = (!in_leaf && !is_root(&here)).then(|| here.join(LEAF));
    if let Some(leaf) = &leaf {
        fs::create_dir_all(leaf).map_err(|error| {
            format!("{} is not delegated to the daemon ({error}); set Delegate=yes in its unit", here.display())
        })?;
    }
    let hierarchy = Hierarchy { controllers: usable, base: parent.join(SUBTREE).join(own_name()), inherits: true };
    let pid = std::process::id().to_string();
    let moved = leaf.as_ref().map_or(Ok(()), |leaf| write(&leaf.join("cgroup.procs"), &pid));
    if let Err(error) = moved.and_then(|()| hierarchy.enable(&parent)).and_then(|()| hierarchy.make()) {
        drop(fs::remove_dir(&hierarchy.base));
        drop(fs::remove_dir(parent.join(SUBTREE)));
        if let Some(leaf) = &leaf {
            // Back where it was, where it was moved at all: whoever manages this cgroup expects it there.
            drop(write(&here.join("cgroup.procs"), &pid));
            drop(fs::remove_dir(leaf));
        }
        return Err(not_ours(error.to_string()));
    }
    Ok(hierarchy)
}

/// Whether a cgroup is the true root, which alone may hold processes and hand controllers down. It is the one without a
/// type; by its path the root of a cgroup namespace, as in a container, is not told apart.
fn is_root(dir: &Path) -> bool {
    !dir.join("cgroup.type").exists()
}

impl Hierarchy {
    /// Makes the directory that groups are made in.
    pub(super) fn make(&self) -> Result<(), CgroupError> {
        let make = |dir: &Path| {
            fs::create_dir_all(dir).map_err(|source| CgroupError { path: dir.to_owned(), source })?;
            if self.inherits { self.enable(dir) } else { Ok(()) }
        };
        self.base.parent().map_or(Ok(()), make)?;
        make(&self.base)
    }

    /// Version 2: lets the cgroups below a directory have the controllers, all of them or none.
    fn enable(&self, dir: &Path) -> Result<(), CgroupError> {
        write(&dir.join("cgroup.subtree_control"), &format!("+{}", self.controllers.join(" +")))
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
