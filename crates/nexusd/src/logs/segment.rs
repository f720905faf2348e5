//! How the spool's files are written: pure coding and decoding.
//!
//! A segment is a head followed by records. Numbers are little endian.
//!
//! ```text
//! head    "nxspool2" max_output:u64 next_seq:[u64;2] head_bytes:[u64;2] seen:[u64;2] chunk_bytes:u32 flags:u32 boot:[u8;16]
//!         checksum:u64
//! record  len:u32 stream:u8 flags:u8 zero:u16 seq:u64 seen:u64 checksum:u64 bytes…  (checksum over both, without itself)
//! ```

use conduits::LogStream;

use super::checksum::checksum;

const MAGIC: &[u8; 8] = b"nxspool2";
/// Length of a segment's head.
pub(super) const HEAD_BYTES: usize = 96;
/// Length of a record's head.
pub(super) const RECORD_HEAD_BYTES: usize = 32;
/// Flag of a record: its chunk belongs to a truncated stream's marker or tail.
pub(super) const TRUNCATED: u8 = 1;

/// What a segment's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    pub(super) max_output: u64,
    /// Number of the chunk that was open in each stream when the segment was begun.
    pub(super) next_seq: [u64; 2],
    /// Bytes shipped of each stream in the segments before.
    pub(super) shipped: [u64; 2],
    /// Bytes read from the command by then, of each stream.
    pub(super) seen: [u64; 2],
    pub(super) chunk_bytes: u32,
    /// Bit 0: the output has ended and its tail was cut.
    pub(super) flags: u32,
    /// Which boot of the machine wrote it.
    pub(super) boot: [u8; 16],
}

/// One record's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) len: u32,
    pub(super) stream: LogStream,
    pub(super) flags: u8,
    pub(super) seq: u64,
    /// Bytes read from the command by then: what it wrote, which is not what was made of it (notices, secrets, markers).
    pub(super) seen: u64,
    sum: u64,
}

impl Head {
    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut bytes = Vec::with_capacity(HEAD_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&self.max_output.to_le_bytes());
        self.next_seq
            .iter()
            .chain(&self.shipped)
            .chain(&self.seen)
            .for_each(|n| bytes.extend_from_slice(&n.to_le_bytes()));
        bytes.extend_from_slice(&self.chunk_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.flags.to_le_bytes());
        bytes.extend_from_slice(&self.boot);
        bytes.extend_from_slice(&checksum(&[&bytes]).to_le_bytes());
        let mut out = [0; HEAD_BYTES];
        out.copy_from_slice(&bytes);
        out
    }

    /// `None`: damaged, or not a segment of this version.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEAD_BYTES)?;
        let (content, sum) = bytes.split_at(HEAD_BYTES - 8);
        if !content.starts_with(MAGIC) || u64_at(sum, 0)? != checksum(&[content]) {
            return None;
        }
        Some(Self {
            max_output: u64_at(content, 8)?,
            next_seq: [u64_at(content, 16)?, u64_at(content, 24)?],
            shipped: [u64_at(content, 32)?, u64_at(content, 40)?],
            seen: [u64_at(content, 48)?, u64_at(content, 56)?],
            chunk_bytes: u32_at(content, 64)?,
            flags: u32_at(content, 68)?,
            boot: content.get(72..88)?.try_into().ok()?,
        })
    }
}

/// Appends a record to `out`. `bytes` is at most a chunk.
pub(super) fn encode_record(stream: LogStream, seq: u64, seen: u64, flags: u8, bytes: &[u8], out: &mut Vec<u8>) {
    // A chunk is at most 256 KiB: the length always fits.
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let start = out.len();
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&[u8::from(stream == LogStream::Stderr), flags, 0, 0]);
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&seen.to_le_bytes());
    let sum = checksum(&[out.get(start..).unwrap_or_default(), bytes]);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(bytes);
}

impl RecordHead {
    /// `None`: not a record's head (its own fields are checked, the checksum is not yet).
    pub(super) fn decode(bytes: &[u8], max_len: usize) -> Option<Self> {
        let len = u32_at(bytes, 0)?;
        let stream = match bytes.get(4)? {
            0 => LogStream::Stdout,
            1 => LogStream::Stderr,
            _ => return None,
        };
        let zero = bytes.get(6..8)? == [0, 0];
        if !zero || len == 0 || usize::try_from(len).ok()? > max_len {
            return None;
        }
        Some(Self {
            len,
            stream,
            flags: *bytes.get(5)?,
            seq: u64_at(bytes, 8)?,
            seen: u64_at(bytes, 16)?,
            sum: u64_at(bytes, 24)?,
        })
    }

    /// Whether these are the bytes that were written.
    pub(super) fn matches(&self, head: &[u8], bytes: &[u8]) -> bool {
        self.sum == checksum(&[head.get(..RECORD_HEAD_BYTES - 8).unwrap_or_default(), bytes])
    }

    /// Length of head and bytes.
    pub(super) fn whole_len(&self) -> u64 {
        u64::from(self.len) + RECORD_HEAD_BYTES as u64
    }
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn heads_are_read_as_written_and_damage_is_seen(max in any::<u64>(), seq in any::<[u64; 2]>(), shipped in any::<[u64; 2]>(), seen in any::<[u64; 2]>(), boot in any::<[u8; 16]>(), at in 0..HEAD_BYTES, bit in 0u8..8) {
            let head = Head { max_output: max, next_seq: seq, shipped, seen, chunk_bytes: 7, flags: 1, boot };
            let mut bytes = head.encode();
            prop_assert_eq!(Head::decode(&bytes), Some(head));
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(Head::decode(&bytes), None);
        }

        #[test]
        fn records_are_read_as_written_and_damage_is_seen(seq in any::<u64>(), seen in any::<u64>(), bytes in proptest::collection::vec(any::<u8>(), 1..100), at in any::<usize>(), bit in 0u8..8) {
            let read = |record: &[u8]| {
                let head = RecordHead::decode(record, 1000)?;
                let bytes = record.get(RECORD_HEAD_BYTES..RECORD_HEAD_BYTES + head.len as usize)?;
                head.matches(record, bytes).then(|| (head.stream, head.seq, head.seen, head.flags, bytes.to_vec()))
            };
            let mut record = Vec::new();
            encode_record(LogStream::Stderr, seq, seen, TRUNCATED, &bytes, &mut record);
            prop_assert_eq!(read(&record), Some((LogStream::Stderr, seq, seen, TRUNCATED, bytes)));
            let at = at % record.len();
            record[at] ^= 1 << bit;
            prop_assert_eq!(read(&record), None);
        }
    }
}
