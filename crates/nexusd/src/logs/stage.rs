//! What happens to bytes between the pipe and the uploader: redact, account, cut, keep. Synchronous, without a task or a
//! clock, so that it can be tested by itself; the [`pump`](super::pump) runs it where blocking on the disk is allowed.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use conduits::{DirectiveId, LogStream};

use super::budget::{Budget, Tail};
use super::overflow::{OverflowFile, OverflowFiles};
use super::recover::{INCOMPLETE, Leftover};
use super::redact::Redactor;
use super::ring::{Plan, Ring};
use super::spool::{Chunk, Spool, boot_id};
use super::{LogCounters, LogSettings, LogSummary, LogTrouble, MAX_CHUNK_BYTES, StreamSummary};

/// Both streams, in the order of [`LogStream::index`].
pub(super) const STREAMS: [LogStream; 2] = [LogStream::Stdout, LogStream::Stderr];

/// The element of a pair that belongs to a stream.
pub(super) fn of<T>(pair: &mut [T; 2], stream: LogStream) -> &mut T {
    let [stdout, stderr] = pair;
    match stream {
        LogStream::Stdout => stdout,
        LogStream::Stderr => stderr,
    }
}

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) directive: DirectiveId,
    pub(super) spool: Spool,
    budget: Budget,
    redactors: [Redactor; 2],
    rings: [Option<Ring>; 2],
    overflow: Option<OverflowFiles>,
    kept: Vec<OverflowFile>,
    /// Bytes left out; acknowledged chunks; by stream.
    left_out: [u64; 2],
    acknowledged: [u64; 2],
    /// Whether the last byte shipped of a stream ended a line.
    at_line_start: [bool; 2],
    ended: bool,
    trouble: Option<LogTrouble>,
    /// Some of what an earlier process kept could not be read: what is shipped is not all there was.
    damaged: bool,
    clear: Vec<u8>,
    pub(super) counters: Arc<LogCounters>,
}

impl Stage {
    pub(super) fn new(directive: &DirectiveId, settings: LogSettings) -> Self {
        let chunk_bytes = settings.chunk_bytes.clamp(1, MAX_CHUNK_BYTES);
        let dir = settings.spool_root.join(directive.as_str());
        let counters = settings.counters;
        let spool = Spool::new(dir, settings.max_output_bytes, chunk_bytes, Arc::clone(&counters));
        Self {
            spool,
            budget: Budget::new(settings.max_output_bytes),
            redactors: [Redactor::new(&settings.secrets), Redactor::new(&settings.secrets)],
            rings: [None, None],
            overflow: settings.overflow.map(|overflow| OverflowFiles::new(overflow, directive.clone())),
            directive: directive.clone(),
            kept: Vec::new(),
            left_out: [0; 2],
            acknowledged: [0; 2],
            at_line_start: [true; 2],
            ended: false,
            trouble: None,
            damaged: false,
            clear: Vec::new(),
            counters,
        }
    }

    /// Goes on with what an earlier process left, within the limits that it had.
    pub(super) fn recovered(leftover: Leftover, mut settings: LogSettings) -> io::Result<Self> {
        if let Some((max_output, chunk_bytes)) = leftover.limits {
            (settings.max_output_bytes, settings.chunk_bytes) = (max_output, chunk_bytes);
        }
        settings.overflow = None;
        let max_output = settings.max_output_bytes;
        let mut stage = Self::new(&leftover.directive_id, settings);
        stage.spool.dir.clone_from(&leftover.dir);
        let mut holding = [false; 2];
        stage.spool.seen = leftover.seen;
        for stream in STREAMS {
            let path = stage.ring_path(stream);
            match Ring::open(&path, boot_id()) {
                Ok((ring, true)) => {
                    stage.saw(stream, ring.seen());
                    *of(&mut stage.rings, stream) = Some(ring);
                    *of(&mut holding, stream) = true;
                }
                Ok((ring, false)) => {
                    tracing::warn!(file = %path.display(), bytes = ring.total(), "held output from before a restart of the machine is dropped");
                    stage.saw(stream, ring.seen());
                    *of(&mut stage.left_out, stream) = ring.total();
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let aside = super::recover::set_aside_name(&path);
                    std::fs::rename(&path, &aside)?;
                    tracing::error!(file = %aside.display(), %error, "held output cannot be read: it is set aside, and the log has a gap");
                    stage.damaged = true;
                }
            }
        }
        stage.damaged |= !leftover.set_aside.is_empty() || leftover.incomplete;
        stage.budget = Budget::resumed(max_output, leftover.shipped, holding);
        stage.at_line_start = [false; 2];
        stage.acknowledged = leftover.acknowledged();
        stage.spool.adopt(leftover.segments, leftover.next_seq, leftover.shipped);
        Ok(stage)
    }

