//! The system calls, declared by hand: the helper has no dependencies.
//!
//! The numbers are those of Linux on x86-64 and aarch64, where they agree unless said otherwise.

use std::ffi::{CString, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::io;

use crate::frame::How;

pub(crate) const SIGKILL: c_int = 9;
pub(crate) const SIGTERM: c_int = 15;
const SIGCHLD: c_int = 17;

const EINTR: i32 = 4;
const ECHILD: i32 = 10;

const P_ALL: c_int = 0;
const WEXITED: c_int = 4;
const WNOWAIT: c_int = 0x0100_0000;

const PR_SET_PDEATHSIG: c_int = 1;
const PR_SET_DUMPABLE: c_int = 4;
const PR_SET_CHILD_SUBREAPER: c_int = 36;

const F_SETFD: c_int = 2;
const FD_CLOEXEC: c_int = 1;
const CLOEXEC: c_int = 0o2_000_000;
const SIG_BLOCK: c_int = 0;
const SIG_SETMASK: c_int = 2;
const WNOHANG: c_int = 1;
const RUSAGE_CHILDREN: c_int = -1;
const POLLIN: i16 = 1;
const MSG_NOSIGNAL: c_int = 0x4000;
const SOL_SOCKET: c_int = 1;
const SCM_RIGHTS: c_int = 1;

/// The same on every architecture: they came after the tables were unified.
pub(crate) const SYS_PIDFD_SEND_SIGNAL: c_long = 424;
pub(crate) const SYS_PIDFD_OPEN: c_long = 434;
pub(crate) const SYS_CLOSE_RANGE: c_long = 436;
pub(crate) const SYS_LANDLOCK_CREATE_RULESET: c_long = 444;
pub(crate) const SYS_LANDLOCK_ADD_RULE: c_long = 445;
pub(crate) const SYS_LANDLOCK_RESTRICT_SELF: c_long = 446;

#[repr(C)]
struct PollFd {
    fd: c_int,
    events: i16,
    revents: i16,
}

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
    max_rss: c_long,
    others: [c_long; 13],
}

#[repr(C)]
struct IoVec {
    base: *const c_void,
    length: usize,
}

#[repr(C)]
struct MessageHeader {
    name: *mut c_void,
    name_length: c_uint,
    parts: *const IoVec,
    part_count: usize,
    control: *const c_void,
    control_length: usize,
    flags: c_int,
}

/// One control message with one descriptor: struct cmsghdr, its data, its padding (cmsg(3)).
#[repr(C)]
struct PassedDescriptor {
    length: usize,
    level: c_int,
    kind: c_int,
    fd: c_int,
    padding: c_int,
}

/// sigset_t of glibc and musl: 1024 bits.
type SignalSet = [u64; 16];

unsafe extern "C" {
    pub(crate) fn syscall(number: c_long, ...) -> c_long;
    fn prctl(option: c_int, ...) -> c_int;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn fork() -> c_int;
    fn execve(path: *const c_char, argv: *const *const c_char, env: *const *const c_char) -> c_int;
    fn _exit(code: c_int) -> !;
    fn wait4(pid: c_int, status: *mut c_int, options: c_int, usage: *mut RUsage) -> c_int;
    fn waitid(kind: c_int, id: c_uint, info: *mut c_void, options: c_int) -> c_int;
    fn getrusage(who: c_int, usage: *mut RUsage) -> c_int;
    fn kill(pid: c_int, signal: c_int) -> c_int;
    fn setsid() -> c_int;
    fn umask(mask: c_uint) -> c_uint;
    fn dup2(old: c_int, new: c_int) -> c_int;
    fn chdir(path: *const c_char) -> c_int;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout: c_int) -> c_int;
    fn signalfd(fd: c_int, mask: *const SignalSet, flags: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sendmsg(fd: c_int, message: *const MessageHeader, flags: c_int) -> isize;
    #[link_name = "read"]
    fn c_read(fd: c_int, buffer: *mut c_void, count: usize) -> isize;
}

