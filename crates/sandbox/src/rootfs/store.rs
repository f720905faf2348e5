//! The folder that roots are kept in.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sys::beneath::Beneath;
use sys::lock::LockFile;

use super::archive::{self, ArchivePart, PartError, VerifiedArchive};
use super::unpack::{Bounds, UnpackError, Unpacked, unpack};
use super::{ArchiveDigest, Watch};

/// The marker of a whole tree.
const MARKER: &str = "made-of";

/// The tree itself, beside the marker.
const TREE: &str = "root";

/// Longest marker that is read.
const MAX_MARKER_BYTES: u64 = 1024;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system's answer.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else could put a root there.
    #[error("{path} {why}", path = path.display())]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// What is wrong, and the mend.
        why: String,
    },
    /// A part of an archive.
    #[error(transparent)]
    Part(#[from] PartError),
}

/// Why a root was not installed. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The archive.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// The folder.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A folder of roots.
#[derive(Clone, Debug)]
pub struct RootStore {
    dir: PathBuf,
}

/// The same, with the right to change it.
#[derive(Debug)]
pub struct LockedStore {
    dir: PathBuf,
    _lock: LockFile,
}

impl RootStore {
    /// The store in this folder, which need not exist yet.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The root of this archive, where it is whole; nothing is changed, and no lock is needed.
    ///
    /// # Errors
    /// The folder cannot be read, or others may write to it.
    pub fn find(&self, digest: &ArchiveDigest) -> Result<Option<PathBuf>, StoreError> {
        match fs::metadata(&self.dir) {
            Ok(meta) => check_owner(&self.dir, &meta)?,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(failed("look at", &self.dir)(error)),
        }
        find(&self.dir, digest)
    }

    /// Takes the right to change the store, and makes its folder where there is none; `None` while another holds it.
    ///
    /// # Errors
    /// The folder cannot be made or used.
    pub fn lock(&self) -> Result<Option<LockedStore>, StoreError> {
        // Nothing in it is secret, and a daemon of another user may use what root has fetched.
        DirBuilder::new().recursive(true).mode(0o755).create(&self.dir).map_err(failed("make", &self.dir))?;
        let meta = fs::metadata(&self.dir).map_err(failed("look at", &self.dir))?;
        check_owner(&self.dir, &meta)?;
        let path = self.dir.join("lock");
        let lock = LockFile::try_acquire(&path).map_err(failed("lock", &path))?;
        Ok(lock.map(|lock| LockedStore { dir: self.dir.clone(), _lock: lock }))
    }

    /// The process that holds the lock, as it says itself; for people.
    #[must_use]
    pub fn holder(&self) -> Option<u32> {
        let mut text = String::new();
        File::open(self.dir.join("lock")).ok()?.take(32).read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }
}

