//! Unpacks an archive into a directory, beneath its descriptor.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use sys::beneath::{Beneath, BeneathError};
use tar::{Archive, Entry};

use super::Watch;
use super::extension::{Extensions, MAX_EXTENSION_BYTES};
use super::member::{RawMember, Refusal, Step, shown, step};
use super::xz::{StreamFault, XzReader};

/// Copied at a time.
const PIECE: usize = 128 * 1024;

/// Links whose way only the kernel can tell: a real tree has next to none.
const MAX_WINDING: usize = 4096;

/// What a tree may have at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the unpacked archive, headers included.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

impl Default for Bounds {
    /// Far more than a distribution's minimal root has (1 GiB, 50 thousand), and less than any disk.
    fn default() -> Self {
        Self { bytes: 8 * 1024 * 1024 * 1024, entries: 1_000_000 }
    }
}

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// An entry that is not taken.
    #[error("{entry}: {why}")]
    Refused {
        /// Its name, printable.
        entry: String,
        /// What is wrong with it.
        why: Refusal,
    },
    /// The file is no archive, or not a whole one.
    #[error("{why}")]
    Broken {
        /// What is wrong with it.
        why: String,
    },
    /// The file unpacks to more than the whole tree may have.
    #[error("it unpacks to more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The archive's file cannot be read.
    #[error("cannot read it: {0}")]
    Read(io::Error),
    /// The tree cannot be written.
    #[error("cannot write {entry}: {source}")]
    Write {
        /// The entry, printable.
        entry: String,
        /// The file system's answer.
        source: io::Error,
    },
    /// Whoever looked on wanted no more.
    #[error("interrupted")]
    Canceled,
}

impl UnpackError {
    /// Whether it was the size alone.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Refused { why: Refusal::TooLarge { .. }, .. })
    }
}

/// What an archive came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unpacked {
    /// Files, directories and links.
    pub(super) entries: u64,
    /// Bytes of the files.
    pub(super) bytes: u64,
}

/// Unpacks the `.tar.xz` into the directory, which must be empty.
pub(super) fn unpack(
    archive: File,
    into: &Beneath,
    bounds: Bounds,
    watch: &mut Watch<'_>,
) -> Result<Unpacked, UnpackError> {
    let stream = XzReader::new(archive, bounds.bytes, watch.cancel, watch.progress);
    let mut archive = Archive::new(stream);
    let mut tree = Tree::new(into, bounds);
    let mut said = Extensions::default();
    // Raw: the reader hands on each header as it is. It would read names of any length into memory otherwise.
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        tree.count(&entry)?;
        if !extension(&mut entry, &mut said)? {
            tree.take(&mut entry, std::mem::take(&mut said))?;
        }
    }
    if said != Extensions::default() {
        return Err(UnpackError::Broken { why: "it ends after a name without its entry".to_owned() });
    }
    let mut stream = archive.into_inner();
    let marked = stream.ends_with_zeros();
    // To its end: only there does the decoder check that the file is whole.
    io::copy(&mut stream, &mut io::sink()).map_err(broken)?;
    if !marked {
        return Err(UnpackError::Broken { why: "it ends without the mark of an archive's end".to_owned() });
    }
    tree.finish()
}

/// Takes an entry that speaks of the next one; false when it is one of its own.
fn extension<R: Read>(entry: &mut Entry<'_, R>, said: &mut Extensions) -> Result<bool, UnpackError> {
    let kind = entry.header().as_bytes()[156];
    if !matches!(kind, b'L' | b'K' | b'x' | b'g') {
        return Ok(false);
    }
    let refused = |why| UnpackError::Refused { entry: "an extension".to_owned(), why };
    let size = entry.header().entry_size().map_err(broken)?;
    if size > MAX_EXTENSION_BYTES {
        return Err(refused(Refusal::Malformed("a name or record of more than 256 KiB")));
    }
    let mut data = Vec::new();
    entry.read_to_end(&mut data).map_err(broken)?;
    if u64::try_from(data.len()).ok() != Some(size) {
        return Err(UnpackError::Broken { why: "it ends in the middle of an entry".to_owned() });
    }
    match kind {
        b'L' => Extensions::gnu(&mut said.name, &data),
        b'K' => Extensions::gnu(&mut said.link, &data),
        b'x' => said.pax(&data),
        // Of all entries together: comments, in practice.
        _ => Ok(()),
    }
    .map_err(refused)?;
    Ok(true)
}

/// A tree that is being made.
struct Tree<'b> {
    top: &'b Beneath,
    bounds: Bounds,
    done: Unpacked,
    headers: u64,
    /// The directory of the last entry: archives go through a tree directory by directory.
    last: Option<(PathBuf, Beneath)>,
    winding: Vec<PathBuf>,
    buffer: Vec<u8>,
}

impl<'b> Tree<'b> {
    fn new(top: &'b Beneath, bounds: Bounds) -> Self {
        let buffer = vec![0; PIECE];
        Self { top, bounds, done: Unpacked::default(), headers: 0, last: None, winding: Vec::new(), buffer }
    }

