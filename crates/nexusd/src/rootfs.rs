//! `rootfs.auto`: the pinned root directory of sandboxes, fetched once, verified, unpacked and kept.
//!
//! ```text
//! find ─▶ there: used at once, no network
//!   └▶ lock (or wait for who holds it) ─▶ find again ─▶ fetch, with resume ─▶ verify ─▶ install
//! ```
//!
//! Promises: an archive whose digest is not the configured one is never unpacked, and nothing of it is kept; what has come
//! before an interruption is used by the next try; every wait has a bound; nothing is ever used in the pinned root's place.
//!
//! Leaves to others: hashing, unpacking and the folder (`sandbox::rootfs`), and what to do about an error: `nexusd run` and
//! `nexusd rootfs ensure` end with it, the daemon goes on without the profile and tries again.

pub mod command;
mod fetch;
pub mod progress;
mod resume;

use std::path::PathBuf;
use std::time::Duration;

use conduits::{DriverKind, SandboxProfile};
use sandbox::RootSource;
use sandbox::rootfs::{
    ArchiveDigest, ArchivePart, Bounds, InstallError, LockedStore, RootStore, StoreError, UnpackError, VerifiedArchive,
    VerifyError, Watch,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::client::ProxyChoice;
use crate::config::{Config, RootfsKeys};

pub use fetch::{FetchError, FetchPace, reachable};
pub use progress::Progress;

/// How often another process that holds the lock is looked at.
const LOCK_LOOK: Duration = Duration::from_millis(200);

/// Everything together, the wait for another process included.
const ENSURE_WITHIN: Duration = Duration::from_secs(3 * 3600);

/// What is wanted, from where, and where to.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The folder of roots.
    pub cache_dir: PathBuf,
    /// Where the archive is.
    pub url: String,
    /// Which archive it is.
    pub digest: ArchiveDigest,
    /// The keys that say so.
    pub keys: RootfsKeys,
    /// The way out.
    pub proxy: ProxyChoice,
    /// Bytes that must stay free on the disk.
    pub min_free_bytes: u64,
    /// How patient the download is.
    pub pace: FetchPace,
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The archive did not come.
    #[error("cannot fetch the sandboxes' root from {url}: {why}; {mend}", url = .wanted.url, mend = .why.mend(.wanted.keys))]
    Fetch {
        /// What was wanted.
        wanted: Box<Wanted>,
        /// Why.
        why: FetchError,
    },
    /// Another archive came.
    #[error(
        "the file at {url} has sha256 {found}, and {sha256} says {expected} ({bytes} bytes): it has moved on, or is not \
         what it was. Nothing of it is kept. Set {url_key} and {sha256} to an archive that you trust",
        url = .wanted.url, sha256 = .wanted.keys.sha256, expected = .wanted.digest, url_key = .wanted.keys.url
    )]
    Digest {
        /// What was wanted.
        wanted: Box<Wanted>,
        /// What came.
        found: ArchiveDigest,
        /// How long it is.
        bytes: u64,
    },
    /// The right archive came, and is not fit to be a root.
    #[error(
        "the archive from {url} is not unpacked: {why}. Nothing of it is kept. Set {url_key} and {sha256} to another",
        url = .wanted.url, url_key = .wanted.keys.url, sha256 = .wanted.keys.sha256
    )]
    Archive {
        /// What was wanted.
        wanted: Box<Wanted>,
        /// Why.
        why: UnpackError,
    },
    /// The tree could not be written.
    #[error("cannot unpack the sandboxes' root into {cache_dir}: {why}", cache_dir = .wanted.cache_dir.display())]
    Write {
        /// What was wanted.
        wanted: Box<Wanted>,
        /// Why.
        why: UnpackError,
    },
    /// The disk is too small.
    #[error(
        "the sandboxes' root does not fit into {cache_dir}: {room} bytes are free there beyond min_free_bytes; free some \
         space, or set rootfs.cache_dir to another disk",
        cache_dir = .wanted.cache_dir.display()
    )]
    NoRoom {
        /// What was wanted.
        wanted: Box<Wanted>,
        /// What may be written.
        room: u64,
    },
    /// The folder.
    #[error("rootfs.cache_dir: {0}")]
    Store(#[from] StoreError),
    /// Another process holds the lock.
    #[error("another process{holder} has been fetching into {cache_dir} for too long", cache_dir = .cache_dir.display())]
    Busy {
        /// The folder.
        cache_dir: PathBuf,
        /// ` (pid N)`, where it is known.
        holder: String,
    },
    /// Somebody wanted no more.
    #[error("interrupted; what has come is kept, and the next try goes on from there")]
    Canceled,
    /// A thread that did the work is gone.
    #[error("the work ended without a result: {0}")]
    Lost(String),
}

