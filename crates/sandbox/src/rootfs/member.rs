//! What becomes of an entry of an archive: pure.
//!
//! The tree is used as a root directory, so an absolute link means the top of the tree. It is rewritten to a relative
//! one that leads to the same place; then no link leads out of the tree, wherever the tree lies.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Deepest entry: removing a tree holds a descriptor for each level.
const MAX_DEPTH: usize = 128;

/// Longest name or link target, as the kernel has it (PATH_MAX).
const MAX_PATH: usize = 4095;

/// Why an archive is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A name that begins with `/`.
    #[error("an absolute path")]
    Absolute,
    /// A name with `..` in it.
    #[error("a path with .. in it")]
    Parent,
    /// No name at all, or one too long or too deep for any file system.
    #[error("a name that is empty, longer than {MAX_PATH} bytes or deeper than {MAX_DEPTH} directories")]
    Name,
    /// A symbolic link that leads above the top of the tree.
    #[error("a link to {target}, which lies outside of the tree")]
    LinkOutwards {
        /// What it says.
        target: String,
    },
    /// A hard link to something that is not an entry before it.
    #[error("a hard link to {target}, which is no file in the archive before it")]
    HardLink {
        /// What it says.
        target: String,
    },
    /// An entry beneath one that is no directory.
    #[error("an entry beneath a link or file that the archive holds too")]
    Through,
    /// A second entry of one name.
    #[error("a second entry of this name")]
    Twice,
    /// A file with holes.
    #[error("a sparse file: make the archive without --sparse")]
    Sparse,
    /// Something that no tree holds.
    #[error("an entry of the unknown type {0:?}")]
    Type(char),
    /// More data than the whole tree may have.
    #[error("{size} bytes, with {left} left of the {limit} that a tree may have")]
    TooLarge {
        /// The entry's size.
        size: u64,
        /// What was left.
        left: u64,
        /// The limit.
        limit: u64,
    },
    /// More entries than a tree may have.
    #[error("one entry more than the {0} that a tree may have")]
    TooMany(u64),
    /// Not what a tar archive looks like.
    #[error("{0}")]
    Malformed(&'static str),
}

/// An entry as its header gives it.
#[derive(Clone, Debug)]
pub(super) struct RawMember {
    /// The type's letter.
    pub(super) kind: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    pub(super) size: u64,
    /// Seconds since 1970.
    pub(super) mtime: u64,
}

/// What is done for an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Directory {
        at: PathBuf,
        mode: u32,
    },
    File {
        at: PathBuf,
        mode: u32,
        size: u64,
        mtime: u64,
    },
    Link {
        at: PathBuf,
        target: PathBuf,
        /// It turns upwards after it has gone down: only the kernel knows where it leads.
        winding: bool,
    },
    HardLink {
        at: PathBuf,
        to: PathBuf,
    },
    /// A device node or pipe, or the top directory itself.
    Skip,
}

/// Decides.
pub(super) fn step(member: &RawMember) -> Result<Step, Refusal> {
    let Some(at) = place(&member.name)? else {
        // `./`: the top directory is there already. Nothing else may stand in its place.
        return match member.kind {
            b'5' => Ok(Step::Skip),
            _ => Err(Refusal::Name),
        };
    };
    let mode = permissions(member.mode);
    match member.kind {
        // Before POSIX, a directory was a file whose name ends with a slash.
        b'0' | 0 | b'7' if member.name.ends_with(b"/") => Ok(Step::Directory { at, mode: mode | 0o700 }),
        b'0' | 0 | b'7' => Ok(Step::File { at, mode: mode | 0o600, size: member.size, mtime: member.mtime }),
        b'1' => {
            let to = place(&member.link).ok().flatten();
            let to = to.ok_or_else(|| Refusal::HardLink { target: shown(&member.link) })?;
            Ok(Step::HardLink { at, to })
        }
        b'2' => {
            let (target, winding) = link_target(&at, &member.link)?;
            Ok(Step::Link { at, target, winding })
        }
        b'3' | b'4' | b'6' => Ok(Step::Skip),
        b'5' => Ok(Step::Directory { at, mode: mode | 0o700 }),
        b'S' => Err(Refusal::Sparse),
        other => Err(Refusal::Type(char::from(other))),
    }
}

