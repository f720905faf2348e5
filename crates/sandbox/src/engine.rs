//! What every driver needs, made once: the spawning thread, the helper's image, the host's cgroups, a folder of its own.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sys::cgroup::Cgroups;
use sys::facts::KernelFacts;
use sys::memfd::{Executable, sealed};
use sys::pipe::{Pipe, pipe};
use sys::spawn::{Image, Program, Spawner, Stage};

use crate::{DriversError, HostHelper, LaunchError, bwrap, process};

/// How long an engine may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(2);

/// What every driver needs: made once.
#[derive(Debug)]
pub(crate) struct Engine {
    spawner: Spawner,
    host_helper: HostHelper,
    image: Option<OwnedFd>,
    null: OwnedFd,
    cgroups: Cgroups,
    facts: KernelFacts,
    swap: bool,
    own_dir: OwnDir,
    trials: AtomicU64,
}

/// The directory of this set of drivers, removed with it.
#[derive(Debug)]
pub(crate) struct OwnDir(PathBuf);

impl Engine {
    /// Makes everything.
    ///
    /// # Errors
    /// What could not be made.
    pub(crate) fn new(own_dir: OwnDir, host_helper: HostHelper) -> Result<Self, DriversError> {
        let prepare = |path: &str| {
            let path = PathBuf::from(path);
            move |source| DriversError::Prepare { path, source }
        };
        Ok(Self {
            spawner: Spawner::start().map_err(prepare("the spawning thread"))?,
            host_helper,
            // There is none where there are no sandboxes.
            image: (!guest::HELPER.is_empty())
                .then(|| sealed("nexus-init", guest::HELPER, Executable::Yes))
                .transpose()
                .map_err(prepare("memfd:nexus-init"))?,
            null: bwrap::open_null().map_err(prepare("/dev/null"))?,
            cgroups: Cgroups::find(),
            facts: KernelFacts::read(),
            swap: std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1),
            own_dir,
            trials: AtomicU64::new(0),
        })
    }

    /// The folder of this set of drivers.
    pub(crate) fn own_dir(&self) -> &Path {
        self.own_dir.path()
    }

    /// The folder of this set of drivers, open.
    pub(crate) fn own_dir_fd(&self) -> Result<OwnedFd, LaunchError> {
        Ok(File::open(self.own_dir.path()).map_err(bwrap::host("the drivers' folder"))?.into())
    }

    pub(crate) fn spawner(&self) -> &Spawner {
        &self.spawner
    }

    pub(crate) fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    pub(crate) fn facts(&self) -> &KernelFacts {
        &self.facts
    }

    pub(crate) fn has_swap(&self) -> bool {
        self.swap
    }

    pub(crate) fn null(&self) -> Result<OwnedFd, LaunchError> {
        self.null.try_clone().map_err(bwrap::host("a descriptor"))
    }

    /// The helper's image, for a child to execute.
    pub(crate) fn image(&self) -> Result<OwnedFd, LaunchError> {
        match &self.image {
            Some(image) => image.try_clone().map_err(bwrap::host("a descriptor")),
            None => Err(bwrap::host("the helper")(std::io::ErrorKind::Unsupported.into())),
        }
    }

    /// What supervises a process of the host, and the descriptor that it is executed from, where it is one.
    pub(crate) fn host_helper(&self) -> Result<(Image, Option<OwnedFd>), LaunchError> {
        match &self.host_helper {
            HostHelper::Embedded => {
                let place = usize::try_from(guest::fd::IMAGE).unwrap_or_default();
                Ok((Image::Fd(place), Some(self.image()?)))
            }
            HostHelper::Program(path) => {
                let path = sys::mount::c_path(path).map_err(bwrap::host("nexusd's own program"))?;
                Ok((Image::Path(path), None))
            }
        }
    }

    /// A pipe for what an engine itself says; its read end never blocks.
    pub(crate) fn diagnostics(&self) -> Result<Pipe, LaunchError> {
        let pipe = pipe().map_err(bwrap::host("a pipe"))?;
        rustix::io::ioctl_fionbio(&pipe.read, true).map_err(|errno| bwrap::host("a pipe")(errno.into()))?;
        Ok(pipe)
    }

    /// An empty directory for health checks.
    pub(crate) fn trial_workspace(&self) -> std::io::Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.own_dir.0.join("trial");
        std::fs::create_dir_all(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// A name that no other run has.
    pub(crate) fn trial_name(&self) -> String {
        format!("trial-{}-{}", std::process::id(), self.trials.fetch_add(1, Ordering::Relaxed))
    }

    /// The first line that `program --version` prints; empty when it prints none in time.
    pub(crate) async fn version_of(&self, program: &Path) -> String {
        tokio::time::timeout(VERSION_TIMEOUT, self.try_version(program)).await.ok().flatten().unwrap_or_default()
    }

    async fn try_version(&self, program: &Path) -> Option<String> {
        let output = pipe().ok()?;
        let path = sys::mount::c_path(program).ok()?;
        let program = Program {
            image: Image::Path(path.clone()),
            argv: vec![path, CString::from(c"--version")],
            env: Vec::new(),
            stages: vec![Stage::NewSession, Stage::DieWithParent],
            fds: vec![self.null.try_clone().ok()?, output.write.try_clone().ok()?, output.write],
        };
        let mut running = process::start(&self.spawner, program).await.ok()?;
        running.ended().await.ok()?;
        // It has ended, so what it printed is in the pipe, and the end of it.
        let mut buffer = [0; 256];
        let count = File::from(output.read).read(&mut buffer).ok()?;
        let text = String::from_utf8_lossy(buffer.get(..count)?).into_owned();
        text.lines().next().map(str::to_owned)
    }
}

impl OwnDir {
    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a directory for this set of drivers, and removes those of processes that are gone, with what is left of them.
    pub(crate) fn make(runtime_dir: &Path) -> Result<Self, DriversError> {
        use std::os::unix::fs::DirBuilderExt;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DriversError::Prepare { path, source }
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(runtime_dir).map_err(failed(runtime_dir))?;
        for entry in std::fs::read_dir(runtime_dir).map_err(failed(runtime_dir))?.flatten() {
            let name = entry.file_name();
            let pid =
                name.to_str().and_then(|name| name.strip_prefix("drivers-")?.split('-').next()?.parse::<u32>().ok());
            if pid.is_some_and(|pid| !sys::processes::lives(pid)) {
                sys::leftover::end_those_of(&entry.path());
                std::fs::remove_dir_all(entry.path()).map_err(failed(&entry.path()))?;
            }
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = runtime_dir.join(format!("drivers-{}-{number}", std::process::id()));
        // Left by a process that had the same pid before a restart of the host.
        if path.exists() {
            sys::leftover::end_those_of(&path);
            std::fs::remove_dir_all(&path).map_err(failed(&path))?;
        }
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed(&path))?;
        Ok(Self(path))
    }
}

impl Drop for OwnDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "cannot remove the drivers' directory");
        }
    }
}
