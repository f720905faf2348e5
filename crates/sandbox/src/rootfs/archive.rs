//! An archive on disk: what has come of it, and the proof that it is the one that was meant.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use sha2::{Digest, Sha256};

use super::{ArchiveDigest, Watch};

/// The largest archive that is taken, in bytes.
pub const MAX_ARCHIVE_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// The longest note that is kept beside a part.
const MAX_NOTE_BYTES: u64 = 8 * 1024;

/// What is hashed or copied at a time.
const PIECE: usize = 128 * 1024;

/// Why a part cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    /// The file system's answer.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More has come than an archive may have.
    #[error("the archive is larger than {MAX_ARCHIVE_BYTES} bytes, the most that is taken")]
    TooLarge,
}

/// Why an archive is not used.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is another one than was meant. It has been removed.
    #[error("sha256 of the archive is {found}, not {expected} ({bytes} bytes)")]
    Mismatch {
        /// What it should have been.
        expected: ArchiveDigest,
        /// What it is.
        found: ArchiveDigest,
        /// How long it is.
        bytes: u64,
    },
    /// The part.
    #[error(transparent)]
    Part(#[from] PartError),
    /// Whoever looked on wanted no more.
    #[error("interrupted")]
    Canceled,
}

/// What has come of an archive so far, with a note of where it came from. Stays on disk when dropped, so that another
/// process can go on with it.
#[derive(Debug)]
pub struct ArchivePart {
    digest: ArchiveDigest,
    path: PathBuf,
    note: PathBuf,
    file: File,
    len: u64,
}

/// An archive whose every byte has been hashed. Only [`ArchivePart::verify`] makes one.
#[derive(Debug)]
pub struct VerifiedArchive {
    pub(super) digest: ArchiveDigest,
    pub(super) file: File,
    len: u64,
}

impl VerifiedArchive {
    /// Its size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.len
    }
}

impl ArchivePart {
    /// Opens what there is, or begins with nothing.
    pub(super) fn open(dir: &Path, digest: ArchiveDigest) -> Result<Self, PartError> {
        let (path, note) = (part_path(dir, &digest), note_path(dir, &digest));
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR).map(File::from);
        let file = opened.map_err(|errno| failed("open", &path)(errno.into()))?;
        let len = file.metadata().map_err(failed("look at", &path))?.len();
        Ok(Self { digest, path, note, file, len })
    }

    /// How many bytes have come.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// What was noted when it was begun; empty where nothing was, or nothing that can be read.
    #[must_use]
    pub fn note(&self) -> String {
        let mut text = String::new();
        match File::open(&self.note).and_then(|file| file.take(MAX_NOTE_BYTES).read_to_string(&mut text)) {
            Ok(_) => text,
            Err(_) => String::new(),
        }
    }

    /// Drops what has come, and begins again with another note.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn start_over(&mut self, note: &str) -> Result<(), PartError> {
        // In this order: bytes never stand beside a note that is not theirs.
        self.file.set_len(0).map_err(failed("empty", &self.path))?;
        self.len = 0;
        std::fs::write(&self.note, note).map_err(failed("write", &self.note))
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// The file cannot be written, or would be too large.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), PartError> {
        let after = self.len + u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if after > MAX_ARCHIVE_BYTES {
            return Err(PartError::TooLarge);
        }
        let mut write = || {
            self.file.seek(SeekFrom::Start(self.len))?;
            self.file.write_all(bytes)
        };
        write().map_err(failed("write", &self.path))?;
        self.len = after;
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub fn discard(self) -> Result<(), PartError> {
        discard(self.path.parent().unwrap_or(Path::new(".")), &self.digest)
    }

    /// Hashes the whole file, which must be what was meant: another one is removed.
    ///
    /// # Errors
    /// [`VerifyError`]; a part that was not read to its end stays.
    pub fn verify(mut self, watch: &mut Watch<'_>) -> Result<VerifiedArchive, VerifyError> {
        let read_failed = failed("read", &self.path);
        let found = match hash(&mut self.file, watch) {
            Ok(Some(found)) => found,
            Ok(None) => return Err(VerifyError::Canceled),
            Err(error) => return Err(read_failed(error).into()),
        };
        let (expected, bytes) = (self.digest, self.len);
        if found != expected {
            self.discard()?;
            return Err(VerifyError::Mismatch { expected, found, bytes });
        }
        Ok(VerifiedArchive { digest: expected, file: self.file, len: bytes })
    }
}

fn hash(file: &mut File, watch: &mut Watch<'_>) -> io::Result<Option<ArchiveDigest>> {
    file.rewind()?;
    let (mut hasher, mut piece, mut done) = (Sha256::new(), vec![0; PIECE], 0);
    loop {
        if watch.cancel.is_cancelled() {
            return Ok(None);
        }
        let count = file.read(&mut piece)?;
        let Some(read) = piece.get(..count).filter(|read| !read.is_empty()) else {
            return Ok(Some(ArchiveDigest(hasher.finalize().into())));
        };
        hasher.update(read);
        done += u64::try_from(count).unwrap_or(0);
        (watch.progress)(done);
    }
}

/// Removes the part of this digest, where there is one.
pub(super) fn discard(dir: &Path, digest: &ArchiveDigest) -> Result<(), PartError> {
    for path in [part_path(dir, digest), note_path(dir, digest)] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
            _ => {}
        }
    }
    Ok(())
}

fn part_path(dir: &Path, digest: &ArchiveDigest) -> PathBuf {
    dir.join(format!("{digest}.part"))
}

fn note_path(dir: &Path, digest: &ArchiveDigest) -> PathBuf {
    dir.join(format!("{digest}.from"))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PartError + use<> {
    let path = path.to_owned();
    move |source| PartError::Io { what, path, source }
}