/// The permissions of a file or directory of the tree: no setuid, setgid or sticky bit, and nobody but the owner writes.
fn permissions(mode: u32) -> u32 {
    mode & 0o755
}

/// The place of a name beneath the top; `None` is the top itself.
fn place(name: &[u8]) -> Result<Option<PathBuf>, Refusal> {
    if name.is_empty() || name.len() > MAX_PATH || name.contains(&0) {
        return Err(Refusal::Name);
    }
    if name.starts_with(b"/") {
        return Err(Refusal::Absolute);
    }
    let parts: Vec<&[u8]> = parts(name).collect();
    if parts.contains(&&b".."[..]) {
        return Err(Refusal::Parent);
    }
    if parts.len() > MAX_DEPTH {
        return Err(Refusal::Name);
    }
    Ok((!parts.is_empty()).then(|| parts.iter().map(|part| OsStr::from_bytes(part)).collect()))
}

/// What the link at `at` is to say, and whether it winds.
///
/// A target is followed from the directory that really holds the link, whose parents are all directories of the tree, none
/// a link. So one that only begins with `..`, and has no more of them than there are directories above it, stays within,
/// and so does each link on its way, for the same reason. Where `..` comes after a name, that name may be a link itself,
/// and counting says nothing: such a target must be followed by the kernel once the tree is there.
fn link_target(at: &Path, target: &[u8]) -> Result<(PathBuf, bool), Refusal> {
    if target.is_empty() || target.len() > MAX_PATH || target.contains(&0) {
        return Err(Refusal::Malformed("a link without a target, or with one too long"));
    }
    let above = at.components().count().saturating_sub(1);
    let parts: Vec<&[u8]> = parts(target).collect();
    let ups = parts.iter().take_while(|part| ***part == *b"..").count();
    let down = parts.get(ups..).unwrap_or_default();
    let winding = down.contains(&&b".."[..]);
    let up = if target.starts_with(b"/") {
        // The parent of the top is the top.
        above
    } else if ups > above {
        return Err(Refusal::LinkOutwards { target: shown(target) });
    } else {
        ups
    };
    let ups = std::iter::repeat_n(OsStr::new(".."), up);
    let path: PathBuf = ups.chain(down.iter().map(|part| OsStr::from_bytes(part))).collect();
    let path = if path.as_os_str().is_empty() { PathBuf::from(".") } else { path };
    if path.as_os_str().len() > MAX_PATH {
        return Err(Refusal::Malformed("a link with a target too long"));
    }
    Ok((path, winding))
}

