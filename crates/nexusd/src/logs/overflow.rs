//! What does not fit the limit, kept in the facility: `.nexus/overflow/<directive>/stdout.log`.
//!
//! The facility belongs to the sandbox while it runs, so every step down is made by descriptor and refuses links, and the file
//! itself is always a new one: neither a planted link nor a planted pipe or device is ever written to.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use conduits::{DirectiveId, LogStream};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

/// Where and how much is kept of what does not fit.
#[derive(Debug)]
pub struct Overflow {
    /// The facility's folder, opened (`O_PATH` suffices).
    pub facility: OwnedFd,
    /// `log_overflow.dir`, relative to the facility: `.nexus/overflow`.
    pub dir: String,
    /// Bound of one file, in bytes.
    pub max_bytes_per_stream: u64,
    /// Who the files shall belong to, when not to us: the facility's uid and gid.
    pub owner: Option<(u32, u32)>,
}

/// A file that was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverflowFile {
    /// Of which stream.
    pub stream: LogStream,
    /// Relative to the facility.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// True when it holds all that came after the head.
    pub complete: bool,
}

/// The files of one directive.
#[derive(Debug)]
pub(super) struct OverflowFiles {
    settings: Overflow,
    directive: DirectiveId,
    files: [Option<Kept>; 2],
    /// Why nothing is kept.
    pub(super) fault: Option<String>,
}

#[derive(Debug)]
struct Kept {
    file: File,
    bytes: u64,
    complete: bool,
}

impl OverflowFiles {
    pub(super) fn new(settings: Overflow, directive: DirectiveId) -> Self {
        Self { settings, directive, files: [None, None], fault: None }
    }

    /// Keeps `bytes` as far as the bound allows. A fault ends the keeping and is shown at the end; it never stops the output.
    pub(super) fn write(&mut self, stream: LogStream, bytes: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        if let Err(error) = self.try_write(stream, bytes) {
            tracing::warn!(directive_id = %self.directive, %error, "the overflow file is given up");
            self.fault = Some(error.to_string());
        }
    }

    fn try_write(&mut self, stream: LogStream, bytes: &[u8]) -> io::Result<()> {
        let max = self.settings.max_bytes_per_stream;
        if super::stage::of(&mut self.files, stream).is_none() {
            let file = self.create(stream)?;
            *super::stage::of(&mut self.files, stream) = Some(Kept { file, bytes: 0, complete: true });
        }
        let Some(kept) = super::stage::of(&mut self.files, stream) else { return Ok(()) };
        let room = usize::try_from(max.saturating_sub(kept.bytes)).unwrap_or(usize::MAX).min(bytes.len());
        kept.complete &= room == bytes.len();
        let part = bytes.get(..room).unwrap_or_default();
        kept.file.write_all(part)?;
        kept.bytes += part.len() as u64;
        Ok(())
    }

    /// The end: of streams that were shipped whole nothing is kept.
    pub(super) fn finish(&mut self, truncated: [bool; 2]) -> Vec<OverflowFile> {
        let mut list = Vec::new();
        for (stream, truncated) in [LogStream::Stdout, LogStream::Stderr].into_iter().zip(truncated) {
            let Some(kept) = super::stage::of(&mut self.files, stream).take() else { continue };
            if truncated {
                let path = format!("{}/{}/{}", self.settings.dir, self.directive, file_name(stream));
                list.push(OverflowFile {
                    stream,
                    path,
                    bytes: kept.bytes,
                    complete: kept.complete && self.fault.is_none(),
                });
            } else if let Err(error) = self.discard(stream) {
                tracing::debug!(directive_id = %self.directive, %error, "an overflow file that is not needed stays");
            }
        }
        list
    }

    fn create(&self, stream: LogStream) -> io::Result<File> {
        let folder = self.folder(true)?;
        let name = file_name(stream);
        // Left by an earlier lease of the same directive, or planted: either way not ours.
        match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o644))?;
        self.give_away(file.as_fd())?;
        Ok(File::from(file))
    }

    fn discard(&self, stream: LogStream) -> io::Result<()> {
        let folder = self.folder(false)?;
        rustix::fs::unlinkat(&folder, file_name(stream), AtFlags::empty())?;
        let parent = self.descend(false, &[])?;
        match rustix::fs::unlinkat(&parent, self.directive.as_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn folder(&self, make: bool) -> io::Result<OwnedFd> {
        self.descend(make, &[self.directive.as_str()])
    }

    /// Walks down from the facility, one component at a time, following no link.
    fn descend(&self, make: bool, further: &[&str]) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let mut at = self.settings.facility.try_clone()?;
        for name in self.settings.dir.split('/').chain(further.iter().copied()) {
            if name.is_empty() || name == "." {
                continue;
            }
            if name == ".." {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "log_overflow.dir leaves the facility"));
            }
            let made = if make { rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) } else { Ok(()) };
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let next = rustix::fs::openat(&at, name, flags, Mode::empty())?;
            if make && made.is_ok() {
                self.give_away(next.as_fd())?;
            }
            at = next;
        }
        Ok(at)
    }

    fn give_away(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if let Some((uid, gid)) = self.settings.owner {
            let (uid, gid) = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid))?;
        }
        Ok(())
    }
}

fn file_name(stream: LogStream) -> &'static str {
    match stream {
        LogStream::Stdout => "stdout.log",
        LogStream::Stderr => "stderr.log",
    }
}
