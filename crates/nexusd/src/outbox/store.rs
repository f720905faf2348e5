//! The outbox's folder: a slot or a file for each report, there whole or not at all.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use conduits::DirectiveId;
use rustix::fs::{Mode, OFlags};

use super::entry::{Entry, ReportKind, file_name};
use super::slots::{Damaged, Slots};

/// Largest file that is read back: a diff of the default 1 MiB in base64 is far below.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Why the outbox could not keep a report.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The disk said no.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The outbox cannot be taken up.
    #[error("cannot {what} {}: {source}{mend}", path.display())]
    Open {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
        /// What mends it, where that is known.
        mend: String,
    },
    /// The report is not JSON.
    #[error("the report cannot be written: {0}")]
    Encode(#[from] serde_json::Error),
    /// Too many undelivered reports.
    #[error("the outbox holds {entries} undelivered reports and takes no more; check the connection to the mothership")]
    Full {
        /// So many.
        entries: usize,
    },
    /// The runtime is shutting down.
    #[error("writing the report broke off: {0}")]
    Interrupted(String),
}

impl OutboxError {
    fn open(what: &'static str, path: PathBuf, source: io::Error) -> Self {
        let mend = match source.kind() {
            io::ErrorKind::PermissionDenied => mend(&path, rustix::process::geteuid().as_raw()).unwrap_or_default(),
            _ => String::new(),
        };
        Self::Open { what, path, source, mend }
    }

    /// True when the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    /// Names are looked up and synced through it.
    fd: OwnedFd,
    slots: Slots,
}

/// What opening the folder found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    pub(super) set_aside: Vec<PathBuf>,
}

