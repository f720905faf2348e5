//! Processes that a killed daemon left: named by a folder of its own.
//!
//! bubblewrap makes the sandbox's first process before that one can be told to die with it. Where the daemon is killed in
//! between, it takes bubblewrap along and leaves the other, which has started nothing and waits for ever. Its name, the first
//! of its arguments, is what it is found by.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::kill::kill_if;

/// As much of a process's arguments as a path can be long (PATH_MAX).
const MAX_NAME: u64 = 4096;

/// Kills every process whose name is a path beneath `folder`. Whoever gives himself such a name asks for it; one that may not
/// be killed is another user's.
pub fn end_those_of(folder: &Path) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid: Option<i32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(pid) = pid.filter(|pid| is_of(*pid, folder)) {
            kill_if(pid, || is_of(pid, folder));
        }
    }
}

fn is_of(pid: i32, folder: &Path) -> bool {
    let mut arguments = Vec::new();
    let file = File::open(format!("/proc/{pid}/cmdline"));
    if file.and_then(|file| file.take(MAX_NAME).read_to_end(&mut arguments)).is_err() {
        return false;
    }
    let name = arguments.split(|byte| *byte == 0).next().unwrap_or_default();
    name.strip_prefix(folder.as_os_str().as_bytes()).is_some_and(|rest| rest.len() > 1 && rest.starts_with(b"/"))
}
