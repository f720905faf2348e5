//! What the tests share: drivers, a facility, and one run from launch to exit.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sandbox::{
    CommandLine, ConsentAnswers, DarwinSettings, Driver, DriverSettings, Drivers, Environment, Exit, HostHelper,
    LaunchError, Limits, Machine, NetworkPath, PreparedRun, RootSource, RunHandle, RunName, Starts, Stop, Workspace,
    WorkspaceAccess, WorkspaceCwd, WorkspaceFiles,
};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) struct Bed {
    pub(crate) drivers: Drivers,
    pub(crate) dir: TempDir,
}

pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// One run, with everything at its default but the script.
pub(crate) struct Run {
    pub(crate) driver: Driver,
    pub(crate) shell: String,
    pub(crate) script: String,
    pub(crate) cwd: String,
    pub(crate) access: WorkspaceAccess,
    pub(crate) files: WorkspaceFiles,
    pub(crate) network: Option<NetworkPath>,
    pub(crate) limits: Limits,
    pub(crate) timeout: Duration,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) name: Option<String>,
    pub(crate) stdin: Option<OwnedFd>,
}

pub(crate) fn settings(dir: &Path) -> DriverSettings {
    DriverSettings {
        runtime_dir: dir.join("runtime"),
        bwrap_path: "bwrap".into(),
        search_path: format!("/usr/local/bin:/usr/bin:/bin:{}", stand_ins(dir).display()),
        root: RootSource::HostUsr,
        sandbox_user: "nexus-sandbox".into(),
        extra_ro_paths: Vec::new(),
        starts: Starts::Many,
        ca_bundle: None,
        container: Err("not asked for".to_owned()),
        darwin: Ok(a_mac()),
        host_helper: HostHelper::Embedded,
        #[cfg(feature = "knockout")]
        knockouts: Vec::new(),
    }
}

/// What a Mac is, as far as its driver looks.
pub(crate) fn a_mac() -> DarwinSettings {
    let consent = || Some(ConsentAnswers { automation: -1744, accessibility: true, screen_recording: false });
    DarwinSettings { machine: Machine::apple_silicon(), consent }
}

/// A folder with programs in the place of a Mac's.
pub(crate) fn stand_ins(dir: &Path) -> PathBuf {
    let folder = dir.join("mac");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["osascript", "shortcuts"] {
        let script = "#!/bin/sh\necho \"${0##*/} $*\"\n";
        let path = folder.join(name);
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    folder
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut DriverSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        change(&mut settings);
        let drivers = Drivers::new(settings).unwrap();
        let bed = Self { drivers, dir };
        let facility = bed.facility();
        std::fs::create_dir_all(&facility).unwrap();
        let owner = bed.drivers.owner(Driver::Bwrap);
        std::os::unix::fs::chown(&facility, Some(owner.uid), Some(owner.gid)).unwrap();
        bed
    }

    pub(crate) fn facility(&self) -> PathBuf {
        self.dir.path().join("facility")
    }

    /// A folder in the facility, as a run would make it.
    pub(crate) fn make_dir(&self, name: &str) {
        let (path, owner) = (self.facility().join(name), self.drivers.owner(Driver::Bwrap));
        std::fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(owner.uid), Some(owner.gid)).unwrap();
    }

    pub(crate) async fn start(&self, run: Run) -> Result<(RunHandle, Reader, Reader), LaunchError> {
        let (handle, [stdout, stderr]) = self.start_unread(run).await?;
        Ok((handle, read(stdout), read(stderr)))
    }

    /// Starts a run whose outputs nobody reads yet.
    pub(crate) async fn start_unread(&self, run: Run) -> Result<(RunHandle, [OwnedFd; 2]), LaunchError> {
        let (stdout, stderr) = (sys::pipe::pipe().unwrap(), sys::pipe::pipe().unwrap());
        let driver = run.driver;
        let prepared = prepared(run, self.facility(), stdout.write, stderr.write);
        let handle = self.drivers.start(self.drivers.arm(driver, prepared)?).await?;
        Ok((handle, [stdout.read, stderr.read]))
    }

    pub(crate) async fn run(&self, run: Run) -> Outcome {
        let (keep, stop) = watch::channel(None);
        let outcome = self.run_until(run, stop).await;
        drop(keep);
        outcome
    }

    pub(crate) async fn run_until(&self, run: Run, stop: watch::Receiver<Option<Stop>>) -> Outcome {
        let (mut handle, stdout, stderr) = self.start(run).await.unwrap();
        handle.ready().await.unwrap();
        handle.release().unwrap();
        let exit = handle.wait(stop).await;
        Outcome { exit, stdout: text(stdout).await, stderr: text(stderr).await }
    }

    /// Runs a script in bwrap; its standard output, which must come with code 0.
    pub(crate) async fn sh(&self, script: &str) -> String {
        let outcome = self.run(Run::sh(script)).await;
        assert_eq!(outcome.exit.code, 0, "{script}: {:?} {}", outcome.exit, outcome.stderr);
        outcome.stdout
    }
}

