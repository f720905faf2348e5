//! After a kill, a crash or a power cut: what lies in the spools, and where each goes on.
//!
//! Promises: of a last record that was torn only itself is dropped, never a good one; a segment that is damaged in any other way
//! is set aside as `<name>.corrupt` with an error that names it, and the good records before the damage are still shipped. What
//! was set aside is known at every later start, until the end of its directive is told.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use conduits::{DirectiveId, DirectiveToken};

use super::segment::{HEAD_BYTES, Head, RECORD_HEAD_BYTES, RecordHead};
use super::spool::{BEGUN, Segment, boot_id};
use super::stage::{STREAMS, ring_path};
use super::{MAX_CHUNK_BYTES, files};

/// Longest segment that is read: a full one and the record that filled it, with room.
const MAX_SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// Bytes that are looked through at most for a record behind damage.
const MOST_CHECKED: u64 = 64 * 1024 * 1024;

/// An empty file that says that the log lacks something: it could not be kept, or was refused.
pub(super) const INCOMPLETE: &str = "incomplete";
/// What damaged files are called.
const SET_ASIDE: &str = "corrupt";
/// And once the directive was leased again: the log of the new lease does not lack what they held.
const OF_AN_EARLIER_LEASE: &str = "corrupt-earlier";

/// A file that could not be used and was renamed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Its new name.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// A directive's output that an earlier process did not get shipped.
#[derive(Debug)]
pub struct Leftover {
    /// Whose output it is.
    pub directive_id: DirectiveId,
    /// Damaged files beside it, of this start and of earlier ones.
    pub set_aside: Vec<SetAside>,
    /// The token of its lease, where the spool says it.
    pub lease: Option<DirectiveToken>,
    /// The process that wrote it had lost some of it already, or the machine has stopped since.
    pub(super) incomplete: bool,
    pub(super) dir: PathBuf,
    /// `max_output_bytes` and `chunk_bytes` that it had; none where no head of a segment can be read.
    pub(super) limits: Option<(u64, usize)>,
    pub(super) segments: BTreeMap<u32, Segment>,
    pub(super) next_seq: [u64; 2],
    pub(super) shipped: [u64; 2],
    pub(super) seen: [u64; 2],
    waiting: [u64; 2],
    waiting_bytes: u64,
}

impl Leftover {
    /// Bytes of output in its segments. Some may have been acknowledged already: a segment stays until all of it is.
    #[must_use]
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes
    }

    /// Whether it holds any output that may not have arrived.
    #[must_use]
    pub fn holds_output(&self) -> bool {
        self.waiting_bytes > 0 || STREAMS.into_iter().any(|stream| ring_path(&self.dir, stream).exists())
    }

    /// Keeps what nobody can be told of, under names that no start takes up again; returns where.
    ///
    /// # Errors
    /// Something of it cannot be renamed.
    pub fn set_aside(self) -> io::Result<PathBuf> {
        for item in fs::read_dir(&self.dir)? {
            let path = item?.path();
            if has_extension(&path, "seg") || has_extension(&path, "ring") {
                fs::rename(&path, free_name(&path, SET_ASIDE))?;
            }
        }
        super::lease::remove(&self.dir)?;
        Ok(self.dir)
    }

    /// Deletes it unshipped (the mothership refuses the directive for good), but for what was set aside.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn discard(self) -> io::Result<()> {
        if self.set_aside.is_empty() {
            return fs::remove_dir_all(&self.dir);
        }
        for item in fs::read_dir(&self.dir)? {
            let path = item?.path();
            if !has_extension(&path, SET_ASIDE) && !has_extension(&path, OF_AN_EARLIER_LEASE) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    /// Chunks that are on disk no more, for they were acknowledged.
    pub(super) fn acknowledged(&self) -> [u64; 2] {
        let [out, err] = self.next_seq;
        let [out_waiting, err_waiting] = self.waiting;
        [out.saturating_sub(out_waiting), err.saturating_sub(err_waiting)]
    }
}

