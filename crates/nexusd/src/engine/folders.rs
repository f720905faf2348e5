//! The folders that the daemon works in: closed to everybody else.
//!
//! Why it matters: a sandbox may leave a program in its facility that is set-uid to the sandbox's user. As long as no
//! other user of the host can reach it, that is nobody's way to the facilities of others.

use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fchmod};

/// The permissions of others and of the group.
const OPEN_TO_OTHERS: u32 = 0o077;

/// Why a folder is not worked in.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system refused.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// It is not safe to work in.
    #[error("{key} {path} {why}", path = path.display())]
    Unsafe {
        /// The key that names it.
        key: &'static str,
        /// The folder.
        path: PathBuf,
        /// What is wrong, and the mend.
        why: String,
    },
}

/// What is known of a folder before it is used.
#[derive(Debug, Clone, Copy)]
struct Found {
    owner: u32,
    mode: u32,
    /// Empty, or the daemon has worked in it before.
    ours: bool,
}

/// What is done with it.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Use,
    Close,
    Refuse(String),
}

/// The decision about a folder, for the daemon's user `me`.
fn judge(found: Found, me: u32) -> Verdict {
    if found.owner != me {
        return Verdict::Refuse(format!("belongs to uid {}; chown it to uid {me}, or name another", found.owner));
    }
    match found.mode & OPEN_TO_OTHERS {
        0 => Verdict::Use,
        _ if found.ours => Verdict::Close,
        _ => Verdict::Refuse(
            "is open to other users and holds files that are not nexusd's; name a folder of its own, or chmod 700 it"
                .to_owned(),
        ),
    }
}

/// Makes `work_dir` and `state` beneath it, mode 0700. One that was open is closed where it holds nothing but what is
/// the daemon's, else refused: `/` and `/tmp` are nobody's work_dir.
///
/// # Errors
/// [`FolderError`].
pub fn work_dir(work_dir: &Path, state: &Path) -> Result<(), FolderError> {
    let io = |what| move |source| FolderError::Io { what, path: work_dir.to_owned(), source };
    make(work_dir)?;
    let used_before = fs::symlink_metadata(state).is_ok();
    let ours = used_before || fs::read_dir(work_dir).map_err(io("read the folder"))?.next().is_none();
    settle("work_dir", work_dir, ours)?;
    own(state)
}

/// Makes a folder that nobody but the daemon has any business in.
///
/// # Errors
/// [`FolderError`].
pub fn own(path: &Path) -> Result<(), FolderError> {
    make(path)?;
    settle("work_dir", path, true)
}

/// The folder of the proxies' sockets must be the daemon's own, 0700 and no link: whoever can put a socket there can be
/// the proxy.
///
/// # Errors
/// [`FolderError`].
pub fn sockets(path: &Path) -> Result<(), FolderError> {
    let key = "bwrap.proxy_socket_dir";
    make(path)?;
    let io = |source| FolderError::Io { what: "read the folder", path: path.to_owned(), source };
    if !fs::symlink_metadata(path).map_err(io)?.is_dir() {
        let why = "is a link or no directory; name a directory of nexusd's own".to_owned();
        return Err(FolderError::Unsafe { key, path: path.to_owned(), why });
    }
    settle(key, path, false)
}

fn make(path: &Path) -> Result<(), FolderError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    let made = made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            io::Error::new(error.kind(), "a file is in the way: name a folder")
        }
        _ => error,
    });
    made.map_err(|source| FolderError::Io { what: "make the folder", path: path.to_owned(), source })
}

fn settle(key: &'static str, path: &Path, ours: bool) -> Result<(), FolderError> {
    let io = |what| move |source| FolderError::Io { what, path: path.to_owned(), source };
    let flags = OFlags::DIRECTORY.bits().cast_signed();
    // What is judged is what is closed: by descriptor.
    let folder = fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io("open the folder"))?;
    let meta = folder.metadata().map_err(io("read the folder"))?;
    match judge(Found { owner: meta.uid(), mode: meta.mode(), ours }, sys::user::effective_uid()) {
        Verdict::Use => Ok(()),
        Verdict::Close => {
            tracing::info!(folder = %path.display(), "was open to other users: closed to them (mode 0700)");
            fchmod(folder.as_fd(), Mode::RWXU).map_err(|errno| io("close to others the folder")(errno.into()))
        }
        Verdict::Refuse(why) => Err(FolderError::Unsafe { key, path: path.to_owned(), why }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_folder_is_used_closed_or_refused() {
        let found = |owner, mode, ours| Found { owner, mode, ours };
        assert_eq!(judge(found(7, 0o40700, false), 7), Verdict::Use);
        assert_eq!(judge(found(7, 0o40755, true), 7), Verdict::Close);
        assert_eq!(judge(found(7, 0o40710, true), 7), Verdict::Close);
        assert_eq!(judge(found(7, 0o41777, true), 7), Verdict::Close);
        assert!(matches!(judge(found(7, 0o40755, false), 7), Verdict::Refuse(why) if why.contains("chmod 700")));
        assert!(matches!(judge(found(8, 0o40700, true), 7), Verdict::Refuse(why) if why.contains("belongs to uid 8")));
        assert!(matches!(judge(found(8, 0o40700, true), 0), Verdict::Refuse(_)));
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_in_the_way_is_said_to_be_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for folder in [file.path().to_owned(), file.path().join("below")] {
            let error = work_dir(&folder, &folder.join(".nexus")).unwrap_err().to_string();
            assert!(error.contains("a file is in the way"), "{error}");
        }
    }

    #[test]
    fn a_fresh_work_dir_and_one_from_before_are_closed() {
        let dir = tempfile::tempdir().unwrap();
        let fresh = dir.path().join("a/fresh");
        work_dir(&fresh, &fresh.join(".nexus")).unwrap();
        assert_eq!((mode(&fresh), mode(&fresh.join(".nexus"))), (0o700, 0o700));
        let before = dir.path().join("before");
        fs::create_dir_all(before.join(".nexus")).unwrap();
        fs::create_dir(before.join("facility")).unwrap();
        for folder in [before.clone(), before.join(".nexus")] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        work_dir(&before, &before.join(".nexus")).unwrap();
        assert_eq!((mode(&before), mode(&before.join(".nexus"))), (0o700, 0o700));
    }

    #[test]
    fn somebody_else_s_folder_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("shared");
        fs::create_dir_all(folder.join("documents")).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let error = work_dir(&folder, &folder.join(".nexus")).unwrap_err().to_string();
        assert!(error.contains("holds files that are not nexusd's"), "{error}");
        assert_eq!(mode(&folder), 0o755);
        assert!(!folder.join(".nexus").exists());
    }

    #[test]
    fn a_socket_folder_is_never_a_link_nor_open() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real");
        sockets(&real).unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        assert!(sockets(&dir.path().join("link")).is_err());
        fs::set_permissions(&real, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(sockets(&real).is_err());
    }
}