/// errno of the last call.
pub(crate) fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

pub(crate) fn set_not_dumpable() {
    // SAFETY: no memory is passed.
    unsafe { prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// Undoes [`set_not_dumpable`] in a child, so that it may write its own /proc/self files.
pub(crate) fn set_dumpable() {
    // SAFETY: no memory is passed.
    unsafe { prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) };
}

/// The customary mask: files that a command makes are readable by all and writable by their owner.
pub(crate) fn set_customary_umask() {
    // SAFETY: no memory is passed.
    unsafe { umask(0o022) };
}

pub(crate) fn die_with_parent() {
    // SAFETY: no memory is passed.
    unsafe { prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) };
}

pub(crate) fn live_without_parent() {
    // SAFETY: no memory is passed.
    unsafe { prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0) };
}

/// Orphans of this process's descendants become its children instead of the system's PID 1's.
pub(crate) fn adopt_orphans() {
    // SAFETY: no memory is passed.
    unsafe { prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) };
}

pub(crate) fn close_from(first: u32) {
    // SAFETY: nothing here owns a descriptor above `first`.
    unsafe { syscall(SYS_CLOSE_RANGE, first, u32::MAX, 0) };
}

pub(crate) fn close_on_exec(fd: c_int) {
    // SAFETY: no memory is passed.
    unsafe { fcntl(fd, F_SETFD, FD_CLOEXEC) };
}

/// A descriptor that reads when a child has ended. SIGCHLD is blocked from then on.
pub(crate) fn watch_children() -> Option<c_int> {
    let mut set: SignalSet = [0; 16];
    set[0] = 1 << (SIGCHLD - 1);
    // SAFETY: the set is a valid signal set; a null old set is allowed.
    let fd = unsafe {
        sigprocmask(SIG_BLOCK, &raw const set, std::ptr::null_mut());
        signalfd(-1, &raw const set, CLOEXEC | 0o4000)
    };
    (fd >= 0).then_some(fd)
}

/// Empties a non-blocking descriptor.
pub(crate) fn drain(fd: c_int) {
    let mut buffer = [0; 1024];
    while read(fd, &mut buffer) > 0 {}
}

pub(crate) fn read(fd: c_int, buffer: &mut [u8]) -> isize {
    loop {
        // SAFETY: the buffer is as long as said.
        let count = unsafe { c_read(fd, buffer.as_mut_ptr().cast(), buffer.len()) };
        if count >= 0 || errno() != EINTR {
            return count;
        }
    }
}

/// Waits until one of two descriptors has something (or is closed), at most `timeout` milliseconds; -1 is for ever.
pub(crate) fn poll_two(first: c_int, second: c_int, timeout: c_int) -> (bool, bool) {
    let mut fds = [PollFd { fd: first, events: POLLIN, revents: 0 }, PollFd { fd: second, events: POLLIN, revents: 0 }];
    // SAFETY: the list has two entries.
    unsafe { poll(fds.as_mut_ptr(), 2, timeout) };
    (fds[0].revents != 0, fds[1].revents != 0)
}

/// Collects one child that has ended.
pub(crate) fn wait_any() -> Option<(i32, How)> {
    let mut status = 0;
    // SAFETY: the status lives across the call; a null usage is allowed.
    let pid = unsafe { wait4(-1, &raw mut status, WNOHANG, std::ptr::null_mut()) };
    if pid <= 0 {
        return None;
    }
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
    let result = unsafe { waitid(P_ALL, 0, nothing.as_mut_ptr().cast(), WEXITED | WNOHANG | WNOWAIT) };
    result == 0 || errno() != ECHILD
}

