//! What the tests change of their machine, and put back: cgroups, settings of the kernel, who the daemon is.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use testkit::wait::until;
use testkit::{Process, StubOptions, WorkDir};

use crate::bed::{Bed, Ended, SOON, nexusd};

/// Where version 2 is mounted.
const CGROUPS: &str = "/sys/fs/cgroup";

/// What systemd hands to the user of a unit with `Delegate=yes`, beside the directory (systemd.resource-control(5)).
const DELEGATED: [&str; 3] = ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"];

/// Those that limits are set by.
pub(crate) const EVERY_CONTROLLER: [&str; 3] = ["memory", "cpu", "pids"];

/// Who runs a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// uid 0.
    Root,
    /// An ordinary user.
    User,
}

/// Their uid and gid, as in the machine's /etc/passwd.
const USER: u32 = 1000;

/// A slice with one unit in it, as systemd lays them out: cgroups of the test's own. Dropped, what they hold is killed
/// and they are removed.
pub(crate) struct Unit {
    slice: PathBuf,
}

impl Unit {
    /// A unit that has these controllers; nothing is delegated yet.
    pub(crate) fn new(name: &str, controllers: &[&str]) -> Self {
        let slice = Path::new(CGROUPS).join(format!("{name}.slice"));
        fs::create_dir(&slice).unwrap();
        for controller in controllers {
            for dir in [Path::new(CGROUPS), &slice] {
                fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}")).unwrap();
            }
        }
        let unit = Self { slice };
        fs::create_dir(unit.path()).unwrap();
        unit
    }

    /// The same with every controller that limits are set by, given to a user as systemd gives it.
    pub(crate) fn delegated(name: &str, who: Who) -> Self {
        let unit = Self::new(name, &EVERY_CONTROLLER);
        unit.delegate(who);
        unit
    }

    /// Gives it to a user as systemd does.
    pub(crate) fn delegate(&self, who: Who) {
        give(&self.path(), who);
    }

    /// Gives the directory away, and nothing in it: no delegation.
    pub(crate) fn give_directory(&self, who: Who) {
        chown(self.path(), Some(who.uid()), Some(who.uid())).unwrap();
    }

    /// Makes a cgroup beneath it, given to a user.
    pub(crate) fn make_subgroup(&self, name: &str, who: Who) {
        let dir = self.path().join(name);
        fs::create_dir(&dir).unwrap();
        give(&dir, who);
    }

    /// The unit's directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.slice.join("nexusd.service")
    }

    /// The command that is `program` in this unit. Once a daemon has handed controllers down, the unit itself takes no
    /// process any more: then it is beside the daemon, in the leaf that it moved itself to.
    pub(crate) fn command(&self, who: Who, program: Command) -> Command {
        let leaf = self.path().join("nexusd");
        let place = if leaf.exists() { leaf } else { self.path() };
        joined(&place, &who.command(program))
    }

    /// A process of somebody else in the unit.
    pub(crate) fn neighbour(&self) -> Process {
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        let process = Process::spawn(&mut joined(&self.path(), &sleep));
        until("the neighbour", SOON, || self.holds(process.id()).then_some(()));
        process
    }

    /// Whether a process is in the unit's own cgroup, not in one beneath.
    pub(crate) fn holds(&self, pid: u32) -> bool {
        members(&self.path()).contains(&pid)
    }

    /// The cgroups beneath the unit's, relative to it, sorted.
    pub(crate) fn below(&self) -> Vec<String> {
        let mut found = beneath(&self.path());
        found.sort();
        let relative = |dir: &PathBuf| dir.strip_prefix(self.path()).unwrap().to_str().unwrap().to_owned();
        found.iter().map(relative).collect()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        fs::write(self.slice.join("cgroup.kill"), "1").unwrap();
        until("the removal of the slice", SOON, || {
            let mut all = beneath(&self.slice);
            all.sort_by_key(|dir| std::cmp::Reverse(dir.components().count()));
            all.push(self.slice.clone());
            all.iter().all(|dir| fs::remove_dir(dir).is_ok()).then_some(())
        });
    }
}

