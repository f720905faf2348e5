//! A child process, held by its pidfd: a pid could be somebody else's by the time it is used (pidfd_open(2)).
//!
//! Where it has begun a session ([`super::Stage::NewSession`]), what it started and left in its process group ends with
//! it. bubblewrap makes the sandbox's first process before it arranges for the end of that one: killed in between, it
//! left a process that waits for ever and holds the run's pipes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_send_signal, waitid};

use super::Status;

/// Children that were dropped before they ended. They have been killed; the next start collects them.
static DROPPED: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// A child process. Dropping it kills it, and its process group.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: Option<OwnedFd>,
    status: Option<Status>,
}

impl Child {
    pub(super) fn new(pid: u32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd: Some(pidfd), status: None }
    }

    /// Its process id. Valid as a name of it until [`Child::try_wait`] has returned a status.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its pidfd, which polls readable when it has ended.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        match &self.pidfd {
            Some(fd) => Ok(rustix::io::fcntl_dupfd_cloexec(fd, 0)?),
            None => Err(Errno::CHILD.into()),
        }
    }

    /// Sends it a signal; one that has ended gets none.
    ///
    /// # Errors
    /// The signal may not be sent: the child runs as another user.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match &self.pidfd {
            Some(fd) if self.status.is_none() => match pidfd_send_signal(fd, signal) {
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
        if self.status.is_none() {
            kill_group(self.pid);
        }
        self.signal(Signal::KILL)
    }

    /// How it ended, once it has. Never waits.
    ///
    /// # Errors
    /// Somebody else has waited for it.
    pub fn try_wait(&mut self) -> io::Result<Option<Status>> {
        if self.status.is_none()
            && let Some(fd) = &self.pidfd
        {
            // Its pid names its group until it is collected, and nobody else's.
            if waitid(WaitId::PidFd(fd.as_fd()), ENDED | WaitIdOptions::NOWAIT)?.is_some() {
                kill_group(self.pid);
                self.status = collect(fd.as_fd())?;
            }
        }
        Ok(self.status)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(fd) = self.pidfd.take() else { return };
        if self.status.is_some() {
            return;
        }
        kill_group(self.pid);
        // An error means that there is nothing left to kill.
        let alive = pidfd_send_signal(&fd, Signal::KILL).is_ok();
        if alive && matches!(collect(fd.as_fd()), Ok(None)) {
            DROPPED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(fd);
        }
    }
}

/// Collects the children that were dropped and have ended meanwhile.
pub(super) fn sweep() {
    let mut dropped = DROPPED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    dropped.retain(|fd| matches!(collect(fd.as_fd()), Ok(None)));
}

/// Kills what is left of the group that a child began. A child that began none has none: no group has the number of a
/// process that is not collected yet, but its own.
fn kill_group(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    // The usual error is that there is no such group (any more). What may not be killed is another user's.
    kill_process_group(pid, Signal::KILL).unwrap_or(());
}

const ENDED: WaitIdOptions = WaitIdOptions::EXITED.union(WaitIdOptions::NOHANG);

fn collect(pidfd: BorrowedFd<'_>) -> io::Result<Option<Status>> {
    let status = waitid(WaitId::PidFd(pidfd), ENDED)?;
    Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Status::Exited(code),
        (None, signal) => Status::Killed(signal.unwrap_or(0)),
    }))
}
