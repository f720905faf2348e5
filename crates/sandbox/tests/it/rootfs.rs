//! The store of roots: what a good archive comes to, and what becomes of each bad one.

mod attacks;
mod broken;
mod real;

use std::path::{Path, PathBuf};

use sandbox::rootfs::{
    ArchiveDigest, Bounds, InstallError, LockedStore, RootStore, UnpackError, VerifiedArchive, VerifyError, Watch,
};
use tempfile::TempDir;
use testkit::archive::{listing, sha256};
use testkit::{TarBytes, require};
use tokio_util::sync::CancellationToken;

/// A store in a folder of its own, with something beside it that no archive may touch.
struct Bed {
    dir: TempDir,
}

const SECRET: &str = "outside";

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("victim")).unwrap();
        std::fs::write(dir.path().join("victim/secret"), SECRET).unwrap();
        Self { dir }
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn store(&self) -> RootStore {
        RootStore::new(self.cache())
    }

    fn locked(&self) -> LockedStore {
        self.store().lock().unwrap().unwrap()
    }

    /// All the way from bytes to a root.
    fn install(&self, archive: &[u8]) -> Result<PathBuf, InstallError> {
        self.install_within(archive, Bounds::default())
    }

    fn install_within(&self, archive: &[u8], bounds: Bounds) -> Result<PathBuf, InstallError> {
        let store = self.locked();
        let verified = verified(&store, archive);
        watched(|watch| store.install(verified, bounds, watch))
    }

    /// Installs what must be refused; says how, after a look from outside: the victim is as it was, and nothing is left.
    #[track_caller]
    fn refused(&self, archive: &[u8]) -> String {
        let error = self.install(archive).expect_err("the archive was taken");
        self.untouched();
        assert_eq!(self.store().find(&digest(archive)).unwrap(), None);
        error.to_string()
    }

    #[track_caller]
    fn untouched(&self) {
        assert_eq!(listing(&self.dir.path().join("victim")), ["secret 644 7"]);
        assert_eq!(std::fs::read_to_string(self.dir.path().join("victim/secret")).unwrap(), SECRET);
        assert_eq!(listing(&self.cache()), [lock_line(&self.cache())]);
        let beside: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(beside.len(), 2, "{beside:?}");
    }
}

/// The lock's line in a listing: it holds the pid of whoever had it last.
fn lock_line(cache: &Path) -> String {
    format!("lock 600 {}", std::fs::metadata(cache.join("lock")).unwrap().len())
}

fn digest(archive: &[u8]) -> ArchiveDigest {
    ArchiveDigest(sha256(archive))
}

