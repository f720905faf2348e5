//! Whose lease a spool belongs to: the token, beside the output, with which it can be shipped when the outbox does not say.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use conduits::DirectiveToken;

use super::checksum::checksum;
use super::files;
use crate::client::MAX_TOKEN_BYTES;

/// First word, with the version of the format.
const MAGIC: &str = "nexus-lease-1";

/// Writes it over an earlier one; whole or not at all.
pub(super) fn write(spool: &Path, token: &DirectiveToken) -> io::Result<()> {
    let temporary = spool.join("lease.tmp");
    let mut options = File::options();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(line(token.expose()).as_bytes())?;
    fs::rename(temporary, path(spool))
}

/// The token, where there is one that can be believed.
pub(super) fn read(spool: &Path) -> Option<DirectiveToken> {
    let mut text = String::new();
    let file = files::open(File::options().read(true), &path(spool)).ok()?;
    file.take(2 * MAX_TOKEN_BYTES as u64).read_to_string(&mut text).ok()?;
    let token = text.splitn(3, ' ').nth(2)?;
    (text == line(token)).then(|| DirectiveToken::new(token))
}

pub(super) fn remove(spool: &Path) -> io::Result<()> {
    match fs::remove_file(path(spool)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn path(spool: &Path) -> PathBuf {
    spool.join("lease")
}

fn line(token: &str) -> String {
    format!("{MAGIC} {:016x} {token}", checksum(&[token.as_bytes()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_written_and_a_damaged_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_none());
        write(dir.path(), &DirectiveToken::new("old")).unwrap();
        write(dir.path(), &DirectiveToken::new("a.b.c")).unwrap();
        assert_eq!(read(dir.path()).unwrap().expose(), "a.b.c");
        let whole = fs::read(path(dir.path())).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            fs::write(path(dir.path()), &damaged).unwrap();
            assert!(read(dir.path()).is_none(), "byte {at}");
            fs::write(path(dir.path()), &whole[..at]).unwrap();
            assert!(read(dir.path()).is_none(), "cut at {at}");
        }
        remove(dir.path()).unwrap();
        remove(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
