//! One directive's output on disk until it is acknowledged: append-only segments, cut into numbered chunks.
//!
//! Promises: a record is in the file (in the page cache) before its chunk is handed out; a chunk that was handed out never
//! changes; memory is bounded by [`READY_BYTES`] and one open chunk a stream, however much waits; a segment is deleted when all
//! its chunks are acknowledged; nothing is created before the first byte. No syncing: what survives a kill is everything, what
//! survives a power cut is checked by checksums.
//!
//! Closed chunks wait in memory while few do. When too many wait they are forgotten there and read back from the segments
//! ([`Backlog`]) until the reader has caught up with the writer.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use conduits::{DirectiveToken, LogStream};

use super::LogCounters;
use super::lease;
use super::queue::Backlog;
use super::segment::{HEAD_BYTES, Head, TRUNCATED, encode_record};

/// A segment is closed beyond this length.
const SEGMENT_BYTES: u64 = 1024 * 1024;
/// What a segment's file is called until its head is written.
pub(super) const BEGUN: &str = "begun";
/// Closed chunks are kept in memory up to so many bytes.
const READY_BYTES: usize = 256 * 1024;
/// And up to so many of them (chunks may be tiny).
const READY_CHUNKS: usize = 512;

/// A chunk to be sent. What is known of it never changes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) stream: LogStream,
    pub(super) seq: u64,
    pub(super) truncated: bool,
    pub(super) bytes: Vec<u8>,
    /// The segments that hold its records.
    pub(super) segments: Vec<u32>,
}

/// The chunk of a stream that still grows.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub(super) seq: u64,
    pub(super) len: usize,
    flags: u8,
    /// Empty while the backlog is read from disk.
    pub(super) bytes: Vec<u8>,
    segments: Vec<u32>,
    start: Option<Position>,
}

/// A place in the spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) segment: u32,
    pub(super) offset: u64,
}

/// A segment that is on disk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Segment {
    pub(super) len: u64,
    /// Chunks with records in it that are not acknowledged.
    pub(super) chunks: u32,
}

#[derive(Debug)]
pub(super) struct Spool {
    pub(super) dir: PathBuf,
    pub(super) chunk_bytes: usize,
    head: Head,
    file: Option<File>,
    segments: BTreeMap<u32, Segment>,
    open: [Open; 2],
    ready: VecDeque<Chunk>,
    ready_bytes: usize,
    backlog: Option<Backlog>,
    /// Acknowledged whole, to be deleted at the next occasion that may block.
    dead: Vec<u32>,
    /// Bytes in records so far, by stream.
    shipped: [u64; 2],
    /// Bytes read from the command so far, by stream: written down beside what was made of them.
    pub(super) seen: [u64; 2],
    scratch: Vec<u8>,
    /// The lease's token, where the one on disk is another: a log must not be lost with what the outbox says of its directive.
    lease: Option<DirectiveToken>,
    counters: Arc<LogCounters>,
}

