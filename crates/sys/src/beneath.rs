//! Opening files beneath a directory that somebody hostile may write to.
//!
//! Promises: no path, link or race leads out of the directory; the kernel resolves each path in one step
//! (openat2(2), RESOLVE_BENEATH; elsewhere it is walked step by step), nothing is decided by text. Links that stay inside are followed by [`Beneath::dir`]
//! and [`Beneath::read`], and by nothing that writes.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawMode};
use rustix::io::Errno;

#[cfg(any(test, not(target_os = "linux")))]
mod walk;

/// How often a resolution is tried again that a concurrent rename made uncertain (EAGAIN, openat2(2)).
const RACE_RETRIES: usize = 32;

/// How something is opened only to see that it is there.
#[cfg(target_os = "linux")]
const LOOK: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const LOOK: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK);

/// What becomes of the links in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Links {
    /// They are followed as long as they stay beneath.
    Followed,
    /// None may be there.
    Refused,
}

/// A directory, held by descriptor.
#[derive(Debug)]
pub struct Beneath {
    dir: OwnedFd,
}

/// Why a path beneath a directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BeneathError {
    /// It leads out of the directory, through `..`, an absolute path or a link.
    #[error("{path} leads out of its directory")]
    LeadsOut {
        /// The path as given.
        path: PathBuf,
    },
    /// The kernel refused it.
    #[error("{path}: {source}")]
    Refused {
        /// The path as given.
        path: PathBuf,
        /// Its reason.
        source: io::Error,
    },
}

impl BeneathError {
    /// The kind of the error, for callers that treat a missing file apart.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::LeadsOut { .. } => io::ErrorKind::PermissionDenied,
            Self::Refused { source, .. } => source.kind(),
        }
    }
}

