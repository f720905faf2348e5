//! What is the same in every container: the helper as a file that its user may execute, and the names of a host that has no
//! network.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// `/etc/hosts` where there is no network (hosts(5)).
const HOSTS: &[u8] = b"127.0.0.1 localhost nexus\n::1 localhost\n";

/// They, until this is dropped.
#[derive(Debug)]
pub(super) struct Helper {
    pub(super) path: PathBuf,
    pub(super) hosts: PathBuf,
    /// A folder of its own, where the drivers' is on a file system that executes nothing (/dev/shm, often).
    beside: Option<PathBuf>,
}

impl Helper {
    pub(super) fn write(own_dir: &Path) -> std::io::Result<Self> {
        let place =
            std::iter::once(own_dir).chain([Path::new("/tmp"), Path::new("/var/tmp")]).find(|dir| executes(dir));
        let place =
            place.ok_or_else(|| std::io::Error::other("nothing can be executed in work_dir, /tmp and /var/tmp"))?;
        let beside = (place != own_dir).then(|| own_folder(place)).transpose()?;
        let folder = beside.as_deref().unwrap_or(own_dir);
        let helper = Self { path: folder.join("nexus-init"), hosts: folder.join("hosts"), beside };
        write_new(&helper.path, guest::HELPER, 0o755)?;
        write_new(&helper.hosts, HOSTS, 0o644)?;
        Ok(helper)
    }
}

fn write_new(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let mut file = std::fs::File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(content)?;
    // Whatever the daemon's umask keeps to itself.
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.beside.as_ref().map(std::fs::remove_dir_all) {
            tracing::warn!(%error, path = %self.path.display(), "the helper's folder stays behind");
        }
    }
}

/// Whether files of this folder may be executed (statvfs(3)).
#[cfg(target_os = "linux")]
fn executes(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|stat| !stat.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
}

#[cfg(not(target_os = "linux"))]
fn executes(dir: &Path) -> bool {
    dir.is_dir()
}

/// A new folder of the daemon's own among everybody's.
fn own_folder(place: &Path) -> std::io::Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    static NEXT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = place.join(format!("nexus-helper-{}-{number}", std::process::id()));
        match std::fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && number < 1000 => {}
            made => return made.map(|()| path),
        }
    }
}