impl LockedStore {
    /// The root of this archive, where it is whole.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn find(&self, digest: &ArchiveDigest) -> Result<Option<PathBuf>, StoreError> {
        find(&self.dir, digest)
    }

    /// Removes what interrupted processes have left: unfinished trees, and parts of other archives than this one. Whole
    /// roots of other archives stay, for a daemon may be using them.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn sweep(&self, keep: &ArchiveDigest) -> Result<(), StoreError> {
        for entry in fs::read_dir(&self.dir).map_err(failed("list", &self.dir))? {
            let entry = entry.map_err(failed("list", &self.dir))?;
            let is_left = entry.file_name().to_str().is_some_and(|name| is_leftover(name, keep));
            if is_left {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// What has come of this archive so far.
    ///
    /// # Errors
    /// The file cannot be opened or made.
    pub fn part(&self, digest: ArchiveDigest) -> Result<ArchivePart, StoreError> {
        Ok(ArchivePart::open(&self.dir, digest)?)
    }

    /// Bytes that may still be written where the store is.
    ///
    /// # Errors
    /// The file system does not say.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        let space = sys::disk::space(&self.dir).map_err(failed("ask for the free space of", &self.dir))?;
        Ok(space.free)
    }

    /// Unpacks the archive, and gives the root's place once the whole tree is on disk. The archive is removed, also
    /// where it is refused; after an interruption alone it stays for the next try.
    ///
    /// # Errors
    /// [`InstallError`]; nothing of the tree is left.
    pub fn install(
        &self,
        archive: VerifiedArchive,
        bounds: Bounds,
        watch: &mut Watch<'_>,
    ) -> Result<PathBuf, InstallError> {
        let digest = archive.digest;
        let new = self.dir.join(format!("{digest}.new"));
        remove(&new)?;
        let made = self.make(&new, archive, bounds, watch).and_then(|()| self.put_in_place(&new, &digest));
        if made.is_err() {
            remove(&new)?;
        }
        if !matches!(made, Err(InstallError::Unpack(UnpackError::Canceled))) {
            archive::discard(&self.dir, &digest).map_err(StoreError::from)?;
        }
        made
    }

    fn make(
        &self,
        new: &Path,
        archive: VerifiedArchive,
        bounds: Bounds,
        watch: &mut Watch<'_>,
    ) -> Result<(), InstallError> {
        let tree = new.join(TREE);
        let make = |path: &Path| {
            fs::create_dir(path).map_err(failed("make", path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed("open", path))
        };
        make(new)?;
        make(&tree)?;
        let beneath = Beneath::open(&tree).map_err(failed("open", &tree))?;
        let mut file = archive.file;
        io::Seek::rewind(&mut file).map_err(failed("read", &self.dir))?;
        let unpacked = unpack(file, &beneath, bounds, watch)?;
        let marker = new.join(MARKER);
        fs::write(&marker, marker_text(&archive.digest, unpacked)).map_err(failed("write", &marker))?;
        fs::set_permissions(&marker, fs::Permissions::from_mode(0o644)).map_err(failed("open", &marker))?;
        // A tree is either whole after a power cut or not there: its files reach the disk before its name does.
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(beneath.fd()).map_err(|errno| failed("write out", &tree)(errno.into()))?;
        Ok(())
    }

    fn put_in_place(&self, new: &Path, digest: &ArchiveDigest) -> Result<PathBuf, InstallError> {
        let place = self.dir.join(digest.to_string());
        // Something that is not whole, or it would have been found.
        remove(&place)?;
        fs::rename(new, &place).map_err(failed("rename", new))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed("write out", &self.dir))?;
        Ok(place.join(TREE))
    }
}

fn find(dir: &Path, digest: &ArchiveDigest) -> Result<Option<PathBuf>, StoreError> {
    let place = dir.join(digest.to_string());
    let store = match Beneath::open(&place) {
        Ok(store) => store,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(failed("open", &place)(error)),
    };
    let mut text = String::new();
    let read = store.read(Path::new(MARKER)).and_then(|file| {
        let read = file.take(MAX_MARKER_BYTES).read_to_string(&mut text);
        read.map_err(|source| sys::beneath::BeneathError::Refused { path: MARKER.into(), source })
    });
    match read {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(failed("read the marker in", &place)(io::ErrorKind::PermissionDenied.into()))
        }
        // A tree without a marker was never whole.
        Err(_) => Ok(None),
        Ok(_) if !is_marker_of(&text, digest) => Ok(None),
        Ok(_) => Ok(store.enter_plain(Path::new(TREE)).is_ok().then(|| place.join(TREE))),
    }
}

fn marker_text(digest: &ArchiveDigest, unpacked: Unpacked) -> String {
    format!("sha256 {digest}\nentries {}\nbytes {}\n", unpacked.entries, unpacked.bytes)
}

fn is_marker_of(text: &str, digest: &ArchiveDigest) -> bool {
    text.lines().next().and_then(|line| line.strip_prefix("sha256 ")) == Some(&digest.to_string())
        && text.ends_with('\n')
}

/// Whether a name in the folder is what an interrupted process has left.
fn is_leftover(name: &str, keep: &ArchiveDigest) -> bool {
    let Some((digest, ending)) = name.split_once('.') else { return false };
    let ours = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    ours && match ending {
        "new" => true,
        "part" | "from" => digest != keep.to_string(),
        _ => false,
    }
}

/// Whoever may write here may say what the sandboxes' programs are.
fn check_owner(dir: &Path, meta: &fs::Metadata) -> Result<(), StoreError> {
    let wrong = |why: String| StoreError::Unsafe { path: dir.to_owned(), why };
    let (owner, own) = (meta.uid(), sys::user::effective_uid());
    if owner != own && owner != 0 {
        return Err(wrong(format!(
            "belongs to uid {owner}: chown it to uid {own}, or set rootfs.cache_dir to another"
        )));
    }
    if meta.permissions().mode() & 0o022 != 0 {
        return Err(wrong("may be written by others: chmod go-w it".to_owned()));
    }
    Ok(())
}

/// Removes a file or a whole tree, where there is one; links in it are removed, never followed.
fn remove(path: &Path) -> Result<(), StoreError> {
    let gone = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => Err(error),
    };
    gone.map_err(failed("remove", path))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Io { what, path, source }
}
