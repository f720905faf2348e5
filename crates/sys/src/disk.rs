//! Free space of a file system.

use std::io;
use std::path::Path;

/// The space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged user may still write.
    pub free: u64,
    /// Its size.
    pub total: u64,
}

/// The space of the file system that holds `path` (statvfs(3)).
///
/// # Errors
/// The path does not exist or may not be reached.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space { free: stat.f_bavail.saturating_mul(stat.f_frsize), total: stat.f_blocks.saturating_mul(stat.f_frsize) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_has_space() {
        let space = space(Path::new("/")).unwrap();
        assert!(space.total > 0 && space.free <= space.total);
        assert!(super::space(Path::new("/does/not/exist")).is_err());
    }
}
