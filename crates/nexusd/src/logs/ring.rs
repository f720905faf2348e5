//! The last bytes of a stream that went beyond its head, on disk: a file that is written round and round.
//!
//! A gigabyte of output touches the same few pages again and again instead of making new ones. The head of the file says how
//! much was written, after it was written; a kill between the two loses nothing, for the file has [`SLACK`] beyond what is ever
//! read. After a restart of the machine (another boot id) the content is not believed, for pages may have been written out of
//! order.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::checksum::checksum;
use super::files;

/// Room beyond the capacity, which is also the longest single write.
const SLACK: u64 = 128 * 1024;
/// Where the bytes begin; a page for the head.
const DATA_AT: u64 = 4096;
const MAGIC: u64 = 0x3267_6e69_7278_6e2e;
const HEAD_WORDS: usize = 11;
/// Bytes read back at once.
const READ_BYTES: u64 = 64 * 1024;

/// How the held output ends, decided once and written down before the first byte of it is shipped, so that a restart in the
/// middle goes on at the right byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// Bytes that the stream had shipped when the plan was made.
    pub(super) shipped_before: u64,
    pub(super) left_out: u64,
    pub(super) bytes: u64,
    pub(super) marker: bool,
}

#[derive(Debug)]
pub(super) struct Ring {
    file: File,
    capacity: u64,
    total: u64,
    seen: u64,
    boot: [u8; 16],
    plan: Option<Plan>,
}

impl Ring {
    /// A new ring for the last `capacity` bytes.
    pub(super) fn create(path: &Path, capacity: u64, boot: [u8; 16]) -> io::Result<Self> {
        let mut options = File::options();
        let file = files::open(options.read(true).write(true).create(true).truncate(true).mode(0o600), path)?;
        let ring = Self { file, capacity, total: 0, seen: 0, boot, plan: None };
        ring.write_head()?;
        Ok(ring)
    }

    /// What an earlier process left. The second value is false when its bytes cannot be believed.
    pub(super) fn open(path: &Path, boot: [u8; 16]) -> io::Result<(Self, bool)> {
        let file = files::open(File::options().read(true).write(true), path)?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} has a damaged head", path.display()));
        let mut bytes = [0; HEAD_WORDS * 8];
        file.read_exact_at(&mut bytes, 0)?;
        let words: Vec<u64> =
            bytes.chunks_exact(8).filter_map(|w| Some(u64::from_le_bytes(w.try_into().ok()?))).collect();
        let (content, _) = bytes.split_at(bytes.len() - 8);
        let [magic, capacity, total, seen, boot_low, boot_high, planned, shipped_before, left_out, plan_bytes, sum] =
            words[..]
        else {
            return Err(damaged());
        };
        if magic != MAGIC || sum != checksum(&[content]) {
            return Err(damaged());
        }
        let plan = Plan { shipped_before, left_out, bytes: plan_bytes, marker: planned & 2 != 0 };
        let believed = [boot_low.to_le_bytes(), boot_high.to_le_bytes()].concat() == boot;
        let ring = Self { file, capacity, total, seen, boot, plan: (planned & 1 != 0).then_some(plan) };
        let written = if capacity == 0 || total == 0 { 0 } else { DATA_AT.saturating_add(total.min(ring.size())) };
        if ring.file.metadata()?.len() < written {
            let why = format!("{} is cut short, to less than {written} bytes", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok((ring, believed))
    }

    /// Bytes written in all.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes that had been read from the command at the last of those, the stream's head included.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    pub(super) fn plan(&self) -> Option<Plan> {
        self.plan
    }

    pub(super) fn set_plan(&mut self, plan: Plan) -> io::Result<()> {
        self.plan = Some(plan);
        self.write_head()
    }

