//! Lock files: one holder at a time, released by the kernel when the holder dies (flock(2)).

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

/// What is looked at of a lock file: more than a pid and the end of the line.
const MAX_LINE: u64 = 32;

/// A lock that is held until this is dropped. The file stays: removing it would let two holders in.
#[derive(Debug)]
pub struct LockFile {
    file: File,
}

impl LockFile {
    /// Takes the lock, or says that another holds it (`None`). The holder's pid is written into the file for people to read.
    ///
    /// # Errors
    /// The file cannot be made or written, or is a link.
    pub fn try_acquire(path: &Path) -> io::Result<Option<Self>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = File::from(openat(CWD, path, flags, Mode::RUSR | Mode::WUSR)?);
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
        let (line, mut there) = (format!("{}\n", std::process::id()), Vec::new());
        (&file).take(MAX_LINE).read_to_end(&mut there)?;
        // Most locks were last held by the same process: cutting a file and writing it anew waits for the file system's
        // journal.
        if there != line.as_bytes() {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(line.as_bytes())?;
        }
        Ok(Some(Self { file }))
    }

    /// Makes the file's time of change now, by which others see when it was last held.
    ///
    /// # Errors
    /// The file system refuses.
    pub fn touch(&self) -> io::Result<()> {
        self.file.set_modified(std::time::SystemTime::now())
    }
}

impl Drop for LockFile {
    /// Unlocks in so many words: closing would not do while a child that is about to exec holds the same open file.
    fn drop(&mut self) {
        // Refused only for a descriptor that is none; the close that follows is all that is left then.
        flock(&self.file, FlockOperation::Unlock).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = LockFile::try_acquire(&path).unwrap().unwrap();
        assert!(LockFile::try_acquire(&path).unwrap().is_none());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        // What a fork that has not reached its exec holds.
        let inherited = first.file.try_clone().unwrap();
        drop(first);
        assert!(LockFile::try_acquire(&path).unwrap().is_some());
        drop(inherited);
        // Another holder's pid, also one that is longer, gives way.
        for other in ["4194303444\n", "", "1\n"] {
            std::fs::write(&path, other).unwrap();
            drop(LockFile::try_acquire(&path).unwrap().unwrap());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        }
        std::os::unix::fs::symlink("lock", dir.path().join("link")).unwrap();
        assert!(LockFile::try_acquire(&dir.path().join("link")).is_err());
    }
}