impl Store {
    pub(super) fn open(dir: PathBuf) -> Result<(Self, Found), OutboxError> {
        let path = dir.join(SLOTS_FILE);
        let io = |what, path: &Path| {
            let path = path.to_path_buf();
            move |source: io::Error| OutboxError::open(what, path, source)
        };
        let no_folder = fs::metadata(&dir).is_ok_and(|found| !found.is_dir());
        let mut aside = Vec::new();
        if no_folder {
            aside.push(set_aside(&dir, "it is no folder").map_err(io("set aside what is no folder at", &dir))?);
        }
        let new = !dir.exists();
        make_private_dir(&dir).map_err(io("make the outbox", &dir))?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&dir, flags, Mode::empty()).map_err(|e| io("open the outbox", &dir)(e.into()))?;
        for of_ours in [path.clone(), path.with_extension("tmp")] {
            aside.extend(aside_unless_file(&of_ours).map_err(io("set aside what is no file at", &of_ours))?);
        }
        let (slots, in_slots) = Slots::open(&path).map_err(io("open the outbox's slots", &path))?;
        rustix::fs::fsync(&fd).map_err(|e| io("sync the outbox", &dir)(e.into()))?;
        if in_slots.made && !new && aside.is_empty() {
            tracing::warn!(file = %path.display(), "the outbox's slots were not there: reports that were in them, if any, are lost");
        }
        let mut found = scan(&dir, in_slots.entries).map_err(io("read the outbox", &dir))?;
        found.set_aside.extend(aside);
        found.set_aside.extend(aside_of_slots(&path, &in_slots.damaged).map_err(io("set aside slots of", &path))?);
        slots.mend(&in_slots.damaged).map_err(io("empty slots of", &path))?;
        Ok((Self { dir, fd, slots }, found))
    }

    /// Durable when it returns.
    pub(super) fn put(&self, entry: &Entry) -> Result<(), OutboxError> {
        let bytes = entry.encode()?;
        let io =
            |source| OutboxError::Io { what: "cannot write the report into", path: self.dir.join(SLOTS_FILE), source };
        if self.slots.put((entry.directive_id.clone(), entry.report.kind()), &bytes).map_err(io)? {
            return Ok(());
        }
        self.put_file(entry, &bytes)
    }

    /// Puts an entry in the place of an earlier one of the same directive and kind. Durable when it returns.
    pub(super) fn replace(&self, entry: &Entry) -> Result<(), OutboxError> {
        self.put_file(entry, &entry.encode()?)?;
        self.vacate(&entry.directive_id, entry.report.kind()).map(drop)
    }

    /// Writes an entry over the one that is there, if it still is. Not durable: a kill finds it, a power cut may find the
    /// earlier one.
    pub(super) fn note(&self, entry: &Entry) -> Result<(), OutboxError> {
        let bytes = entry.encode()?;
        let path = self.dir.join(SLOTS_FILE);
        let io = |source| OutboxError::Io { what: "cannot write over a report in", path: path.clone(), source };
        if self.slots.overwrite(&(entry.directive_id.clone(), entry.report.kind()), &bytes).map_err(io)? {
            return Ok(());
        }
        let path = self.dir.join(entry.file_name());
        if !path.exists() {
            return Ok(());
        }
        let temporary = self.dir.join(format!("{}.tmp", entry.file_name()));
        let io = |source| OutboxError::Io { what: "cannot write over", path: path.clone(), source };
        fs::write(&temporary, &bytes).and_then(|()| fs::rename(&temporary, &path)).map_err(io)
    }

    fn put_file(&self, entry: &Entry, bytes: &[u8]) -> Result<(), OutboxError> {
        let name = entry.file_name();
        let temporary = format!("{name}.tmp");
        let io = |what| {
            let path = self.dir.join(&name);
            move |source: io::Error| OutboxError::Io { what, path, source }
        };
        let written = self.write_synced(&temporary, bytes);
        if let Err(source) = written {
            // What was written of it is of no use; the next start removes it if this fails too.
            rustix::fs::unlinkat(&self.fd, &temporary, rustix::fs::AtFlags::empty()).unwrap_or_default();
            return Err(io("cannot write the report")(source));
        }
        rustix::fs::renameat(&self.fd, &temporary, &self.fd, &name)
            .map_err(|e| io("cannot place the report")(e.into()))?;
        rustix::fs::fsync(&self.fd).map_err(|e| io("cannot sync the outbox for")(e.into()))
    }

    /// Empties the report's slot, where it has one.
    fn vacate(&self, id: &DirectiveId, kind: ReportKind) -> Result<bool, OutboxError> {
        self.slots.vacate(&(id.clone(), kind)).map_err(|source| OutboxError::Io {
            what: "cannot empty a slot of",
            path: self.dir.join(SLOTS_FILE),
            source,
        })
    }

    fn write_synced(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(fd);
        file.write_all(bytes)?;
        // The size is data here: fdatasync writes it too when it changed.
        file.sync_data()
    }

    /// Gone when it returns, though perhaps back after a power cut: then it is sent again, which is harmless.
    pub(super) fn remove(&self, id: &DirectiveId, kind: ReportKind) -> Result<(), OutboxError> {
        // Of one report both may be there: a file that could not be synced, and what was kept after it.
        self.vacate(id, kind)?;
        let name = file_name(id, kind);
        match rustix::fs::unlinkat(&self.fd, &name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(error) => {
                Err(OutboxError::Io { what: "cannot remove", path: self.dir.join(&name), source: error.into() })
            }
        }
    }
}

/// What lets the user `me` at a file or folder of his own again.
fn mend(path: &Path, me: u32) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let found = fs::metadata(path).ok()?;
    let mode = if found.is_dir() { "700" } else { "600" };
    let path = path.display();
    Some(match found.uid() {
        owner if owner == me => format!("; chmod {mode} {path}"),
        owner => format!("; it belongs to uid {owner}: chown {me} {path} and chmod {mode} {path}"),
    })
}

/// The slots' file.
const SLOTS_FILE: &str = "slots";

/// The folder and those above it, the new ones for us alone: reports hold tokens.
fn make_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// A name for what is damaged that no earlier one has.
fn free_name(path: &Path) -> PathBuf {
    let named = |middle: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("{middle}.corrupt"));
        PathBuf::from(name)
    };
    let mut names = (2_u64..).map(|number| named(&format!(".{number}")));
    Some(named("")).filter(|first| !first.exists()).or_else(|| names.find(|name| !name.exists())).unwrap_or_default()
}

