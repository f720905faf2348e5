//! The version of what a daemon keeps in `<work_dir>/.nexus`: an older daemon does not touch what a newer one wrote.
//!
//! The file `format` holds one number. It changes when an older daemon would misread what is there: spool, outbox, marks,
//! locks. A folder without the file is one of before there was one, or new.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// What this daemon writes.
const CURRENT: u32 = 1;

const NAME: &str = "format";

/// Why the folder is not taken.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// A newer daemon's.
    #[error(
        "{} was written by a newer nexusd (format {found}, this one knows {CURRENT}): run that one, or drain it and empty \
         its spool and outbox before going back",
        state.display()
    )]
    Newer {
        /// The daemon's own folder.
        state: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Not one of ours.
    #[error("{} does not hold a number: {text:?}; remove it where you know that this nexusd wrote the folder", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Its beginning.
        text: String,
    },
    /// The file system refused.
    #[error("cannot read or write {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// What is to be done with a folder whose file says this.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Current,
    /// To be written anew.
    Older,
    Newer(u32),
    Unreadable,
}

fn judge(text: Option<&str>) -> Found {
    match text.map(|text| text.trim().parse::<u32>()) {
        None => Found::Older,
        Some(Ok(CURRENT)) => Found::Current,
        Some(Ok(number)) if number < CURRENT => Found::Older,
        Some(Ok(number)) => Found::Newer(number),
        Some(Err(_)) => Found::Unreadable,
    }
}

/// Takes the folder for this daemon, whose lock is held. Blocking, and one small read where nothing is to be written.
///
/// # Errors
/// [`FormatError`]; the folder is as it was.
pub(super) fn take(state: &Path) -> Result<(), FormatError> {
    let file = state.join(NAME);
    let fail = |source| FormatError::Io { file: file.clone(), source };
    let text = match fs::read_to_string(&file) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(fail(error)),
    };
    match judge(text.as_deref()) {
        Found::Current => Ok(()),
        Found::Older => write(&file).map_err(fail),
        Found::Newer(found) => Err(FormatError::Newer { state: state.to_owned(), found }),
        Found::Unreadable => {
            let text = text.unwrap_or_default().chars().take(32).collect();
            Err(FormatError::Unreadable { file, text })
        }
    }
}

/// Whole or not at all, and on disk before anything of that format is.
fn write(file: &Path) -> io::Result<()> {
    let fresh = file.with_extension("new");
    let mut open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    writeln!(open, "{CURRENT}")?;
    open.sync_all()?;
    fs::rename(&fresh, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_taken_unless_a_newer_daemon_wrote_it() {
        let cases = [
            (None, Found::Older),
            (Some("0\n"), Found::Older),
            (Some("1\n"), Found::Current),
            (Some(" 1"), Found::Current),
            (Some("2\n"), Found::Newer(2)),
            (Some("4294967295"), Found::Newer(u32::MAX)),
            (Some("4294967296"), Found::Unreadable),
            (Some(""), Found::Unreadable),
            (Some("-1"), Found::Unreadable),
            (Some("one"), Found::Unreadable),
        ];
        for (text, expected) in cases {
            assert_eq!(judge(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_file_is_written_once_and_a_newer_one_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(NAME);
        take(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("{CURRENT}\n"));
        take(dir.path()).unwrap();
        fs::write(&file, "7\n").unwrap();
        let error = take(dir.path()).unwrap_err().to_string();
        assert!(error.contains("a newer nexusd (format 7, this one knows 1)"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "7\n");
        fs::write(&file, "seven").unwrap();
        assert!(take(dir.path()).unwrap_err().to_string().contains("does not hold a number: \"seven\""));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