impl Spool {
    /// A spool that makes `dir` with its first byte.
    pub(super) fn new(dir: PathBuf, max_output: u64, chunk_bytes: usize, counters: Arc<LogCounters>) -> Self {
        let head = Head {
            max_output,
            chunk_bytes: u32::try_from(chunk_bytes).unwrap_or(u32::MAX),
            boot: boot_id(),
            ..Head::default()
        };
        Self {
            dir,
            chunk_bytes,
            head,
            file: None,
            segments: BTreeMap::new(),
            open: Default::default(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            backlog: None,
            dead: Vec::new(),
            shipped: [0; 2],
            seen: [0; 2],
            scratch: Vec::new(),
            lease: None,
            counters,
        }
    }

    /// Takes over what an earlier process left: these segments, with chunks numbered up to `next_seq`.
    pub(super) fn adopt(&mut self, segments: BTreeMap<u32, Segment>, next_seq: [u64; 2], shipped: [u64; 2]) {
        let bytes: u64 = segments.values().map(|segment| segment.len).sum();
        self.counters.spool_bytes.fetch_add(bytes, Ordering::Relaxed);
        for (open, seq) in self.open.iter_mut().zip(next_seq) {
            open.seq = seq;
        }
        self.shipped = shipped;
        // Segments without chunks hold nothing that anybody waits for; the last one's head says how far the numbers are.
        let last = segments.last_key_value().map(|(id, _)| *id);
        let chunkless = segments.iter().filter(|(_, segment)| segment.chunks == 0);
        self.dead = chunkless.map(|(id, _)| *id).filter(|id| Some(*id) != last).collect();
        if let Some(first) = segments.keys().next() {
            self.backlog = Some(Backlog::new(Position { segment: *first, offset: HEAD_BYTES as u64 }, [0; 2]));
        }
        self.segments = segments;
    }

    /// The lease's newest token; on disk with the next bytes.
    pub(super) fn renew(&mut self, token: DirectiveToken) {
        self.lease = Some(token);
    }

    /// Bytes in records so far, by stream.
    pub(super) fn shipped(&self) -> [u64; 2] {
        self.shipped
    }

    /// Chunks numbered so far, by stream (an open one counts).
    pub(super) fn chunks(&self) -> [u64; 2] {
        let [out, err] = &self.open;
        [out.seq + u64::from(out.len > 0), err.seq + u64::from(err.len > 0)]
    }

    /// Bytes in a stream's open chunk.
    pub(super) fn open_len(&self, stream: LogStream) -> usize {
        self.open(stream).len
    }

    /// True when nothing is left to hand out (open chunks apart).
    pub(super) fn is_drained(&self) -> bool {
        self.ready.is_empty() && self.backlog.is_none()
    }

    /// True when the next chunk must be read from disk.
    pub(super) fn reads_disk(&self) -> bool {
        self.ready.is_empty() && self.backlog.is_some()
    }

    /// Appends output. `truncated` bytes never share a chunk with others.
    pub(super) fn append(&mut self, stream: LogStream, mut bytes: &[u8], truncated: bool) -> io::Result<()> {
        self.delete_dead()?;
        let flags = if truncated { TRUNCATED } else { 0 };
        if self.open(stream).len > 0 && self.open(stream).flags != flags {
            self.close(stream);
        }
        while !bytes.is_empty() {
            let room = self.chunk_bytes - self.open(stream).len;
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            let position = self.write_record(stream, flags, part)?;
            self.note_record(stream, flags, part, position);
            if self.open(stream).len >= self.chunk_bytes {
                self.close(stream);
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Ends a stream's open chunk: it is handed out as it is.
    pub(super) fn close(&mut self, stream: LogStream) {
        let open = self.open_mut(stream);
        if open.len == 0 {
            return;
        }
        let (seq, truncated, start) = (open.seq, open.flags == TRUNCATED, open.start);
        let bytes = std::mem::take(&mut open.bytes);
        let segments = std::mem::take(&mut open.segments);
        *open = Open { seq: seq + 1, ..Open::default() };
        if self.backlog.is_some() {
            return;
        }
        if self.ready_bytes + bytes.len() <= READY_BYTES && self.ready.len() < READY_CHUNKS {
            self.ready_bytes += bytes.len();
            self.ready.push_back(Chunk { stream, seq, truncated, bytes, segments });
            return;
        }
        self.fall_behind(stream, seq, start);
    }

    /// The next chunk to send. Reads the disk when [`Spool::reads_disk`] says so.
    pub(super) fn next(&mut self) -> io::Result<Option<Chunk>> {
        if let Some(chunk) = self.ready.pop_front() {
            self.ready_bytes -= chunk.bytes.len();
            return Ok(Some(chunk));
        }
        self.delete_dead()?;
        let Some(mut backlog) = self.backlog.take() else { return Ok(None) };
        let end = self.segments.last_key_value().map(|(id, segment)| Position { segment: *id, offset: segment.len });
        let [out, err] = &self.open;
        let chunk = backlog.next(&self.dir, &self.segments, end, [out.seq, err.seq], self.chunk_bytes)?;
        if chunk.is_some() {
            self.backlog = Some(backlog);
            return Ok(chunk);
        }
        // Caught up: what was read of the open chunks goes on growing in memory.
        for (open, partial) in self.open.iter_mut().zip(backlog.into_partials()) {
            open.bytes = partial;
        }
        Ok(None)
    }

    /// The chunk with these segments is stored by the mothership (or refused for good).
    pub(super) fn acknowledged(&mut self, segments: &[u32]) {
        let last = self.segments.last_key_value().map(|(id, _)| *id);
        for id in segments {
            let Some(segment) = self.segments.get_mut(id) else { continue };
            segment.chunks = segment.chunks.saturating_sub(1);
            if segment.chunks == 0 && Some(*id) != last {
                self.dead.push(*id);
            }
        }
    }

    /// Deletes everything but the head of a last segment, which says how far the numbers are; for when all is acknowledged.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if self.segments.is_empty() {
            return Ok(());
        }
        // First the new one: a kill in between leaves more than is needed, never less.
        self.begin_segment()?;
        let last = self.segments.last_key_value().map(|(id, _)| *id);
        self.dead = self.segments.keys().copied().filter(|id| Some(*id) != last).collect();
        self.delete_dead()
    }

    /// Deletes everything; for when all is acknowledged and the end is told.
    pub(super) fn remove(&mut self) -> io::Result<()> {
        self.file = None;
        lease::remove(&self.dir)?;
        self.dead = self.segments.keys().copied().collect();
        if self.dead.is_empty() {
            return Ok(());
        }
        self.delete_dead()?;
        match fs::remove_dir(&self.dir) {
            // What was set aside stays for whoever wants to look at it.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => removed,
        }
    }

    /// Makes the spool's folder if need be (for what is kept beside the segments).
    pub(super) fn make_dir(&self) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    fn delete_dead(&mut self) -> io::Result<()> {
        for id in std::mem::take(&mut self.dead) {
            if let Some(segment) = self.segments.remove(&id) {
                self.counters.spool_bytes.fetch_sub(segment.len, Ordering::Relaxed);
            }
            match fs::remove_file(segment_path(&self.dir, id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn write_record(&mut self, stream: LogStream, flags: u8, bytes: &[u8]) -> io::Result<Position> {
        let full = self.segments.last_key_value().is_none_or(|(_, segment)| segment.len >= SEGMENT_BYTES);
        if full || self.file.is_none() {
            self.begin_segment()?;
        }
        if let Some(token) = self.lease.take()
            && let Err(error) = lease::write(&self.dir, &token)
        {
            tracing::warn!(spool = %self.dir.display(), %error, "the spool does not say whose lease it belongs to");
        }
        let seq = self.open(stream).seq;
        let seen = *super::stage::of(&mut self.seen, stream);
        self.scratch.clear();
        encode_record(stream, seq, seen, flags, bytes, &mut self.scratch);
        let (Some(file), Some(mut segment)) = (self.file.as_mut(), self.segments.last_entry()) else {
            return Err(io::Error::other("the spool has no segment to write to"));
        };
        let position = Position { segment: *segment.key(), offset: segment.get().len };
        if let Err(error) = file.write_all(&self.scratch) {
            // Half a record would hide all that follows it.
            file.set_len(position.offset)
                .and_then(|()| io::Seek::seek(file, io::SeekFrom::End(0)))
                .map(drop)
                .unwrap_or_else(|e| {
                    tracing::error!(spool = %self.dir.display(), error = %e, "a torn record could not be cut off");
                });
            return Err(error);
        }
        segment.get_mut().len += self.scratch.len() as u64;
        self.counters.spool_bytes.fetch_add(self.scratch.len() as u64, Ordering::Relaxed);
        Ok(position)
    }

    /// Tells the open chunk (and its segment) about a record that was written.
    fn note_record(&mut self, stream: LogStream, flags: u8, bytes: &[u8], position: Position) {
        let live = self.backlog.is_none();
        let open = self.open_mut(stream);
        open.flags = flags;
        open.len += bytes.len();
        open.start.get_or_insert(position);
        let touches = open.segments.last() != Some(&position.segment);
        if touches {
            open.segments.push(position.segment);
        }
        if live {
            open.bytes.extend_from_slice(bytes);
        }
        if touches && let Some(segment) = self.segments.get_mut(&position.segment) {
            segment.chunks += 1;
        }
        *super::stage::of(&mut self.shipped, stream) += bytes.len() as u64;
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let id = match self.segments.last_key_value() {
            Some((last, segment)) => {
                if segment.chunks == 0 {
                    self.dead.push(*last);
                }
                last + 1
            }
            None => {
                self.make_dir()?;
                1
            }
        };
        let [out, err] = &self.open;
        // Of an open chunk some records lie in earlier segments, so its number is taken.
        let next_seq = [out.seq + u64::from(out.len > 0), err.seq + u64::from(err.len > 0)];
        let head = Head { next_seq, shipped: self.shipped, seen: self.seen, ..self.head };
        let path = segment_path(&self.dir, id);
        let begun = path.with_extension(BEGUN);
        let file = begin_file(&begun, &path, &head).inspect_err(|_| fs::remove_file(&begun).unwrap_or_default())?;
        self.segments.insert(id, Segment { len: HEAD_BYTES as u64, chunks: 0 });
        self.counters.spool_bytes.fetch_add(HEAD_BYTES as u64, Ordering::Relaxed);
        self.file = Some(file);
        Ok(())
    }

    /// Too much waits for memory: from this chunk on, everything is read back from disk.
    fn fall_behind(&mut self, stream: LogStream, seq: u64, start: Option<Position>) {
        let [out, err] = &mut self.open;
        out.bytes = Vec::new();
        err.bytes = Vec::new();
        let wanted = if stream == LogStream::Stdout { [seq, err.seq] } else { [out.seq, seq] };
        let from = start.into_iter().chain(out.start).chain(err.start).min();
        self.backlog = from.map(|from| Backlog::new(from, wanted));
    }

    fn open(&self, stream: LogStream) -> &Open {
        let [out, err] = &self.open;
        if stream == LogStream::Stdout { out } else { err }
    }

    fn open_mut(&mut self, stream: LogStream) -> &mut Open {
        super::stage::of(&mut self.open, stream)
    }
}

/// A segment's file, there with its head or not at all: a shorter one has lost something.
fn begin_file(begun: &Path, path: &Path, head: &Head) -> io::Result<File> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(begun)?;
    file.write_all(&head.encode())?;
    if path.exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a segment of that number already"));
    }
    fs::rename(begun, path)?;
    Ok(file)
}

/// The file of a segment.
pub(super) fn segment_path(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("{id:08}.seg"))
}

/// Which boot of the machine this is (random(4)); zero where the system does not say.
pub(crate) fn boot_id() -> [u8; 16] {
    static THIS: OnceLock<[u8; 16]> = OnceLock::new();
    *THIS.get_or_init(|| sys::machine::boot_id().parse::<uuid::Uuid>().map_or([0; 16], uuid::Uuid::into_bytes))
}
