//! Reading waiting chunks back from the segments, in the order in which they were written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::segment::{HEAD_BYTES, RECORD_HEAD_BYTES, RecordHead, TRUNCATED};
use super::spool::{Chunk, Position, Segment, segment_path};
use super::stage::of;

/// The place up to which waiting chunks were read, and what was read of chunks that are not whole yet.
#[derive(Debug)]
pub(super) struct Backlog {
    at: Position,
    file: Option<(u32, File)>,
    partial: [Option<Chunk>; 2],
    /// Chunks with lower numbers were handed out already.
    wanted: [u64; 2],
    scratch: Vec<u8>,
}

impl Backlog {
    /// Reads from this place; chunks numbered below `wanted` are passed over.
    pub(super) fn new(from: Position, wanted: [u64; 2]) -> Self {
        Self { at: from, file: None, partial: [None, None], wanted, scratch: Vec::new() }
    }

    /// The next whole chunk. `None`: everything up to `end` was read, and the partials are those of the open chunks.
    pub(super) fn next(
        &mut self,
        dir: &Path,
        segments: &BTreeMap<u32, Segment>,
        end: Option<Position>,
        open_seq: [u64; 2],
        chunk_bytes: usize,
    ) -> io::Result<Option<Chunk>> {
        let Some(end) = end else { return Ok(None) };
        loop {
            if self.at >= end {
                return Ok(self.take_closed(open_seq));
            }
            if segments.get(&self.at.segment).is_none_or(|segment| self.at.offset >= segment.len) {
                let Some((next, _)) = segments.range(self.at.segment + 1..).next() else {
                    return Ok(self.take_closed(open_seq));
                };
                self.at = Position { segment: *next, offset: HEAD_BYTES as u64 };
                continue;
            }
            let head = self.read_record(dir, chunk_bytes)?;
            if head.seq < *of(&mut self.wanted, head.stream) {
                continue;
            }
            if let Some(chunk) = self.take_record(head, chunk_bytes) {
                *of(&mut self.wanted, chunk.stream) = chunk.seq + 1;
                return Ok(Some(chunk));
            }
        }
    }

    /// What was read of the open chunks, by stream.
    pub(super) fn into_partials(self) -> [Vec<u8>; 2] {
        self.partial.map(|partial| partial.map(|chunk| chunk.bytes).unwrap_or_default())
    }

    /// At the end of what is written: a chunk that was closed is whole.
    fn take_closed(&mut self, open_seq: [u64; 2]) -> Option<Chunk> {
        for ((partial, open), wanted) in self.partial.iter_mut().zip(open_seq).zip(self.wanted.iter_mut()) {
            if partial.as_ref().is_some_and(|chunk| chunk.seq < open) {
                let chunk = partial.take();
                *wanted = chunk.as_ref().map_or(*wanted, |chunk| chunk.seq + 1);
                return chunk;
            }
        }
        None
    }

    /// Puts the record that was just read to its chunk; returns the chunk that is whole by it, or before it.
    fn take_record(&mut self, head: RecordHead, chunk_bytes: usize) -> Option<Chunk> {
        let segment = self.at.segment;
        let partial = of(&mut self.partial, head.stream);
        let before = if partial.as_ref().is_some_and(|chunk| chunk.seq != head.seq) { partial.take() } else { None };
        let chunk = partial.get_or_insert_with(|| Chunk {
            stream: head.stream,
            seq: head.seq,
            truncated: head.flags & TRUNCATED != 0,
            bytes: Vec::new(),
            segments: Vec::new(),
        });
        chunk.bytes.extend_from_slice(&self.scratch);
        if chunk.segments.last() != Some(&segment) {
            chunk.segments.push(segment);
        }
        let full = chunk.bytes.len() >= chunk_bytes;
        if before.is_some() {
            return before;
        }
        if full { partial.take() } else { None }
    }

    /// Reads the record at the place into `scratch` and goes behind it.
    fn read_record(&mut self, dir: &Path, chunk_bytes: usize) -> io::Result<RecordHead> {
        let damaged =
            || io::Error::new(io::ErrorKind::InvalidData, format!("a spool record in {} is damaged", dir.display()));
        if self.file.as_ref().is_none_or(|(id, _)| *id != self.at.segment) {
            self.file = Some((self.at.segment, File::open(segment_path(dir, self.at.segment))?));
        }
        let Some((_, file)) = &self.file else { return Err(damaged()) };
        let mut head_bytes = [0; RECORD_HEAD_BYTES];
        file.read_exact_at(&mut head_bytes, self.at.offset)?;
        let head = RecordHead::decode(&head_bytes, chunk_bytes).ok_or_else(damaged)?;
        self.scratch.resize(head.len as usize, 0);
        file.read_exact_at(&mut self.scratch, self.at.offset + RECORD_HEAD_BYTES as u64)?;
        if !head.matches(&head_bytes, &self.scratch) {
            return Err(damaged());
        }
        self.at.offset += head.whole_len();
        Ok(head)
    }
}