    /// Appends what was made of the command's first `seen` bytes.
    pub(super) fn write(&mut self, bytes: &[u8], seen: u64) -> io::Result<()> {
        self.seen = seen;
        if self.capacity == 0 {
            self.total += bytes.len() as u64;
            return Ok(());
        }
        for part in bytes.chunks(usize::try_from(SLACK).unwrap_or(usize::MAX)) {
            let mut at = self.total % self.size();
            let mut rest = part;
            while !rest.is_empty() {
                let room = usize::try_from(self.size() - at).unwrap_or(usize::MAX).min(rest.len());
                let (now, later) = rest.split_at(room);
                self.file.write_all_at(now, DATA_AT + at)?;
                rest = later;
                at = 0;
            }
            self.total += part.len() as u64;
        }
        self.write_head()
    }

    /// Hands the last `bytes` of what was written, from the oldest on, to `take`, after passing over `skip` of them.
    pub(super) fn read_last(
        &self,
        bytes: u64,
        skip: u64,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut at = self.total.saturating_sub(bytes.min(self.capacity)) + skip;
        let mut buffer = Vec::new();
        while at < self.total {
            let place = at % self.size();
            let len = READ_BYTES.min(self.total - at).min(self.size() - place);
            buffer.resize(usize::try_from(len).unwrap_or(0), 0);
            self.file.read_exact_at(&mut buffer, DATA_AT + place)?;
            take(&buffer)?;
            at += len;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.capacity + SLACK
    }

    fn write_head(&self) -> io::Result<()> {
        let plan = self.plan.unwrap_or(Plan { shipped_before: 0, left_out: 0, bytes: 0, marker: false });
        let planned = u64::from(self.plan.is_some()) | (u64::from(plan.marker) << 1);
        let mut bytes = Vec::with_capacity(HEAD_WORDS * 8);
        let mut put = |word: u64| bytes.extend_from_slice(&word.to_le_bytes());
        [MAGIC, self.capacity, self.total, self.seen].into_iter().for_each(&mut put);
        bytes.extend_from_slice(&self.boot);
        for word in [planned, plan.shipped_before, plan.left_out, plan.bytes] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&checksum(&[&bytes]).to_le_bytes());
        self.file.write_all_at(&bytes, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn last(ring: &Ring, bytes: u64) -> Vec<u8> {
        let mut out = Vec::new();
        ring.read_last(bytes, 0, |part| {
            out.extend_from_slice(part);
            Ok(())
        })
        .unwrap();
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn the_last_bytes_come_back(capacity in 0u64..300_000, writes in proptest::collection::vec(0usize..200_000, 0..8), want in 0u64..400_000) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("r");
            let mut ring = Ring::create(&path, capacity, [1; 16]).unwrap();
            let mut all = Vec::new();
            for (n, len) in writes.into_iter().enumerate() {
                let bytes: Vec<u8> = (0..len).map(|i| u8::try_from((i * 31 + n * 7) % 251).unwrap()).collect();
                ring.write(&bytes, 0).unwrap();
                all.extend(bytes);
            }
            let keep = usize::try_from(want.min(capacity)).unwrap().min(all.len());
            prop_assert_eq!(last(&ring, want), &all[all.len() - keep..]);
            let (again, believed) = Ring::open(&path, [1; 16]).unwrap();
            prop_assert!(believed);
            prop_assert_eq!(again.total(), all.len() as u64);
            prop_assert_eq!(last(&again, want), &all[all.len() - keep..]);
            prop_assert!(!Ring::open(&path, [2; 16]).unwrap().1, "another boot");
        }
    }

    #[test]
    fn a_plan_survives_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let mut ring = Ring::create(&path, 10, [1; 16]).unwrap();
        let plan = Plan { shipped_before: 3, left_out: 4, bytes: 5, marker: true };
        ring.set_plan(plan).unwrap();
        assert_eq!(Ring::open(&path, [1; 16]).unwrap().0.plan(), Some(plan));
        ring.write(&[7; 1000], 1000).unwrap();
        ring.file.set_len(DATA_AT + 999).unwrap();
        assert!(Ring::open(&path, [1; 16]).unwrap_err().to_string().contains("cut short"));
        ring.file.write_all_at(b"x", 20).unwrap();
        assert!(Ring::open(&path, [1; 16]).unwrap_err().to_string().contains("damaged head"));
    }
}
