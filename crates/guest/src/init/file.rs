//! Files and descriptors.

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::ops::ControlFlow;

use alloc::vec::Vec;

use super::sys::{BestEffort, Errno, call};

const AT_FDCWD: i32 = -100;
pub(crate) const O_WRONLY: i32 = 1;
pub(crate) const O_CREAT: i32 = 0o100;
const O_TRUNC: i32 = 0o1_000;
pub(crate) const O_NONBLOCK: i32 = 0o4_000;
const O_CLOEXEC: i32 = 0o2_000_000;
/// Relative to the architecture: aarch64 has its own value.
const O_DIRECTORY: i32 = if cfg!(target_arch = "x86_64") { 0o200_000 } else { 0o40_000 };
const O_PATH: i32 = 0o10_000_000;

const LOCK_EX_NB: i32 = 2 | 4;

const F_SETFD: i32 = 2;
const F_DUPFD_CLOEXEC: i32 = 1030;
const FD_CLOEXEC: i32 = 1;

/// struct linux_dirent64: a number, an offset, the entry's length, its kind, its name.
const ENTRY_LENGTH: usize = 16;
const ENTRY_NAME: usize = 19;

/// A descriptor that is closed when it is dropped.
pub(crate) struct Fd(pub(crate) i32);

impl Fd {
    /// What a call gave that makes a descriptor.
    pub(crate) fn from_call(result: Result<usize, Errno>) -> Result<Self, Errno> {
        result.and_then(|fd| i32::try_from(fd).map(Self).map_err(|_| Errno::EBADF))
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: this descriptor is ours alone.
        unsafe { call!(CLOSE_RANGE, self.0, self.0, 0) }.best_effort();
    }
}

/// Closes every descriptor from this one on.
pub(crate) fn close_from(first: i32) {
    // SAFETY: nothing here owns a descriptor above `first`.
    unsafe { call!(CLOSE_RANGE, first, u32::MAX, 0) }.best_effort();
}

pub(crate) fn close_on_exec(fd: i32) {
    // SAFETY: no memory is passed.
    unsafe { call!(FCNTL, fd, F_SETFD, FD_CLOEXEC) }.best_effort();
}

/// Another descriptor of the same, the first free one from `first` on, closed at exec.
pub(crate) fn duplicate_from(fd: i32, first: i32) -> Result<i32, Errno> {
    // SAFETY: no memory is passed.
    let other = unsafe { call!(FCNTL, fd, F_DUPFD_CLOEXEC, first) }?;
    i32::try_from(other).map_err(|_| Errno::EBADF)
}

/// Makes `place` the same descriptor as `fd`, kept at exec.
pub(crate) fn duplicate_to(fd: i32, place: i32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { call!(DUP3, fd, place, 0) }.map(drop)
}

pub(crate) fn open(path: &CStr, flags: i32) -> Result<Fd, Errno> {
    // SAFETY: the path is null-terminated.
    Fd::from_call(unsafe { call!(OPENAT, AT_FDCWD, path.as_ptr(), flags | O_CLOEXEC, 0o600) })
}

/// The two ends of a pipe: the one that is read, and the one that is written.
pub(crate) fn pipe() -> Result<(Fd, Fd), Errno> {
    let mut ends = [-1_i32; 2];
    // SAFETY: the kernel writes two descriptors there.
    unsafe { call!(PIPE2, ends.as_mut_ptr(), O_CLOEXEC) }?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// Takes an exclusive lock of an open file, without waiting (flock(2)).
pub(crate) fn lock(file: &Fd) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { call!(FLOCK, file.0, LOCK_EX_NB) }.map(drop)
}

/// Opens a file to read it, or to pass it on.
pub(crate) fn open_file(path: &CStr) -> Result<Fd, Errno> {
    open(path, 0)
}

/// Names a place without opening it, and says whether it is a directory.
pub(crate) fn open_place(path: &CStr) -> Result<(Fd, bool), Errno> {
    match open(path, O_PATH | O_DIRECTORY) {
        Err(Errno::ENOTDIR) => open(path, O_PATH).map(|place| (place, false)),
        other => other.map(|place| (place, true)),
    }
}