impl RootfsError {
    /// Whether the same may work later without anybody's help, and without fetching everything again.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Fetch { why, .. } => why.may_pass(),
            Self::Digest { .. } | Self::Archive { .. } | Self::Write { .. } | Self::NoRoom { .. } => false,
            Self::Store(_) | Self::Busy { .. } | Self::Canceled | Self::Lost(_) => true,
        }
    }
}

impl Wanted {
    /// What this configuration wants for this machine.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let archive = config.rootfs_archive();
        Self {
            cache_dir: config.rootfs.cache_dir.clone(),
            url: archive.url.clone(),
            digest: ArchiveDigest(archive.sha256.0),
            keys: Config::rootfs_keys(),
            proxy: match &config.proxy_url {
                Some(proxy) => ProxyChoice::Url(proxy.expose().to_string()),
                None => ProxyChoice::Environment,
            },
            min_free_bytes: config.min_free_bytes,
            pace: FetchPace::default(),
        }
    }

    /// The root, where it is there: no network is asked, and nothing is changed.
    ///
    /// # Errors
    /// The folder cannot be read, or others may write to it.
    pub fn find(&self) -> Result<Option<PathBuf>, StoreError> {
        RootStore::new(self.cache_dir.clone()).find(&self.digest)
    }
}

/// Whether sandboxes of this configuration need the pinned root.
#[must_use]
pub fn is_wanted(config: &Config) -> bool {
    config.rootfs.auto
        && config.bwrap.rootfs_path.is_none()
        && config.supported_sandbox_profiles.contains(&SandboxProfile::Untrusted)
        && config.untrusted_driver == DriverKind::Bwrap
}

/// Where the sandboxes' root comes from, as things are now.
#[must_use]
pub fn source(config: &Config) -> RootSource {
    if let Some(path) = &config.bwrap.rootfs_path {
        return RootSource::Rootfs(path.clone());
    }
    if !is_wanted(config) {
        return RootSource::HostUsr;
    }
    match Wanted::of(config).find() {
        Ok(Some(root)) => RootSource::Rootfs(root),
        Ok(None) => RootSource::Awaited { reason: "rootfs.auto: the root has not been fetched yet".to_owned() },
        Err(error) => RootSource::Awaited { reason: RootfsError::from(error).to_string() },
    }
}

/// Makes sure that the root is there, and says where.
///
/// # Errors
/// [`RootfsError`]. After a wrong digest or a hostile archive nothing is left; after anything else, what has come.
pub async fn ensure(
    wanted: &Wanted,
    progress: watch::Sender<Progress>,
    cancel: &CancellationToken,
) -> Result<PathBuf, RootfsError> {
    // Work on threads ends soon also when nobody waits for it any more.
    let cancel = cancel.child_token();
    let _ended = cancel.clone().drop_guard();
    if let Some(root) = wanted.find()? {
        return Ok(root);
    }
    let job = Job { wanted, progress, cancel };
    let mut run = std::pin::pin!(job.run());
    tokio::select! {
        done = &mut run => done,
        () = tokio::time::sleep(ENSURE_WITHIN) => {
            // It ends soon, and cleans up after itself.
            job.cancel.cancel();
            match run.await {
                Err(RootfsError::Canceled) => Err(job.failed(FetchError::TooSlow)),
                other => other,
            }
        }
    }
}

struct Job<'w> {
    wanted: &'w Wanted,
    progress: watch::Sender<Progress>,
    cancel: CancellationToken,
}

