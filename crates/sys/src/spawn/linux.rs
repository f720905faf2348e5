//! What a child does between clone and exec.
//!
//! Everything below [`child_main`] runs on memory shared with the daemon while its thread is stopped: it makes raw system
//! calls, reads what was prepared, and writes to its own stack and to [`Report`] alone.

#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::stage::{Resource, Stage};
use super::{Child, Failure, Program, RawImage, pointers};

/// The child's stack: it calls a handful of frames deep.
const STACK: usize = 64 * 1024;

/// Where descriptors are parked while 0, 1, 2, … are filled: above any that the child gets.
const PARKING: c_int = 64;

/// What the child writes down when it fails. `stage` counts from 1; one past the last means exec.
struct Report {
    stage: usize,
    errno: c_int,
}

/// All that the child reads, prepared before clone.
struct Prepared<'a> {
    stages: &'a [Stage],
    fds: &'a [RawFd],
    parked: &'a UnsafeCell<Vec<c_int>>,
    image: RawImage,
    argv: *const *const c_char,
    env: *const *const c_char,
    parent: c_int,
    report: &'a UnsafeCell<Report>,
}

pub(super) fn clone_and_exec(program: &Program, fds: &[RawFd], image: RawImage) -> Result<Child, Failure> {
    let argv = pointers(&program.argv);
    let env = pointers(&program.env);
    let report = UnsafeCell::new(Report { stage: 0, errno: 0 });
    let parked = UnsafeCell::new(vec![0; fds.len()]);
    // SAFETY: getpid has no preconditions.
    let parent = unsafe { libc::getpid() };
    let prepared = Prepared {
        stages: &program.stages,
        fds,
        parked: &parked,
        image,
        argv: argv.as_ptr(),
        env: env.as_ptr(),
        parent,
        report: &report,
    };
    // u128 makes the stack's end aligned to 16 bytes, as every ABI here asks for.
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the stack is as large as said and grows down from its end; the child runs `child_main` on `prepared`, both
    // of which outlive it, because CLONE_VFORK stops this thread until the child has executed its program or ended.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        libc::clone(child_main, top, flags, (&raw const prepared).cast_mut().cast::<c_void>(), &raw mut pidfd)
    };
    let Ok(pid) = u32::try_from(pid) else { return Err(Failure::Clone(io::Error::last_os_error())) };
    // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD), close-on-exec.
    let child = Child::new(pid, unsafe { OwnedFd::from_raw_fd(pidfd) });
    let report = report.into_inner();
    if report.stage == 0 {
        return Ok(child);
    }
    // The child ends by itself; dropping it collects it.
    let source = io::Error::from_raw_os_error(report.errno);
    match program.stages.get(report.stage - 1) {
        Some(stage) => Err(Failure::Stage { stage: stage.describe(), source }),
        None => Err(Failure::Exec(source)),
    }
}

