//! The other sink: this process's own stdout and stderr, for `nexusd run`. Bytes as they are: nothing cut, nothing hidden; a
//! slow terminal slows the command, as it would without us.

use conduits::LogStream;
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Command, Drained, LogTrouble, Progress};

/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// Copies until the log is sealed or `cancel`.
pub(super) async fn run<O, E>(
    mut stdout: O,
    mut stderr: E,
    mut inbox: mpsc::Receiver<Command>,
    show: watch::Sender<Progress>,
    cancel: CancellationToken,
) where
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let mut sink = Sink { stdout: &mut stdout, stderr: &mut stderr, show };
    let mut pipes: [Vec<Receiver>; 2] = [Vec::new(), Vec::new()];
    let mut ending: Option<(Instant, tokio::sync::oneshot::Sender<Drained>)> = None;
    let (mut out_buffer, mut err_buffer) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
    loop {
        if pipes.iter().all(Vec::is_empty)
            && let Some((_, reply)) = ending.take()
        {
            reply.send(Drained { complete: true }).unwrap_or_default();
        }
        let drain_over = ending.as_ref().map(|(until, _)| *until);
        let [out_pipes, err_pipes] = &mut pipes;
        tokio::select! {
            () = cancel.cancelled() => return,
            len = read_first(out_pipes, &mut out_buffer) => {
                sink.write(LogStream::Stdout, out_buffer.get(..len).unwrap_or_default(), true).await;
            }
            len = read_first(err_pipes, &mut err_buffer) => {
                sink.write(LogStream::Stderr, err_buffer.get(..len).unwrap_or_default(), true).await;
            }
            () = wait(drain_over) => {
                pipes = [Vec::new(), Vec::new()];
                if let Some((_, reply)) = ending.take() {
                    reply.send(Drained { complete: false }).unwrap_or_default();
                }
            }
            command = inbox.recv() => match command {
                Some(Command::Read(stream, receiver)) => super::stage::of(&mut pipes, stream).push(receiver),
                Some(Command::Notice(stream, line)) => sink.write(stream, &line, false).await,
                Some(Command::Hide(_)) => {}
                Some(Command::End(drain, reply)) => ending = Some((Instant::now() + drain, reply)),
                Some(Command::Seal) | None => {
                    sink.show.send_modify(|progress| {
                        progress.sealed = true;
                        progress.summary.complete = true;
                    });
                    return;
                }
            },
        }
    }
}

struct Sink<'a, O, E> {
    stdout: &'a mut O,
    stderr: &'a mut E,
    show: watch::Sender<Progress>,
}

impl<O: AsyncWrite + Unpin, E: AsyncWrite + Unpin> Sink<'_, O, E> {
    async fn write(&mut self, stream: LogStream, bytes: &[u8], from_command: bool) {
        if !from_command && self.show.borrow().summary.trouble == Some(LogTrouble::ReaderGone) {
            // How the command ends over it is nobody's news: a pipeline's end is silent.
            return;
        }
        let result = match stream {
            LogStream::Stdout => write_all(self.stdout, bytes).await,
            LogStream::Stderr => write_all(self.stderr, bytes).await,
        };
        let trouble = match result {
            Ok(()) => None,
            // `nexusd run … | head`: the reader has all it wanted, and the command is ended as SIGPIPE would have ended it.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                (stream == LogStream::Stdout).then_some(LogTrouble::ReaderGone)
            }
            Err(error) => Some(LogTrouble::Output(stream, error.to_string())),
        };
        let len = bytes.len() as u64;
        self.show.send_modify(|progress| {
            progress.summary.trouble = progress.summary.trouble.take().or(trouble);
            let summary = super::stage::of(&mut progress.summary.streams, stream);
            summary.bytes += len;
            summary.seen += if from_command { len } else { 0 };
        });
    }
}

async fn write_all<W: AsyncWrite + Unpin>(to: &mut W, bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}

/// Reads the first pipe of the list; those that have ended are dropped. Never completes with an empty list. Cancel safe: a
/// read either happened or did not.
async fn read_first(pipes: &mut Vec<Receiver>, buffer: &mut [u8]) -> usize {
    while let Some(pipe) = pipes.first_mut() {
        match pipe.read(buffer).await {
            Ok(len) if len > 0 => return len,
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a pipe of the command cannot be read"),
        }
        pipes.remove(0);
        if pipes.is_empty() {
            // Let the loop above see that this stream has ended.
            return 0;
        }
    }
    std::future::pending().await
}

async fn wait(until: Option<Instant>) {
    match until {
        // The inner future never completes: this is a plain sleep that ends at `until`.
        Some(until) => timeout_at(until, std::future::pending::<()>()).await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}
