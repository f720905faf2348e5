//! Starting processes from one thread that lives as long as the daemon.
//!
//! Why one thread: the kernel sends PR_SET_PDEATHSIG when the *thread* that made the child ends (prctl(2)), so a child
//! made by a thread of a pool dies when the pool shrinks. Why not std's `Command`: what happens between fork and exec
//! here (namespaces, mounts, the change of uid) is a list of plain data, executed with raw system calls alone, no
//! allocation and no lock, so it cannot deadlock on a lock that another thread held.
//!
//! The child shares the daemon's memory until exec (CLONE_VM | CLONE_VFORK, as posix_spawn(3) does): nothing is copied,
//! a start costs the same however large the daemon is, and the child reports a failed stage by writing it down. When a
//! stage changes the uid, the kernel marks the shared memory as not dumpable, so the new uid cannot trace the child in
//! the moment before exec; the daemon stays so marked, which suits it.
//!
//! Promises: the child has the descriptors of [`Program::fds`] as 0, 1, 2, … and no others, default signal
//! dispositions and an empty signal mask.

use std::ffi::{CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

#[cfg(target_os = "linux")]
mod child;
#[cfg(not(target_os = "linux"))]
#[path = "spawn/child_elsewhere.rs"]
mod child;
#[cfg(not(target_os = "linux"))]
#[path = "spawn/elsewhere.rs"]
mod exec;
#[cfg(target_os = "linux")]
#[path = "spawn/linux.rs"]
mod exec;
mod stage;

pub use child::Child;
pub use stage::{Resource, Stage};

/// Most starts that wait for the thread.
const MAX_WAITING: usize = 64;

/// What is executed.
#[derive(Debug)]
pub enum Image {
    /// The file at this path, as the stages leave the file system.
    Path(CString),
    /// The file behind `fds[n]` (execveat(2), AT_EMPTY_PATH).
    Fd(usize),
}

/// A process to start, as data.
#[derive(Debug)]
pub struct Program {
    /// What is executed.
    pub image: Image,
    /// The arguments, the name of the program first.
    pub argv: Vec<CString>,
    /// The environment, `NAME=value` each.
    pub env: Vec<CString>,
    /// What happens before exec, in this order.
    pub stages: Vec<Stage>,
    /// The child's descriptors 0, 1, 2, …
    pub fds: Vec<OwnedFd>,
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A stage failed in the child.
    #[error("{stage} failed: {source}")]
    Stage {
        /// What was done, in words.
        stage: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The program could not be executed.
    #[error("cannot execute {image}: {source}")]
    Exec {
        /// The program.
        image: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// No process could be made.
    #[error("cannot make a process: {0}")]
    Clone(io::Error),
    /// Too many starts wait, or the thread is gone.
    #[error("the spawning thread takes no further process: {0}")]
    Busy(&'static str),
}

/// A descriptor that this program was started with, by its number.
///
/// # Errors
/// It was not, or no further descriptor is left.
#[allow(unsafe_code)]
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the calls take plain numbers, and their results are checked. The number itself stays, closed on exec.
    let (kept, fd) = unsafe {
        (libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC), libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 0))
    };
    if kept < 0 || fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
}

#[derive(Clone, Copy)]
enum RawImage {
    Path(*const c_char),
    Fd(RawFd),
}

/// Why nothing was started.
enum Failure {
    Clone(io::Error),
    Stage { stage: &'static str, source: io::Error },
    Exec(io::Error),
}

/// A null-terminated list of the strings' addresses.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

type Reply = Box<dyn FnOnce(Result<Child, SpawnError>) + Send>;

/// The spawning thread. When this is dropped the thread ends, and with it every child that asked to die with it.
#[derive(Debug)]
pub struct Spawner {
    jobs: SyncSender<Job>,
}

struct Job {
    program: Program,
    reply: Reply,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("program", &self.program).finish_non_exhaustive()
    }
}

impl Spawner {
    /// Starts the thread.
    ///
    /// # Errors
    /// The process may have no further thread.
    pub fn start() -> io::Result<Self> {
        let (jobs, waiting) = sync_channel(MAX_WAITING);
        thread::Builder::new().name("spawn".to_owned()).spawn(move || run(&waiting))?;
        Ok(Self { jobs })
    }

    /// Starts a process; `reply` is called on the thread with the child or the reason.
    ///
    /// # Errors
    /// Too many starts wait already.
    pub fn spawn(
        &self,
        program: Program,
        reply: impl FnOnce(Result<Child, SpawnError>) + Send + 'static,
    ) -> Result<(), SpawnError> {
        self.jobs.try_send(Job { program, reply: Box::new(reply) }).map_err(|error| match error {
            TrySendError::Full(_) => SpawnError::Busy("too many starts wait"),
            TrySendError::Disconnected(_) => SpawnError::Busy("it has ended"),
        })
    }

    /// Starts a process and waits until it executes its program.
    ///
    /// # Errors
    /// As [`SpawnError`].
    pub fn spawn_and_wait(&self, program: Program) -> Result<Child, SpawnError> {
        let (sender, receiver) = sync_channel(1);
        self.spawn(program, move |result| drop(sender.send(result)))?;
        receiver.recv().map_err(|_| SpawnError::Busy("it has ended"))?
    }
}

fn run(jobs: &Receiver<Job>) {
    block_signals();
    while let Ok(job) = jobs.recv() {
        child::sweep();
        let result = start(&job.program);
        // The child has its copies of the descriptors: these are closed before anybody can wait for end of file.
        drop(job.program);
        (job.reply)(result);
    }
}

/// Blocks every signal in this thread: between clone and exec a handler of the daemon would run in the child, on
/// memory that both share.
#[allow(unsafe_code)]
fn block_signals() {
    // SAFETY: the set is initialised by sigfillset before it is read; a null old set is allowed.
    unsafe {
        let mut set = std::mem::MaybeUninit::uninit();
        libc::sigfillset(set.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
    }
}

fn start(program: &Program) -> Result<Child, SpawnError> {
    let fds: Vec<RawFd> = program.fds.iter().map(AsRawFd::as_raw_fd).collect();
    let image = match &program.image {
        Image::Path(path) => RawImage::Path(path.as_ptr()),
        Image::Fd(index) => RawImage::Fd(RawFd::try_from(*index).unwrap_or(RawFd::MAX)),
    };
    exec::clone_and_exec(program, &fds, image).map_err(|failure| match failure {
        Failure::Clone(source) => SpawnError::Clone(source),
        Failure::Stage { stage, source } => SpawnError::Stage { stage, source },
        Failure::Exec(source) => SpawnError::Exec { image: format!("{:?}", program.image), source },
    })
}

#[cfg(test)]
mod tests;
