//! From one authority to the next, with an overlap in which both are trusted.
//!
//! ```text
//! prepare ──▶ the next one is made: handed out and trusted, signs nothing yet
//!    (each territory renews within 20 days, and trusts the next one from then on)
//! switch  ──▶ it signs: the server's certificate, and the territories' from their next renewal on; its predecessor is trusted
//!    (each territory renews within 20 days)
//! retire  ──▶ the predecessor is trusted no more
//! ```
//!
//! Each step is a change of files in the data directory that a kill leaves done, undone, or to be finished by the next start;
//! a mothership takes it over when it starts.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{CaError, create, load, parse, read, refuse_exposed, write};
use crate::serve::directory;
use crate::serve::files;

/// The files of a data directory.
struct Paths {
    key: PathBuf,
    certificate: PathBuf,
    next_key: PathBuf,
    next: PathBuf,
    old: PathBuf,
}

impl Paths {
    fn of(dir: &Path) -> Self {
        Self {
            key: dir.join(directory::CA_KEY),
            certificate: dir.join(directory::CA_CERTIFICATE),
            next_key: dir.join(directory::CA_NEXT_KEY),
            next: dir.join(directory::CA_NEXT_CERTIFICATE),
            old: dir.join(directory::CA_OLD_CERTIFICATE),
        }
    }

    fn has_next(&self) -> bool {
        self.next.exists()
    }
}

/// Where a change of authorities stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// There is one authority.
    Settled,
    /// The next one is trusted and signs nothing.
    Prepared,
    /// The next one signs; the one before it is trusted.
    Switched,
}

/// Where the directory stands.
#[must_use]
pub fn stage(dir: &Path) -> Stage {
    let paths = Paths::of(dir);
    match (paths.has_next(), paths.old.exists()) {
        (true, _) => Stage::Prepared,
        (false, true) => Stage::Switched,
        (false, false) => Stage::Settled,
    }
}

/// SHA-256 of the key of the authority that will follow.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn next_key(dir: &Path) -> Result<[u8; 32], CaError> {
    Ok(parse(&Paths::of(dir).next)?.key_sha256)
}

/// SHA-256 of the key of the authority that signs.
///
/// # Errors
/// It cannot be read.
pub fn present_key(dir: &Path) -> Result<[u8; 32], CaError> {
    Ok(parse(&Paths::of(dir).certificate)?.key_sha256)
}

/// Makes the next authority.
///
/// # Errors
/// A change is under way; there is no authority yet; a file cannot be written.
pub fn prepare(dir: &Path) -> Result<(), CaError> {
    let paths = Paths::of(dir);
    match stage(dir) {
        Stage::Settled => {}
        Stage::Prepared => {
            return Err(turn("the next authority is there already; go on with `mothership ca switch`"));
        }
        Stage::Switched => {
            return Err(turn("the authority before this one is still trusted; `mothership ca retire` ends that"));
        }
    }
    load(&paths.key, &paths.certificate)?;
    // The key first: without the certificate there is no next authority yet.
    let beside = dir.join(directory::CA_NEXT_UNFINISHED);
    create(&paths.next_key, &beside)?;
    std::fs::rename(&beside, &paths.next).and_then(|()| sync(dir)).map_err(at(&paths.next))
}

/// Lets the next authority sign.
///
/// # Errors
/// There is none; a file cannot be written.
pub fn switch(dir: &Path) -> Result<(), CaError> {
    finish(dir)?;
    let paths = Paths::of(dir);
    if !paths.has_next() {
        return Err(turn("there is no next authority; make it with `mothership ca prepare`"));
    }
    // What is not whole must not take the place of what is.
    load(&paths.next_key, &paths.next)?;
    write(&paths.old, &read(&paths.certificate)?, 0o644)?;
    std::fs::rename(&paths.next_key, &paths.key).and_then(|()| sync(dir)).map_err(at(&paths.key))?;
    finish(dir)
}

/// Finishes a switch that was cut off: the key is the next one's already, its certificate is not.
pub(super) fn finish(dir: &Path) -> Result<(), CaError> {
    let paths = Paths::of(dir);
    if !paths.has_next() || paths.next_key.exists() || !paths.key.exists() {
        return Ok(());
    }
    refuse_exposed(&paths.key)?;
    load(&paths.key, &paths.next)?;
    std::fs::rename(&paths.next, &paths.certificate).and_then(|()| sync(dir)).map_err(at(&paths.certificate))
}

/// Trusts the predecessor no more.
///
/// # Errors
/// There is none; it cannot be removed.
pub fn retire(dir: &Path) -> Result<(), CaError> {
    let paths = Paths::of(dir);
    if stage(dir) != Stage::Switched {
        return Err(turn("there is no authority to retire; that comes after `mothership ca switch`"));
    }
    files::remove(&paths.old).and_then(|()| sync(dir)).map_err(at(&paths.old))
}

fn turn(text: &str) -> CaError {
    CaError::Turn(text.to_owned())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::File { path, source }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::Authority;
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn each_step_has_its_turn_and_both_are_trusted_in_between() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert!(prepare(dir).is_err() && switch(dir).is_err() && retire(dir).is_err(), "there is no authority yet");
        let first = Authority::load_or_create(dir).unwrap();
        assert_eq!((stage(dir), first.trusted().count()), (Stage::Settled, 1));
        prepare(dir).unwrap();
        let both = Authority::load_or_create(dir).unwrap();
        assert_eq!((stage(dir), both.trusted().count(), both.key_sha256()), (Stage::Prepared, 2, first.key_sha256()));
        assert_eq!(both.bundle_pem().matches("BEGIN CERTIFICATE").count(), 2);
        assert!(prepare(dir).is_err() && retire(dir).is_err());
        let next = next_key(dir).unwrap();
        switch(dir).unwrap();
        let second = Authority::load_or_create(dir).unwrap();
        assert_eq!((stage(dir), second.trusted().count(), second.key_sha256()), (Stage::Switched, 2, next));
        assert!(second.trusted_keys().any(|key| key == first.key_sha256()));
        assert!(prepare(dir).is_err() && switch(dir).is_err());
        retire(dir).unwrap();
        let last = Authority::load_or_create(dir).unwrap();
        assert_eq!((stage(dir), last.trusted().count(), last.key_sha256()), (Stage::Settled, 1, next));
        assert_eq!(names(dir), ["ca-key.pem", "ca.pem"]);
    }

    #[test]
    fn a_switch_that_was_cut_off_is_finished_by_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        Authority::load_or_create(dir).unwrap();
        prepare(dir).unwrap();
        let next = next_key(dir).unwrap();
        std::fs::copy(dir.join("ca.pem"), dir.join("ca-old.pem")).unwrap();
        // Cut off before the key: nothing has happened.
        assert_eq!(Authority::load_or_create(dir).unwrap().trusted().count(), 3);
        std::fs::rename(dir.join("ca-next-key.pem"), dir.join("ca-key.pem")).unwrap();
        let finished = Authority::load_or_create(dir).unwrap();
        assert_eq!((stage(dir), finished.key_sha256(), finished.trusted().count()), (Stage::Switched, next, 2));
        // A key that is lost is no switch.
        let other = tempfile::tempdir().unwrap();
        Authority::load_or_create(other.path()).unwrap();
        prepare(other.path()).unwrap();
        std::fs::remove_file(other.path().join("ca-next-key.pem")).unwrap();
        assert!(Authority::load_or_create(other.path()).is_err(), "ca-key.pem is not the next one's");
    }
}
