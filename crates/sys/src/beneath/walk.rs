//! The way that openat2(2) goes in one step, step by step, for systems without it: each part of a path is opened beneath the
//! part before and never followed, and what a link says is walked like what the path says. So nothing leads out however the
//! tree changes meanwhile.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::Links;

/// Most links of one path, as in path_resolution(7).
const MAX_LINKS: usize = 40;

/// Most parts of a path and of the links in it.
const MAX_PARTS: usize = 4096;

const STEP: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a path beneath `top`. `XDEV`: it leads out.
pub(super) fn open(
    top: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    links: Links,
) -> Result<OwnedFd, Errno> {
    if path.as_os_str().is_empty() {
        return Err(Errno::NOENT);
    }
    let mut left: VecDeque<OsString> = parts(path)?.collect();
    // What was entered below the top; the last one is where the walk stands.
    let mut entered: Vec<OwnedFd> = Vec::new();
    let mut followed = 0;
    while let Some(part) = left.pop_front() {
        let here = entered.last().map_or(top, AsFd::as_fd);
        if part == ".." {
            entered.pop().ok_or(Errno::XDEV)?;
            continue;
        }
        let is_last = left.is_empty();
        let found = if is_last {
            openat(here, &part, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)
        } else {
            openat(here, &part, STEP, Mode::empty())
        };
        match found {
            Ok(fd) if is_last => return Ok(fd),
            Ok(fd) => entered.push(fd),
            // What a link is, the systems say differently: LOOP, or NOTDIR where a directory was asked for.
            Err(errno @ (Errno::LOOP | Errno::NOTDIR | Errno::MLINK)) => {
                let Ok(target) = readlinkat(here, &part, Vec::new()) else { return Err(errno) };
                followed += 1;
                if links == Links::Refused || flags.contains(OFlags::NOFOLLOW) && is_last || followed > MAX_LINKS {
                    return Err(Errno::LOOP);
                }
                let target = OsString::from_vec(target.into_bytes());
                for part in parts(Path::new(&target))?.collect::<Vec<_>>().into_iter().rev() {
                    left.push_front(part);
                }
                if left.len() > MAX_PARTS {
                    return Err(Errno::NAMETOOLONG);
                }
            }
            Err(errno) => return Err(errno),
        }
    }
    // It leads to a directory that the walk has entered already.
    openat(entered.last().map_or(top, AsFd::as_fd), OsStr::from_bytes(b"."), flags | OFlags::CLOEXEC, mode)
}

/// The parts of a path, without `.`; an absolute one leads out.
fn parts(path: &Path) -> Result<impl Iterator<Item = OsString>, Errno> {
    if path.is_absolute() {
        return Err(Errno::XDEV);
    }
    Ok(path.components().filter(|part| *part != Component::CurDir).map(|part| part.as_os_str().to_owned()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, ResolveFlags, fstat, openat2};

    use super::*;

    /// What the kernel says of every path, in every way that it is asked, is what the walk says.
    #[test]
    fn it_ends_where_the_kernel_does() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("in");
        std::fs::create_dir_all(inside.join("sub/deep")).unwrap();
        std::fs::write(dir.path().join("secret"), "").unwrap();
        std::fs::write(inside.join("sub/file"), "").unwrap();
        for (target, name) in [
            ("sub/file", "good"),
            ("sub", "folder"),
            ("folder/deep/../file", "winding"),
            ("../secret", "out"),
            ("sub/../../in/sub/file", "out-and-in"),
            ("/etc/passwd", "absolute"),
            ("..", "up"),
            (".", "itself"),
            ("loop", "loop"),
            ("nowhere", "dangling"),
        ] {
            symlink(target, inside.join(name)).unwrap();
        }
        let top = openat(CWD, &inside, STEP, Mode::empty()).unwrap();
        let paths = [
            ".",
            "",
            "sub",
            "sub/",
            "sub/file",
            "./sub/./file",
            "sub/../sub/file",
            "sub/deep/..",
            "good",
            "folder",
            "folder/file",
            "winding",
            "out",
            "out-and-in",
            "absolute",
            "up",
            "up/secret",
            "itself",
            "itself/good",
            "loop",
            "dangling",
            "..",
            "sub/../../secret",
            "/etc/passwd",
            "missing",
            "missing/x",
            "sub/file/x",
            "good/x",
            "itself/itself/folder/deep",
        ];
        let plain = OFlags::RDONLY | OFlags::CLOEXEC;
        for flags in [plain, plain | OFlags::DIRECTORY, plain | OFlags::NOFOLLOW, STEP] {
            for (links, more) in [(Links::Followed, ResolveFlags::empty()), (Links::Refused, ResolveFlags::NO_SYMLINKS)]
            {
                for path in paths {
                    let walked = open(top.as_fd(), Path::new(path), flags, Mode::empty(), links);
                    let kernel = openat2(&top, path, flags, Mode::empty(), ResolveFlags::BENEATH | more);
                    let file = |fd: &OwnedFd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino)).unwrap();
                    match (&walked, &kernel) {
                        (Ok(walked), Ok(kernel)) => assert_eq!(file(walked), file(kernel), "{path:?} {flags:?}"),
                        (Err(walked), Err(kernel)) => {
                            let leads_out = |errno: &Errno| *errno == Errno::XDEV;
                            assert_eq!(leads_out(walked), leads_out(kernel), "{path:?} {flags:?} {walked} {kernel}");
                        }
                        _ => panic!("{path:?} {flags:?} {links:?}: {walked:?}, the kernel: {kernel:?}"),
                    }
                }
            }
        }
    }
}
