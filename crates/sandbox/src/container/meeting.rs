//! Where the helper of a container meets the daemon, for runtimes whose client hands no descriptor through.
//!
//! ```text
//!  <drivers' folder>/meet-7 (0700, the facility's uid) ── mounted into this one container ──► /.nexus
//!        socket ◄── connect ── helper          then: the socket is gone, nobody listens any more
//!          └── control socket, stdout, stderr (, stdin) ──► helper
//! ```
//! Nobody else comes there: the drivers' folder is closed to everybody, the socket exists until the first connection, when
//! nothing but the helper has run in the container, and whoever connects must have the facility's uid.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use crate::drivers::Owner;

/// Where the folder is inside, and the socket in it.
pub(super) const FOLDER: &str = "/.nexus";
pub(super) const SOCKET: &str = "/.nexus/socket";

/// Name of the socket in its folder.
const NAME: &str = "socket";

/// A place to meet, until this is dropped.
#[derive(Debug)]
pub(crate) struct Meeting {
    folder: PathBuf,
    listener: UnixListener,
    uid: u32,
    /// What the helper gets, in the order of `guest::fd`, the input last.
    descriptors: Vec<OwnedFd>,
}

impl Meeting {
    /// Opens it in `parent`, which is closed to others.
    pub(super) fn open(parent: &Path, name: &str, owner: Owner, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let folder = parent.join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
        match listen(&folder, owner) {
            Ok(listener) => Ok(Self { folder, listener, uid: owner.uid, descriptors }),
            Err(error) => {
                remove(&folder);
                Err(error)
            }
        }
    }

    /// What is mounted at [`FOLDER`].
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits for the helper, and hands over what it needs. Whoever comes first is the only one.
    ///
    /// # Errors
    /// Somebody else came, or the helper is gone already.
    pub(crate) async fn hand_over(self) -> io::Result<()> {
        let listener = tokio::net::UnixListener::from_std(self.listener.try_clone()?)?;
        let (connection, _) = listener.accept().await?;
        drop(listener);
        let peer = sys::fdpass::peer_uid(connection.as_fd())?;
        if peer != self.uid {
            return Err(io::Error::other(format!("uid {peer} came to the meeting of the container, not {}", self.uid)));
        }
        let descriptors: Vec<_> = self.descriptors.iter().map(|fd| fd.as_fd()).collect();
        sys::fdpass::send(connection.as_fd(), b"\n", &descriptors)
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// By way of the open folder: its own path may be longer than a socket's can be (unix(7)).
fn listen(folder: &Path, owner: Owner) -> io::Result<UnixListener> {
    let open = rustix::fs::open(folder, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open))).join(NAME);
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    if owner.uid != sys::user::effective_uid() {
        let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
        rustix::fs::chownat(&open, NAME, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::fchown(&open, uid, gid)?;
    }
    Ok(listener)
}

fn remove(folder: &Path) {
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(%error, folder = %folder.display(), "the folder of a container's socket stays behind");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn open(uid: u32, dir: &Path) -> (Meeting, std::io::PipeReader) {
        let (read, write) = std::io::pipe().unwrap();
        let me = Owner { uid: sys::user::effective_uid(), gid: sys::user::effective_gid() };
        let mut meeting = Meeting::open(dir, "meet-0", me, vec![write.into()]).unwrap();
        meeting.uid = uid;
        (meeting, read)
    }

    #[tokio::test]
    async fn the_first_who_comes_gets_everything_and_nobody_else_finds_the_place() {
        let dir = tempfile::tempdir().unwrap();
        // Longer than the path of a socket may be.
        let deep = dir.path().join("x".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let (meeting, mut read) = open(sys::user::effective_uid(), &deep);
        let folder = meeting.folder().to_owned();
        assert_eq!(std::fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::metadata(folder.join(NAME)).unwrap().mode() & 0o777, 0o600);
        let handle = std::fs::File::open(&folder).unwrap();
        let short = format!("/proc/self/fd/{}/{NAME}", std::os::fd::AsRawFd::as_raw_fd(&handle));
        let (first, second) = (UnixStream::connect(&short).unwrap(), UnixStream::connect(&short).unwrap());
        meeting.hand_over().await.unwrap();
        assert!(!folder.exists());
        let mut fds = Vec::new();
        assert_eq!(sys::fdpass::receive(&first, &mut [0; 8], &mut fds).unwrap(), 1);
        std::fs::File::from(fds.pop().unwrap()).write_all(b"hello").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut read, &mut text).unwrap();
        assert_eq!(text, "hello", "and the daemon keeps no end of it");
        let nothing = sys::fdpass::receive(&second, &mut [0; 8], &mut fds);
        assert!(!matches!(nothing, Ok(count) if count > 0) && fds.is_empty(), "{nothing:?}");
    }

    #[tokio::test]
    async fn another_user_gets_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (meeting, _read) = open(sys::user::effective_uid().wrapping_add(1), dir.path());
        let stranger = UnixStream::connect(meeting.folder().join(NAME)).unwrap();
        assert!(meeting.hand_over().await.unwrap_err().to_string().contains("came to the meeting"));
        let mut fds = Vec::new();
        let nothing = sys::fdpass::receive(&stranger, &mut [0; 8], &mut fds);
        assert!(!matches!(nothing, Ok(count) if count > 0) && fds.is_empty(), "{nothing:?}");
    }
}
