//! Processes and signals, each call in a function of its own.

use alloc::ffi::CString;
use alloc::vec::Vec;
use core::ffi::{CStr, c_char};
use core::mem::MaybeUninit;
use core::ptr::{null, null_mut};

use super::file::{self, Fd};
use super::sys::{BestEffort, Errno, call};
use crate::frame::How;

pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGTERM: i32 = 15;
const SIGCHLD: i32 = 17;

const P_ALL: i32 = 0;
const WNOHANG: i32 = 1;
const WEXITED: i32 = 4;
const WNOWAIT: i32 = 0x0100_0000;
const RUSAGE_CHILDREN: i32 = -1;

const PR_SET_PDEATHSIG: i32 = 1;
const PR_SET_DUMPABLE: i32 = 4;
const PR_SET_CHILD_SUBREAPER: i32 = 36;

/// The same on both architectures.
const RLIMIT_NPROC: i32 = 6;

const SFD_CLOEXEC_NONBLOCK: i32 = 0o2_000_000 | 0o4_000;
const SIG_BLOCK: i32 = 0;
const SIG_SETMASK: i32 = 2;

/// The kernel's set of signals: one bit each, the first for signal 1.
type SignalSet = u64;

#[repr(C)]
struct TimeVal {
    seconds: i64,
    micros: i64,
}

/// struct rusage; only its head is looked at.
#[repr(C)]
struct RUsage {
    user: TimeVal,
    system: TimeVal,
    max_rss: i64,
    others: [i64; 13],
}

fn prctl(option: i32, value: i32) {
    // SAFETY: none of the options used here takes memory.
    unsafe { call!(PRCTL, option, value, 0, 0, 0) }.best_effort();
}

pub(crate) fn set_not_dumpable() {
    prctl(PR_SET_DUMPABLE, 0);
}

/// Undoes [`set_not_dumpable`] in a child, so that it may write its own /proc/self files. The child has a memory of its own
/// for that: started as vfork(2) does it, it would lend its parent's, and expose it.
pub(crate) fn set_dumpable() {
    prctl(PR_SET_DUMPABLE, 1);
}

/// The customary mask: files that a command makes are readable by all and writable by their owner.
pub(crate) fn set_customary_umask() {
    // SAFETY: no memory is passed.
    unsafe { call!(UMASK, 0o022) }.best_effort();
}

pub(crate) fn die_with_parent() {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
}

pub(crate) fn live_without_parent() {
    prctl(PR_SET_PDEATHSIG, 0);
}

/// Orphans of this process's descendants become its children instead of the system's PID 1's.
pub(crate) fn adopt_orphans() {
    prctl(PR_SET_CHILD_SUBREAPER, 1);
}

pub(crate) fn own_pid() -> i32 {
    // SAFETY: no memory is passed.
    unsafe { call!(GETPID) }.ok().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0)
}

fn set_signal_mask(how: i32, set: SignalSet) {
    // SAFETY: the set is as large as said; a null old set is allowed.
    unsafe { call!(RT_SIGPROCMASK, how, &raw const set, null_mut::<SignalSet>(), size_of::<SignalSet>()) }
        .best_effort();
}

/// A descriptor that reads when a child has ended. SIGCHLD is blocked from then on.
pub(crate) fn watch_children() -> Option<Fd> {
    let set: SignalSet = 1 << (SIGCHLD - 1);
    set_signal_mask(SIG_BLOCK, set);
    // SAFETY: the set is as large as said.
    Fd::from_call(unsafe { call!(SIGNALFD4, -1, &raw const set, size_of::<SignalSet>(), SFD_CLOEXEC_NONBLOCK) }).ok()
}

/// Empties a non-blocking descriptor.
pub(crate) fn drain(fd: i32) {
    let mut buffer = [MaybeUninit::uninit(); 1024];
    while file::read(fd, &mut buffer).is_ok_and(|piece| !piece.is_empty()) {}
}

/// Collects one child that has ended.
pub(crate) fn wait_any() -> Option<(i32, How)> {
    let mut status = 0_i32;
    // SAFETY: the status lives across the call; a null usage is allowed.
    let pid = unsafe { call!(WAIT4, -1, &raw mut status, WNOHANG, null_mut::<RUsage>()) };
    let pid = pid.ok().and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0)?;
    // wait(2): the low seven bits are the signal, the next byte is the code.
    let how = match u8::try_from(status & 0x7f) {
        Ok(0) | Err(_) => How::Code(u8::try_from((status >> 8) & 0xff).unwrap_or(u8::MAX)),
        Ok(signal) => How::Signal(signal),
    };
    Some((pid, how))
}

/// Whether this process has any child left. One that adopts orphans has none exactly when it has no descendants.
pub(crate) fn has_children() -> bool {
    let mut nothing = [0_u64; 16];
    // SAFETY: siginfo_t is 128 bytes, as large as the array; WNOWAIT leaves a child that has ended to be collected.
    let result =
        unsafe { call!(WAITID, P_ALL, 0, nothing.as_mut_ptr(), WEXITED | WNOHANG | WNOWAIT, null_mut::<RUsage>()) };
    result != Err(Errno::ECHILD)
}