/// Everything that earlier processes left in `<work_dir>/.nexus/spool`. Blocking; meant for the start, before anything new is
/// spooled. Ship each through [`Logs::recovered`](super::Logs::recovered).
///
/// # Errors
/// The folder cannot be listed (one that does not exist is empty). A spool that cannot be read is reported and skipped.
pub fn recover(spool_root: &Path) -> io::Result<Vec<Leftover>> {
    let listing = match fs::read_dir(spool_root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            set_aside_what_is_no_folder(spool_root);
            return Ok(Vec::new());
        }
        listing => listing?,
    };
    let mut found = Vec::new();
    for item in listing {
        let item = item?;
        let path = item.path();
        // Of the thing itself: a link is not followed, wherever it leads.
        if !item.file_type()?.is_dir() {
            if !has_extension(&path, SET_ASIDE) {
                set_aside_what_is_no_folder(&path);
            }
            continue;
        }
        let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<DirectiveId>().ok());
        let Some(id) = id else { continue };
        match recover_one(id, &path) {
            Ok(Some(leftover)) => found.push(leftover),
            // Nothing but an empty folder, or whose it was.
            Ok(None) => super::lease::remove(&path).and_then(|()| fs::remove_dir(&path)).unwrap_or_default(),
            Err(error) => {
                tracing::error!(spool = %path.display(), %error, "a spool cannot be read and is left where it is");
            }
        }
    }
    found.sort_by(|a, b| a.directive_id.cmp(&b.directive_id));
    Ok(found)
}

/// It may be in the way of a directive of that name. Where it cannot be renamed it stays, and says so once more when it is.
fn set_aside_what_is_no_folder(path: &Path) {
    let aside = free_name(path, SET_ASIDE);
    match fs::rename(path, &aside) {
        Ok(()) => tracing::error!(file = %aside.display(), "what was no folder where spools belong was set aside"),
        Err(error) => {
            tracing::error!(file = %path.display(), %error, "this is no folder, and cannot be set aside; remove it");
        }
    }
}

/// Makes room for a new lease of a directive: its spool goes, but for what was set aside. Blocking.
///
/// # Errors
/// Something of it cannot be removed.
pub(crate) fn clear(dir: &Path) -> io::Result<()> {
    let listing = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        listing => listing?,
    };
    for item in listing {
        let path = item?.path();
        if has_extension(&path, SET_ASIDE) {
            fs::rename(&path, free_name(&path.with_extension(""), OF_AN_EARLIER_LEASE))?;
        } else if !has_extension(&path, OF_AN_EARLIER_LEASE) {
            // Whoever shipped it may just be removing it too.
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => Ok(()),
        removed => removed,
    }
}

fn recover_one(directive_id: DirectiveId, dir: &Path) -> io::Result<Option<Leftover>> {
    let (mut ids, mut set_aside) = (Vec::new(), Vec::new());
    for item in fs::read_dir(dir)? {
        let item = item?;
        if has_extension(&item.path(), SET_ASIDE) {
            set_aside.push(SetAside { path: item.path(), why: "it was set aside at an earlier start".to_owned() });
        }
        // A segment that was just begun when the process died holds nothing yet.
        if has_extension(&item.path(), BEGUN) {
            fs::remove_file(item.path())?;
            continue;
        }
        let name = item.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".seg")).and_then(|digits| digits.parse::<u32>().ok());
        ids.extend(id);
    }
    ids.sort_unstable();
    let mut scan = Scan {
        head: None,
        segments: BTreeMap::new(),
        last: [None; 2],
        next_seq: [0; 2],
        shipped: [0; 2],
        seen: [0; 2],
        waiting: [0; 2],
        waiting_bytes: 0,
    };
    let newest = ids.last().copied();
    for id in ids {
        let path = super::spool::segment_path(dir, id);
        // One that cannot be read (a folder, another's file) is damaged like any other.
        let read = scan.segment(id, &path, Some(id) == newest).unwrap_or_else(|error| Err(error.to_string()));
        if let Err(why) = read {
            set_aside.push(put_aside(&path, why, scan.segments.get(&id).map_or(0, |segment| segment.len))?);
        }
    }
    // Nothing is synced: what another boot wrote may lack its end.
    let of_another_boot = scan.head.is_some_and(|head| head.boot != boot_id());
    let incomplete = of_another_boot || dir.join(INCOMPLETE).exists();
    if scan.head.is_none() && set_aside.is_empty() && !incomplete {
        return Ok(None);
    }
    let limits = scan.head.map(|head| {
        let chunk_bytes = usize::try_from(head.chunk_bytes).unwrap_or(MAX_CHUNK_BYTES);
        (head.max_output, chunk_bytes.clamp(1, MAX_CHUNK_BYTES))
    });
    Ok(Some(Leftover {
        directive_id,
        set_aside,
        lease: super::lease::read(dir),
        incomplete,
        dir: dir.to_path_buf(),
        limits,
        segments: scan.segments,
        next_seq: scan.next_seq,
        shipped: scan.shipped,
        seen: scan.seen,
        waiting: scan.waiting,
        waiting_bytes: scan.waiting_bytes,
    }))
}

