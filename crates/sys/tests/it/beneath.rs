//! Nothing leads out of a directory: random trees of links, and a tree that changes while it is opened.

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use sys::beneath::Beneath;
use tempfile::TempDir;

/// What stands in files outside; nothing that is opened may ever say it.
const SECRET: &str = "secret";

/// Names are few, so that random paths and links meet.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Node {
    File,
    Dir,
    Link(String),
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(NAMES.as_slice()).prop_map(str::to_owned)
}

fn path(parts: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::collection::vec(parts, 1..5).prop_map(|parts| parts.join("/"))
}

/// Where a link may lead: inside, up, far up, to absolute places, through the kernel's own links.
fn target() -> impl Strategy<Value = String> {
    let part =
        prop_oneof![4 => name(), 2 => Just("..".to_owned()), 1 => Just(".".to_owned()), 1 => Just(SECRET.to_owned())];
    prop_oneof![
        6 => path(part),
        1 => Just("/".to_owned()),
        1 => Just("OUTSIDE".to_owned()),
        1 => Just("/proc/self/root".to_owned()),
        1 => Just("/proc/self/cwd".to_owned()),
        1 => Just("../../../../../../../../etc/passwd".to_owned()),
    ]
}

fn tree() -> impl Strategy<Value = Vec<(String, Node)>> {
    let node = prop_oneof![Just(Node::File), Just(Node::Dir), target().prop_map(Node::Link)];
    prop::collection::vec((path(name()), node), 1..24)
}

/// A directory `in` with the tree, beside a secret.
fn plant(nodes: &[(String, Node)]) -> TempDir {
    // In memory: thousands of small trees on a busy disk take minutes.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let inside = dir.path().join("in");
    fs::create_dir(&inside).unwrap();
    fs::write(dir.path().join(SECRET), SECRET).unwrap();
    fs::create_dir(dir.path().join("a")).unwrap();
    fs::write(dir.path().join("a/b"), SECRET).unwrap();
    for (path, node) in nodes {
        // What stands in the way of a random tree is left out; only plain directories are walked through.
        let at = inside.join(path);
        let plain = at
            .ancestors()
            .skip(1)
            .take_while(|part| *part != inside)
            .all(|part| fs::symlink_metadata(part).map_or(true, |meta| meta.is_dir()));
        if !plain || fs::create_dir_all(at.parent().unwrap()).is_err() {
            continue;
        }
        let made = match node {
            Node::File => fs::OpenOptions::new().write(true).create_new(true).open(&at).map(drop),
            Node::Dir => fs::create_dir(&at),
            Node::Link(target) if target == "OUTSIDE" => symlink(dir.path(), &at),
            Node::Link(target) => symlink(target, &at),
        };
        drop(made);
    }
    dir
}

/// Where a descriptor really leads, by the kernel's own account.
fn real(fd: RawFd) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{fd}")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_tree_nothing_leads_out(nodes in tree(), asked in prop::collection::vec(target(), 1..12)) {
        let dir = plant(&nodes);
        let inside = fs::canonicalize(dir.path().join("in")).unwrap();
        let beneath = Beneath::open(&inside).unwrap();
        for asked in asked {
            let path = Path::new(&asked);
            if let Ok(folder) = beneath.dir(path) {
                prop_assert!(real(folder.as_raw_fd()).starts_with(&inside), "{asked:?} in {nodes:?}");
            }
            if let Ok(mut file) = beneath.read(path) {
                prop_assert!(real(file.as_raw_fd()).starts_with(&inside), "{asked:?} in {nodes:?}");
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                prop_assert!(text != SECRET);
            }
            if let Ok(file) = beneath.append(path, 0o600) {
                prop_assert!(real(file.as_raw_fd()).starts_with(&inside), "{asked:?} in {nodes:?}");
            }
            if let Ok(made) = beneath.make_dirs(path, 0o700) {
                prop_assert!(real(made.fd().as_raw_fd()).starts_with(&inside), "{asked:?} in {nodes:?}");
            }
        }
        prop_assert_eq!(fs::read_to_string(dir.path().join(SECRET)).unwrap(), SECRET);
        prop_assert_eq!(fs::read_to_string(dir.path().join("a/b")).unwrap(), SECRET);
        prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "something was made outside");
    }
}

/// A directory and a link out of the tree change places as fast as a thread can, while paths through them are opened.
#[test]
fn a_race_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let inside = fs::canonicalize(dir.path()).unwrap().join("in");
    fs::create_dir_all(inside.join("x")).unwrap();
    fs::write(inside.join("x/file"), "inside").unwrap();
    fs::write(dir.path().join("file"), SECRET).unwrap();
    symlink("..", inside.join("y")).unwrap();
    let (beneath, over) = (Beneath::open(&inside).unwrap(), AtomicBool::new(false));
    let (mut opened, mut refused, mut by_path) = (0, 0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let swap = rustix::fs::RenameFlags::EXCHANGE;
            while !over.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(beneath.fd(), "x", beneath.fd(), "y", swap).unwrap();
            }
        });
        for _ in 0..20_000 {
            match beneath.read(Path::new("x/file")) {
                Ok(mut file) => {
                    let mut text = String::new();
                    file.read_to_string(&mut text).unwrap();
                    assert_eq!(text, "inside");
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
            // Control: the same path as a string does lead out.
            by_path += usize::from(fs::read_to_string(inside.join("x/file")).is_ok_and(|text| text == SECRET));
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(opened > 0 && refused > 0, "{opened} opened, {refused} refused: there was no race");
    assert!(by_path > 0, "the control was never led out");
}
