//! Landlock: a second lock on the file system, behind the mounts.
//!
//! Where the kernel has it, the command and all its descendants can read and execute everything that is mounted, and
//! write only beneath the named trees, whatever a mistake in the mounts would allow (landlock(7)).

use std::ffi::{c_int, c_long};
use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::os;

/// What changes a tree: WRITE_FILE, REMOVE_DIR, REMOVE_FILE, and MAKE_* for each kind of file.
const WRITES: u64 = 1 << 1 | 0b1_1111_1111 << 4;
/// Moving and linking between directories, since ABI 2.
const REFER: u64 = 1 << 13;
/// Truncating, since ABI 3.
const TRUNCATE: u64 = 1 << 14;

const O_PATH: c_int = 0o10_000_000;
const O_CLOEXEC: c_int = 0o2_000_000;
const RULE_PATH_BENEATH: c_int = 1;
const VERSION_QUERY: u32 = 1;

/// struct landlock_path_beneath_attr, which is packed.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: c_int,
}

/// Restricts this process and its descendants to write beneath `writable` alone. An empty list restricts nothing. Best
/// effort: it is the second of two locks, and the daemon reports whether the kernel has it.
pub(crate) fn restrict(writable: &[Vec<u8>]) {
    if writable.is_empty() {
        return;
    }
    // SAFETY: a query by version takes no memory.
    let abi = unsafe { os::syscall(os::SYS_LANDLOCK_CREATE_RULESET, std::ptr::null::<u8>(), 0_usize, VERSION_QUERY) };
    if abi < 1 {
        return;
    }
    let handled = WRITES | if abi >= 2 { REFER } else { 0 } | if abi >= 3 { TRUNCATE } else { 0 };
    // SAFETY: the first member of struct landlock_ruleset_attr is what is handled; its size says that no more follows.
    let ruleset = unsafe { os::syscall(os::SYS_LANDLOCK_CREATE_RULESET, &raw const handled, size_of::<u64>(), 0) };
    if ruleset < 0 {
        return;
    }
    for path in writable {
        allow(ruleset, Path::new(std::ffi::OsStr::from_bytes(path)), handled);
    }
    // SAFETY: no memory is passed; no-new-privs is set by the sandbox already.
    unsafe { os::syscall(os::SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0) };
    os::close_one(ruleset);
}

/// A tree that does not exist needs no rule.
fn allow(ruleset: c_long, path: &Path, allowed: u64) {
    let Ok(tree) = OpenOptions::new().read(true).custom_flags(O_PATH | O_CLOEXEC).open(path) else { return };
    // What is no directory takes only what applies to files.
    let allowed = if tree.metadata().is_ok_and(|kind| kind.is_dir()) { allowed } else { allowed & (1 << 1 | TRUNCATE) };
    let rule = PathBeneath { allowed, parent: tree.as_raw_fd() };
    // SAFETY: the rule lives across the call and has the kernel's layout.
    unsafe { os::syscall(os::SYS_LANDLOCK_ADD_RULE, ruleset, RULE_PATH_BENEATH, &raw const rule, 0) };
}