    /// An earlier process had read so much of a stream at least.
    fn saw(&mut self, stream: LogStream, bytes: u64) {
        let seen = of(&mut self.spool.seen, stream);
        *seen = (*seen).max(bytes);
    }

    pub(super) fn hide(&mut self, secret: &str) {
        self.redactors.iter_mut().for_each(|redactor| redactor.hide(secret));
    }

    /// Output as it was read.
    pub(super) fn output(&mut self, stream: LogStream, bytes: &[u8]) {
        *of(&mut self.spool.seen, stream) += bytes.len() as u64;
        LogCounters::add(&self.counters.bytes_in, bytes.len());
        if of(&mut self.redactors, stream).passes(bytes) {
            return self.keep(stream, bytes);
        }
        let mut clear = std::mem::take(&mut self.clear);
        clear.clear();
        of(&mut self.redactors, stream).push(bytes, &mut clear);
        self.keep(stream, &clear);
        self.clear = clear;
    }

    /// A line of our own.
    pub(super) fn notice(&mut self, stream: LogStream, line: &[u8]) {
        let mut text = Vec::with_capacity(line.len() + 1);
        let shows_output = self.spool.shipped().get(stream.index()).is_some_and(|bytes| *bytes > 0);
        if shows_output && !*of(&mut self.at_line_start, stream) {
            text.push(b'\n');
        }
        // What nexusd says is searched for secrets too (the text of a failed clone, say).
        let redactor = of(&mut self.redactors, stream);
        let mut own = redactor.fresh();
        own.push(line, &mut text);
        own.finish(&mut text);
        if !self.budget.notice(text.len()) {
            tracing::warn!(directive_id = %self.directive, line = %String::from_utf8_lossy(&text).trim(), "a notice finds no room in the log");
            return;
        }
        self.append(stream, &text, false);
    }

