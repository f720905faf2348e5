use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use conduits::SandboxProfile;

use super::super::Owner;
use super::*;

fn facilities(work_dir: &Path) -> Facilities {
    let me = Owner { uid: sys::user::effective_uid(), gid: sys::user::effective_gid() };
    Facilities::new(work_dir.to_owned(), false, me, me)
}

fn id(text: &str) -> FacilityId {
    text.parse().unwrap()
}

/// What stands in the work folder and in the daemon's own.
fn names(work_dir: &Path) -> Vec<String> {
    let of = |folder: &str| fs::read_dir(work_dir.join(folder)).into_iter().flatten().map(move |entry| entry.unwrap());
    let mut names: Vec<String> = [".", ".nexus/locks", ".nexus/trust", ".nexus/removed"]
        .into_iter()
        .flat_map(|folder| of(folder).map(move |entry| format!("{folder}/{}", entry.file_name().display())))
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_deleted_facility_leaves_nothing_and_takes_nothing_along() {
    let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let facilities = facilities(dir.path());
    for name in ["gone", "stays"] {
        drop(facilities.occupy(&id(name), SandboxProfile::Host).await.unwrap());
    }
    fs::write(outside.path().join("precious"), "x").unwrap();
    let folder = dir.path().join("gone");
    fs::create_dir_all(folder.join("a/b/shut")).unwrap();
    fs::write(folder.join("a/b/shut/file"), "x").unwrap();
    symlink(outside.path(), folder.join("a/link")).unwrap();
    symlink("../..", folder.join("a/b/up")).unwrap();
    fs::hard_link(outside.path().join("precious"), folder.join("name")).unwrap();
    // More entries than one reading of a directory gives.
    fs::create_dir(folder.join("many")).unwrap();
    for n in 0..3000 {
        fs::write(folder.join(format!("many/{n:0100}")), "").unwrap();
    }
    for shut in ["a/b/shut", "a/b"] {
        fs::set_permissions(folder.join(shut), fs::Permissions::from_mode(0o000)).unwrap();
    }
    assert_eq!(facilities.remove(&id("gone")).unwrap(), Removal::Gone);
    assert!(!folder.exists());
    facilities.empty_removed(&CancellationToken::new()).unwrap();
    assert_eq!(names(dir.path()), ["./.nexus", "./stays", ".nexus/locks/stays", ".nexus/trust/stays"]);
    assert_eq!(fs::read_to_string(outside.path().join("precious")).unwrap(), "x");
    // Asked again, it is still gone.
    assert_eq!(facilities.remove(&id("gone")).unwrap(), Removal::Gone);
}

#[tokio::test]
async fn a_facility_in_use_stays_until_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let (one, other) = (facilities(dir.path()), facilities(dir.path()));
    let held = one.occupy(&id("f"), SandboxProfile::Host).await.unwrap();
    // By this process, and by another one.
    assert_eq!(one.remove(&id("f")).unwrap(), Removal::Busy);
    assert_eq!(other.remove(&id("f")).unwrap(), Removal::Busy);
    assert!(held.path.exists());
    drop(held);
    assert_eq!(other.remove(&id("f")).unwrap(), Removal::Gone);
    assert!(!dir.path().join("f").exists());
}

#[tokio::test]
async fn what_was_no_facility_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("backup")).unwrap();
    let facilities = facilities(dir.path());
    assert_eq!(facilities.remove(&id("backup")).unwrap(), Removal::Gone);
    assert!(dir.path().join("backup").exists());
    // A link in the place of a facility goes, what it leads to stays.
    drop(facilities.occupy(&id("f"), SandboxProfile::Host).await.unwrap());
    fs::remove_dir(dir.path().join("f")).unwrap();
    symlink(dir.path().join("backup"), dir.path().join("f")).unwrap();
    fs::write(dir.path().join("backup/file"), "x").unwrap();
    assert_eq!(facilities.remove(&id("f")).unwrap(), Removal::Gone);
    facilities.empty_removed(&CancellationToken::new()).unwrap();
    assert_eq!(names(dir.path()), ["./.nexus", "./backup"]);
    assert!(dir.path().join("backup/file").exists());
}

#[tokio::test]
async fn a_tree_of_any_depth_goes_and_what_a_crash_left_too() {
    let dir = tempfile::tempdir().unwrap();
    let facilities = facilities(dir.path());
    drop(facilities.occupy(&id("f"), SandboxProfile::Host).await.unwrap());
    // Deeper than a path may be long, and than a process may hold descriptors.
    let mut here = OwnedFd::from(fs::File::open(dir.path().join("f")).unwrap());
    let name = "d".repeat(200);
    for _ in 0..2000 {
        rustix::fs::mkdirat(&here, &name, Mode::RWXU).unwrap();
        here = rustix::fs::openat(&here, &name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    }
    assert_eq!(facilities.remove(&id("f")).unwrap(), Removal::Gone);
    // As after a crash: nothing but what was set aside, which is there twice.
    fs::create_dir(dir.path().join(".nexus/removed/f.1")).unwrap();
    let stopped = CancellationToken::new();
    stopped.cancel();
    facilities.empty_removed(&stopped).unwrap();
    assert!(dir.path().join(".nexus/removed/f.0").exists());
    facilities.empty_removed(&CancellationToken::new()).unwrap();
    assert_eq!(names(dir.path()), ["./.nexus"]);
}

#[tokio::test]
async fn what_cannot_be_removed_stays_alone_and_is_told() {
    testkit::require!(Root);
    let dir = tempfile::tempdir().unwrap();
    let facilities = facilities(dir.path());
    drop(facilities.occupy(&id("f"), SandboxProfile::Host).await.unwrap());
    // Deep, so that going through each level once more would never end.
    let deep = dir.path().join("f").join("d/".repeat(60));
    fs::create_dir_all(deep.join("beside")).unwrap();
    let file = fs::File::create(deep.join("file")).unwrap();
    let flags = rustix::fs::ioctl_getflags(&file).expect("the tests' folder has inode flags, as ext4 does");
    rustix::fs::ioctl_setflags(&file, flags | rustix::fs::IFlags::IMMUTABLE).unwrap();
    assert_eq!(facilities.remove(&id("f")).unwrap(), Removal::Gone);
    let left = facilities.empty_removed(&CancellationToken::new()).unwrap_err().to_string();
    assert!(left.starts_with("1 entries") && left.contains("\"file\""), "{left}");
    let there = dir.path().join(".nexus/removed/f.0").join("d/".repeat(60));
    assert_eq!((there.join("file").exists(), there.join("beside").exists()), (true, false));
    rustix::fs::ioctl_setflags(&file, flags).unwrap();
    facilities.empty_removed(&CancellationToken::new()).unwrap();
    assert_eq!(names(dir.path()), ["./.nexus"]);
}
