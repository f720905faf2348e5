//! What other systems have in the place of Linux's own: nothing, said as an error. Sandboxes need Linux, and their profiles
//! are refused elsewhere before any of this is asked; it stands here so that what calls it is one code.

use std::io;

/// What every call answers that needs Linux.
fn linux_alone<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this needs Linux"))
}

/// Files without a name, in the place of memory files.
pub mod memfd {
    use std::fs::{File, OpenOptions};
    use std::io::{self, Write as _};
    use std::os::fd::{AsFd, OwnedFd};
    use std::os::unix::fs::OpenOptionsExt as _;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Whether a memory file may be executed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Executable {
        /// It holds a program.
        Yes,
        /// It holds data.
        No,
    }

    /// A file with this content that has lost its name, open for reading alone.
    ///
    /// # Errors
    /// It cannot be made in the folder of temporary files.
    pub fn sealed(name: &str, content: &[u8], _: Executable) -> io::Result<OwnedFd> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{name}-{}-{number}", std::process::id()));
        let mut written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let read = written.write_all(content).and_then(|()| File::open(&path));
        std::fs::remove_file(&path)?;
        Ok(read?.into())
    }

    /// There is no way to a file without a name.
    ///
    /// # Errors
    /// Always.
    pub fn reopen(_: impl AsFd) -> io::Result<OwnedFd> {
        super::linux_alone()
    }
}

/// The memory of this process.
pub mod memory {
    use std::io;

    /// Nothing is given back here.
    ///
    /// # Errors
    /// None.
    pub const fn give_back() -> io::Result<u64> {
        Ok(0)
    }

    /// The most that was resident, in bytes: what is resident now is not told without a call of the kernel's own.
    ///
    /// # Errors
    /// The kernel refuses.
    #[allow(unsafe_code)]
    pub fn resident() -> io::Result<u64> {
        // SAFETY: the struct is written before it is read.
        unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            if libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) != 0 {
                return Err(io::Error::last_os_error());
            }
            // In bytes here, in KiB on Linux.
            Ok(u64::try_from(usage.ru_maxrss).unwrap_or(0))
        }
    }
}

/// Paths as calls take them.
pub mod mount {
    use std::ffi::CString;
    use std::io;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;

    /// A path as the stages of a start take it.
    ///
    /// # Errors
    /// It has a NUL byte.
    pub fn c_path(path: &Path) -> io::Result<CString> {
        CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
    }
}

/// Network namespaces.
pub mod netns {
    use std::os::fd::AsFd;

    pub use crate::netns_types::{Made, NetnsError, PortSocket, Wanted};

    /// There are none.
    ///
    /// # Errors
    /// Always.
    pub fn make(_: impl AsFd, _: &Wanted) -> Result<Made, NetnsError> {
        super::linux_alone().map_err(|source| NetnsError { step: "entering a network namespace", source })
    }
}

/// Owners of trees: nobody works in another's here.
pub mod owner {
    use std::io;
    use std::os::fd::BorrowedFd;

    /// Nothing is handed over.
    ///
    /// # Errors
    /// Always.
    pub fn hand_over(_: BorrowedFd<'_>, _: u32, _: u32) -> io::Result<()> {
        super::linux_alone()
    }
}

/// Project quotas.
pub mod quota {
    use std::io;
    use std::os::fd::BorrowedFd;

    pub use crate::quota_types::{AssignError, Bounds, Taken};

    /// No file system keeps them here.
    ///
    /// # Errors
    /// None.
    pub const fn enforced(_: BorrowedFd<'_>) -> io::Result<bool> {
        Ok(false)
    }

    /// There are none.
    ///
    /// # Errors
    /// Always.
    pub fn taken(_: BorrowedFd<'_>, _: u32) -> io::Result<Taken> {
        super::linux_alone()
    }

    /// There are none.
    ///
    /// # Errors
    /// Always.
    pub fn tells_exactly(_: BorrowedFd<'_>) -> io::Result<bool> {
        super::linux_alone()
    }

    /// There are none.
    ///
    /// # Errors
    /// Always.
    pub fn set_limit(_: BorrowedFd<'_>, _: u32, _: Option<Bounds>) -> io::Result<()> {
        super::linux_alone()
    }

    /// There are none.
    ///
    /// # Errors
    /// Always.
    pub fn project_of(_: BorrowedFd<'_>) -> io::Result<u32> {
        super::linux_alone()
    }

    /// There are none.
    ///
    /// # Errors
    /// Always.
    pub fn preallocated(_: BorrowedFd<'_>) -> io::Result<bool> {
        super::linux_alone()
    }

    /// There are none.
    ///
    /// # Errors
    /// Always.
    pub fn assign(_: BorrowedFd<'_>, _: u32) -> Result<(), AssignError> {
        Ok(super::linux_alone()?)
    }
}