    /// Extensions count too: an archive of nothing else would never end.
    fn count<R: Read>(&mut self, entry: &Entry<'_, R>) -> Result<(), UnpackError> {
        self.headers += 1;
        if self.headers > self.bounds.entries {
            let name = shown(&entry.header().path_bytes());
            return Err(UnpackError::Refused { entry: name, why: Refusal::TooMany(self.bounds.entries) });
        }
        Ok(())
    }

    fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>, said: Extensions) -> Result<(), UnpackError> {
        let header = entry.header();
        let name = said.name.unwrap_or_else(|| header.path_bytes().into_owned());
        let refused = |why| UnpackError::Refused { entry: shown(&name), why };
        let size = header.entry_size().map_err(broken)?;
        if said.size.is_some_and(|other| other != size) {
            return Err(refused(Refusal::Malformed("two sizes for one entry")));
        }
        let left = self.bounds.bytes.saturating_sub(self.done.bytes);
        if size > left {
            return Err(refused(Refusal::TooLarge { size, left, limit: self.bounds.bytes }));
        }
        let link = said.link.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        let member = RawMember {
            kind: header.as_bytes()[156],
            link: link.unwrap_or_default(),
            mode: header.mode().map_err(broken)?,
            size,
            mtime: header.mtime().map_err(broken)?,
            name: name.clone(),
        };
        let step = step(&member).map_err(refused)?;
        if step == Step::Skip {
            return Ok(());
        }
        self.done.entries += 1;
        self.perform(step, entry).map_err(|trouble| trouble.about(&name))
    }

    fn perform<R: Read>(&mut self, step: Step, entry: &mut Entry<'_, R>) -> Result<(), Trouble> {
        match step {
            Step::Directory { at, mode } => {
                let made = self.parent(&at)?.make_dir(name_of(&at), 0o755)?;
                Ok(made.set_mode(mode)?)
            }
            Step::File { at, mode, size, mtime } => {
                let file = self.parent(&at)?.create_new(Path::new(name_of(&at)), 0o600)?;
                self.fill(&file, entry, size)?;
                file.set_permissions(std::fs::Permissions::from_mode(mode)).map_err(Trouble::Write)?;
                // Compiled files of Python name the time of their source: with another one they would be useless.
                keep_time(&file, mtime)
            }
            Step::Link { at, target, winding } => {
                self.parent(&at)?.make_link(name_of(&at), &target)?;
                if winding {
                    self.winding.push(at);
                }
                match self.winding.len() {
                    0..=MAX_WINDING => Ok(()),
                    _ => Err(Trouble::Refused(Refusal::Malformed("more links that turn upwards than a tree has"))),
                }
            }
            Step::HardLink { at, to } => {
                let missing = |_| Trouble::Refused(Refusal::HardLink { target: to.display().to_string() });
                let from = self.top.enter_plain(parent_of(&to)).map_err(missing)?;
                let linked = self.parent(&at)?.make_hard_link(name_of(&at), &from, name_of(&to));
                linked.map_err(|error| match error.kind() {
                    // There is none, or it is a directory or link.
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => missing(error),
                    _ => error.into(),
                })
            }
            Step::Skip => Ok(()),
        }
    }

    fn fill<R: Read>(&mut self, mut file: &File, entry: &mut Entry<'_, R>, size: u64) -> Result<(), Trouble> {
        let mut left = size;
        while left > 0 {
            let count = entry.read(&mut self.buffer).map_err(Trouble::Stream)?;
            let Some(piece) = self.buffer.get(..count).filter(|piece| !piece.is_empty()) else {
                return Err(Trouble::Stream(io::ErrorKind::UnexpectedEof.into()));
            };
            file.write_all(piece).map_err(Trouble::Write)?;
            left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
        }
        self.done.bytes += size;
        Ok(())
    }

    /// The directory that an entry is made in; those of its path that no entry has named are made.
    fn parent(&mut self, at: &Path) -> Result<&Beneath, Trouble> {
        let path = parent_of(at);
        if self.last.as_ref().is_none_or(|(last, _)| last != path) {
            let dir = match self.top.enter_plain(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_parents(path)?,
                other => other?,
            };
            self.last = Some((path.to_owned(), dir));
        }
        Ok(self.last.as_ref().map_or(self.top, |(_, dir)| dir))
    }

    fn make_parents(&self, path: &Path) -> Result<Beneath, BeneathError> {
        let mut here = self.top.enter_plain(Path::new("."))?;
        for part in path {
            here = here.make_dir(part, 0o755)?;
        }
        Ok(here)
    }

    fn finish(self) -> Result<Unpacked, UnpackError> {
        for at in self.winding {
            if let Err(BeneathError::LeadsOut { .. }) = self.top.follow(&at) {
                let target = rustix::fs::readlinkat(self.top.fd(), &at, Vec::new()).unwrap_or_default();
                let why = Refusal::LinkOutwards { target: shown(target.as_bytes()) };
                return Err(UnpackError::Refused { entry: shown(at.as_os_str().as_encoded_bytes()), why });
            }
        }
        Ok(self.done)
    }
}

