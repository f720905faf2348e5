//! Programs and descriptors of the host's, as every driver looks for them.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::LaunchError;

/// The program as an absolute path: itself, or the first of its name on the search path.
pub(crate) fn find_program(name: &Path, search_path: &str) -> Option<PathBuf> {
    let executable = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if name.components().count() > 1 {
        return Some(name.to_owned()).filter(|path| executable(path));
    }
    let dirs = search_path.split(':').filter(|dir| dir.starts_with('/'));
    dirs.map(|dir| Path::new(dir).join(name)).find(|path| executable(path))
}

/// An error about something of the host's.
pub(crate) fn host(what: &str) -> impl FnOnce(std::io::Error) -> LaunchError {
    let what = what.to_owned();
    move |source| LaunchError::Host { what, source }
}

/// The null device, opened once.
pub(crate) fn open_null() -> std::io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}
