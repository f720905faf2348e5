//! Small reports, in one file of slots that is written once and then only written over.
//!
//! Why: a file system makes what is written over in place durable with one write; a new file costs it two commits of its
//! journal (five times as long, measured on ext4). Each directive has two reports, and waits for both.
//!
//! A slot holds an entry as [`entry`](super::entry) writes it, and after it whatever was there before; a vacant one says so in
//! words. A slot that is neither is damaged, zeros too: nothing that is lost looks like nothing that was.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use conduits::DirectiveId;

use super::entry::{Entry, ReportKind};

/// Bytes of a slot: one block of most file systems. A usual report has a quarter of it.
pub(super) const SLOT: usize = 4096;

/// Slots: each running directive has one, and one more for its end. A report that finds none free gets a file of its own.
pub(super) const SLOTS: usize = 128;

/// How a vacant slot begins.
const VACANT: &[u8] = b"vacant\n";

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
    /// What is neither an entry nor vacant. To be cleared once it is set aside.
    pub(super) damaged: Vec<Damaged>,
    /// The file was made: there was none.
    pub(super) made: bool,
}

/// What lies in a damaged slot.
#[derive(Debug)]
pub(super) struct Damaged {
    pub(super) index: usize,
    /// What is left of it; nothing where the file ends before it, or where it is zeros.
    pub(super) bytes: Vec<u8>,
    pub(super) why: String,
}

impl Slots {
    /// Opens the file, or makes it; whoever opens it syncs its folder.
    pub(super) fn open(path: &Path) -> io::Result<(Self, InSlots)> {
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(nofollow);
        let (mut found, mut taken) = (InSlots::default(), Taken::default());
        let file = match options.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(path)?;
                found.made = true;
                options.open(path)?
            }
            opened => opened?,
        };
        let there = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(SLOT * SLOTS);
        let mut bytes = vec![0; there];
        file.read_exact_at(&mut bytes, 0)?;
        for index in 0..SLOTS {
            let slot = bytes.get(index * SLOT..there.min((index + 1) * SLOT)).unwrap_or_default();
            if slot.starts_with(VACANT) {
                taken.free.push(index);
                continue;
            }
            match Entry::decode_slot(slot) {
                Ok(entry) => {
                    taken.by.insert((entry.directive_id.clone(), entry.report.kind()), index);
                    found.entries.push(entry);
                }
                Err(error) => {
                    let zeros = slot.iter().all(|byte| *byte == 0);
                    let why = match (slot.len(), zeros) {
                        (0, _) => format!("the file ends before it, at byte {there} of {}", SLOT * SLOTS),
                        (_, true) => "it holds nothing but zeros".to_owned(),
                        (..) => error.to_string(),
                    };
                    let bytes = if zeros { Vec::new() } else { slot.to_vec() };
                    found.damaged.push(Damaged { index, bytes, why });
                    taken.free.push(index);
                }
            }
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
        let earlier = self.taken().by.insert(key, index);
        // The same report once more, in a slot of its own: the earlier one is not to be told.
        if let Some(earlier) = earlier {
            self.release(earlier);
        }
        Ok(true)
    }

    /// Empties the slot of a report; `false` where it has none. Back after a power cut perhaps, as a file would be.
    pub(super) fn vacate(&self, key: &(DirectiveId, ReportKind)) -> io::Result<bool> {
        let Some(index) = self.taken().by.remove(key) else { return Ok(false) };
        let emptied = self.clear(index);
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

    /// Makes a slot vacant, whatever it holds.
    pub(super) fn clear(&self, index: usize) -> io::Result<()> {
        self.file.write_all_at(VACANT, offset(index))
    }

    /// Makes slots vacant that were damaged, so that the next start does not find them again, and the file as long as it is to be.
    pub(super) fn mend(&self, damaged: &[Damaged]) -> io::Result<()> {
        if damaged.is_empty() {
            return Ok(());
        }
        if self.file.metadata()?.len() < (SLOT * SLOTS) as u64 {
            self.file.set_len((SLOT * SLOTS) as u64)?;
        }
        damaged.iter().try_for_each(|slot| self.clear(slot.index))?;
        self.file.sync_all()
    }

    /// Gives back a slot that nobody is promised anything of: its writing failed, or it was written anew elsewhere.
    fn release(&self, index: usize) {
        if let Err(error) = self.clear(index) {
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

/// Writes a file of vacant slots. It is there whole or not at all: a shorter one has lost something.
fn make(path: &Path) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut vacant = vec![0; SLOT * SLOTS];
    for slot in vacant.chunks_mut(SLOT) {
        for (byte, of_it) in slot.iter_mut().zip(VACANT) {
            *byte = *of_it;
        }
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(&vacant)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
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
        assert_eq!((found.entries, found.damaged.len()), (vec![entry("b", 30)], 0));
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

    /// A slot that a power cut tore, or that the disk damaged or lost, is told apart from a good one and from a vacant one,
    /// and taken for others.
    #[test]
    fn a_damaged_slot_is_never_taken_for_a_report_nor_for_a_vacant_one() {
        type Damage = fn(&File);
        let damages: [(&str, Damage, usize, bool); 6] = [
            ("torn", |file| file.write_all_at(&[0xff; 100], 500).unwrap(), 1, true),
            ("a first byte of zero", |file| file.write_all_at(&[0], 0).unwrap(), 1, true),
            ("zeros", |file| file.write_all_at(&[0; SLOT], 0).unwrap(), 1, true),
            ("cut behind what is in use", |file| file.set_len((SLOT * 3 + 17) as u64).unwrap(), SLOTS - 4, true),
            ("cut short", |file| file.set_len((SLOT + 17) as u64).unwrap(), SLOTS - 1, false),
            ("emptied", |file| file.set_len(0).unwrap(), SLOTS, false),
        ];
        for (what, damage, count, second_is_kept) in damages {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("slots");
            let (slots, _) = Slots::open(&path).unwrap();
            assert!(put(&slots, &entry("a", 900)) && put(&slots, &entry("b", 900)), "{what}");
            damage(&slots.file);
            drop(slots);
            let (slots, found) = Slots::open(&path).unwrap();
            assert_eq!(found.damaged.len(), count, "{what}");
            assert_eq!(found.entries.contains(&entry("b", 900)), second_is_kept, "{what}");
            slots.mend(&found.damaged).unwrap();
            drop(slots);
            let (slots, again) = Slots::open(&path).unwrap();
            assert_eq!((again.entries, again.damaged.len()), (found.entries, 0), "{what}: found once");
            assert!(put(&slots, &entry("c", 1)), "{what}");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), (SLOT * SLOTS) as u64, "{what}");
        }
    }

    /// A start that was cut off while it made the file leaves none that looks cut short.
    #[test]
    fn a_file_that_was_not_made_whole_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("slots.tmp"), "vacant").unwrap();
        let (_, found) = Slots::open(&dir.path().join("slots")).unwrap();
        assert!(found.made && found.damaged.is_empty());
        let (_, found) = Slots::open(&dir.path().join("slots")).unwrap();
        assert!(!found.made && found.damaged.is_empty());
    }

    #[test]
    fn a_report_that_is_put_again_takes_the_place_of_the_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slots");
        let (slots, _) = Slots::open(&path).unwrap();
        assert!(put(&slots, &entry("a", 1)) && put(&slots, &entry("a", 2)));
        drop(slots);
        assert_eq!(Slots::open(&path).unwrap().1.entries, [entry("a", 2)]);
    }
}