/// What went wrong with one entry, before its name is known to the error.
enum Trouble {
    Refused(Refusal),
    Write(io::Error),
    Stream(io::Error),
}

impl Trouble {
    fn write(errno: Errno) -> Self {
        Self::Write(errno.into())
    }

    fn about(self, name: &[u8]) -> UnpackError {
        let entry = shown(name);
        match self {
            Self::Refused(why) => UnpackError::Refused { entry, why },
            Self::Write(source) => UnpackError::Write { entry, source },
            Self::Stream(error) => broken(error),
        }
    }
}

impl From<BeneathError> for Trouble {
    fn from(error: BeneathError) -> Self {
        let source = match error {
            BeneathError::LeadsOut { .. } => return Self::Refused(Refusal::Through),
            BeneathError::Refused { source, .. } => source,
        };
        match source.raw_os_error().map(Errno::from_raw_os_error) {
            // A link on the way (RESOLVE_NO_SYMLINKS), or a file.
            Some(Errno::LOOP | Errno::NOTDIR) => Self::Refused(Refusal::Through),
            Some(Errno::EXIST) => Self::Refused(Refusal::Twice),
            _ => Self::Write(source),
        }
    }
}

/// An error that came through the reader of the archive.
fn broken(error: io::Error) -> UnpackError {
    match StreamFault::of(&error) {
        Some(StreamFault::Canceled) => UnpackError::Canceled,
        Some(StreamFault::TooLarge { limit }) => UnpackError::TooLarge { limit: *limit },
        Some(fault) => UnpackError::Broken { why: fault.to_string() },
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            UnpackError::Broken { why: "it ends in the middle of an entry".to_owned() }
        }
        // The kernel's errors have a number; those of the reader of archives have none.
        None if error.raw_os_error().is_some() => UnpackError::Read(error),
        None => UnpackError::Broken { why: format!("it is no tar archive: {error}") },
    }
}

fn keep_time(file: &File, seconds: u64) -> Result<(), Trouble> {
    let Ok(seconds) = i64::try_from(seconds) else { return Ok(()) };
    let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 0 };
    rustix::fs::futimens(file, &rustix::fs::Timestamps { last_access: time, last_modification: time })
        .map_err(Trouble::write)
}

fn parent_of(at: &Path) -> &Path {
    at.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn name_of(at: &Path) -> &OsStr {
    at.file_name().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use testkit::TarBytes;
    use testkit::archive::listing;

    use super::*;

    /// A path of few names, so that entries meet each other: `a/b`, `../b`, `/a/../b`.
    fn path(names: &'static str) -> impl Strategy<Value = String> {
        proptest::string::string_regex(names).expect("a pattern")
    }

    fn entry() -> impl Strategy<Value = (u8, String, String)> {
        let plain = || path("[ab](/[ab]){0,3}");
        let upwards = path("\\.\\.(/\\.\\.){0,2}(/[ab]){0,2}");
        let any = path("/?([ab]|\\.\\.)(/([ab]|\\.\\.)){0,4}");
        (prop::sample::select(&b"051222"[..]), plain(), prop_oneof![plain(), upwards, any])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever an archive is made of, and even if entries that are refused were left out and the others taken:
        /// nothing outside of the tree is touched, and no link of a tree that is finished leads out, as the kernel sees it.
        #[test]
        fn no_archive_leads_out(entries in proptest::collection::vec(entry(), 1..16)) {
            let dir = tempfile::tempdir().unwrap();
            for folder in ["tree", "a/b", "b"] {
                std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            }
            let outside = || {
                let all = listing(dir.path()).into_iter();
                all.filter(|line| !line.starts_with("tree/")).collect::<Vec<_>>()
            };
            let before = outside();
            let tar = entries.iter().fold(TarBytes::new(), |tar, (kind, name, target)| {
                let content: &[u8] = if *kind == b'0' { b"planted" } else { b"" };
                tar.entry(*kind, name, target, 0o755, content)
            });
            let top = Beneath::open(&dir.path().join("tree")).unwrap();
            let mut tree = Tree::new(&top, Bounds::default());
            for entry in Archive::new(&tar.tar()[..]).entries().unwrap().raw(true) {
                tree.take(&mut entry.unwrap(), Extensions::default()).ok();
            }
            let finished = tree.finish();
            prop_assert_eq!(outside(), before);
            if finished.is_ok() {
                for line in listing(&dir.path().join("tree")) {
                    if let Some((link, _)) = line.split_once(" -> ") {
                        let out = matches!(top.follow(Path::new(link)), Err(BeneathError::LeadsOut { .. }));
                        prop_assert!(!out, "{} of {:?}", line, entries);
                    }
                }
            }
        }
    }
}