impl Job<'_> {
    async fn run(&self) -> Result<PathBuf, RootfsError> {
        let digest = self.wanted.digest;
        let store = self.lock().await?;
        // Another process may have been faster.
        if let Some(root) = store.find(&digest)? {
            return Ok(root);
        }
        store.sweep(&digest)?;
        let archive = match self.fetch(&store).await {
            // Two halves that do not belong together are no proof against the file as it is now: once more, whole.
            Err(RootfsError::Digest { .. }) if self.progress.borrow().continued => {
                self.progress.send_modify(|progress| progress.continued = false);
                self.fetch(&store).await
            }
            other => other,
        }?;
        let total = archive.bytes();
        let whole = Bounds::default();
        let room = self.room(&store)?;
        let bounds = Bounds { bytes: whole.bytes.min(room), ..whole };
        let installed = self
            .blocking(
                move |watch| store.install(archive, bounds, watch),
                move |done| progress::Stage::Unpacking { done, total },
            )
            .await?;
        installed.map_err(|error| match error {
            InstallError::Unpack(why) if why.is_too_large() && room < whole.bytes => {
                RootfsError::NoRoom { wanted: Box::new(self.wanted.clone()), room }
            }
            other => self.not_installed(other),
        })
    }

    fn not_installed(&self, error: InstallError) -> RootfsError {
        let wanted = || Box::new(self.wanted.clone());
        match error {
            InstallError::Unpack(UnpackError::Canceled) => RootfsError::Canceled,
            InstallError::Unpack(why @ (UnpackError::Write { .. } | UnpackError::Read(_))) => {
                RootfsError::Write { wanted: wanted(), why }
            }
            InstallError::Unpack(why) => RootfsError::Archive { wanted: wanted(), why },
            InstallError::Store(error) => error.into(),
        }
    }

    async fn lock(&self) -> Result<LockedStore, RootfsError> {
        let store = RootStore::new(self.wanted.cache_dir.clone());
        let until = tokio::time::Instant::now() + ENSURE_WITHIN;
        loop {
            if let Some(locked) = store.lock()? {
                return Ok(locked);
            }
            let pid = store.holder();
            self.say(progress::Stage::Waiting { pid });
            if tokio::time::Instant::now() >= until {
                let holder = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                return Err(RootfsError::Busy { cache_dir: self.wanted.cache_dir.clone(), holder });
            }
            tokio::select! {
                () = self.cancel.cancelled() => return Err(RootfsError::Canceled),
                () = tokio::time::sleep(LOCK_LOOK) => {}
            }
        }
    }

    /// Fetches what is missing, and verifies the whole.
    async fn fetch(&self, store: &LockedStore) -> Result<VerifiedArchive, RootfsError> {
        let part = store.part(self.wanted.digest)?;
        let room = self.room(store)?;
        let part: ArchivePart = match fetch::fetch(self.wanted, room, part, &self.progress, &self.cancel).await {
            Ok(part) => part,
            Err(FetchError::Canceled) => return Err(RootfsError::Canceled),
            Err(FetchError::NoRoom) => return Err(RootfsError::NoRoom { wanted: Box::new(self.wanted.clone()), room }),
            Err(why) => {
                if matches!(why, FetchError::Part(_)) {
                    // A disk that is full is not helped by half an archive.
                    store.part(self.wanted.digest)?.discard().map_err(StoreError::from)?;
                }
                return Err(self.failed(why));
            }
        };
        let total = part.bytes();
        let verified = self
            .blocking(move |watch| part.verify(watch), move |done| progress::Stage::Verifying { done, total })
            .await?;
        verified.map_err(|error| match error {
            VerifyError::Mismatch { found, bytes, .. } => {
                RootfsError::Digest { wanted: Box::new(self.wanted.clone()), found, bytes }
            }
            VerifyError::Part(error) => StoreError::from(error).into(),
            VerifyError::Canceled => RootfsError::Canceled,
        })
    }

    /// What may be written, with `min_free_bytes` left over.
    fn room(&self, store: &LockedStore) -> Result<u64, RootfsError> {
        Ok(store.free_bytes()?.saturating_sub(self.wanted.min_free_bytes))
    }

    /// Runs work on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Watch<'_>) -> T + Send + 'static,
        stage: impl Fn(u64) -> progress::Stage + Send + 'static,
    ) -> Result<T, RootfsError> {
        let (cancel, progress) = (self.cancel.clone(), self.progress.clone());
        let run = move || {
            let mut tell = |done| progress.send_modify(|progress| progress.stage = stage(done));
            tell(0);
            work(&mut Watch { cancel: &cancel, progress: &mut tell })
        };
        tokio::task::spawn_blocking(run).await.map_err(|error| RootfsError::Lost(error.to_string()))
    }

    fn say(&self, stage: progress::Stage) {
        self.progress.send_modify(|progress| progress.stage = stage);
    }

    fn failed(&self, why: FetchError) -> RootfsError {
        RootfsError::Fetch { wanted: Box::new(self.wanted.clone()), why }
    }
}