impl Who {
    fn uid(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::User => USER,
        }
    }

    /// The program, run by this user.
    pub(crate) fn command(self, program: Command) -> Command {
        match self {
            Self::Root => program,
            Self::User => {
                let mut command = Command::new("setpriv");
                command.args([format!("--reuid={USER}"), format!("--regid={USER}"), "--clear-groups".to_owned()]);
                wrapped(command, &program)
            }
        }
    }

    /// A folder that this user owns.
    pub(crate) fn folder(self) -> WorkDir {
        let dir = WorkDir::new();
        chown(dir.path(), Some(self.uid()), Some(self.uid())).unwrap();
        dir
    }
}

/// A daemon in the unit, run by this user, with these keys in its configuration.
pub(crate) fn daemon_in(unit: &Unit, who: Who, keys: &str) -> Bed {
    let keys = format!("supported_sandbox_profiles: [untrusted, host]\n{keys}");
    Bed::started_by(StubOptions::full(), &keys, |dir| {
        chown(dir.path(), Some(who.uid()), Some(who.uid())).unwrap();
        unit.command(who, nexusd())
    })
}

fn give(cgroup: &Path, who: Who) {
    for path in std::iter::once(cgroup.to_owned()).chain(DELEGATED.map(|file| cgroup.join(file))) {
        chown(path, Some(who.uid()), Some(who.uid())).unwrap();
    }
}

/// `program` in a cgroup: the shell that moves itself there becomes it, so that its pid is the command's.
fn joined(cgroup: &Path, program: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(cgroup);
    wrapped(shell, program)
}

/// A command whose last arguments are another one.
pub(crate) fn wrapped(mut outer: Command, inner: &Command) -> Command {
    outer.arg(inner.get_program()).args(inner.get_args());
    outer
}

/// The pids in a cgroup.
pub(crate) fn members(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// The version 2 cgroup of a process, as it names it.
pub(crate) fn cgroup_of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

/// The directories beneath one.
fn beneath(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    for dir in found.clone() {
        found.extend(beneath(&dir));
    }
    found
}

/// A setting beneath /proc/sys, put back when dropped.
pub(crate) struct Setting {
    file: PathBuf,
    before: String,
}

impl Setting {
    /// Its name is as in sysctl(8).
    pub(crate) fn set(name: &str, value: &str) -> Self {
        let file = Path::new("/proc/sys").join(name.replace('.', "/"));
        let before = fs::read_to_string(&file).unwrap();
        fs::write(&file, value).unwrap();
        Self { file, before }
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::write(&self.file, &self.before).unwrap();
    }
}

/// What doctor says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) rows: Vec<Value>,
}

impl Said {
    /// Runs `doctor --json` by this command.
    pub(crate) fn by(who: Who, command: impl FnOnce(Command) -> Command) -> Self {
        let dir = who.folder();
        let mut doctor = nexusd();
        doctor.args(["doctor", "--json"]);
        let output = command(doctor).current_dir(dir.path()).env("TMPDIR", dir.path()).output().unwrap();
        let report: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        Self { code: output.status.code().unwrap(), rows: report["checks"].as_array().unwrap().clone() }
    }

    pub(crate) fn row(&self, name: &str) -> &Value {
        self.rows.iter().find(|row| row["name"] == name).unwrap()
    }

    /// State and detail of a row.
    pub(crate) fn pair(&self, name: &str) -> (&str, &str) {
        let row = self.row(name);
        (row["state"].as_str().unwrap(), row["detail"].as_str().unwrap())
    }
}

/// What a program said on standard error, for messages.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a directive: its end, and what `started` said of the layers around it.
pub(crate) async fn layers(bed: &Bed, fields: Value) -> (Ended, Value) {
    let id = bed.queue(fields);
    let ended = bed.ended(id.clone()).await;
    let started = bed.stub.directive(&id).started.unwrap();
    (ended, json!(started.effective_capabilities_summary["layers"]))
}

/// A command that takes this much memory at once, then says that it lives.
pub(crate) fn eat(mib: u32) -> String {
    format!("dd if=/dev/zero of=/dev/null bs={mib}M count=1 status=none; echo survived")
}

/// Peak memory in MiB, from a report.
pub(crate) fn peak_mib(ended: &Ended) -> u64 {
    ended.report.artifacts_manifest["usage"]["peak_rss_bytes"].as_u64().unwrap() >> 20
}