/// What is known after reading some segments.
struct Scan {
    head: Option<Head>,
    segments: BTreeMap<u32, Segment>,
    /// Number and segment of the last record, by stream.
    last: [Option<(u64, u32)>; 2],
    next_seq: [u64; 2],
    shipped: [u64; 2],
    seen: [u64; 2],
    waiting: [u64; 2],
    waiting_bytes: u64,
}

impl Scan {
    /// Reads one segment. `Ok(Err(why))`: it is damaged behind what was noted of it.
    fn segment(&mut self, id: u32, path: &Path, newest: bool) -> io::Result<Result<(), String>> {
        let mut bytes = Vec::new();
        files::open(File::options().read(true), path)?.take(MAX_SEGMENT_BYTES).read_to_end(&mut bytes)?;
        let Some(head) = Head::decode(&bytes) else {
            return Ok(Err("its head is damaged".to_owned()));
        };
        self.head = Some(head);
        self.next_seq = max_each(self.next_seq, head.next_seq);
        self.shipped = max_each(self.shipped, head.shipped);
        self.seen = max_each(self.seen, head.seen);
        self.segments.insert(id, Segment { len: HEAD_BYTES as u64, chunks: 0 });
        let chunk_bytes = usize::try_from(head.chunk_bytes).unwrap_or(MAX_CHUNK_BYTES).clamp(1, MAX_CHUNK_BYTES);
        let mut at = HEAD_BYTES;
        while at < bytes.len() {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(record) = whole_record(rest, chunk_bytes) else {
                return self.broken_at(path, at, rest, chunk_bytes, newest);
            };
            self.note(id, &record);
            at += usize::try_from(record.whole_len()).unwrap_or(usize::MAX);
        }
        Ok(Ok(()))
    }

    fn note(&mut self, id: u32, record: &RecordHead) {
        let at = record.stream.index();
        let (Some(last), Some(next), Some(shipped), Some(seen), Some(waiting), Some(segment)) = (
            self.last.get_mut(at),
            self.next_seq.get_mut(at),
            self.shipped.get_mut(at),
            self.seen.get_mut(at),
            self.waiting.get_mut(at),
            self.segments.get_mut(&id),
        ) else {
            return;
        };
        if last.is_none_or(|(seq, _)| seq != record.seq) {
            *waiting += 1;
        }
        if last.replace((record.seq, id)) != Some((record.seq, id)) {
            segment.chunks += 1;
        }
        *next = (*next).max(record.seq + 1);
        *shipped += u64::from(record.len);
        *seen = (*seen).max(record.seen);
        self.waiting_bytes += u64::from(record.len);
        segment.len += record.whole_len();
    }

    /// The end of what can be read: in the newest segment a torn record, or else damage.
    fn broken_at(
        &self,
        path: &Path,
        at: usize,
        rest: &[u8],
        chunk_bytes: usize,
        newest: bool,
    ) -> io::Result<Result<(), String>> {
        if !newest || !is_torn(rest, chunk_bytes) {
            return Ok(Err(format!("a record at byte {at} is damaged")));
        }
        tracing::info!(file = %path.display(), bytes = rest.len(), "a torn record at the end of a spool is dropped");
        File::options().write(true).open(path)?.set_len(at as u64)?;
        Ok(Ok(()))
    }
}

