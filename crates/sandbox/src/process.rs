//! A child process, awaited.

use std::io;
use std::os::fd::OwnedFd;

use sys::spawn::{Child, Program, SpawnError, Spawner, Status};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

/// A started process. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    pidfd: AsyncFd<OwnedFd>,
}

/// Starts a process on the spawning thread.
pub(crate) async fn start(spawner: &Spawner, program: Program) -> Result<Running, SpawnError> {
    let (sender, receiver) = oneshot::channel();
    // Where the launch was given up meanwhile nobody receives, and the child is dropped, which kills it.
    spawner.spawn(program, move |result| drop(sender.send(result)))?;
    let child = receiver.await.map_err(|_| SpawnError::Busy("it has ended"))??;
    let watch = child.watch().and_then(|pidfd| watched(pidfd, Interest::READABLE));
    Ok(Running { child, pidfd: watch.map_err(SpawnError::Clone)? })
}

/// A descriptor that the runtime watches.
#[expect(deprecated, reason = "its replacement is unsafe and asks that the descriptor stays open: an OwnedFd does")]
pub(crate) fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, interest)
}

impl Running {
    /// Waits for its end. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> io::Result<Status> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            self.pidfd.readable().await?.clear_ready();
        }
    }

    /// Sends SIGKILL.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.child.kill()
    }

    /// Its process id on the host.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }
}
