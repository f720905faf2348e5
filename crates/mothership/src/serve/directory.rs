//! The data directory: this user's alone before anything is kept in it.
//!
//! A directory that is made here is private from its first moment. One that exists may be open to others on the machine
//! (`mkdir` under the usual umask, a volume, an older program): it is closed where it is surely the mothership's, and
//! refused where closing it could take something away from somebody else, or where somebody else could have
//! put a file of his own in our files' place.

use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// The lock that one process holds.
pub const LOCK: &str = "lock";
/// The database; SQLite keeps its log and its index beside it.
pub const DATABASE: &str = "mothership.db";
/// The administrator's API token.
pub const ADMIN_TOKEN: &str = "admin-token";
/// Where clients on this machine find the server.
pub const ADDRESS: &str = "address";
/// The authority's certificate.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The authority's key.
pub const CA_KEY: &str = "ca-key.pem";
/// The certificate of the authority that will follow.
pub const CA_NEXT_CERTIFICATE: &str = "ca-next.pem";
/// Its key.
pub const CA_NEXT_KEY: &str = "ca-next-key.pem";
/// Its certificate while it is being made.
pub const CA_NEXT_UNFINISHED: &str = "ca-next.pem.new";
/// The certificate of the authority before the present one.
pub const CA_OLD_CERTIFICATE: &str = "ca-old.pem";

/// Every name of ours. Ending with `.new`, it is a file that a kill cut off.
const NAMES: [&str; 12] = [
    LOCK,
    DATABASE,
    "mothership.db-wal",
    "mothership.db-shm",
    "mothership.db-journal",
    ADMIN_TOKEN,
    ADDRESS,
    CA_CERTIFICATE,
    CA_KEY,
    CA_NEXT_CERTIFICATE,
    CA_NEXT_KEY,
    CA_OLD_CERTIFICATE,
];
/// What every fresh ext4 volume has in it, and says nothing about whose it is.
const OF_THE_FILE_SYSTEM: &str = "lost+found";
/// The permission bits of group and others.
const OTHERS: u32 = 0o077;

/// Why the data directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be made, read or changed.
    #[error("{path}: {source}; the mothership's user must own the data directory")]
    File {
        /// It, or the file in it.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others may enter it, and it is not ours to close.
    #[error(
        "{path} is open to others on this machine (mode {mode:o}) and belongs to uid {owner}, not to the mothership's {user}; take another --data-dir, or run: chown {user} {path} && chmod 700 {path}"
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Whose it is.
        owner: u32,
        /// Who this process is.
        user: u32,
    },
    /// Others may enter it, and it is not the mothership's alone.
    #[error(
        "{path} is open to others on this machine (mode {mode:o}) and holds {entry:?}, which is not the mothership's; take another --data-dir, or, if all of it is for the mothership, run: chmod 700 {path}"
    )]
    Shared {
        /// The directory.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The first thing in it that is not ours.
        entry: String,
    },
}

/// Makes `path` where it is missing, and closes it to others where it is there.
///
/// # Errors
/// It cannot be made or changed, or is not the mothership's to close.
pub fn open(path: &Path) -> Result<(), DirectoryError> {
    let at = |source| DirectoryError::File { path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at)?;
    // One descriptor for the question and the change: nobody can put another directory between them.
    let directory = File::open(path).map_err(at)?;
    let metadata = directory.metadata().map_err(at)?;
    let (mode, owner) = (metadata.permissions().mode() & 0o7777, metadata.uid());
    if mode & OTHERS == 0 {
        return Ok(());
    }
    let user = rustix::process::geteuid().as_raw();
    if owner != user {
        return Err(DirectoryError::NotOurs { path: path.to_owned(), mode, owner, user });
    }
    refuse_shared(path, mode, user)?;
    directory.set_permissions(Permissions::from_mode(0o700)).map_err(at)?;
    // What was put in while the door was still open is found now.
    refuse_shared(path, mode, user)?;
    tracing::warn!(
        directory = %path.display(),
        mode = %format!("{mode:o}"),
        "the data directory was open to others on this machine; it is closed now (mode 700)"
    );
    Ok(())
}

/// An error when `path` holds anything but files of ours.
fn refuse_shared(path: &Path, mode: u32, user: u32) -> Result<(), DirectoryError> {
    let at = |path: &Path, source| DirectoryError::File { path: path.to_owned(), source };
    for entry in std::fs::read_dir(path).map_err(|source| at(path, source))? {
        let entry = entry.map_err(|source| at(path, source))?;
        let metadata = entry.metadata().map_err(|source| at(&entry.path(), source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != OF_THE_FILE_SYSTEM && !is_ours(&name, &metadata, user) {
            return Err(DirectoryError::Shared { path: path.to_owned(), mode, entry: name });
        }
    }
    Ok(())
}

/// Whether this is a file of the mothership's making: by its name, its kind and its owner. A link, or a file that
/// another user could have planted, is not.
fn is_ours(name: &str, metadata: &Metadata, user: u32) -> bool {
    NAMES.contains(&name.strip_suffix(".new").unwrap_or(name)) && metadata.is_file() && metadata.uid() == user
}

/// Makes the database file where it is missing, and closes it and what SQLite keeps beside it to others where it is
/// there. SQLite gives the files that it makes later the mode of the database.
///
/// # Errors
/// A file cannot be made or changed.
pub fn close_database(database: &Path) -> io::Result<()> {
    match super::files::private_file().create_new(true).open(database) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let mut name = database.as_os_str().to_owned();
        name.push(suffix);
        close_file(Path::new(&name))?;
    }
    Ok(())
}

fn close_file(path: &Path) -> io::Result<()> {
    let mode = match std::fs::metadata(path) {
        Ok(metadata) => metadata.permissions().mode() & 0o7777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if mode & OTHERS == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    tracing::warn!(
        file = %path.display(),
        mode = %format!("{mode:o}"),
        "the database's mode let others on this machine read it; it is closed now (mode 600)"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_of_ours_are_ours() {
        let dir = tempfile::tempdir().unwrap();
        let user = rustix::process::geteuid().as_raw();
        let path = dir.path().join("any");
        std::fs::write(&path, "").unwrap();
        let file = std::fs::symlink_metadata(&path).unwrap();
        let directory = std::fs::symlink_metadata(dir.path()).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let link = std::fs::symlink_metadata(dir.path().join("link")).unwrap();
        let cases = [
            ("mothership.db", &file, user, true),
            ("mothership.db-wal", &file, user, true),
            ("admin-token.new", &file, user, true),
            ("mothership.db.new.new", &file, user, false),
            ("photo.jpg", &file, user, false),
            (".bashrc", &file, user, false),
            ("ca-key.pem", &file, user + 1, false),
            ("ca-key.pem", &directory, user, false),
            ("ca-key.pem", &link, user, false),
        ];
        for (name, metadata, user, expected) in cases {
            assert_eq!(is_ours(name, metadata, user), expected, "{name} {metadata:?}");
        }
    }

    #[test]
    fn somebody_else_s_directory_is_refused_with_the_mend() {
        let error = DirectoryError::NotOurs { path: "/srv/data".into(), mode: 0o755, owner: 0, user: 1000 };
        assert!(error.to_string().ends_with("run: chown 1000 /srv/data && chmod 700 /srv/data"), "{error}");
    }
}