    /// The end of the output: decides what is held back and lets the last half go out.
    pub(super) fn end(&mut self) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        for stream in STREAMS {
            let mut clear = Vec::new();
            of(&mut self.redactors, stream).finish(&mut clear);
            self.keep(stream, &clear);
        }
        let held = self.rings.each_ref().map(|ring| ring.as_ref().map_or(0, Ring::total));
        let tails = self.budget.tails(held);
        for (stream, tail) in STREAMS.into_iter().zip(tails) {
            let Some(ring) = of(&mut self.rings, stream).take() else { continue };
            let result = self.ship_tail(stream, ring, tail);
            self.check(result);
        }
        if let Some(overflow) = &mut self.overflow {
            self.kept = overflow.finish(self.left_out.map(|bytes| bytes > 0));
        }
    }

    /// True once output of this stream is held back until the end.
    pub(super) fn is_holding(&self, stream: LogStream) -> bool {
        self.budget.is_holding(stream)
    }

    /// Cuts a stream's open chunk.
    pub(super) fn cut(&mut self, stream: LogStream) {
        self.spool.close(stream);
    }

    /// The next chunk to send.
    pub(super) fn next(&mut self) -> Option<Chunk> {
        match self.spool.next() {
            Ok(chunk) => chunk,
            Err(error) => {
                self.check(Err(error));
                None
            }
        }
    }

    /// The mothership has it.
    pub(super) fn acknowledged(&mut self, stream: LogStream, bytes: usize, segments: &[u32]) {
        *of(&mut self.acknowledged, stream) += 1;
        LogCounters::add(&self.counters.bytes_shipped, bytes);
        self.spool.acknowledged(segments);
    }

    /// The mothership will never take it.
    pub(super) fn refused(&mut self, why: String, bytes: usize, segments: &[u32]) {
        LogCounters::add(&self.counters.bytes_refused, bytes);
        self.in_trouble(LogTrouble::Refused(why));
        self.spool.acknowledged(segments);
    }

    /// Everything is settled: how far the numbers are is all that stays on disk.
    pub(super) fn settle(&mut self) {
        for stream in STREAMS {
            if self.budget.is_holding(stream) {
                self.remove_ring(stream);
            }
        }
        if let Err(error) = self.spool.settle() {
            tracing::debug!(spool = %self.spool.dir.display(), %error, "a spool that is shipped stays as it is until the end is told");
        }
    }

    /// Nothing stays on disk.
    pub(super) fn remove(&mut self) {
        // Held output of another boot was of no use until now.
        STREAMS.into_iter().for_each(|stream| self.remove_ring(stream));
        let marked = self.trouble.is_some() || self.damaged;
        let result = match marked {
            true => remove_if_there(&self.spool.dir.join(INCOMPLETE)).and_then(|()| self.spool.remove()),
            false => self.spool.remove(),
        };
        if marked {
            // Nothing but the mark was in it, perhaps.
            std::fs::remove_dir(&self.spool.dir).unwrap_or_default();
        }
        if let Err(error) = result {
            tracing::error!(spool = %self.spool.dir.display(), %error, "a spool that is shipped cannot be removed");
        }
    }

    /// True when open chunks hold something.
    pub(super) fn has_open(&self) -> bool {
        STREAMS.into_iter().any(|stream| self.spool.open_len(stream) > 0)
    }

    pub(super) fn trouble(&self) -> Option<&LogTrouble> {
        self.trouble.as_ref()
    }

    pub(super) fn summary(&self) -> LogSummary {
        let (chunks, shipped) = (self.spool.chunks(), self.spool.shipped());
        let stream = |at: usize| {
            let get = |values: &[u64; 2]| values.get(at).copied().unwrap_or(0);
            StreamSummary {
                chunks: get(&chunks),
                bytes: get(&shipped),
                acknowledged: get(&self.acknowledged),
                seen: get(&self.spool.seen),
                left_out: get(&self.left_out),
                truncated: get(&self.left_out) > 0,
            }
        };
        LogSummary {
            streams: [stream(0), stream(1)],
            overflow: self.kept.clone(),
            trouble: self.trouble.clone(),
            complete: self.is_settled() && !self.damaged,
        }
    }

    /// Whether every chunk there is has been acknowledged.
    pub(super) fn is_settled(&self) -> bool {
        self.spool.chunks() == self.acknowledged && self.trouble.is_none()
    }

    /// Head, or held for the end.
    fn keep(&mut self, stream: LogStream, clear: &[u8]) {
        if clear.is_empty() {
            return;
        }
        let (head, held) = clear.split_at(self.budget.head(stream, clear.len()));
        self.append(stream, head, false);
        if held.is_empty() {
            return;
        }
        if of(&mut self.rings, stream).is_none() && self.trouble.is_none() {
            let result = self.begin_holding(stream);
            self.check(result);
        }
        if let Some(overflow) = &mut self.overflow {
            overflow.write(stream, held);
        }
        let seen = *of(&mut self.spool.seen, stream);
        let result = match of(&mut self.rings, stream) {
            Some(ring) => ring.write(held, seen),
            None => {
                *of(&mut self.left_out, stream) += held.len() as u64;
                Ok(())
            }
        };
        self.check(result);
    }

    fn begin_holding(&mut self, stream: LogStream) -> io::Result<()> {
        self.spool.make_dir()?;
        let ring = Ring::create(&self.ring_path(stream), self.budget.most_tail(stream), boot_id())?;
        *of(&mut self.rings, stream) = Some(ring);
        let shipped = self.spool.shipped().get(stream.index()).copied().unwrap_or(0);
        let name = stream.as_str();
        // On stderr, whichever stream it is about: a stdout that turns out to fit stays byte for byte the command's.
        let line =
            format!("[log] {name}: {shipped} bytes shipped as they came; the rest follows when the command ends\n");
        self.notice(LogStream::Stderr, line.as_bytes());
        Ok(())
    }

    fn ship_tail(&mut self, stream: LogStream, mut ring: Ring, tail: Tail) -> io::Result<()> {
        let shipped = self.spool.shipped().get(stream.index()).copied().unwrap_or(0);
        let plan = ring.plan().unwrap_or(Plan {
            shipped_before: shipped,
            left_out: tail.left_out,
            bytes: tail.bytes,
            marker: tail.marker,
        });
        ring.set_plan(plan)?;
        *of(&mut self.left_out, stream) += plan.left_out;
        self.counters.bytes_truncated.fetch_add(plan.left_out, Ordering::Relaxed);
        let truncated = plan.left_out > 0;
        // What an earlier process got done of this plan is not done again.
        let mut done = shipped.saturating_sub(plan.shipped_before);
        if plan.marker {
            let marker = Tail { left_out: plan.left_out, marker: true, bytes: plan.bytes }.marker_text();
            let skip = usize::try_from(done).unwrap_or(usize::MAX).min(marker.len());
            done -= skip as u64;
            self.spool.append(stream, marker.as_bytes().get(skip..).unwrap_or_default(), true)?;
        }
        let spool = &mut self.spool;
        let line_start = of(&mut self.at_line_start, stream);
        ring.read_last(plan.bytes, done, |part| {
            *line_start = part.last() == Some(&b'\n');
            spool.append(stream, part, truncated)
        })?;
        self.spool.close(stream);
        drop(ring);
        self.remove_ring(stream);
        Ok(())
    }

    fn append(&mut self, stream: LogStream, bytes: &[u8], truncated: bool) {
        let Some(last) = bytes.last() else { return };
        if self.trouble.as_ref().is_some_and(|trouble| !matches!(trouble, LogTrouble::Refused(_))) {
            *of(&mut self.left_out, stream) += bytes.len() as u64;
            return;
        }
        *of(&mut self.at_line_start, stream) = *last == b'\n';
        let result = self.spool.append(stream, bytes, truncated);
        self.check(result);
    }

    /// The first fault of the disk is the log's trouble; the command goes on being read so that it does not stall.
    fn check(&mut self, result: io::Result<()>) {
        let Err(error) = result else { return };
        tracing::error!(directive_id = %self.directive, spool = %self.spool.dir.display(), %error, "output cannot be kept");
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        self.in_trouble(if full { LogTrouble::DiskFull } else { LogTrouble::Spool(error.to_string()) });
    }

    /// The first trouble is what is told; a kill before that leaves its mark, for the next start.
    fn in_trouble(&mut self, trouble: LogTrouble) {
        if self.trouble.is_some() {
            return;
        }
        self.trouble = Some(trouble);
        let marked = self.spool.make_dir().and_then(|()| std::fs::File::create(self.spool.dir.join(INCOMPLETE)));
        if let Err(error) = marked {
            tracing::warn!(spool = %self.spool.dir.display(), %error, "after a kill nobody will know that the log is not whole");
        }
    }

    fn ring_path(&self, stream: LogStream) -> PathBuf {
        ring_path(&self.spool.dir, stream)
    }

    fn remove_ring(&mut self, stream: LogStream) {
        let had = of(&mut self.rings, stream).take();
        drop(had);
        if let Err(error) = remove_if_there(&self.ring_path(stream)) {
            tracing::warn!(file = %self.ring_path(stream).display(), %error, "a held output's file stays");
        }
    }
}

