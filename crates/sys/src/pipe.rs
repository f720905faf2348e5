//! Pipes.

use std::io;
use std::os::fd::OwnedFd;

/// A pipe whose ends are close-on-exec and blocking.
#[derive(Debug)]
pub struct Pipe {
    /// What is read.
    pub read: OwnedFd,
    /// What is written.
    pub write: OwnedFd,
}

/// Makes a pipe.
///
/// # Errors
/// The process has no descriptor left.
pub fn pipe() -> io::Result<Pipe> {
    let (read, write) = std::io::pipe()?;

    Ok(Pipe { read: read.into(), write: write.into() })
}
