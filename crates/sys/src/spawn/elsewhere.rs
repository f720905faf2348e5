//! What a child does between fork and exec, where there is no clone(2): the same stages, as far as the system has them.
//!
//! The child of a program with threads may make nothing but calls that are safe in a signal handler until it executes its
//! program (fork(2)): everything is prepared before, and what fails is written to a pipe that exec closes.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use super::stage::{Resource, Stage};
use super::{Child, Failure, Program, RawImage, pointers};

/// Where descriptors are parked while 0, 1, 2, … are filled: above any that the child gets.
const PARKING: c_int = 64;

/// Descriptors above this are left to close-on-exec, which every one of the daemon's has.
const MOST_CLOSED: c_int = 4096;

/// Bytes of a report: the stage, counted from 1, and the errno.
const REPORT: usize = 8;

struct Prepared<'a> {
    stages: &'a [Stage],
    fds: &'a [RawFd],
    parked: &'a mut [c_int],
    image: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    report: c_int,
}

pub(super) fn clone_and_exec(program: &Program, fds: &[RawFd], image: RawImage) -> Result<Child, Failure> {
    let RawImage::Path(image) = image else {
        return Err(Failure::Exec(io::Error::new(io::ErrorKind::Unsupported, "a descriptor cannot be executed here")));
    };
    let (argv, env) = (pointers(&program.argv), pointers(&program.env));
    let pipe = crate::pipe::pipe().map_err(Failure::Clone)?;
    // SAFETY: a plain number, and a new descriptor or -1.
    let report = unsafe { libc::fcntl(pipe.write.as_raw_fd(), libc::F_DUPFD_CLOEXEC, PARKING) };
    if report < 0 {
        return Err(Failure::Clone(io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    let written = unsafe { OwnedFd::from_raw_fd(report) };
    let mut parked = vec![-1; fds.len()];
    let (argv, env) = (argv.as_ptr(), env.as_ptr());
    let prepared = Prepared { stages: &program.stages, fds, parked: &mut parked, image, argv, env, report };
    // SAFETY: the child makes calls that are safe in a signal handler alone, on memory that was prepared for it.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        child_main(prepared);
    }
    let Ok(pid) = u32::try_from(pid) else { return Err(Failure::Clone(io::Error::last_os_error())) };
    drop((pipe.write, written));
    let child = Child::new(pid);
    let mut said = [0; REPORT];
    match File::from(pipe.read).read_exact(&mut said) {
        // Closed by exec: the program runs.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(child),
        Err(error) => Err(Failure::Clone(error)),
        // The child ends by itself; dropping it collects it.
        Ok(()) => {
            let [a, b, c, d, e, f, g, h] = said;
            let source = io::Error::from_raw_os_error(i32::from_ne_bytes([e, f, g, h]));
            let stage = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            match program.stages.get(stage.saturating_sub(1)) {
                Some(stage) => Err(Failure::Stage { stage: stage.describe(), source }),
                None => Err(Failure::Exec(source)),
            }
        }
    }
}

fn child_main(mut prepared: Prepared<'_>) -> ! {
    let mut number = 0_u32;
    for stage in prepared.stages {
        number += 1;
        if perform(stage) != 0 {
            fail(&prepared, number);
        }
    }
    if arrange_descriptors(&mut prepared) == 0 {
        reset_signals();
        // SAFETY: the lists are null-terminated and their strings live until exec.
        unsafe { libc::execve(prepared.image, prepared.argv, prepared.env) };
    }
    fail(&prepared, number + 1)
}

/// Writes down what failed and ends.
fn fail(prepared: &Prepared<'_>, stage: u32) -> ! {
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    let ([a, b, c, d], [e, f, g, h]) = (stage.to_ne_bytes(), errno.to_ne_bytes());
    let said = [a, b, c, d, e, f, g, h];
    // SAFETY: the bytes live across the call, as many as are said; whoever reads is told of the end in any case.
    unsafe {
        libc::write(prepared.report, said.as_ptr().cast(), said.len());
        libc::_exit(127)
    }
}

/// One stage; 0, or not 0 with errno set.
fn perform(stage: &Stage) -> c_int {
    // SAFETY: each call gets plain numbers or memory of its own.
    unsafe {
        match stage {
            Stage::Limit(resource, value) => {
                let number = match resource {
                    Resource::Core => libc::RLIMIT_CORE,
                    Resource::FileSize => libc::RLIMIT_FSIZE,
                    Resource::OpenFiles => libc::RLIMIT_NOFILE,
                };
                let limit = libc::rlimit { rlim_cur: *value, rlim_max: *value };
                libc::setrlimit(number, &raw const limit)
            }
            Stage::NewSession => c_int::from(libc::setsid() == -1),
            Stage::WorkingDirectory(dir) => libc::fchdir(dir.as_raw_fd()),
            // There is no such request: the helper ends with its control socket.
            Stage::DieWithParent => 0,
            Stage::EnterMountNamespace(_)
            | Stage::OwnMountNamespace
            | Stage::Attach { .. }
            | Stage::JoinCgroup(_)
            | Stage::ChangeUser { .. } => {
                // Leaves an errno that says what it is.
                libc::fcntl(-1, libc::F_GETFD)
            }
        }
    }
}

/// Puts the descriptors in place as 0, 1, 2, … and closes the others but the report's, which exec closes.
fn arrange_descriptors(prepared: &mut Prepared<'_>) -> c_int {
    // SAFETY: the calls take plain numbers; what is closed is not used again.
    unsafe {
        for (place, &fd) in prepared.parked.iter_mut().zip(prepared.fds) {
            *place = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, PARKING);
            if *place < 0 {
                return -1;
            }
        }
        let mut target: c_int = 0;
        for &fd in prepared.parked.iter() {
            if libc::dup2(fd, target) < 0 {
                return -1;
            }
            target += 1;
        }
        for fd in target..MOST_CLOSED {
            if fd != prepared.report {
                libc::close(fd);
            }
        }
    }
    0
}

/// Default dispositions and an empty mask: exec keeps ignored signals ignored (SIGPIPE is, in every Rust program).
fn reset_signals() {
    // SAFETY: an empty set is written before it is read; a signal that cannot be set is refused by the kernel.
    unsafe {
        for signal in 1..32 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}