extern "C" fn child_main(prepared: *mut c_void) -> c_int {
    // SAFETY: `clone_and_exec` passes the address of a `Prepared` that lives until this process has its own memory.
    let prepared = unsafe { &*prepared.cast::<Prepared<'_>>() };
    for (index, stage) in prepared.stages.iter().enumerate() {
        if perform(stage, prepared.parent) != 0 {
            fail(prepared, index + 1);
        }
    }
    if arrange_descriptors(prepared) == 0 {
        for (index, stage) in prepared.stages.iter().enumerate() {
            if let Stage::Limit(Resource::OpenFiles, most) = stage
                && set_limit(Resource::OpenFiles, *most) != 0
            {
                fail(prepared, index + 1);
            }
        }
        reset_signals();
        execute(prepared);
    }
    fail(prepared, prepared.stages.len() + 1)
}

/// Writes down what failed and ends.
fn fail(prepared: &Prepared<'_>, stage: usize) -> ! {
    // SAFETY: the thread that reads the report is stopped until this process ends.
    unsafe {
        let errno = *libc::__errno_location();
        *prepared.report.get() = Report { stage, errno };
        libc::_exit(127)
    }
}

/// One stage; 0, or not 0 with errno set.
fn perform(stage: &Stage, parent: c_int) -> c_long {
    // SAFETY: each call gets descriptors and null-terminated strings that the stage owns; none touches memory otherwise.
    unsafe {
        match stage {
            Stage::EnterMountNamespace(fd) => c_long::from(libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNS)),
            Stage::OwnMountNamespace => c_long::from(libc::unshare(libc::CLONE_NEWNS)),
            Stage::Attach { tree, at } => libc::syscall(
                libc::SYS_move_mount,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                at.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            ),
            Stage::JoinCgroup(procs) => c_long::from(libc::write(procs.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1),
            // Until the descriptors are in place there are more of them than the program may open.
            Stage::Limit(Resource::OpenFiles, value) => make_room(Resource::OpenFiles, *value),
            Stage::Limit(resource, value) => set_limit(*resource, *value),
            Stage::NewSession => c_long::from(libc::setsid() == -1),
            Stage::ChangeUser { uid, gid } => change_user(*uid, *gid),
            Stage::DieWithParent => die_with_parent(parent),
            Stage::WorkingDirectory(dir) => c_long::from(libc::fchdir(dir.as_raw_fd())),
        }
    }
}

fn set_limit(resource: Resource, value: u64) -> c_long {
    let limit = libc::rlimit64 { rlim_cur: value, rlim_max: value };
    prlimit(resource, &raw const limit, std::ptr::null_mut())
}

/// Raises the hard limit where it is below the value, which takes rights that a change of user gives up.
fn make_room(resource: Resource, value: u64) -> c_long {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let failed = prlimit(resource, std::ptr::null(), &raw mut limit);
    if failed != 0 || limit.rlim_max >= value {
        return failed;
    }
    limit.rlim_max = value;
    prlimit(resource, &raw const limit, std::ptr::null_mut())
}

/// Both pointers are null or lead to a limit that lives across the call.
fn prlimit(resource: Resource, new: *const libc::rlimit64, old: *mut libc::rlimit64) -> c_long {
    let number = match resource {
        Resource::Core => libc::RLIMIT_CORE,
        Resource::FileSize => libc::RLIMIT_FSIZE,
        Resource::OpenFiles => libc::RLIMIT_NOFILE,
    };
    // SAFETY: see above; pid 0 is this process.
    unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, new, old) }
}

/// Raw calls: libc's own would change the uid of every thread of the daemon, which shares this memory.
fn change_user(uid: u32, gid: u32) -> c_long {
    // SAFETY: no memory is passed; an empty list of groups may be null.
    unsafe {
        if libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) != 0
            || libc::syscall(libc::SYS_setresgid, gid, gid, gid) != 0
        {
            return -1;
        }
        libc::syscall(libc::SYS_setresuid, uid, uid, uid)
    }
}

/// The request, and then the check that the parent did not die before it.
fn die_with_parent(parent: c_int) -> c_long {
    // SAFETY: no memory is passed.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0 {
            return -1;
        }
        if libc::getppid() != parent {
            libc::_exit(127);
        }
    }
    0
}

/// Puts `fds` in place as 0, 1, 2, … and closes all others. Two passes: a source may be the target of another.
fn arrange_descriptors(prepared: &Prepared<'_>) -> c_int {
    // SAFETY: `parked` is as long as `fds` and nobody else looks at it; the calls take plain numbers. Errors of the
    // first close cannot matter: what is closed is not used again.
    unsafe {
        let parked = (*prepared.parked.get()).as_mut_ptr();
        for (index, &fd) in prepared.fds.iter().enumerate() {
            let copy = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, PARKING);
            if copy < 0 {
                return -1;
            }
            *parked.add(index) = copy;
        }
        let mut target: c_int = 0;
        for index in 0..prepared.fds.len() {
            if libc::dup3(*parked.add(index), target, 0) < 0 {
                return -1;
            }
            target += 1;
        }
        if libc::syscall(libc::SYS_close_range, target, u32::MAX, 0) != 0 {
            return -1;
        }
    }
    0
}

/// Default dispositions and an empty mask: exec keeps ignored signals ignored (SIGPIPE is, in every Rust program).
fn reset_signals() {
    // SAFETY: a zeroed struct of this size is the kernel's own sigaction for SIG_DFL on every architecture; the child has
    // its own table of handlers (no CLONE_SIGHAND). Raw, because libc's call refuses its two internal signals, which an
    // ancestor may have left ignored. Signals that cannot be set are refused by the kernel.
    unsafe {
        let action = [0_u64; 4];
        for signal in 1..=64 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                action.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            );
        }
        let set: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Executes the program; comes back only when that failed.
fn execute(prepared: &Prepared<'_>) {
    // SAFETY: the lists are null-terminated and their strings live until exec.
    unsafe {
        match prepared.image {
            RawImage::Path(path) => {
                libc::execve(path, prepared.argv, prepared.env);
            }
            RawImage::Fd(fd) => {
                libc::syscall(libc::SYS_execveat, fd, c"".as_ptr(), prepared.argv, prepared.env, libc::AT_EMPTY_PATH);
            }
        }
    }
}
