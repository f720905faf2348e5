//! Landlock: a second lock on the file system, behind the mounts.
//!
//! Where the kernel has it, the command and all its descendants can read and execute everything that is mounted, and
//! write only beneath the named trees, whatever a mistake in the mounts would allow (landlock(7)).

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ptr::null;

use super::file::{self, Fd};
use super::sys::{BestEffort, Errno, call};

/// What changes a tree: WRITE_FILE, REMOVE_DIR, REMOVE_FILE, and MAKE_* for each kind of file.
const WRITES: u64 = 1 << 1 | 0b1_1111_1111 << 4;
/// Moving and linking between directories, since ABI 2.
const REFER: u64 = 1 << 13;
/// Truncating, since ABI 3.
const TRUNCATE: u64 = 1 << 14;

const RULE_PATH_BENEATH: i32 = 1;
const VERSION_QUERY: u32 = 1;

/// struct landlock_path_beneath_attr, which is packed.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: i32,
}

/// Restricts this process and its descendants to write beneath `writable` alone. An empty list restricts nothing, and a
/// kernel without Landlock does not either: the daemon reports that there is none. Where there is, it reports that it is in
/// force, so that anything that keeps it from being so is an error.
pub(crate) fn restrict(writable: &[Vec<u8>]) -> Result<(), Errno> {
    if writable.is_empty() {
        return Ok(());
    }
    // SAFETY: a query by version takes no memory.
    let Ok(abi) = (unsafe { call!(LANDLOCK_CREATE_RULESET, null::<u8>(), 0_usize, VERSION_QUERY) }) else {
        return Ok(());
    };
    if abi < 1 {
        return Ok(());
    }
    let handled = WRITES | if abi >= 2 { REFER } else { 0 } | if abi >= 3 { TRUNCATE } else { 0 };
    // SAFETY: the first member of struct landlock_ruleset_attr is what is handled; its size says that no more follows.
    let ruleset = unsafe { call!(LANDLOCK_CREATE_RULESET, &raw const handled, size_of::<u64>(), 0) };
    let ruleset = Fd::from_call(ruleset)?;
    for path in writable {
        allow(&ruleset, path, handled);
    }
    // SAFETY: no memory is passed; no-new-privs is set by the sandbox already.
    unsafe { call!(LANDLOCK_RESTRICT_SELF, ruleset.0, 0) }.map(drop)
}

/// A tree that does not exist needs no rule.
fn allow(ruleset: &Fd, path: &[u8], allowed: u64) {
    let Ok(path) = CString::new(path) else { return };
    let Ok((tree, is_directory)) = file::open_place(&path) else { return };
    // What is no directory takes only what applies to files.
    let allowed = if is_directory { allowed } else { allowed & (1 << 1 | TRUNCATE) };
    let rule = PathBeneath { allowed, parent: tree.0 };
    // SAFETY: the rule lives across the call and has the kernel's layout.
    unsafe { call!(LANDLOCK_ADD_RULE, ruleset.0, RULE_PATH_BENEATH, &raw const rule, 0) }.best_effort();
}