/// The run as a driver takes it.
pub(crate) fn prepared(run: Run, facility: PathBuf, stdout: OwnedFd, stderr: OwnedFd) -> PreparedRun {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut environment = Environment::default();
    environment.set("PATH", "/usr/bin:/bin").unwrap();
    for (name, value) in &run.environment {
        environment.set(name, value).unwrap();
    }
    let network = run.network.unwrap_or(if matches!(run.driver, Driver::Host | Driver::DarwinAutomation) {
        NetworkPath::HostNetwork
    } else {
        NetworkPath::Isolated
    });
    PreparedRun {
        name: RunName::parse(&run.name.unwrap_or_else(|| format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))))
            .unwrap(),
        command: CommandLine::new(&run.shell, run.script).unwrap(),
        cwd: WorkspaceCwd::parse(&run.cwd).unwrap(),
        environment,
        workspace: Workspace { host_dir: facility, access: run.access, files: run.files },
        network,
        limits: run.limits,
        stdin: run.stdin,
        stdout,
        stderr,
        timeout: run.timeout,
    }
}

impl Run {
    pub(crate) fn sh(script: &str) -> Self {
        Self {
            driver: Driver::Bwrap,
            shell: "/bin/bash".into(),
            script: script.into(),
            cwd: String::new(),
            access: WorkspaceAccess::ReadWrite,
            files: WorkspaceFiles::Its,
            network: None,
            limits: Limits::default(),
            timeout: testkit::wait::patient(Duration::from_secs(30)),
            environment: Vec::new(),
            name: None,
            stdin: None,
        }
    }

    pub(crate) fn host(script: &str) -> Self {
        Self { driver: Driver::Host, ..Self::sh(script) }
    }

    pub(crate) fn darwin(script: &str) -> Self {
        Self { driver: Driver::DarwinAutomation, ..Self::sh(script) }
    }
}

/// A pipe that is read to its end in the background.
pub(crate) type Reader = JoinHandle<Vec<u8>>;

fn read(pipe: OwnedFd) -> Reader {
    tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        File::from(pipe).read_to_end(&mut all).unwrap();
        all
    })
}

/// What came through a pipe, whose end must come soon: nobody is left to hold it.
pub(crate) async fn text(reader: Reader) -> String {
    let bytes =
        tokio::time::timeout(Duration::from_secs(5), reader).await.expect("somebody still holds the pipe").unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The pids on the host whose command line has this text.
pub(crate) fn processes_with(text: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let has = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(text)
    };
    pids.filter(has).filter(|pid| *pid != i32::try_from(std::process::id()).unwrap()).collect()
}

/// Waits for a condition, at most 10 s.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    assert!(until_true(condition).await, "{what} did not come about");
}

/// Whether a condition comes about within 10 s.
pub(crate) async fn until_true(condition: impl Fn() -> bool) -> bool {
    for _ in 0..1000 {
        if condition() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}
