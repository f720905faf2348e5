//! Roots that are unpacked from one archive whose digest is known, kept in a folder and used again.
//!
//! ```text
//! the folder                                    the way into it
//!   lock            held by who fetches           lock ─▶ part ─▶ verify ─▶ install ─▶ find
//!   <digest>.part   what has come so far                 (bytes)  (whole     (unpacked,
//!   <digest>.from   and where it came from                         file)      renamed)
//!   <digest>.new/   a tree that is being unpacked
//!   <digest>/       whole: `root/`, and `made-of`, the marker
//! ```
//!
//! Promises: nothing is unpacked before the digest of the whole file is known to be right; no entry of an archive, no
//! link in it and no race leads out of the tree (every step is taken beneath a descriptor); device nodes and pipes are
//! left out, setuid bits are dropped; size, number of entries, depth and memory are bounded; a tree appears whole or not
//! at all, and whatever is refused leaves nothing behind. Files belong to the daemon's user, whatever the archive says.
//!
//! Leaves to others: where the bytes come from.

mod archive;
mod extension;
mod member;
mod store;
mod unpack;
mod xz;

use std::fmt;

use tokio_util::sync::CancellationToken;

pub use archive::{ArchivePart, MAX_ARCHIVE_BYTES, PartError, VerifiedArchive, VerifyError};
pub use member::Refusal;
pub use store::{InstallError, LockedStore, RootStore, StoreError};
pub use unpack::{Bounds, UnpackError};

/// The SHA-256 of an archive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ArchiveDigest(pub [u8; 32]);

impl fmt::Display for ArchiveDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ArchiveDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ArchiveDigest({self})")
    }
}

/// Who looks on while an archive is hashed or unpacked, and can end it.
pub struct Watch<'a> {
    /// Cancelled, the work ends soon.
    pub cancel: &'a CancellationToken,
    /// Told the bytes of the archive that are done.
    pub progress: &'a mut dyn FnMut(u64),
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}
