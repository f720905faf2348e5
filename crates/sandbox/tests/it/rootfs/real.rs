//! A whole distribution: unpacked like GNU tar would, but for what is meant to differ, and a root that commands run in.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sandbox::rootfs::Bounds;
use sandbox::{Driver, RootSource};
use testkit::require;

use super::{Bed, digest, verified, watched};
use crate::bed::{Bed as Sandboxes, Run};

/// A tree as it can be compared: each path with its permissions, kind, size and time or target.
fn tree(top: &Path) -> BTreeMap<String, (u32, String)> {
    let mut found = BTreeMap::new();
    let mut left = vec![top.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let what = if meta.is_symlink() {
                // Where it leads to, seen from the top: however that is written.
                let target = std::fs::read_link(&path).unwrap();
                let from = Path::new("/").join(folder.strip_prefix(top).unwrap());
                normal(&from.join(target))
            } else if meta.is_file() {
                format!("{} bytes at {}", meta.len(), meta.mtime())
            } else if meta.is_dir() {
                left.push(path.clone());
                "directory".to_owned()
            } else {
                continue;
            };
            let mode = if meta.is_symlink() { 0 } else { meta.mode() & 0o755 };
            let mode = if meta.is_dir() { mode | 0o700 } else { mode };
            found.insert(path.strip_prefix(top).unwrap().display().to_string(), (mode, what));
        }
    }
    found
}

fn normal(path: &Path) -> String {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    format!("-> /{}", parts.join("/"))
}

/// Debian, unpacked once and then used by commands as an untrusted directive's are.
#[tokio::test]
async fn a_distribution_is_unpacked_whole_and_runs_commands() {
    require!(Rootfs, Bwrap);
    let archive = std::fs::read(testkit::archive::debian_archive()).unwrap();
    let bed = Bed::new();
    let store = bed.locked();
    let archive_digest = digest(&archive);
    let verified = verified(&store, &archive);
    let root = watched(|watch| store.install(verified, Bounds::default(), watch)).unwrap();

    let (ours, theirs) = (tree(&root), tree(&testkit::require::test_rootfs()));
    assert!(ours.len() > 1000, "the control: {} entries", ours.len());
    for (path, there) in &theirs {
        if path != ".complete" {
            assert_eq!(ours.get(path), Some(there), "{path}");
        }
        if there.1.contains("bytes at") {
            let read = |top: &Path| std::fs::read(top.join(path)).unwrap();
            assert!(path == ".complete" || read(&root) == read(&testkit::require::test_rootfs()), "{path}");
        }
    }
    assert_eq!(ours.keys().find(|path| !theirs.contains_key(*path)), None);
    // What is meant to differ: no special rights, and no node.
    for path in ours.keys() {
        let meta = std::fs::symlink_metadata(root.join(path)).unwrap();
        assert!(meta.is_symlink() || meta.mode() & 0o7022 == 0, "{path}: {:o}", meta.mode());
        assert_eq!(meta.uid(), sys::user::effective_uid(), "{path}");
    }
    let su = std::fs::metadata(testkit::require::test_rootfs().join("usr/bin/su")).unwrap();
    assert_ne!(su.mode() & 0o4000, 0, "the control: it brought a setuid program");

    assert_eq!(bed.store().find(&archive_digest).unwrap(), Some(root.clone()));
    let sandboxes = Sandboxes::with(|settings| settings.root = RootSource::Rootfs(root));
    let health = sandboxes.drivers.health(Driver::Bwrap).await;
    assert!(health.healthy, "{:?}", health.reason);
    assert_eq!(
        sandboxes.sh(". /etc/os-release; echo $ID; whoami; pwd; perl -e 'print 6*7'").await,
        "debian\nnexus\n/workspace\n42"
    );
    assert_eq!(
        sandboxes.sh("echo x > /workspace/file; cat /workspace/file; touch /usr/x 2>&1 || true").await,
        "x\ntouch: cannot touch '/usr/x': Read-only file system\n"
    );
    assert_eq!(
        sandboxes.sh("readlink -e /etc/alternatives/awk /bin/sh; echo y | awk '{print $1}'").await,
        "/usr/bin/mawk\n/usr/bin/dash\ny\n"
    );
}

/// Until its root has come the driver is unhealthy and says why; no run gets another root in its place.
#[tokio::test]
async fn an_awaited_root_is_taken_into_use_when_it_arrives() {
    require!(Rootfs, Bwrap);
    let sandboxes = Sandboxes::with(|settings| settings.root = RootSource::Awaited { reason: "on its way".to_owned() });
    let reason = async || sandboxes.drivers.health(Driver::Bwrap).await.reason;
    assert_eq!(reason().await.as_deref(), Some("on its way"));
    sandboxes.drivers.root_awaited("still on its way".to_owned());
    assert_eq!(reason().await.as_deref(), Some("still on its way"));
    let refused = sandboxes.start(Run::sh("true")).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("still on its way"), "{refused}");
    sandboxes.drivers.root_arrived(testkit::require::test_rootfs()).unwrap();
    assert_eq!(reason().await, None);
    assert_eq!(sandboxes.sh(". /etc/os-release; echo $ID").await, "debian\n");
    // Once there, it stays.
    sandboxes.drivers.root_awaited("gone".to_owned());
    sandboxes.drivers.root_arrived("/nonexistent".into()).unwrap();
    assert_eq!(sandboxes.sh("echo here").await, "here\n");
}