/// User and system time in microseconds, and the largest resident size in KiB, of all children that were waited for.
pub(crate) fn usage_of_children() -> (u64, u64, u64) {
    let zero = || TimeVal { seconds: 0, micros: 0 };
    let mut usage = RUsage { user: zero(), system: zero(), max_rss: 0, others: [0; 13] };
    // SAFETY: the structure is as large as the kernel's.
    unsafe { call!(GETRUSAGE, RUSAGE_CHILDREN, &raw mut usage) }.best_effort();
    let micros = |time: &TimeVal| u64::try_from(time.seconds * 1_000_000 + time.micros).unwrap_or(0);
    (micros(&usage.user), micros(&usage.system), u64::try_from(usage.max_rss).unwrap_or(0))
}

/// Bounds the processes and threads of this user, which the kernel counts in the user namespace that he is in, since 5.14
/// (getrlimit(2)). For what this process starts, too.
pub(crate) fn limit_processes(most: u64) -> Result<(), Errno> {
    let limit = [most, most];
    // SAFETY: struct rlimit64 is two numbers, soft and hard; it lives across the call. Pid 0 is this process.
    unsafe { call!(PRLIMIT64, 0, RLIMIT_NPROC, limit.as_ptr(), null_mut::<u64>()) }.map(drop)
}

/// Sends a signal to every process of this PID namespace but this one (kill(2), pid -1).
pub(crate) fn signal_all(signal: i32) {
    // SAFETY: no memory is passed. PID 1 of a namespace reaches nothing outside.
    unsafe { call!(KILL, -1, signal) }.best_effort();
}

/// A descriptor of a process: it means that one alone, also when its number is given to another.
pub(crate) fn open_process(pid: i32) -> Result<Fd, Errno> {
    // SAFETY: no memory is passed.
    Fd::from_call(unsafe { call!(PIDFD_OPEN, pid, 0) })
}

pub(crate) fn signal_process(process: &Fd, signal: i32) {
    // SAFETY: a null siginfo is allowed.
    unsafe { call!(PIDFD_SEND_SIGNAL, process.0, signal, null::<u8>(), 0) }.best_effort();
}

/// Sends a signal to a process by its number.
pub(crate) fn signal_number(pid: i32, signal: i32) -> Result<(), Errno> {
    // SAFETY: no memory is passed.
    unsafe { call!(KILL, pid, signal) }.map(drop)
}

/// Leaves a namespace for a new one (unshare(2)).
pub(crate) fn leave_namespace(flag: i32) -> Result<(), Errno> {
    // SAFETY: no memory is passed; this process has one thread.
    unsafe { call!(UNSHARE, flag) }.map(drop)
}

/// Becomes the first of a session of its own, to which no signal is sent but by its number, and which blocks all that can
/// be blocked.
pub(crate) fn stand_alone() {
    // SAFETY: no memory is passed.
    unsafe { call!(SETSID) }.best_effort();
    set_signal_mask(SIG_SETMASK, SignalSet::MAX);
}

pub(crate) fn enter(path: &[u8]) -> Result<(), Errno> {
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the path is null-terminated.
    unsafe { call!(CHDIR, path.as_ptr()) }.map(drop)
}

/// Forks. The child gets `Ok(None)`.
pub(crate) fn fork_process() -> Result<Option<i32>, Errno> {
    // SAFETY: a plain fork: no shared memory, no other stack. This process has one thread, so the child may do whatever it
    // could.
    let pid = unsafe { call!(CLONE, SIGCHLD, 0_usize, 0_usize, 0_usize, 0_usize) }?;
    Ok(i32::try_from(pid).ok().filter(|pid| *pid > 0))
}

/// Makes a child ready for its program: a session of its own, these outputs, no signal blocked, nothing else open.
pub(crate) fn become_command(stdout: i32, stderr: i32) {
    // SAFETY: no memory is passed.
    unsafe {
        call!(SETSID).best_effort();
        // Of a descriptor onto itself, the kernel says an error and leaves it as it is.
        call!(DUP3, stdout, 1, 0).best_effort();
        call!(DUP3, stderr, 2, 0).best_effort();
    }
    file::close_from(3);
    set_signal_mask(SIG_SETMASK, 0);
}

/// Executes a program; comes back with the error.
pub(crate) fn execute(path: &CStr, argv: &[CString], env: &[CString]) -> Errno {
    let list = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([null()]).collect()
    };
    let (argv, env) = (list(argv), list(env));
    // SAFETY: the lists end with null and their strings outlive the call.
    let result = unsafe { call!(EXECVE, path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    result.err().unwrap_or(Errno(0))
}

/// Ends this process at once.
pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: nothing has to be flushed.
        unsafe { call!(EXIT_GROUP, code) }.best_effort();
    }
}
