//! Hostile archives, one attack each: the effect is looked for from outside, and beside each stands the same archive
//! without the hostile turn, which is taken.

use testkit::TarBytes;

use super::{Bed, SECRET};

/// The attack must be refused with these words; its honest twin must be taken.
#[track_caller]
fn attack(hostile: TarBytes, said: &str, honest: TarBytes) {
    let bed = Bed::new();
    // The hostile one first: what it leaves would show in the twin too.
    let refusal = bed.refused(&hostile.tar_xz());
    assert_eq!(refusal, said);
    bed.install(&honest.tar_xz()).expect("the control");
}

fn file(name: &str) -> TarBytes {
    TarBytes::new().file(name, 0o644, b"planted")
}

/// The path of the victim as an archive would have to know it.
const UP: &str = "../../../victim/secret";

#[test]
fn an_absolute_path() {
    let bed = Bed::new();
    let path = bed.dir.path().join("victim/planted");
    let name = path.to_str().unwrap();
    assert_eq!(bed.refused(&file(name).tar_xz()), format!("{name}: an absolute path"));
    bed.install(&file(name.trim_start_matches('/')).tar_xz()).expect("the control");
}

#[test]
fn a_path_upwards() {
    attack(file(UP), "../../../victim/secret: a path with .. in it", file("victim/secret"));
}

#[test]
fn a_path_upwards_after_a_directory() {
    attack(file("a/../../../../victim/secret"), "a/../../../../victim/secret: a path with .. in it", file("a/secret"));
}

#[test]
fn a_path_upwards_in_a_long_name() {
    let long = |name: &str| TarBytes::new().gnu(b'L', name).file("short", 0o644, b"planted");
    attack(long(UP), "../../../victim/secret: a path with .. in it", long("victim/secret"));
}

#[test]
fn a_path_upwards_in_a_record() {
    let record = |name: &str| TarBytes::new().record("path", name).file("short", 0o644, b"planted");
    attack(record(UP), "../../../victim/secret: a path with .. in it", record("victim/secret"));
}

#[test]
fn a_link_outwards() {
    attack(
        TarBytes::new().link("out", UP),
        "out: a link to ../../../victim/secret, which lies outside of the tree",
        TarBytes::new().dir("a/b/c/d", 0o755).link("a/b/c/out", UP),
    );
}

/// Two links, neither of which counts above the top by itself.
#[test]
fn a_link_outwards_by_way_of_another() {
    let links = |target: &str| TarBytes::new().dir("a/b/c", 0o755).link("a/b/c/up", "../../..").link("out", target);
    attack(
        links("a/b/c/up/../../victim"),
        "out: a link to a/b/c/up/../../victim, which lies outside of the tree",
        links("a/b/c/../c/up/a"),
    );
}

/// An absolute link means the top of the tree, wherever the tree lies: followed on the host, it stays in the tree.
#[test]
fn an_absolute_link_leads_to_the_tree_s_own_file() {
    let bed = Bed::new();
    let victim = bed.dir.path().join("victim/secret");
    let target = victim.to_str().unwrap();
    let archive = TarBytes::new().link("etc/link", target).file(target.trim_start_matches('/'), 0o644, b"inside");
    let root = bed.install(&archive.tar_xz()).unwrap();
    assert_eq!(std::fs::read_to_string(root.join("etc/link")).unwrap(), "inside");
    assert_eq!(std::fs::read_to_string(victim).unwrap(), SECRET);
}

#[test]
fn a_file_beneath_a_link_that_the_archive_planted() {
    let through = |link: &str| TarBytes::new().link(link, "/victim").file("door/planted", 0o644, b"x");
    attack(
        through("door"),
        "door/planted: an entry beneath a link or file that the archive holds too",
        through("another"),
    );
}

#[test]
fn a_directory_beneath_a_link_that_the_archive_planted() {
    let through = |link: &str| TarBytes::new().dir("real", 0o755).link(link, "real").dir("door/a/b", 0o777);
    attack(through("door"), "door/a/b: an entry beneath a link or file that the archive holds too", through("another"));
}

/// The link leads to a directory that is there: nothing is made in it by this name.
#[test]
fn a_file_beneath_a_link_to_a_directory_of_the_tree() {
    let through = |link: &str| TarBytes::new().dir("real", 0o755).link(link, "real").file("door/planted", 0o644, b"x");
    attack(
        through("door"),
        "door/planted: an entry beneath a link or file that the archive holds too",
        through("another"),
    );
}

/// By its name this link lies deep enough for what it says; where it really is, it leads out.
#[test]
fn a_link_that_lies_less_deep_than_its_name() {
    let links = |door: &str| {
        TarBytes::new().dir("real", 0o755).link(door, "../../real").link("a/b/door/out", "../../../victim")
    };
    attack(
        links("a/b/door"),
        "a/b/door/out: an entry beneath a link or file that the archive holds too",
        links("a/b/another"),
    );
}

#[test]
fn a_file_beneath_a_file() {
    let beneath = |name: &str| file(name).file("door/planted", 0o644, b"x");
    attack(
        beneath("door"),
        "door/planted: an entry beneath a link or file that the archive holds too",
        beneath("other"),
    );
}

#[test]
fn a_link_in_the_place_of_a_directory() {
    let replaced = |name: &str| TarBytes::new().dir("etc", 0o755).link(name, "usr").file("etc/x", 0o644, b"");
    attack(replaced("etc"), "etc: a second entry of this name", replaced("etc2"));
}

