//! The command's standard input: nexusd's own, pumped through a pipe.
//!
//! Promises: the command never holds the terminal, file or socket itself (so no TIOCSTI, no shared offset, no way through
//! `/proc` to what else it is open for); the end of the input is passed on; no more is read ahead than a pipe and one
//! buffer hold; whoever shares the input with nexusd does not find it non-blocking.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::unix::pipe;

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// How often a job in the background looks whether it has the terminal by now: reading before that would stop it
/// (SIGTTIN).
const FOREGROUND_EVERY: Duration = Duration::from_millis(500);

/// Moves the input to the command, as long as it is awaited.
#[derive(Debug)]
pub(super) struct Pump {
    from: Source,
    to: pipe::Sender,
}

#[derive(Debug)]
enum Source {
    /// Says when there is something to read.
    Ready(AsyncFd<File>),
    /// A file of a disk: always ready.
    File(File),
}

/// Whether a device's number is the null device's.
fn is_null(device: u64) -> bool {
    std::fs::metadata("/dev/null").is_ok_and(|null| null.rdev() == device)
}

/// The pipe's end for the command, and what fills it. `None` where there is no input: the command then has `/dev/null`.
///
/// # Errors
/// No descriptors left.
pub(super) fn open(input: BorrowedFd<'_>) -> io::Result<Option<(OwnedFd, Pump)>> {
    let file = File::from(input.try_clone_to_owned()?);
    let meta = file.metadata()?;
    if meta.file_type().is_char_device() && is_null(meta.rdev()) {
        return Ok(None);
    }
    let file = if meta.file_type().is_fifo() || meta.file_type().is_char_device() { unshared(file) } else { file };
    let from = source(file);
    let sys::pipe::Pipe { read, write } = sys::pipe::pipe()?;
    rustix::io::ioctl_fionbio(&write, true)?;
    Ok(Some((read, Pump { from, to: pipe::Sender::from_owned_fd(write)? })))
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe; a file that is owned is closed after it is taken out of the queue"
)]
fn source(file: File) -> Source {
    match AsyncFd::try_with_interest(file, Interest::READABLE) {
        Ok(ready) => Source::Ready(ready),
        // epoll_ctl(2): EPERM says that it is a regular file, or a device that never makes anybody wait.
        Err(error) => Source::File(error.into_parts().0),
    }
}

/// The same pipe or terminal, opened once more: what is set on that is not set for those who share the first. Readiness is
/// a hint when others read, too; without this a read could wait for ever. Where it cannot be opened again, the first serves.
fn unshared(file: File) -> File {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let again = File::options().read(true).custom_flags(flags).open(format!("/proc/self/fd/{}", file.as_raw_fd()));
    again.unwrap_or(file)
}

impl Pump {
    /// Pumps until the end of the input, or until nobody reads the pipe any more. Then closes it.
    pub(super) async fn run(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = match self.from.read(&mut buffer).await {
                Ok(0) => return,
                Ok(read) => read,
                Err(error) => {
                    tracing::warn!(%error, "standard input cannot be read: the command sees its end");
                    return;
                }
            };
            if self.to.write_all(buffer.get(..read).unwrap_or_default()).await.is_err() {
                return;
            }
        }
    }
}

impl Source {
    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = match self {
            Self::File(file) => return Ok(rustix::io::retry_on_intr(|| rustix::io::read(&*file, &mut *buffer))?),
            Self::Ready(ready) => ready,
        };
        loop {
            let mut guard = ready.readable().await?;
            if in_background(guard.get_inner()) {
                drop(guard);
                tokio::time::sleep(FOREGROUND_EVERY).await;
                continue;
            }
            // Not every input could be made non-blocking for nexusd alone, and readiness stays set after a read.
            if !has_something(guard.get_inner())? {
                guard.clear_ready();
                continue;
            }
            match guard.try_io(|file| Ok(rustix::io::read(file.get_ref(), &mut *buffer)?)) {
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(done) => return done,
                Err(_would_block) => {}
            }
        }
    }
}

/// Whether a read returns at once.
fn has_something(file: &File) -> io::Result<bool> {
    let mut asked = [PollFd::new(file, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    Ok(rustix::io::retry_on_intr(|| rustix::event::poll(&mut asked, Some(&at_once)))? > 0)
}

/// Whether it is a terminal that another job has now.
fn in_background(file: &File) -> bool {
    rustix::termios::tcgetpgrp(file.as_fd()).is_ok_and(|group| group != rustix::process::getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};

    /// What the command reads when nexusd has this input.
    async fn through(input: impl Into<OwnedFd>) -> String {
        let (read, pump) = open(input.into().as_fd()).unwrap().unwrap();
        let command = tokio::task::spawn_blocking(move || io::read_to_string(File::from(read)).unwrap());
        pump.run().await;
        command.await.unwrap()
    }

    #[tokio::test]
    async fn pipes_files_and_sockets_arrive_whole_and_end() {
        let text = "line\n".repeat(100_000);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        assert!(through(file).await == text);
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let (read, write) = io::pipe().unwrap();
        let writers = [OwnedFd::from(theirs), write.into()].map(|fd| {
            let text = text.clone();
            std::thread::spawn(move || File::from(fd).write_all(text.as_bytes()).unwrap())
        });
        assert!(through(ours).await == text);
        assert!(through(read).await == text);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
    }

    #[tokio::test]
    async fn what_is_shared_stays_blocking() {
        let (read, write) = io::pipe().unwrap();
        let (_command, pump) = open(read.as_fd()).unwrap().unwrap();
        assert!(!rustix::fs::fcntl_getfl(&read).unwrap().contains(OFlags::NONBLOCK));
        drop((pump, write));
    }

    #[tokio::test]
    async fn no_more_is_read_than_a_pipe_and_a_buffer_hold() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(10 << 20).unwrap();
        let (command, pump) = open(file.as_fd()).unwrap().unwrap();
        // The pump cannot end while nobody reads; what it has taken by then is the file's offset.
        let ended = tokio::time::timeout(Duration::from_millis(200), pump.run()).await;
        assert!(ended.is_err());
        assert!(file.stream_position().unwrap() <= 2 * READ_BYTES as u64);
        drop(command);
    }

    #[tokio::test]
    async fn nobody_who_reads_ends_the_pump() {
        let zero = File::open("/dev/zero").unwrap();
        let (command, pump) = open(zero.as_fd()).unwrap().unwrap();
        drop(command);
        tokio::time::timeout(Duration::from_secs(10), pump.run()).await.unwrap();
    }

    #[tokio::test]
    async fn the_null_device_is_no_input() {
        assert!(open(File::open("/dev/null").unwrap().as_fd()).unwrap().is_none());
        // Control: another device is one.
        let (command, pump) = open(File::open("/dev/zero").unwrap().as_fd()).unwrap().unwrap();
        drop(pump);
        assert_eq!(File::from(command).read(&mut [0; 1]).unwrap(), 0);
    }
}
