//! Small reports, in one file of slots that is written once and then only written over.
//!
//! Why: a file system makes what is written over in place durable with one write; a new file costs it two commits of its
//! journal (five times as long, measured on ext4). Each directive has two reports, and waits for both.
//!
//! A slot holds an entry as [`entry`](super::entry) writes it, and after it whatever was there before; a vacant one begins with
//! a zero byte.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use conduits::DirectiveId;

use super::entry::{Entry, EntryError, ReportKind};

/// Bytes of a slot: one block of most file systems. A usual report has a quarter of it.
pub(super) const SLOT: usize = 4096;

/// Slots: each running directive has one, and one more for its end. A report that finds none free gets a file of its own.
pub(super) const SLOTS: usize = 128;

#[derive(Debug)]
pub(super) struct Slots {
    file: File,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    by: BTreeMap<(DirectiveId, ReportKind), usize>,
    free: Vec<usize>,
}

/// What lies in the slots of an earlier process.
#[derive(Debug, Default)]
pub(super) struct InSlots {
    pub(super) entries: Vec<Entry>,
    /// What is no entry: which slot, what it holds, and why. To be cleared once it is set aside.
    pub(super) damaged: Vec<(usize, Vec<u8>, EntryError)>,
}

impl Slots {
    /// Opens the file, or makes it; whoever made it syncs its folder.
    pub(super) fn open(path: &Path) -> io::Result<(Self, InSlots)> {
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow);
        let file = options.open(path)?;
        let (mut found, mut taken) = (InSlots::default(), Taken::default());
        let there = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(SLOT * SLOTS);
        let mut bytes = vec![0; SLOT * SLOTS];
        file.read_exact_at(bytes.get_mut(..there).unwrap_or_default(), 0)?;
        for (index, slot) in bytes.chunks(SLOT).enumerate() {
            if slot.first() == Some(&0) {
                taken.free.push(index);
                continue;
            }
            match Entry::decode_slot(slot) {
                Ok(entry) => {
                    taken.by.insert((entry.directive_id.clone(), entry.report.kind()), index);
                    found.entries.push(entry);
                }
                Err(error) => {
                    found.damaged.push((index, slot.to_vec(), error));
                    taken.free.push(index);
                }
            }
        }
        if there < SLOT * SLOTS {
            file.write_all_at(bytes.get(there..).unwrap_or_default(), there as u64)?;
            file.sync_all()?;
        }
        // The lowest first: the blocks that are in use stay few.
        taken.free.reverse();
        Ok((Self { file, taken: Mutex::new(taken) }, found))
    }

    /// Takes the entry where it fits; `false` where it needs a file of its own. Durable when it returns.
    pub(super) fn put(&self, key: (DirectiveId, ReportKind), bytes: &[u8]) -> io::Result<bool> {
        if bytes.len() > SLOT {
            return Ok(false);
        }
        let Some(index) = self.taken().free.pop() else { return Ok(false) };
        if let Err(error) = self.write(bytes, index) {
            self.release(index);
            return Err(error);
        }
        self.taken().by.insert(key, index);
        Ok(true)
    }

    /// Empties the slot of a report; `false` where it has none. Back after a power cut perhaps, as a file would be.
    pub(super) fn vacate(&self, key: &(DirectiveId, ReportKind)) -> io::Result<bool> {
        let Some(index) = self.taken().by.remove(key) else { return Ok(false) };
        let emptied = self.file.write_all_at(&[0], offset(index));
        self.taken().free.push(index);
        emptied.map(|()| true)
    }

    /// Writes over the slot of a report that is there already, for a kill to find and not for a power cut: nothing is synced.
    /// `false` where it has none, or the entry does not fit.
    pub(super) fn overwrite(&self, key: &(DirectiveId, ReportKind), bytes: &[u8]) -> io::Result<bool> {
        let Some(index) = self.taken().by.get(key).copied().filter(|_| bytes.len() <= SLOT) else { return Ok(false) };
        self.file.write_all_at(bytes, offset(index)).map(|()| true)
    }

    fn write(&self, bytes: &[u8], index: usize) -> io::Result<()> {
        if self.file.metadata()?.nlink() == 0 {
            return Err(io::Error::new(io::ErrorKind::NotFound, "somebody has removed it: restart nexusd"));
        }
        self.file.write_all_at(bytes, offset(index))?;
        self.file.sync_data()
    }

    /// Empties a damaged slot, so that the next start does not find it again.
    pub(super) fn clear(&self, index: usize) -> io::Result<()> {
        self.file.write_all_at(&[0], offset(index))
    }

    /// Gives back a slot whose writing failed: what of it is there was not promised to anybody.
    fn release(&self, index: usize) {
        if let Err(error) = self.file.write_all_at(&[0], offset(index)) {
            tracing::debug!(%error, "a slot of the outbox is left as it is");
        }
        self.taken().free.push(index);
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn offset(index: usize) -> u64 {
    (index * SLOT) as u64
}

#[cfg(test)]
mod tests {
    use conduits::{DirectiveToken, FinishedRequest, FinishedStatus};

    use super::*;
    use crate::outbox::Report;

    fn entry(id: &str, diff: usize) -> Entry {
        let mut request = FinishedRequest::new(FinishedStatus::Failed);
        request.diff_base64 = Some(vec![7; diff]);
        Entry::new(id.parse().unwrap(), DirectiveToken::new("a.b.c"), Report::Finished(Box::new(request)))
    }

    fn put(slots: &Slots, entry: &Entry) -> bool {
        slots.put((entry.directive_id.clone(), entry.report.kind()), &entry.encode().unwrap()).unwrap()
    }

    fn key(id: &str) -> (DirectiveId, ReportKind) {
        (id.parse().unwrap(), ReportKind::Finished)
    }

    #[test]
    fn what_was_put_and_not_vacated_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        let (slots, found) = Slots::open(&path).unwrap();
        assert!(found.entries.is_empty() && found.damaged.is_empty());
        // A long one first, so that a shorter one lies over what it left.
        assert!(put(&slots, &entry("long", 2000)) && slots.vacate(&key("long")).unwrap());
        assert!(put(&slots, &entry("a", 3)) && put(&slots, &entry("b", 30)));
        assert!(slots.vacate(&key("a")).unwrap() && !slots.vacate(&key("a")).unwrap());
        drop(slots);
        let (slots, found) = Slots::open(&path).unwrap();
        assert_eq!((found.entries, found.damaged), (vec![entry("b", 30)], vec![]));
        assert!(slots.vacate(&key("b")).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (SLOT * SLOTS) as u64);
    }

    #[test]
    fn what_is_too_large_or_finds_no_slot_needs_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let (slots, _) = Slots::open(&dir.path().join("slots")).unwrap();
        assert!(!put(&slots, &entry("large", SLOT)));
        for number in 0..SLOTS {
            assert!(put(&slots, &entry(&format!("d{number}"), 1)));
        }
        assert!(!put(&slots, &entry("late", 1)));
        assert!(slots.vacate(&key("d5")).unwrap() && put(&slots, &entry("late", 1)));
    }

    /// A slot that a power cut tore, or that the disk damaged, is told apart from a good one, and taken for others.
    #[test]
    fn a_torn_slot_is_never_taken_for_a_report() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        let (slots, _) = Slots::open(&path).unwrap();
        assert!(put(&slots, &entry("a", 900)) && put(&slots, &entry("b", 900)));
        slots.file.write_all_at(&[0xff; 100], 500).unwrap();
        drop(slots);
        // A file of another length, as of a process that was killed when it made it.
        OpenOptions::new().write(true).open(&path).unwrap().set_len((SLOT * 3 + 17) as u64).unwrap();
        let (slots, found) = Slots::open(&path).unwrap();
        assert_eq!(found.entries, [entry("b", 900)]);
        assert_eq!(found.damaged.len(), 1);
        slots.clear(found.damaged[0].0).unwrap();
        drop(slots);
        let (slots, found) = Slots::open(&path).unwrap();
        assert_eq!((found.entries.len(), found.damaged.len()), (1, 0), "found once");
        assert!(put(&slots, &entry("c", 1)));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), (SLOT * SLOTS) as u64);
    }
}