impl Beneath {
    /// Opens the directory itself. Its own path is trusted: links in it are followed.
    ///
    /// # Errors
    /// It is missing, no directory, or may not be read.
    pub fn open(path: &Path) -> io::Result<Self> {
        let dir = rustix::fs::openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { dir })
    }

    /// The directory, for the `*at` calls.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Opens a directory beneath, links inside followed.
    ///
    /// # Errors
    /// It is missing, no directory, or the path leads out.
    pub fn dir(&self, path: &Path) -> Result<OwnedFd, BeneathError> {
        self.resolve(path, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty(), Links::Followed)
    }

    /// Opens a directory beneath as a [`Beneath`] of its own.
    ///
    /// # Errors
    /// As [`Beneath::dir`].
    pub fn enter(&self, path: &Path) -> Result<Self, BeneathError> {
        self.dir(path).map(|dir| Self { dir })
    }

    /// Makes sure that a path exists and that no part of it is a link.
    ///
    /// # Errors
    /// It is missing, or a part of it is a link.
    pub fn plain(&self, path: &Path) -> Result<(), BeneathError> {
        self.resolve(path, LOOK, Mode::empty(), Links::Refused).map(drop)
    }

    /// Opens a regular file for reading, links inside followed. A pipe or device is refused, and never waited for.
    ///
    /// # Errors
    /// It is missing, no regular file, or the path leads out.
    pub fn read(&self, path: &Path) -> Result<File, BeneathError> {
        let fd =
            self.resolve(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty(), Links::Followed)?;
        self.regular(path, fd)
    }

    /// Creates a file that must not exist.
    ///
    /// # Errors
    /// It exists, its directory is missing, or a part of the path is a link.
    pub fn create_new(&self, path: &Path, mode: u32) -> Result<File, BeneathError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        self.resolve(path, flags, permissions(mode), Links::Refused).map(File::from)
    }

    /// Opens a regular file for appending, and creates it when missing. A file with several links is refused: the other
    /// name may lie outside.
    ///
    /// # Errors
    /// A part of the path is a link, or the file is not regular or has several links.
    pub fn append(&self, path: &Path, mode: u32) -> Result<File, BeneathError> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = self.resolve(path, flags, permissions(mode), Links::Refused)?;
        let file = self.regular(path, fd)?;
        let links = rustix::fs::fstat(&file).map_err(|errno| refused(path, errno))?.st_nlink;
        if links > 1 { Err(refused(path, Errno::MLINK)) } else { Ok(file) }
    }

    /// Makes a directory and those above it; one that exists is left as it is.
    ///
    /// # Errors
    /// A part of the path is a link or no directory.
    pub fn make_dirs(&self, path: &Path, mode: u32) -> Result<Self, BeneathError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW;
        let mut here = Self { dir: self.resolve(Path::new("."), flags, Mode::empty(), Links::Refused)? };
        for part in path.components() {
            let std::path::Component::Normal(name) = part else {
                if part == std::path::Component::CurDir {
                    continue;
                }
                return Err(BeneathError::LeadsOut { path: path.to_owned() });
            };
            match rustix::fs::mkdirat(&here.dir, name, permissions(mode)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(refused(path, errno)),
            }
            here = Self { dir: here.resolve(Path::new(name), flags, Mode::empty(), Links::Refused)? };
        }
        Ok(here)
    }

    /// Opens a directory beneath as a [`Beneath`] of its own, no link followed.
    ///
    /// # Errors
    /// It is missing or no directory, or a part of the path is a link.
    pub fn enter_plain(&self, path: &Path) -> Result<Self, BeneathError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW;
        self.resolve(path, flags, Mode::empty(), Links::Refused).map(|dir| Self { dir })
    }

    /// Makes one directory, with exactly this mode whatever the umask is; one that exists is opened as it is.
    ///
    /// # Errors
    /// The name is not one plain name, or belongs to something else.
    pub fn make_dir(&self, name: &OsStr, mode: u32) -> Result<Self, BeneathError> {
        let path = self.one_name(name)?;
        let made = match rustix::fs::mkdirat(&self.dir, path, permissions(mode)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(refused(path, errno)),
        };
        let dir = self.enter_plain(path)?;
        if made {
            dir.set_mode(mode)?;
        }
        Ok(dir)
    }

    /// Gives the directory itself this mode.
    ///
    /// # Errors
    /// It is not the caller's.
    pub fn set_mode(&self, mode: u32) -> Result<(), BeneathError> {
        rustix::fs::fchmod(&self.dir, permissions(mode)).map_err(|errno| refused(Path::new("."), errno))
    }

    /// Makes a symbolic link in this directory; what it says is not looked at.
    ///
    /// # Errors
    /// The name is not one plain name, or is taken.
    pub fn make_link(&self, name: &OsStr, target: &Path) -> Result<(), BeneathError> {
        let path = self.one_name(name)?;
        rustix::fs::symlinkat(target, &self.dir, path).map_err(|errno| refused(path, errno))
    }

    /// Makes a further name in this directory for a regular file of `from`'s. A link gets none: what it says may lead
    /// elsewhere from here. Only for directories that nobody else writes to: the file is looked at first.
    ///
    /// # Errors
    /// A name is not one plain name, the file is missing or not regular (EINVAL), or the new name is taken.
    pub fn make_hard_link(&self, name: &OsStr, from: &Self, file: &OsStr) -> Result<(), BeneathError> {
        let (path, file) = (self.one_name(name)?, self.one_name(file)?);
        let stat = rustix::fs::statat(&from.dir, file, AtFlags::SYMLINK_NOFOLLOW);
        let mode = stat.map_err(|errno| refused(file, errno))?.st_mode;
        if !rustix::fs::FileType::from_raw_mode(mode).is_file() {
            return Err(refused(file, Errno::INVAL));
        }
        rustix::fs::linkat(&from.dir, file, &self.dir, path, AtFlags::empty()).map_err(|errno| refused(path, errno))
    }

    /// Follows a path to its end, links inside followed, and opens nothing: only whether it leads out.
    ///
    /// # Errors
    /// It leads out, or to nothing.
    pub fn follow(&self, path: &Path) -> Result<(), BeneathError> {
        self.resolve(path, LOOK, Mode::empty(), Links::Followed).map(drop)
    }

    /// A name without any separator, and neither `.` nor `..`: what the `*at` calls take without leaving the directory.
    fn one_name<'n>(&self, name: &'n OsStr) -> Result<&'n Path, BeneathError> {
        let path = Path::new(name);
        let mut parts = path.components();
        match (parts.next(), parts.next()) {
            (Some(std::path::Component::Normal(only)), None) if only == name => Ok(path),
            _ => Err(BeneathError::LeadsOut { path: path.to_owned() }),
        }
    }

    /// Removes a file. The link itself is removed where the last part is one.
    ///
    /// # Errors
    /// It is missing or a directory, or the path leads out.
    pub fn remove_file(&self, path: &Path) -> Result<(), BeneathError> {
        let name = path.file_name().ok_or_else(|| BeneathError::LeadsOut { path: path.to_owned() })?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = self.resolve(parent, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty(), Links::Refused)?;
        rustix::fs::unlinkat(&parent, name, AtFlags::empty()).map_err(|errno| refused(path, errno))
    }

    /// Opens a path, once more while concurrent renames make the kernel unsure.
    fn resolve(&self, path: &Path, flags: OFlags, mode: Mode, links: Links) -> Result<OwnedFd, BeneathError> {
        for _ in 0..RACE_RETRIES {
            match open_beneath(self.dir.as_fd(), path, flags | OFlags::CLOEXEC, mode, links) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::XDEV) => return Err(BeneathError::LeadsOut { path: path.to_owned() }),
                other => return other.map_err(|errno| refused(path, errno)),
            }
        }
        Err(refused(path, Errno::AGAIN))
    }

    /// Refuses what is no regular file.
    fn regular(&self, path: &Path, fd: OwnedFd) -> Result<File, BeneathError> {
        let kind =
            rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&fd).map_err(|errno| refused(path, errno))?.st_mode);
        if kind.is_file() { Ok(File::from(fd)) } else { Err(refused(path, Errno::INVAL)) }
    }
}

