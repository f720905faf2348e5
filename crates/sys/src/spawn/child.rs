//! A child process, held by its pidfd: a pid could be somebody else's by the time it is used (pidfd_open(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;

use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

/// Children that were dropped before they ended. They have been killed; the next start collects them.
static DROPPED: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: Option<OwnedFd>,
    status: Option<Status>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It exited with this code.
    Exited(i32),
    /// This signal killed it.
    Killed(i32),
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

    /// Sends SIGKILL.
    ///
    /// # Errors
    /// As [`Child::signal`].
    pub fn kill(&self) -> io::Result<()> {
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
            self.status = collect(fd.as_fd())?;
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

fn collect(pidfd: BorrowedFd<'_>) -> io::Result<Option<Status>> {
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
    Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Status::Exited(code),
        (None, signal) => Status::Killed(signal.unwrap_or(0)),
    }))
}
