//! Cgroups: one for each run, below the daemon's own, with the limits that the host lets the daemon set.
//!
//! Promises: a limit that is reported as set has been written and read back; what a group holds can be killed, and the
//! group goes away with it. Processes that the daemon did not start are never moved or limited.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::kill::kill_if;

mod layout;
mod limit;

pub use layout::Version;
pub use limit::{Applied, Quantity};

use layout::Hierarchy;

/// Groups that were dropped while killed processes were still in them. The next group that is made sweeps them away.
static LEFT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The cgroups of this daemon, found once.
#[derive(Debug)]
pub struct Cgroups {
    version: Version,
    hierarchies: Vec<Hierarchy>,
    missing: String,
}

/// The processes of a group, as they are when asked.
#[derive(Clone, Debug, Default)]
pub struct Census {
    dir: Option<PathBuf>,
}

impl Census {
    /// Their pids; none once the group is gone.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.dir.as_deref().map(members).unwrap_or_default()
    }
}

/// Why a group could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct CgroupError {
    /// Which file or directory.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// The group of one run, in each hierarchy. Dropping it kills what it holds and removes it where that is done at once.
#[derive(Debug)]
pub struct Group {
    name: String,
    version: Version,
    dirs: Vec<(Vec<&'static str>, PathBuf)>,
}

impl Cgroups {
    /// Finds out what the daemon may use, and makes its own subtree there.
    #[must_use]
    pub fn find() -> Self {
        match layout::find() {
            Ok((version, hierarchies)) => {
                for hierarchy in &hierarchies {
                    clear_dead(&hierarchy.base, version);
                }
                Self { version, hierarchies, missing: String::new() }
            }
            Err(reason) => Self { version: Version::None, hierarchies: Vec::new(), missing: reason },
        }
    }

    /// The version in use.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The controllers in use, of `memory`, `cpu` and `pids`.
    #[must_use]
    pub fn controllers(&self) -> Vec<&'static str> {
        self.hierarchies.iter().flat_map(|hierarchy| hierarchy.controllers.iter().copied()).collect()
    }

    /// Why there are none.
    #[must_use]
    pub fn missing(&self) -> &str {
        &self.missing
    }

    /// Makes a group for limits of these quantities. Memory and processes are counted in any case; a hierarchy of the
    /// processor's alone is left out where nothing limits it, because a new scheduling group waits longer for its turn on
    /// a busy host.
    ///
    /// # Errors
    /// A directory cannot be made.
    pub fn create(&self, name: &str, limited: &[Quantity]) -> Result<Group, CgroupError> {
        sweep();
        let mut group = Group { name: name.to_owned(), version: self.version, dirs: Vec::new() };
        for hierarchy in &self.hierarchies {
            if hierarchy.controllers == ["cpu"] && !limited.contains(&Quantity::CpuMillicores) {
                continue;
            }
            let path = hierarchy.base.join(name);
            let mut made = fs::create_dir(&path);
            if made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                // The subtree went away with another set of drivers that used it.
                hierarchy.make()?;
                made = fs::create_dir(&path);
            }
            made.map_err(|source| CgroupError { path: path.clone(), source })?;
            group.dirs.push((hierarchy.controllers.clone(), path));
        }
        Ok(group)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        sweep();
        for hierarchy in &self.hierarchies {
            // Groups that are still in use keep it, other daemons the one above; an empty one is nobody's.
            if fs::remove_dir(&hierarchy.base).is_ok()
                && let Some(above) = hierarchy.base.parent()
            {
                drop(fs::remove_dir(above));
            }
        }
    }
}