#[cfg(target_os = "linux")]
fn open_beneath(top: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode, links: Links) -> Result<OwnedFd, Errno> {
    use rustix::fs::{ResolveFlags, openat2};
    let more = if links == Links::Refused { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
    openat2(top, path, flags, mode, ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | more)
}

#[cfg(not(target_os = "linux"))]
use walk::open as open_beneath;

/// The permissions of `mode`, whose type the systems do not agree on.
#[allow(
    clippy::cast_possible_truncation,
    clippy::unnecessary_cast,
    reason = "the bits of permissions fit every system's type"
)]
fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode((mode & 0o7777) as RawMode)
}

fn refused(path: &Path, errno: Errno) -> BeneathError {
    BeneathError::Refused { path: path.to_owned(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        std::fs::create_dir_all(inside.join("sub")).unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        std::fs::write(inside.join("sub/file"), "plain").unwrap();
        symlink("sub/file", inside.join("good")).unwrap();
        symlink("../secret", inside.join("out")).unwrap();
        symlink(dir.path().join("secret"), inside.join("absolute")).unwrap();
        symlink("..", inside.join("up")).unwrap();
        symlink("/proc/self/root", inside.join("magic")).unwrap();
        std::fs::hard_link(dir.path().join("secret"), inside.join("hard")).unwrap();
        dir
    }

    #[test]
    fn links_inside_are_followed_and_links_outwards_are_not() {
        let dir = tree();
        let beneath = Beneath::open(&dir.path().join("in")).unwrap();
        let mut text = String::new();
        beneath.read(Path::new("good")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "plain");
        for path in ["out", "absolute", "../secret", "up/secret", "/etc/passwd", "magic/etc/passwd", "sub/../../secret"]
        {
            assert!(matches!(beneath.read(Path::new(path)), Err(BeneathError::LeadsOut { .. })), "{path}");
        }
        assert!(beneath.dir(Path::new("up")).is_err());
        assert!(beneath.dir(Path::new("sub")).is_ok());
        assert_eq!(beneath.read(Path::new("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn writing_follows_no_link() {
        let dir = tree();
        let beneath = Beneath::open(&dir.path().join("in")).unwrap();
        for path in ["good", "out", "absolute", "up/secret", "hard"] {
            assert!(beneath.append(Path::new(path), 0o600).is_err(), "{path}");
            assert!(beneath.create_new(Path::new(path), 0o600).is_err(), "{path}");
        }
        beneath.append(Path::new("sub/file"), 0o600).unwrap().write_all(b"+").unwrap();
        beneath.make_dirs(Path::new("a/b"), 0o700).unwrap().create_new(Path::new("c"), 0o600).unwrap();
        assert!(beneath.make_dirs(Path::new("up/x"), 0o700).is_err());
        assert!(beneath.make_dirs(Path::new("../x"), 0o700).is_err());
        assert_eq!(std::fs::read_to_string(dir.path().join("in/sub/file")).unwrap(), "plain+");
        assert_eq!(std::fs::read_to_string(dir.path().join("secret")).unwrap(), "secret");
        beneath.remove_file(Path::new("out")).unwrap();
        assert!(dir.path().join("secret").exists());
    }

    #[test]
    fn names_are_made_in_the_directory_itself() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tree();
        let beneath = Beneath::open(&dir.path().join("in")).unwrap();
        let name = OsStr::new;
        let new = beneath.make_dir(name("new"), 0o775).unwrap();
        assert_eq!(std::fs::metadata(dir.path().join("in/new")).unwrap().permissions().mode() & 0o7777, 0o775);
        beneath.make_dir(name("new"), 0o700).unwrap();
        new.make_link(name("link"), Path::new("../../secret")).unwrap();
        let sub = beneath.enter_plain(Path::new("sub")).unwrap();
        new.make_hard_link(name("hard"), &sub, name("file")).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("in/new/hard")).unwrap(), "plain");
        assert!(matches!(beneath.follow(Path::new("new/link")), Err(BeneathError::LeadsOut { .. })));
        beneath.follow(Path::new("good")).unwrap();
        for wrong in ["..", ".", "", "a/b", "/etc", "new/", "../secret"] {
            assert!(beneath.make_dir(name(wrong), 0o755).is_err(), "{wrong}");
            assert!(beneath.make_link(name(wrong), Path::new("x")).is_err(), "{wrong}");
            assert!(beneath.make_hard_link(name(wrong), &sub, name("file")).is_err(), "{wrong}");
            assert!(beneath.make_hard_link(name("free"), &sub, name(wrong)).is_err(), "{wrong}");
        }
        let moved = beneath.make_hard_link(name("moved"), &new, name("link"));
        assert_eq!(moved.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        for taken in ["up", "good", "hard"] {
            assert!(beneath.make_dir(name(taken), 0o755).is_err(), "{taken}");
            assert!(beneath.make_link(name(taken), Path::new("x")).is_err(), "{taken}");
            assert!(beneath.enter_plain(Path::new(taken)).is_err(), "{taken}");
        }
    }

    #[test]
    fn a_pipe_is_neither_read_nor_waited_for() {
        let dir = tree();
        let path = dir.path().join("in/pipe");
        rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let beneath = Beneath::open(&dir.path().join("in")).unwrap();
        assert!(beneath.read(Path::new("pipe")).is_err());
        assert!(beneath.append(Path::new("pipe"), 0o600).is_err());
    }
}
