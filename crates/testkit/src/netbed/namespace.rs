//! A thread in namespaces of its own, which runs what it is handed.

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::UnshareFlags;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

type Work = Box<dyn FnOnce() + Send>;

pub(super) struct Namespace {
    path: String,
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Starts a thread, gives it a network and a mount namespace, and binds the files over those paths.
    pub(super) fn start(name: &str, binds: Vec<(PathBuf, PathBuf)>) -> io::Result<Self> {
        let (work, todo) = channel::<Work>();
        let (ready, is_ready) = channel();
        let thread = std::thread::Builder::new().name(format!("bed-{name}")).spawn(move || {
            let entered = enter(&binds);
            let failed = entered.is_err();
            // The other side waits for this message; where it is gone there is nothing to do either.
            if ready.send(entered).is_err() || failed {
                return;
            }
            for work in todo {
                work();
            }
        })?;
        let path = is_ready.recv().map_err(|_| io::Error::other("the thread of the namespace has ended"))??;
        Ok(Self { path, work: Some(work), thread: Some(thread) })
    }

    /// Where the network namespace is found in `/proc`.
    pub(super) fn path(&self) -> String {
        self.path.clone()
    }

    /// Runs the work there, one after the other, and waits for its value; a panic of it goes on here.
    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, is_done) = channel();
        let boxed: Work = Box::new(move || {
            let value = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            drop(done.send(value));
        });
        self.work.as_ref().expect("there until dropped").send(boxed).expect("the thread lives until dropped");
        match is_done.recv().expect("the work sends its value") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Moves the calling thread, and gives the path of its network namespace.
fn enter(binds: &[(PathBuf, PathBuf)]) -> io::Result<String> {
    // The unsafe variant is for `FILES` alone, which is not asked for: descriptors stay shared between all threads.
    #[allow(deprecated, reason = "the sound subset of the call; see above")]
    rustix::thread::unshare(UnshareFlags::NEWNET | UnshareFlags::NEWNS)?;
    // Else the binds below would show in the namespace that this one was copied from.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for (from, onto) in binds {
        mount_bind(from, onto)?;
    }
    let (process, thread) = (std::process::id(), rustix::thread::gettid());
    Ok(format!("/proc/{process}/task/{}/ns/net", thread.as_raw_nonzero()))
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // With the channel closed the thread ends, and with it the namespace.
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