fn watched<T>(work: impl FnOnce(&mut Watch<'_>) -> T) -> T {
    let cancel = CancellationToken::new();
    work(&mut Watch { cancel: &cancel, progress: &mut |_| {} })
}

fn verified(store: &LockedStore, archive: &[u8]) -> VerifiedArchive {
    let mut part = store.part(digest(archive)).unwrap();
    part.start_over("a test").unwrap();
    part.append(archive).unwrap();
    watched(|watch| part.verify(watch)).unwrap()
}

/// A small tree with everything that an honest one has.
fn honest() -> TarBytes {
    TarBytes::new()
        .dir("./", 0o755)
        .dir("./usr/", 0o755)
        .dir("./usr/bin", 0o555)
        .file("./usr/bin/tool", 0o4755, b"tool")
        .file("./usr/bin/shared", 0o2755, b"shared!")
        .hard_link("./usr/bin/again", "./usr/bin/tool")
        .link("./bin", "usr/bin")
        .link("./usr/bin/absolute", "/etc/conf")
        .dir("./etc", 0o755)
        .file("./etc/conf", 0o640, b"x=1\n")
        .dir("./tmp", 0o1777)
        .entry(b'3', "./null", "", 0o666, b"")
        .entry(b'4', "./disk", "", 0o660, b"")
        .entry(b'6', "./pipe", "", 0o600, b"")
        .file("./made/without/parents", 0o777, b"")
}

#[test]
fn an_honest_archive_becomes_a_root() {
    let bed = Bed::new();
    let archive = honest().tar_xz();
    assert_eq!(bed.store().find(&digest(&archive)).unwrap(), None);
    let root = bed.install(&archive).unwrap();
    assert_eq!(root, bed.cache().join(digest(&archive).to_string()).join("root"));
    assert_eq!(
        listing(&root),
        [
            "bin -> usr/bin",
            "etc/ 755",
            "etc/conf 640 4",
            "made/ 755",
            "made/without/ 755",
            "made/without/parents 755 0",
            "tmp/ 755",
            "usr/ 755",
            "usr/bin/ 755",
            "usr/bin/absolute -> ../../etc/conf",
            "usr/bin/again 755 4",
            "usr/bin/shared 755 7",
            "usr/bin/tool 755 4",
        ]
    );
    assert_eq!(std::fs::read_to_string(root.join("usr/bin/absolute")).unwrap(), "x=1\n");
    let time = std::fs::metadata(root.join("etc/conf")).unwrap().modified().unwrap();
    assert_eq!(time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 1_000_000_007);
    assert_eq!(bed.store().find(&digest(&archive)).unwrap(), Some(root.clone()));
    // The archive is not kept beside its tree.
    let names: Vec<_> = std::fs::read_dir(bed.cache()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let marker = std::fs::read_to_string(root.parent().unwrap().join("made-of")).unwrap();
    assert_eq!(marker, format!("sha256 {}\nentries 11\nbytes 15\n", digest(&archive)));
}

#[test]
fn long_names_are_read_both_ways() {
    let bed = Bed::new();
    let (name, target) = (["long"; 60].join("/"), ["far"; 60].join("/"));
    let archive = TarBytes::new()
        .record("path", &name)
        .file("short", 0o644, b"posix")
        .record("linkpath", &target)
        .link("by-posix", "short")
        .gnu(b'L', &format!("{name}-gnu"))
        .file("short", 0o644, b"gnu")
        .gnu(b'K', &target)
        .link("by-gnu", "short")
        // What was said of one entry is not said of the next.
        .file("plain", 0o644, b"")
        .tar_xz();
    let root = bed.install(&archive).unwrap();
    assert_eq!(std::fs::read_to_string(root.join(&name)).unwrap(), "posix");
    assert_eq!(std::fs::read_to_string(root.join(format!("{name}-gnu"))).unwrap(), "gnu");
    for link in ["by-posix", "by-gnu"] {
        assert_eq!(std::fs::read_link(root.join(link)).unwrap(), Path::new(&target));
    }
    assert!(root.join("plain").exists());
}

#[test]
fn a_part_can_be_continued_by_another_process() {
    let bed = Bed::new();
    let archive = honest().tar_xz();
    let (first, second) = archive.split_at(archive.len() / 2);
    {
        let store = bed.locked();
        let mut part = store.part(digest(&archive)).unwrap();
        assert_eq!((part.bytes(), part.note().as_str()), (0, ""));
        part.start_over("from here\n").unwrap();
        part.append(first).unwrap();
    }
    let store = bed.locked();
    store.sweep(&digest(&archive)).unwrap();
    let mut part = store.part(digest(&archive)).unwrap();
    assert_eq!((part.bytes(), part.note().as_str()), (first.len() as u64, "from here\n"));
    part.append(second).unwrap();
    let verified = watched(|watch| part.verify(watch)).unwrap();
    assert_eq!(verified.bytes(), archive.len() as u64);
    watched(|watch| store.install(verified, Bounds::default(), watch)).unwrap();
}

#[test]
fn another_archive_than_was_meant_is_removed_and_both_digests_are_named() {
    let bed = Bed::new();
    let (meant, other) = (honest().tar_xz(), TarBytes::new().file("other", 0o644, b"").tar_xz());
    let store = bed.locked();
    let mut part = store.part(digest(&meant)).unwrap();
    part.start_over("").unwrap();
    part.append(&other).unwrap();
    let error = watched(|watch| part.verify(watch)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&digest(&meant).to_string()) && text.contains(&digest(&other).to_string()), "{text}");
    assert!(matches!(error, VerifyError::Mismatch { bytes, .. } if bytes == other.len() as u64));
    drop(store);
    bed.untouched();
}

#[test]
fn one_process_at_a_time() {
    let bed = Bed::new();
    let first = bed.locked();
    assert!(bed.store().lock().unwrap().is_none());
    assert_eq!(bed.store().holder(), Some(std::process::id()));
    drop(first);
    assert!(bed.store().lock().unwrap().is_some());
}

#[test]
fn leftovers_are_swept_and_nothing_else() {
    let bed = Bed::new();
    let archive = honest().tar_xz();
    bed.install(&archive).unwrap();
    let kept = digest(&archive);
    let other = ArchiveDigest([0xab; 32]);
    let cache = bed.cache();
    for dead in [format!("{kept}.new"), format!("{other}.new")] {
        std::fs::create_dir_all(cache.join(&dead).join("root/usr")).unwrap();
        // A link in a tree is removed, what it leads to is not.
        std::os::unix::fs::symlink(bed.dir.path().join("victim"), cache.join(&dead).join("root/link")).unwrap();
    }
    let parts = [format!("{kept}.part"), format!("{kept}.from"), format!("{other}.part"), format!("{other}.from")];
    let strangers = ["notes.txt", "abc.new", "x.part"].map(str::to_owned);
    for name in parts.iter().chain(&strangers) {
        std::fs::write(cache.join(name), "").unwrap();
    }
    std::fs::create_dir(cache.join(other.to_string())).unwrap();
    bed.locked().sweep(&kept).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut expected = vec![kept.to_string(), other.to_string(), "lock".into(), parts[0].clone(), parts[1].clone()];
    expected.extend(strangers);
    expected.sort();
    assert_eq!(names, expected);
    assert_eq!(std::fs::read_to_string(bed.dir.path().join("victim/secret")).unwrap(), SECRET);
}

/// What is there under the right name counts only with the marker of the right archive.
#[test]
fn a_tree_without_its_marker_is_made_anew() {
    let bed = Bed::new();
    let archive = honest().tar_xz();
    let root = bed.install(&archive).unwrap();
    let marker = root.parent().unwrap().join("made-of");
    let good = std::fs::read_to_string(&marker).unwrap();
    for bad in [String::new(), good.replace("sha256", "md5"), format!("sha256 {}\n", ArchiveDigest([1; 32]))] {
        std::fs::write(&marker, bad).unwrap();
        assert_eq!(bed.store().find(&digest(&archive)).unwrap(), None);
    }
    std::fs::write(root.join("planted"), "").unwrap();
    assert_eq!(bed.install(&archive).unwrap(), root);
    assert!(!root.join("planted").exists());
    assert_eq!(bed.store().find(&digest(&archive)).unwrap(), Some(root.clone()));
    std::fs::remove_dir_all(&root).unwrap();
    assert_eq!(bed.store().find(&digest(&archive)).unwrap(), None);
}

#[test]
fn a_folder_that_others_may_write_to_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let bed = Bed::new();
    std::fs::create_dir(bed.cache()).unwrap();
    std::fs::set_permissions(bed.cache(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let said = bed.store().lock().unwrap_err().to_string();
    assert!(said.ends_with("may be written by others: chmod go-w it"), "{said}");
    assert!(bed.store().find(&ArchiveDigest([0; 32])).is_err());
    std::fs::set_permissions(bed.cache(), std::fs::Permissions::from_mode(0o755)).unwrap();
    assert!(bed.store().lock().unwrap().is_some());
}

#[test]
fn a_folder_of_another_user_is_refused() {
    require!(Root);
    let bed = Bed::new();
    std::fs::create_dir(bed.cache()).unwrap();
    std::os::unix::fs::chown(bed.cache(), Some(65_534), None).unwrap();
    let said = bed.store().lock().unwrap_err().to_string();
    assert!(said.contains("belongs to uid 65534"), "{said}");
}

#[test]
fn an_interruption_leaves_the_archive_for_the_next_try() {
    let bed = Bed::new();
    let archive = honest().tar_xz();
    let store = bed.locked();
    let verified = verified(&store, &archive);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let mut watch = Watch { cancel: &cancel, progress: &mut |_| {} };
    let error = store.install(verified, Bounds::default(), &mut watch).unwrap_err();
    assert!(matches!(error, InstallError::Unpack(UnpackError::Canceled)), "{error}");
    assert!(!bed.cache().join(format!("{}.new", digest(&archive))).exists());
    let part = store.part(digest(&archive)).unwrap();
    assert_eq!(part.bytes(), archive.len() as u64);
    let verified = watched(|watch| part.verify(watch)).unwrap();
    watched(|watch| store.install(verified, Bounds::default(), watch)).unwrap();
}
