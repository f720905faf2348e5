//! What [`quota`](crate::quota) takes and gives, which is the same on every system.

use std::io;

/// What a project has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes, those included that are only promised yet.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
    /// The bounds of both.
    pub limit: Option<Bounds>,
}

/// What a project may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes, in whole KiB.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

/// Why a tree did not become a project's.
#[derive(Debug, thiserror::Error)]
pub enum AssignError {
    /// It is more than is walked.
    #[error("it holds {0}")]
    TooLarge(&'static str),
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}