/// Reads what is there, at most a buffer full; nothing is the end.
pub(crate) fn read(fd: i32, buffer: &mut [MaybeUninit<u8>]) -> Result<&[u8], Errno> {
    loop {
        // SAFETY: the buffer is as long as said.
        match unsafe { call!(READ, fd, buffer.as_mut_ptr(), buffer.len()) } {
            Err(Errno::EINTR) => {}
            // SAFETY: the kernel has written that many bytes.
            result => return result.map(|count| unsafe { filled(buffer, count) }),
        }
    }
}

/// Reads what is there, at most as much as the buffer has room for, behind what is in it; 0 is the end.
pub(crate) fn read_more(fd: i32, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    let count = read(fd, buffer.spare_capacity_mut())?.len();
    // SAFETY: that many bytes were written behind the others, within the capacity.
    unsafe { buffer.set_len(buffer.len() + count) };
    Ok(count)
}

/// The beginning of a buffer.
///
/// # Safety
/// The first `count` bytes were written.
pub(crate) unsafe fn filled(buffer: &[MaybeUninit<u8>], count: usize) -> &[u8] {
    let part = buffer.get(..count).unwrap_or_default();
    // SAFETY: the caller's promise.
    unsafe { part.assume_init_ref() }
}

/// Writes at least one byte, where there is one.
pub(crate) fn write(fd: i32, bytes: &[u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: the bytes are as many as said.
        match unsafe { call!(WRITE, fd, bytes.as_ptr(), bytes.len()) } {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Writes all bytes.
pub(crate) fn write_all(fd: i32, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let count = write(fd, bytes)?;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// Writes a file that exists.
pub(crate) fn write_file(path: &CStr, bytes: &[u8]) -> Result<(), Errno> {
    let file = open(path, O_WRONLY | O_TRUNC)?;
    write_all(file.0, bytes)
}

/// The beginning of a file, as much as one read gives: small files of /proc come whole.
pub(crate) fn read_start<'a>(path: &CStr, buffer: &'a mut [MaybeUninit<u8>]) -> Result<&'a [u8], Errno> {
    let file = open(path, 0)?;
    read(file.0, buffer)
}

/// A whole file, at most `limit` bytes of it.
pub(crate) fn read_file(path: &CStr, limit: usize) -> Result<Vec<u8>, Errno> {
    let file = open(path, 0)?;
    let mut content = Vec::new();
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        let piece = read(file.0, &mut buffer)?;
        if piece.is_empty() || content.len() >= limit {
            return Ok(content);
        }
        content.extend(piece);
    }
}

/// Where a symbolic link leads.
pub(crate) fn read_link<'a>(path: &CStr, buffer: &'a mut [MaybeUninit<u8>]) -> Result<&'a [u8], Errno> {
    // SAFETY: the path is null-terminated, the buffer as long as said.
    let count = unsafe { call!(READLINKAT, AT_FDCWD, path.as_ptr(), buffer.as_mut_ptr(), buffer.len()) }?;
    // SAFETY: the kernel has written that many bytes.
    Ok(unsafe { filled(buffer, count) })
}

/// Shows every name of a directory until `look` has seen enough; says whether it has.
pub(crate) fn each_name(path: &CStr, mut look: impl FnMut(&[u8]) -> ControlFlow<()>) -> Result<ControlFlow<()>, Errno> {
    let directory = open(path, O_DIRECTORY)?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        // SAFETY: the buffer is as long as said.
        let count = unsafe { call!(GETDENTS64, directory.0, buffer.as_mut_ptr(), buffer.len()) }?;
        // SAFETY: the kernel has written that many bytes.
        let mut entries = unsafe { filled(&buffer, count) };
        if entries.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        while let Some((name, rest)) = split_entry(entries) {
            if look(name).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            entries = rest;
        }
    }
}

/// The first entry's name, and the entries after it.
fn split_entry(entries: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = entries.get(ENTRY_LENGTH..)?.first_chunk().map(|bytes| usize::from(u16::from_ne_bytes(*bytes)))?;
    let name = entries.get(ENTRY_NAME..length)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    Some((name.get(..end)?, entries.get(length..)?))
}
