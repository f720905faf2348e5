//! Sealed memory files: data for another process that nobody can change any more (memfd_create(2)).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, open};
use rustix::io::Errno;

/// Whether a memory file may be executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executable {
    /// It holds a program.
    Yes,
    /// It holds data.
    No,
}

/// A memory file with this content, sealed against writing, growing, shrinking and further seals.
///
/// # Errors
/// The kernel refuses it: executable ones where the sysctl `vm.memfd_noexec` is 2.
pub fn sealed(name: &str, content: &[u8], executable: Executable) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mode = if executable == Executable::Yes { MemfdFlags::EXEC } else { MemfdFlags::NOEXEC_SEAL };
    // Kernels before 6.3 know neither flag; their memory files are always executable.
    let fd = match memfd_create(name, flags | mode) {
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    let mut file = File::from(fd);
    file.write_all(content)?;
    let fd = OwnedFd::from(file);
    fcntl_add_seals(&fd, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(fd)
}

/// Opens a memory file again, for reading from its start: duplicates of one descriptor share one offset.
///
/// # Errors
/// /proc is not mounted.
pub fn reopen(fd: impl AsFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn sealed_content_stays() {
        let fd = sealed("test", b"content", Executable::No).unwrap();
        let mut text = String::new();
        for _ in 0..2 {
            text.clear();
            File::from(reopen(&fd).unwrap()).read_to_string(&mut text).unwrap();
            assert_eq!(text, "content");
        }
        let mut file = File::from(fd);
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }
}