/// The file of a stream's held output.
pub(super) fn ring_path(spool: &Path, stream: LogStream) -> PathBuf {
    spool.join(format!("{}.ring", stream.as_str()))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Held output of before a restart of the machine is believed by nobody, and goes when the end is told.
    #[test]
    fn held_output_of_another_boot_is_left_out_and_leaves_no_trace() {
        let root = tempfile::tempdir().unwrap();
        let settings = || LogSettings {
            max_output_bytes: 1000,
            chunk_bytes: 100,
            flush_interval: std::time::Duration::ZERO,
            spool_root: root.path().to_path_buf(),
            overflow: None,
            secrets: Vec::new(),
            counters: Arc::default(),
        };
        let mut stage = Stage::new(&"d-1".parse().unwrap(), settings());
        stage.notice(LogStream::Stdout, b"head\n");
        let mut ring = Ring::create(&stage.ring_path(LogStream::Stdout), 100, [9; 16]).unwrap();
        ring.write(b"held", 4).unwrap();
        drop((stage, ring));
        for start in [1, 2] {
            let leftover = super::super::recover(root.path()).unwrap().remove(0);
            let mut stage = Stage::recovered(leftover, settings()).unwrap();
            stage.end();
            stage.settle();
            assert_eq!(stage.summary().stream(LogStream::Stdout).left_out, 4, "start {start}");
            if start == 2 {
                stage.remove();
            }
        }
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
