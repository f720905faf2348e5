//! Free space of a file system.

use std::io;
use std::path::Path;

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that an unprivileged user may still write.
    pub free: u64,
    /// Its size in bytes.
    pub total: u64,
    /// How many files and directories may still be made, and how many there can be; 0 and 0 where it has no such bound.
    pub free_inodes: u64,
    /// See above.
    pub inodes: u64,
}

/// The space of the file system that holds `path` (statvfs(3)).
///
/// # Errors
/// The path does not exist or may not be reached.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_inodes: stat.f_favail,
        inodes: stat.f_files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_has_space() {
        let space = space(Path::new("/")).unwrap();
        assert!(space.total > 0 && space.free <= space.total && space.free_inodes <= space.inodes);
        assert!(super::space(Path::new("/does/not/exist")).is_err());
    }
}
