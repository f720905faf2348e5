//! The decoder of `.xz`, as a reader whose output, memory and patience are bounded.

use std::io::{self, Read};

use lzma_rust2::{Action, Status, XzStream};
use tokio_util::sync::CancellationToken;

/// What the decoder may need for one block, in KiB: `xz -9` asks for 65 MiB, `xz -6` for 9.
const MEMORY_KIB: u32 = 128 * 1024;

/// Read from the file at a time.
const PIECE: usize = 64 * 1024;

/// How far the input may be ahead of the output. Blocks that hold next to nothing would fill the memory with their index.
const MAX_AHEAD: u64 = 16 * 1024 * 1024;

/// A block of a tar archive; its end is marked with blocks of zeros.
const ZEROS: usize = 512;

/// Why the stream ended early: carried inside an [`io::Error`] through the reader of the archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StreamFault {
    #[error("interrupted")]
    Canceled,
    #[error("it unpacks to more than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("it is not a whole .xz file: {reason}")]
    NotXz { reason: String },
}

impl StreamFault {
    /// The fault inside an error, where there is one.
    pub(super) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<StreamFault> for io::Error {
    fn from(fault: StreamFault) -> Self {
        Self::other(fault)
    }
}

/// Reads what an `.xz` file unpacks to.
pub(super) struct XzReader<'a, R> {
    source: R,
    stream: XzStream,
    input: Vec<u8>,
    /// What of `input` has not been decoded yet.
    pending: std::ops::Range<usize>,
    source_ended: bool,
    ended: bool,
    limit: u64,
    cancel: &'a CancellationToken,
    /// Told the bytes of the file that have been decoded.
    progress: &'a mut dyn FnMut(u64),
    /// Zero bytes at the end of what was read so far, up to [`ZEROS`].
    zeros: usize,
}

impl<'a, R: Read> XzReader<'a, R> {
    /// `limit` bounds the output.
    pub(super) fn new(source: R, limit: u64, cancel: &'a CancellationToken, progress: &'a mut dyn FnMut(u64)) -> Self {
        Self {
            source,
            stream: XzStream::new_mem_limit(true, MEMORY_KIB),
            input: vec![0; PIECE],
            pending: 0..0,
            source_ended: false,
            ended: false,
            limit,
            cancel,
            progress,
            zeros: 0,
        }
    }

    /// Whether the output ended with a block of zeros so far.
    pub(super) fn ends_with_zeros(&self) -> bool {
        self.zeros >= ZEROS
    }

    fn count_zeros(&mut self, new: &[u8]) {
        let zeros = new.iter().rev().take(ZEROS).take_while(|byte| **byte == 0).count();
        let before = if zeros == new.len() { self.zeros } else { 0 };
        self.zeros = (before + zeros).min(ZEROS);
    }

    fn refill(&mut self) -> io::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(StreamFault::Canceled.into());
        }
        let count = self.source.read(&mut self.input)?;
        self.pending = 0..count;
        self.source_ended = count == 0;
        (self.progress)(self.stream.total_in());
        Ok(())
    }

    /// One call of the decoder; the number of bytes that came out.
    fn step(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let input = self.input.get(self.pending.clone()).unwrap_or_default();
        let action = if self.source_ended { Action::Finish } else { Action::Run };
        let step = self.stream.process(input, out, action);
        let step = step.map_err(|error| StreamFault::NotXz { reason: error.to_string() })?;
        self.pending.start += step.bytes_consumed;
        self.ended = step.status == Status::StreamEnd;
        let (read, written) = (self.stream.total_in(), self.stream.total_out());
        if written > self.limit {
            return Err(StreamFault::TooLarge { limit: self.limit }.into());
        }
        if read > written + written / 8 + MAX_AHEAD {
            return Err(StreamFault::NotXz { reason: "it holds next to nothing".to_owned() }.into());
        }
        let stuck = step.bytes_consumed == 0 && step.bytes_produced == 0 && !self.ended;
        if stuck && self.source_ended {
            return Err(StreamFault::NotXz { reason: "it ends too early".to_owned() }.into());
        }
        if stuck && !self.pending.is_empty() {
            return Err(StreamFault::NotXz { reason: "the decoder cannot go on".to_owned() }.into());
        }
        Ok(step.bytes_produced)
    }
}

impl<R: Read> Read for XzReader<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !self.ended && !out.is_empty() {
            if self.pending.is_empty() && !self.source_ended {
                self.refill()?;
            }
            let count = self.step(out)?;
            if count > 0 {
                self.count_zeros(out.get(..count).unwrap_or_default());
                return Ok(count);
            }
        }
        Ok(0)
    }
}
