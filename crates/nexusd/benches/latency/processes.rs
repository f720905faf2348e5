//! The processes under measurement: started here, ended here, looked at through proc(5).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a process may take to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(15);

/// A process that ends with this value.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Self { child }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Time on a processor of all threads together, to the nanosecond (the clock ticks of `stat` are 10 ms long).
    pub(crate) fn processor_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanoseconds = tasks.map(|task| {
            let text = fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap();
            text.split(' ').next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(nanoseconds.sum())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its own end first, so that nothing of it stays behind; a process that has ended already is no failure.
        let asked = kill_process(self.pid(), Signal::TERM);
        let began = Instant::now();
        while asked.is_ok() && began.elapsed() < PATIENCE {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until a file holds something, and returns it.
pub(crate) fn await_file(path: &Path, what: &str) -> String {
    let began = Instant::now();
    loop {
        match fs::read_to_string(path) {
            Ok(text) if !text.trim().is_empty() => return text.trim().to_owned(),
            _ if began.elapsed() > PATIENCE => {
                panic!("{what}: no {} within {PATIENCE:?}", path.display())
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{command:?} ended with {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// How long a command takes from fork to exit.
pub(crate) fn time(command: &mut Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let began = Instant::now();
    let status = command.status().unwrap();
    let took = began.elapsed();
    assert!(status.success(), "{command:?} ended with {status}");
    took
}

/// Plain bubblewrap with the namespaces and the mounts of an untrusted directive, and nothing else.
pub(crate) fn plain_bwrap() -> Vec<&'static str> {
    let mut words = vec!["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"];
    words.extend(["--ro-bind", "/usr", "/usr"]);
    for (target, link) in [("usr/bin", "/bin"), ("usr/lib", "/lib"), ("usr/lib64", "/lib64")] {
        words.extend(["--symlink", target, link]);
    }
    words.extend(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/bin/true"]);
    words
}

/// `plain_bwrap`, ready to be started.
pub(crate) fn plain_bwrap_command() -> Command {
    let words = plain_bwrap();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

/// A command with this program and these words.
pub(crate) fn command(program: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(words);
    command
}

/// The paths of one run's files, all beneath a directory that goes with it.
pub(crate) struct Files {
    pub(crate) home: tempfile::TempDir,
}

impl Files {
    pub(crate) fn new() -> Self {
        Self { home: tempfile::Builder::new().prefix("nexus-bench.").tempdir().unwrap() }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}