impl Group {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The controllers that it has.
    #[must_use]
    pub fn controllers(&self) -> Vec<&'static str> {
        self.dirs.iter().flat_map(|(controllers, _)| controllers.iter().copied()).collect()
    }

    /// Sets a limit.
    ///
    /// # Errors
    /// No hierarchy has the controller, or the kernel refuses the value.
    pub fn set(&self, quantity: Quantity, value: u64) -> Result<Applied, CgroupError> {
        let Some((_, dir)) = self.dirs.iter().find(|(controllers, _)| controllers.contains(&quantity.controller()))
        else {
            let source = io::Error::other(format!("the daemon has no {} controller", quantity.controller()));
            return Err(CgroupError { path: PathBuf::from(quantity.controller()), source });
        };
        limit::set(dir, self.version, quantity, value)
    }

    /// A file of each hierarchy, open for a process of one thread to join by writing `0` to it.
    ///
    /// In version 1 that is `tasks`: a thread that moves itself takes no global lock, where a write to `cgroup.procs`
    /// waits for a grace period of the whole kernel (3.5 ms at the median, up to 20, were measured for one write).
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn doors(&self) -> Result<Vec<OwnedFd>, CgroupError> {
        self.dirs
            .iter()
            .map(|(_, dir)| {
                let path = dir.join(if self.version == Version::One { "tasks" } else { "cgroup.procs" });
                let file = OpenOptions::new().write(true).open(&path);
                file.map(OwnedFd::from).map_err(|source| CgroupError { path, source })
            })
            .collect()
    }

    /// How many of its processes the kernel killed because memory ran out, where it counts them.
    #[must_use]
    pub fn oom_kills(&self) -> Option<u64> {
        let file = if self.version == Version::Two { "memory.events" } else { "memory.oom_control" };
        self.read_field("memory", file, "oom_kill")
    }

    /// The processor time of everything that ever ran in it, in user mode and in the kernel. Only version 2 has it in every
    /// group.
    #[must_use]
    pub fn cpu_time(&self) -> Option<(Duration, Duration)> {
        let (_, dir) = self.dirs.first().filter(|_| self.version == Version::Two)?;
        cpu_time(&fs::read_to_string(dir.join("cpu.stat")).ok()?)
    }

    /// The most memory it ever held, in bytes.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        let file = if self.version == Version::Two { "memory.peak" } else { "memory.max_usage_in_bytes" };
        self.read("memory", file)?.trim().parse().ok()
    }

    /// How often a process was refused because there were too many, where it is counted.
    #[must_use]
    pub fn pids_refused(&self) -> Option<u64> {
        self.read_field("pids", "pids.events", "max")
    }

    /// A way to see its processes that does not keep it.
    #[must_use]
    pub fn census(&self) -> Census {
        Census { dir: self.dirs.first().map(|(_, dir)| dir.clone()) }
    }

    /// Kills what it holds. What forks meanwhile is found by the next call.
    pub fn kill(&self) {
        for (_, dir) in &self.dirs {
            kill_members(dir, self.version);
        }
    }

    /// Removes it; `false` while it still holds processes.
    #[must_use]
    pub fn try_remove(&self) -> bool {
        self.dirs.iter().fold(true, |all, (_, dir)| {
            let gone = match fs::remove_dir(dir) {
                Ok(()) => true,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            all && gone
        })
    }

    /// Whether it holds no process any more. One that has just ended may keep the directory for a moment longer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dirs.iter().all(|(_, dir)| members(dir).is_empty())
    }

    fn read(&self, controller: &str, file: &str) -> Option<String> {
        let (_, dir) = self.dirs.iter().find(|(controllers, _)| controllers.contains(&controller))?;
        fs::read_to_string(dir.join(file)).ok()
    }

    fn read_field(&self, controller: &str, file: &str, field: &str) -> Option<u64> {
        field_of(&self.read(controller, file)?, field)
    }
}

/// One number of a file of `name number` lines.
fn field_of(text: &str, field: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(' ')?.trim().parse().ok())
}

/// User and system time of a `cpu.stat`.
fn cpu_time(text: &str) -> Option<(Duration, Duration)> {
    let micros = |field| field_of(text, field).map(Duration::from_micros);
    micros("user_usec").zip(micros("system_usec"))
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.try_remove() {
            self.kill();
            if !self.try_remove() {
                LEFT.lock().unwrap_or_else(PoisonError::into_inner).extend(self.dirs.drain(..).map(|(_, dir)| dir));
            }
        }
    }
}

/// Removes the groups that were left by runs which have ended.
fn sweep() {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).retain(|dir| fs::remove_dir(dir).is_err() && dir.exists());
}

/// Kills and removes what daemons left that were killed themselves: beside this daemon's subtree, named by pids that are
/// nobody's any more. A daemon in another PID namespace is not seen here, but neither are its processes, and groups that
/// hold any cannot be removed.
fn clear_dead(base: &Path, version: Version) {
    let Some(listing) = base.parent().and_then(|parent| fs::read_dir(parent).ok()) else { return };
    for daemon in listing.flatten() {
        let dead = daemon
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
            .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if !dead {
            continue;
        }
        for run in fs::read_dir(daemon.path()).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if run.is_dir() && fs::remove_dir(&run).is_err() {
                kill_members(&run, version);
                LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(run);
            }
        }
        LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(daemon.path());
    }
    sweep();
}

fn kill_members(dir: &Path, version: Version) {
    if version == Version::Two && fs::write(dir.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for pid in members(dir) {
        // A process that has gone meanwhile needs no signal.
        kill_if(pid, || members(dir).contains(&pid));
    }
}

fn members(dir: &Path) -> Vec<i32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Opens a file of a cgroup and writes one value.
fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    let written = OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file: File| io::Write::write_all(&mut file, value.as_bytes()));
    written.map_err(|source| CgroupError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_from_cpu_stat() {
        let text = "usage_usec 3500000\nuser_usec 2000000\nsystem_usec 1500000\nnr_periods 0\nthrottled_usec 9\n";
        assert_eq!(cpu_time(text), Some((Duration::from_secs(2), Duration::from_millis(1500))));
        // What an older kernel or another hierarchy has.
        assert_eq!(cpu_time("nr_periods 0\nuser_usec_of_old 1\n"), None);
        assert_eq!(cpu_time("user_usec 1\n"), None);
    }
}
