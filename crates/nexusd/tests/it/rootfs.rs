//! The pinned root: fetched over a real network, one fault of it a test; by the real program; used by real sandboxes.

mod command;
mod daemon;
mod doctor;
mod fetch;
mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use nexusd::client::ProxyChoice;
use nexusd::config::RootfsKeys;
use nexusd::rootfs::{FetchPace, Progress, RootfsError, Wanted, ensure};
use sandbox::rootfs::ArchiveDigest;
use testkit::archive::{listing, sha256};
use testkit::{TarBytes, WorkDir};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A small root whose archive does not pack well: half a megabyte on the way.
fn root() -> TarBytes {
    let mut state = 1_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    })
    .take(500_000)
    .collect();
    TarBytes::new().dir("usr", 0o755).file("usr/noise", 0o644, &noise).link("bin", "usr/bin")
}

fn packed() -> Vec<u8> {
    root().tar_xz()
}

/// What the store holds once the root is there.
fn assert_installed(root: &Path) {
    assert_eq!(listing(root), ["bin -> usr/bin", "usr/ 755", "usr/noise 644 500000"]);
}

struct Bed {
    dir: WorkDir,
}

impl Bed {
    fn new() -> Self {
        Self { dir: WorkDir::new() }
    }

    fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// What is wanted, with little patience.
    fn wanted(&self, url: &str, archive: &[u8]) -> Wanted {
        Wanted {
            cache_dir: self.cache(),
            url: url.to_owned(),
            digest: ArchiveDigest(sha256(archive)),
            keys: RootfsKeys { url: "rootfs.amd64.url", sha256: "rootfs.amd64.sha256" },
            proxy: ProxyChoice::Direct,
            min_free_bytes: 0,
            pace: FetchPace {
                connect: Duration::from_secs(5),
                stall: Duration::from_millis(400),
                pauses: vec![Duration::from_millis(20); 2],
            },
        }
    }

    async fn ensure(&self, wanted: &Wanted) -> Result<PathBuf, RootfsError> {
        let (sender, _receiver) = watch::channel(Progress::default());
        ensure(wanted, sender, &CancellationToken::new()).await
    }

    /// The names in the store but for the lock.
    fn left(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.cache())
            .map(|entries| entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
            .unwrap_or_default();
        names.retain(|name| name != "lock");
        names.sort();
        names
    }

    /// Ensures what must fail; its words.
    async fn refused(&self, wanted: &Wanted) -> String {
        self.ensure(wanted).await.expect_err("it was taken").to_string()
    }
}