/// The directory comes again: harmless where it is a directory, an attempt to change the mode of another where it is a link.
#[test]
fn a_directory_in_the_place_of_a_link() {
    let replaced = |name: &str| TarBytes::new().dir("real", 0o700).link(name, "real").dir("door", 0o777);
    attack(replaced("door"), "door: an entry beneath a link or file that the archive holds too", replaced("another"));
    let bed = Bed::new();
    bed.install(&TarBytes::new().dir("a", 0o700).dir("a", 0o755).tar_xz()).expect("a directory twice");
}

/// A file is never written through a link of its name.
#[test]
fn a_file_in_the_place_of_a_link() {
    let twice = |second: &str| TarBytes::new().file("real", 0o644, b"").link("name", "real").file(second, 0o644, b"x");
    attack(twice("name"), "name: a second entry of this name", twice("other"));
}

#[test]
fn a_file_twice() {
    let twice = |second: &str| file("name").file(second, 0o644, b"another");
    attack(twice("name"), "name: a second entry of this name", twice("other"));
    attack(twice("./name"), "./name: a second entry of this name", twice("./other"));
}

#[test]
fn a_hard_link_outwards() {
    let bed = Bed::new();
    let absolute = bed.dir.path().join("victim/secret");
    for target in [absolute.to_str().unwrap(), UP, "victim/secret"] {
        let said = bed.refused(&TarBytes::new().hard_link("door", target).tar_xz());
        assert_eq!(said, format!("door: a hard link to {target}, which is no file in the archive before it"));
    }
    bed.install(&file("real").hard_link("door", "real").tar_xz()).expect("the control");
}

#[test]
fn a_hard_link_by_way_of_a_link() {
    let linked =
        |target: &str| TarBytes::new().file("real/secret", 0o644, b"").link("away", "real").hard_link("door", target);
    attack(
        linked("away/secret"),
        "door: a hard link to away/secret, which is no file in the archive before it",
        linked("real/secret"),
    );
}

/// A link that may stand deep in the tree leads out of it when it gets a name nearer the top.
#[test]
fn a_hard_link_that_lifts_a_link() {
    let lifted = |target: &str| {
        TarBytes::new().file("a/b/c/file", 0o644, b"").link("a/b/c/up", "../../../victim").hard_link("door", target)
    };
    attack(
        lifted("a/b/c/up"),
        "door: a hard link to a/b/c/up, which is no file in the archive before it",
        lifted("a/b/c/file"),
    );
}

#[test]
fn a_hard_link_to_a_directory() {
    let linked = |target: &str| TarBytes::new().file("dir/file", 0o644, b"").hard_link("door", target);
    attack(linked("dir"), "door: a hard link to dir, which is no file in the archive before it", linked("dir/file"));
}

/// Devices and pipes are left out, and nothing takes their place.
#[test]
fn device_nodes_and_pipes_are_left_out() {
    let bed = Bed::new();
    let nodes = TarBytes::new()
        .entry(b'3', "dev/mem", "", 0o666, b"")
        .entry(b'4', "dev/disk", "", 0o666, b"")
        .entry(b'6', "pipe", "", 0o666, b"")
        .file("control", 0o644, b"");
    let root = bed.install(&nodes.tar_xz()).unwrap();
    assert_eq!(testkit::archive::listing(&root), ["control 644 0"]);
}

#[test]
fn a_device_outside_is_refused_as_any_entry() {
    let node = |name: &str| TarBytes::new().entry(b'3', name, "", 0o666, b"");
    attack(node("../null"), "../null: a path with .. in it", node("null"));
}

#[test]
fn rights_that_a_file_brings_are_dropped() {
    let bed = Bed::new();
    let archive = TarBytes::new()
        .dir("set", 0o7777)
        .file("set/uid", 0o4777, b"")
        .file("set/gid", 0o2755, b"")
        .record("SCHILY.xattr.security.capability", "\u{1}\0\0\u{2}")
        .file("set/capable", 0o755, b"");
    let root = bed.install(&archive.tar_xz()).unwrap();
    assert_eq!(testkit::archive::listing(&root), ["set/ 755", "set/capable 755 0", "set/gid 755 0", "set/uid 755 0"]);
    let mut none = [0u8; 64];
    let read = rustix::fs::getxattr(root.join("set/capable"), "security.capability", &mut none);
    assert_eq!(read, Err(rustix::io::Errno::NODATA));
}

/// The top directory itself keeps its mode, and nothing stands in its place.
#[test]
fn the_top_is_not_replaced() {
    let bed = Bed::new();
    let top = |kind, target| TarBytes::new().entry(kind, "./", target, 0o7777, b"").file("x", 0o644, b"");
    for (kind, target) in [(b'2', "/victim"), (b'0', ""), (b'1', "x")] {
        let said = bed.refused(&top(kind, target).tar_xz());
        assert!(said.starts_with("./: a name that is empty"), "{said}");
    }
    let root = bed.install(&top(b'5', "").tar_xz()).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(root).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn a_name_that_writes_on_the_terminal() {
    let said = Bed::new().refused(&file("../\u{1b}[2J\n").tar_xz());
    assert_eq!(said, "../\\u{1b}[2J\\n: a path with .. in it");
}