/// Whether these last bytes, which are no whole record, are the beginning of one: what a kill in the middle of writing leaves.
/// Whatever else they may be, they are not thrown away.
fn is_torn(rest: &[u8], chunk_bytes: usize) -> bool {
    if rest.len() < RECORD_HEAD_BYTES {
        return true;
    }
    let longer = RecordHead::decode(rest, chunk_bytes).is_some_and(|record| record.whole_len() > rest.len() as u64);
    longer && !holds_a_record(rest, chunk_bytes)
}

/// Whether a whole record begins anywhere behind the first byte: then the length before it is what is damaged.
fn holds_a_record(rest: &[u8], chunk_bytes: usize) -> bool {
    // Output may be made to look like heads of records, each of which costs a checksum.
    let mut checked = 0;
    for at in 1..rest.len().saturating_sub(RECORD_HEAD_BYTES) {
        let from = rest.get(at..).unwrap_or_default();
        let Some(head) = RecordHead::decode(from, chunk_bytes).filter(|head| head.whole_len() <= from.len() as u64)
        else {
            continue;
        };
        checked += head.whole_len();
        if checked > MOST_CHECKED || whole_record(from, chunk_bytes).is_some() {
            return true;
        }
    }
    false
}

/// The record at the beginning of `bytes`, if it is there whole.
fn whole_record(bytes: &[u8], chunk_bytes: usize) -> Option<RecordHead> {
    let record = RecordHead::decode(bytes, chunk_bytes)?;
    let end = RECORD_HEAD_BYTES + usize::try_from(record.len).ok()?;
    let content = bytes.get(RECORD_HEAD_BYTES..end)?;
    record.matches(bytes, content).then_some(record)
}

/// Renames a damaged segment and puts its good beginning, if any, in its place. Where the disk has no room for that, all stays as
/// it is, for a later start.
fn put_aside(path: &Path, why: String, good: u64) -> io::Result<SetAside> {
    let (aside, beginning) = (free_name(path, SET_ASIDE), path.with_extension(BEGUN));
    if good > 0 {
        let mut to = File::create(&beginning)?;
        let copied = File::open(path).and_then(|from| io::copy(&mut from.take(good), &mut to));
        copied.inspect_err(|_| fs::remove_file(&beginning).unwrap_or_default())?;
    }
    fs::rename(path, &aside)?;
    if good > 0 {
        fs::rename(&beginning, path)?;
    }
    tracing::error!(file = %aside.display(), why, "a damaged spool file was set aside; the log of its directive has a gap");
    Ok(SetAside { path: aside, why })
}

/// A name beside `path` that no earlier file has.
pub(super) fn set_aside_name(path: &Path) -> PathBuf {
    free_name(path, SET_ASIDE)
}

fn free_name(path: &Path, extension: &str) -> PathBuf {
    let named = |middle: String| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!("{middle}.{extension}"));
        PathBuf::from(name)
    };
    let first = named(String::new());
    if !first.exists() {
        return first;
    }
    (2_u32..).map(|number| named(format!(".{number}"))).find(|name| !name.exists()).unwrap_or(first)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn max_each([a, b]: [u64; 2], [c, d]: [u64; 2]) -> [u64; 2] {
    [a.max(c), b.max(d)]
}

#[cfg(test)]
mod tests {
    use conduits::LogStream;

    use super::super::boot_id;
    use super::super::segment::encode_record;
    use super::*;

    /// Nothing is synced: after a power cut nobody knows what is missing at the end.
    #[test]
    fn what_another_boot_wrote_is_not_called_whole() {
        for (boot, incomplete) in [(boot_id(), false), ([9; 16], true)] {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("d-1");
            fs::create_dir(&dir).unwrap();
            let head = Head { max_output: 1000, chunk_bytes: 100, boot, ..Head::default() };
            let mut segment = head.encode().to_vec();
            encode_record(LogStream::Stdout, 0, 4, 0, b"text", &mut segment);
            fs::write(dir.join("00000001.seg"), segment).unwrap();
            let found = recover(root.path()).unwrap().remove(0);
            assert_eq!((found.waiting_bytes(), found.incomplete), (4, incomplete), "{boot:?}");
        }
    }
}