/// Sets aside what damaged slots hold, one file each, and says which slots have lost what they held.
fn aside_of_slots(path: &Path, damaged: &[Damaged]) -> io::Result<Vec<PathBuf>> {
    let mut set_aside = Vec::new();
    let mut lost: Vec<(usize, usize, &str)> = Vec::new();
    for Damaged { index, bytes, why } in damaged {
        if bytes.is_empty() {
            match lost.last_mut() {
                Some((_, last, of)) if *last + 1 == *index && of == why => *last = *index,
                _ => lost.push((*index, *index, why)),
            }
            continue;
        }
        let aside = free_name(&path.with_file_name(format!("{SLOTS_FILE}-{index}")));
        fs::write(&aside, bytes)?;
        tracing::error!(
            file = %path.display(),
            slot = index,
            set_aside = %aside.display(),
            why,
            "a damaged slot was set aside; the outcome of a directive may not be known to the mothership"
        );
        set_aside.push(aside);
    }
    for (first, last, why) in lost {
        tracing::error!(
            file = %path.display(),
            slots = %format_args!("{first} to {last}"),
            why,
            "slots are lost; what was reported in them, if anything, may not be known to the mothership"
        );
    }
    Ok(set_aside)
}

/// Sets aside what lies where a file of ours belongs and is none: a folder, a link, a pipe that reading would wait for.
fn aside_unless_file(path: &Path) -> io::Result<Option<PathBuf>> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => set_aside(path, "it is no file").map(Some),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(None),
    }
}

/// What the files and the slots hold, oldest first.
fn scan(dir: &Path, in_slots: Vec<Entry>) -> io::Result<Found> {
    let slots_written = fs::metadata(dir.join(SLOTS_FILE))?.modified()?;
    let mut aged: Vec<_> = in_slots.into_iter().map(|entry| (slots_written, entry)).collect();
    let mut found = Found::default();
    for item in fs::read_dir(dir)? {
        let item = item?;
        let path = item.path();
        if matches!(path.extension().and_then(|extension| extension.to_str()), Some("tmp" | "report"))
            && let Some(aside) = aside_unless_file(&path)?
        {
            found.set_aside.push(aside);
            continue;
        }
        match path.extension().and_then(|extension| extension.to_str()) {
            // Never renamed, so never sent: the report was not made, and whoever made it did not go on.
            Some("tmp") => fs::remove_file(&path)?,
            Some("report") => match read_entry(&path) {
                Ok(entry) => aged.push((item.metadata()?.modified()?, entry)),
                Err(why) => found.set_aside.push(set_aside(&path, &why)?),
            },
            _ => {}
        }
    }
    aged.sort_by(|(a_time, a), (b_time, b)| {
        (a_time, &a.directive_id, a.report.kind()).cmp(&(b_time, &b.directive_id, b.report.kind()))
    });
    found.entries = started_first(aged.into_iter().map(|(_, entry)| entry).collect());
    Ok(found)
}

/// Times of files may be equal or wrong: of one directive `started` goes first whatever they say.
fn started_first(mut entries: Vec<Entry>) -> Vec<Entry> {
    let mut ordered = Vec::with_capacity(entries.len());
    while !entries.is_empty() {
        let id = entries[0].directive_id.clone();
        let (mut of_one, others): (Vec<Entry>, Vec<Entry>) = entries.into_iter().partition(|e| e.directive_id == id);
        of_one.sort_by_key(|entry| entry.report.kind());
        ordered.append(&mut of_one);
        entries = others;
    }
    ordered
}

fn read_entry(path: &Path) -> Result<Entry, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let entry = Entry::decode(&bytes).map_err(|error| error.to_string())?;
    let name = entry.file_name();
    if path.file_name().and_then(|n| n.to_str()) != Some(name.as_str()) {
        return Err(format!("its content belongs into {name}"));
    }
    Ok(entry)
}

fn set_aside(path: &Path, why: &str) -> io::Result<PathBuf> {
    let aside = free_name(path);
    fs::rename(path, &aside)?;
    say_damaged(&aside, why);
    Ok(aside)
}

fn say_damaged(aside: &Path, why: &str) {
    tracing::error!(
        file = %aside.display(),
        why,
        "a damaged report was set aside; the directive's outcome may not be known to the mothership"
    );
}