fn parts(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// A name of an archive for a message: printable, and not too long.
pub(super) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let mut out: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().count() > 200 {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(kind: u8, name: &str, link: &str) -> RawMember {
        RawMember { kind, name: name.into(), link: link.into(), mode: 0o644, size: 3, mtime: 7 }
    }

    #[test]
    fn names() {
        let ok = |name: &str| place(name.as_bytes()).unwrap().map(|path| path.to_string_lossy().into_owned());
        assert_eq!(ok("usr/bin"), Some("usr/bin".into()));
        assert_eq!(ok("./usr//bin/./"), Some("usr/bin".into()));
        assert_eq!(ok("./"), None);
        assert_eq!(ok("..."), Some("...".into()));
        let deep = "d/".repeat(MAX_DEPTH + 1);
        let long = "n".repeat(MAX_PATH + 1);
        for (name, why) in [
            ("/etc/passwd", Refusal::Absolute),
            ("//etc", Refusal::Absolute),
            ("..", Refusal::Parent),
            ("../x", Refusal::Parent),
            ("a/../../x", Refusal::Parent),
            ("a/..", Refusal::Parent),
            ("", Refusal::Name),
            ("a\0b", Refusal::Name),
            (&deep, Refusal::Name),
            (&long, Refusal::Name),
        ] {
            assert_eq!(place(name.as_bytes()), Err(why), "{name:?}");
        }
    }

    #[test]
    fn links() {
        let ok = |at: &str, target: &str| {
            let (path, winding) = link_target(Path::new(at), target.as_bytes()).unwrap();
            (path.to_string_lossy().into_owned(), winding)
        };
        for (at, target, expected, winding) in [
            ("bin", "usr/bin", "usr/bin", false),
            ("bin", "/usr/bin", "usr/bin", false),
            ("etc/mtab", "../proc/self/mounts", "../proc/self/mounts", false),
            ("etc/alternatives/awk", "/usr/bin/mawk", "../../usr/bin/mawk", false),
            ("etc/top", "/", "..", false),
            ("top", "/", ".", false),
            ("top", ".", ".", false),
            ("etc/x", "/../../etc/y", "../etc/y", false),
            ("a/b/c", "../../x//./y/", "../../x/y", false),
            ("a/b/c", "../d/../x", "../d/../x", true),
            ("a/b/c", "/d/../x", "../../d/../x", true),
        ] {
            assert_eq!(ok(at, target), (expected.to_owned(), winding), "{at} -> {target}");
        }
        for (at, target) in [("x", ".."), ("x", "../etc/passwd"), ("a/x", "../../etc"), ("a/b/x", "../../../../y")] {
            let refusal = link_target(Path::new(at), target.as_bytes()).unwrap_err();
            assert_eq!(refusal, Refusal::LinkOutwards { target: target.to_owned() }, "{at} -> {target}");
        }
        for target in ["", "a\0b"] {
            assert!(link_target(Path::new("x"), target.as_bytes()).is_err());
        }
    }

    #[test]
    fn types_and_modes() {
        let at = || PathBuf::from("a");
        let file = Step::File { at: at(), mode: 0o644, size: 3, mtime: 7 };
        for (kind, name, link, expected) in [
            (b'0', "a", "", Ok(file.clone())),
            (0, "a", "", Ok(file.clone())),
            (b'7', "a", "", Ok(file)),
            (b'0', "a/", "", Ok(Step::Directory { at: at(), mode: 0o744 })),
            (b'5', "a", "", Ok(Step::Directory { at: at(), mode: 0o744 })),
            (b'5', "./", "", Ok(Step::Skip)),
            (b'0', "./", "", Err(Refusal::Name)),
            (b'2', ".", "x", Err(Refusal::Name)),
            (b'1', "a", "b/c", Ok(Step::HardLink { at: at(), to: "b/c".into() })),
            (b'1', "a", "/etc/passwd", Err(Refusal::HardLink { target: "/etc/passwd".into() })),
            (b'1', "a", "../x", Err(Refusal::HardLink { target: "../x".into() })),
            (b'1', "a", "", Err(Refusal::HardLink { target: String::new() })),
            (b'2', "a", "b", Ok(Step::Link { at: at(), target: "b".into(), winding: false })),
            (b'3', "a", "", Ok(Step::Skip)),
            (b'4', "a", "", Ok(Step::Skip)),
            (b'6', "a", "", Ok(Step::Skip)),
            (b'3', "../a", "", Err(Refusal::Parent)),
            (b'S', "a", "", Err(Refusal::Sparse)),
            (b'Z', "a", "", Err(Refusal::Type('Z'))),
        ] {
            assert_eq!(step(&member(kind, name, link)), expected, "{:?} {name} {link}", char::from(kind));
        }
        for (given, kept) in
            [(0o4755, 0o755), (0o2755, 0o755), (0o1777, 0o755), (0o6777, 0o755), (0o640, 0o640), (0, 0)]
        {
            assert_eq!(permissions(given), kept, "{given:o}");
        }
    }

    #[test]
    fn a_name_in_a_message_is_printable_and_short() {
        assert_eq!(shown(b"a\x1b[31m\n\xff"), "a\\u{1b}[31m\\n\u{fffd}");
        assert!(shown(&[b'x'; 10_000]).len() < 300);
    }

    proptest! {
        /// Whatever a name is, its place has plain names alone.
        #[test]
        fn no_place_is_outside(name in proptest::collection::vec(prop::sample::select(&b"ab./\0"[..]), 0..40)) {
            if let Ok(Some(path)) = place(&name) {
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }

        /// A link that does not wind never counts above the top, from wherever it is.
        #[test]
        fn no_link_counts_above_the_top(
            at in "[ab](/[ab]){0,4}",
            target in proptest::collection::vec(prop::sample::select(&b"ab../"[..]), 1..40),
        ) {
            if let Ok((path, false)) = link_target(Path::new(&at), &target) {
                let above = at.split('/').count() - 1;
                let ups = path.components().filter(|part| *part == std::path::Component::ParentDir).count();
                prop_assert!(ups <= above);
                prop_assert!(path.is_relative());
            }
        }
    }
}