/// User and system time in microseconds, and the largest resident size in KiB, of all children that were waited for.
pub(crate) fn usage_of_children() -> (u64, u64, u64) {
    let zero = || TimeVal { seconds: 0, micros: 0 };
    let mut usage = RUsage { user: zero(), system: zero(), max_rss: 0, others: [0; 13] };
    // SAFETY: the structure is as large as the kernel's.
    unsafe { getrusage(RUSAGE_CHILDREN, &raw mut usage) };
    let micros = |time: &TimeVal| u64::try_from(time.seconds * 1_000_000 + time.micros).unwrap_or(0);
    (micros(&usage.user), micros(&usage.system), u64::try_from(usage.max_rss).unwrap_or(0))
}

/// Sends a signal to every process of this PID namespace but this one (kill(2), pid -1).
pub(crate) fn signal_all(signal: c_int) {
    // SAFETY: no memory is passed. PID 1 of a namespace reaches nothing outside.
    unsafe { kill(-1, signal) };
}

pub(crate) fn enter(path: &[u8]) -> Result<(), i32> {
    let path = CString::new(path).map_err(|_| 22)?;
    // SAFETY: the path is null-terminated.
    if unsafe { chdir(path.as_ptr()) } == 0 { Ok(()) } else { Err(errno()) }
}

/// Sends all bytes, the descriptor with the first of them; `false` when the other end is gone.
pub(crate) fn send(socket: c_int, mut bytes: &[u8], mut fd: Option<c_int>) -> bool {
    while !bytes.is_empty() {
        let part = IoVec { base: bytes.as_ptr().cast(), length: bytes.len() };
        let passed = PassedDescriptor {
            length: size_of::<PassedDescriptor>() - size_of::<c_int>(),
            level: SOL_SOCKET,
            kind: SCM_RIGHTS,
            fd: fd.unwrap_or(-1),
            padding: 0,
        };
        let message = MessageHeader {
            name: std::ptr::null_mut(),
            name_length: 0,
            parts: &raw const part,
            part_count: 1,
            control: if fd.is_some() { (&raw const passed).cast() } else { std::ptr::null() },
            control_length: if fd.is_some() { size_of::<PassedDescriptor>() } else { 0 },
            flags: 0,
        };
        // SAFETY: the message, its one part and its control data live across the call and are as long as they say.
        let sent = unsafe { sendmsg(socket, &raw const message, MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                fd = None;
            }
            Err(_) if errno() == EINTR => {}
            Err(_) => return false,
        }
    }
    true
}

/// Forks. The child gets `Ok(None)`.
pub(crate) fn fork_process() -> Result<Option<i32>, i32> {
    // SAFETY: this process has one thread, so the child may do whatever it could.
    match unsafe { fork() } {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(pid)),
        _ => Err(errno()),
    }
}

/// Makes a child ready for its program: a session of its own, these outputs, no signal blocked, nothing else open.
pub(crate) fn become_command(stdout: c_int, stderr: c_int) {
    let none: SignalSet = [0; 16];
    // SAFETY: the set is valid; the other calls pass no memory.
    unsafe {
        setsid();
        dup2(stdout, 1);
        dup2(stderr, 2);
        syscall(SYS_CLOSE_RANGE, 3_u32, u32::MAX, 0);
        sigprocmask(SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Executes a program; comes back with errno.
pub(crate) fn execute(path: &CString, argv: &[CString], env: &[CString]) -> i32 {
    let list = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (list(argv), list(env));
    // SAFETY: the lists end with null and their strings outlive the call.
    unsafe { execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    errno()
}

/// Ends this process at once.
pub(crate) fn exit(code: c_int) -> ! {
    // SAFETY: nothing has to be flushed.
    unsafe { _exit(code) }
}

/// Closes a descriptor that came from a raw call.
pub(crate) fn close_one(fd: c_long) {
    let Ok(first) = u32::try_from(fd) else { return };
    // SAFETY: the caller owns this descriptor and does not use it again.
    unsafe { syscall(SYS_CLOSE_RANGE, first, first, 0) };
}
