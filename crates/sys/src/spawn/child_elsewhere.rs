//! A child process where there are no pidfds: held by its number, which is nobody else's until it is collected here.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, waitpid};

use super::Status;

/// Children that were dropped before they ended. They have been killed; the next start collects them.
static DROPPED: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A child process. Dropping it kills it, and its process group.
#[derive(Debug)]
pub struct Child {
    number: u32,
    /// Until it is collected.
    pid: Option<Pid>,
    status: Option<Status>,
}

impl Child {
    pub(super) fn new(number: u32) -> Self {
        Self { number, pid: i32::try_from(number).ok().and_then(Pid::from_raw), status: None }
    }

    /// Its process id. Valid as a name of it until [`Child::try_wait`] has returned a status.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.number
    }

    /// A descriptor that polls readable when it has ended.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        match self.pid {
            Some(pid) => end_of(pid),
            None => Err(Errno::CHILD.into()),
        }
    }

    /// Sends it a signal; one that has ended gets none.
    ///
    /// # Errors
    /// The signal may not be sent: the child runs as another user.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.pid {
            Some(pid) if self.status.is_none() => match kill_process(pid, signal) {
                Ok(()) | Err(Errno::SRCH) => Ok(()),
                Err(errno) => Err(errno.into()),
            },
            _ => Ok(()),
        }
    }

    /// Sends SIGKILL, to its process group too.
    ///
    /// # Errors
    /// As [`Child::signal`].
    pub fn kill(&self) -> io::Result<()> {
        if let Some(pid) = self.pid.filter(|_| self.status.is_none()) {
            // The usual error is that it began no group.
            kill_process_group(pid, Signal::KILL).unwrap_or(());
        }
        self.signal(Signal::KILL)
    }

    /// How it ended, once it has. Never waits.
    ///
    /// # Errors
    /// Somebody else has waited for it.
    pub fn try_wait(&mut self) -> io::Result<Option<Status>> {
        if let Some(pid) = self.pid
            && let Some(status) = collect(pid)?
        {
            // What it left in its group, which nobody else has as long as it has members.
            kill_process_group(pid, Signal::KILL).unwrap_or(());
            self.pid = None;
            self.status = Some(status);
        }
        Ok(self.status)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(pid) = self.pid.take() else { return };
        kill_process_group(pid, Signal::KILL).unwrap_or(());
        kill_process(pid, Signal::KILL).unwrap_or(());
        if matches!(collect(pid), Ok(None)) {
            DROPPED.lock().unwrap_or_else(PoisonError::into_inner).push(pid);
        }
    }
}

/// Collects the children that were dropped and have ended meanwhile.
pub(super) fn sweep() {
    let mut dropped = DROPPED.lock().unwrap_or_else(PoisonError::into_inner);
    dropped.retain(|pid| matches!(collect(*pid), Ok(None)));
}

fn collect(pid: Pid) -> io::Result<Option<Status>> {
    let ended = waitpid(Some(pid), WaitOptions::NOHANG)?;
    Ok(ended.map(|(_, status): (Pid, WaitStatus)| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Status::Exited(code),
        (None, signal) => Status::Killed(signal.unwrap_or(0)),
    }))
}

/// A queue of kernel events with one in it, the end of the process (kqueue(2), EVFILT_PROC).
#[allow(unsafe_code)]
fn end_of(pid: Pid) -> io::Result<OwnedFd> {
    use rustix::event::kqueue::{Event, EventFilter, EventFlags, ProcessEvents, kevent, kqueue};
    let queue = kqueue()?;
    rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC)?;
    let filter = EventFilter::Proc { pid, flags: ProcessEvents::EXIT };
    let change = Event::new(filter, EventFlags::ADD, std::ptr::null_mut());
    // SAFETY: no descriptor is in the list of changes, only a process.
    match unsafe { kevent(&queue, &[change], &mut Vec::<Event>::new(), None) } {
        Ok(_) => Ok(queue),
        // It has ended already: a pipe that nobody writes to is readable.
        Err(Errno::SRCH) => Ok(crate::pipe::pipe()?.read),
        Err(errno) => Err(errno.into()),
    }
}
