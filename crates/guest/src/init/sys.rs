//! The way into the kernel: the calls' numbers, and the instruction.
//!
//! Only calls that x86-64 and aarch64 both have are used, so that there is one way through the code: aarch64 has no `fork`,
//! `dup2`, `poll` or `open`.

use core::arch::asm;

/// An error of the kernel's (errno(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    pub(crate) const ENOENT: Self = Self(2);
    pub(crate) const EINTR: Self = Self(4);
    pub(crate) const EBADF: Self = Self(9);
    pub(crate) const ECHILD: Self = Self(10);
    pub(crate) const EAGAIN: Self = Self(11);
    pub(crate) const ENOMEM: Self = Self(12);
    pub(crate) const ENOTDIR: Self = Self(20);
    pub(crate) const EINVAL: Self = Self(22);
    pub(crate) const ENOTSOCK: Self = Self(88);
    pub(crate) const ETIMEDOUT: Self = Self(110);
    pub(crate) const EINPROGRESS: Self = Self(115);
}

/// For what is tried: its failure changes nothing, and there is nobody to tell.
pub(crate) trait BestEffort {
    fn best_effort(self);
}

impl<T> BestEffort for Result<T, Errno> {
    fn best_effort(self) {}
}

/// The numbers of both architectures (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
macro_rules! numbers {
    ($($name:ident $x86_64:literal $aarch64:literal)*) => {
        pub(crate) mod number {
            $(pub(crate) const $name: usize = if cfg!(target_arch = "x86_64") { $x86_64 } else { $aarch64 };)*
        }
    };
}

numbers! {
    READ 0 63
    WRITE 1 64
    MMAP 9 222
    MUNMAP 11 215
    RT_SIGPROCMASK 14 135
    MREMAP 25 216
    GETPID 39 172
    SOCKET 41 198
    CONNECT 42 203
    SENDTO 44 206
    RECVFROM 45 207
    SENDMSG 46 211
    RECVMSG 47 212
    SHUTDOWN 48 210
    BIND 49 200
    LISTEN 50 201
    SETSOCKOPT 54 208
    GETSOCKOPT 55 209
    CLONE 56 220
    EXECVE 59 221
    WAIT4 61 260
    KILL 62 129
    FCNTL 72 25
    FLOCK 73 32
    CHDIR 80 49
    UMASK 95 166
    GETRUSAGE 98 165
    SETSID 112 157
    PRCTL 157 167
    GETDENTS64 217 61
    CLOCK_GETTIME 228 113
    EXIT_GROUP 231 94
    WAITID 247 95
    OPENAT 257 56
    READLINKAT 267 78
    UNSHARE 272 97
    PPOLL 271 73
    SIGNALFD4 289 74
    DUP3 292 24
    PIPE2 293 59
    PRLIMIT64 302 261
    PIDFD_SEND_SIGNAL 424 424
    PIDFD_OPEN 434 434
    CLOSE_RANGE 436 436
    LANDLOCK_CREATE_RULESET 444 444
    LANDLOCK_ADD_RULE 445 445
    LANDLOCK_RESTRICT_SELF 446 446
}

/// What a call takes: everything is a machine word.
pub(crate) trait Argument {
    fn word(self) -> usize;
}

impl Argument for usize {
    fn word(self) -> usize {
        self
    }
}

impl Argument for u32 {
    fn word(self) -> usize {
        self as usize
    }
}

impl Argument for i32 {
    fn word(self) -> usize {
        (self as isize).cast_unsigned()
    }
}

impl<T> Argument for *const T {
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

impl<T> Argument for *mut T {
    fn word(self) -> usize {
        self.expose_provenance()
    }
}

/// `call!(NAME, arguments…)`: what the kernel gives, or its error.
macro_rules! call {
    ($name:ident $(, $argument:expr)* $(,)?) => {
        $crate::init::sys::enter($crate::init::sys::number::$name, [$($crate::init::sys::Argument::word($argument)),*])
    };
}
pub(crate) use call;

/// Calls the kernel.
///
/// # Safety
/// The arguments are what this call takes: what it reads and writes lives across it and is as large as it is told.
#[inline(always)]
pub(crate) unsafe fn enter<const COUNT: usize>(number: usize, arguments: [usize; COUNT]) -> Result<usize, Errno> {
    let mut six = [0; 6];
    for (place, argument) in six.iter_mut().zip(arguments) {
        *place = argument;
    }
    // SAFETY: the caller's promise.
    let result = unsafe { instruction(number, six) };
    // The last 4095 values are errors, on every architecture.
    match i32::try_from(result) {
        Ok(error @ -4095..=-1) => Err(Errno(-error)),
        _ => Ok(result.cast_unsigned()),
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn instruction(number: usize, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: the caller's promise; the kernel changes these three registers, and memory as the call does.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn instruction(number: usize, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result;
    // SAFETY: the caller's promise; the kernel changes this one register, and memory as the call does.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            in("x5") f, options(nostack));
    }
    result
}
