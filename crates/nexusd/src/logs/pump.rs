//! The one task of a directive's log: reads the pipes, runs the [`stage`](super::stage), keeps up to [`MAX_IN_FLIGHT`] uploads
//! in flight. It owns everything, so there is nothing to lock.
//!
//! When is a chunk cut before it is full? At once when nothing is in flight and the last cut is [`QUIET`] ago; otherwise when its
//! first byte has waited for the flush interval. While [`MAX_IN_FLIGHT`] requests are out nothing is cut: gathering is free.

use std::time::Duration;

use conduits::{LogChunkRequest, LogStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::pipes::{Burst, Pipe, READ_BYTES, readable};
use super::spool::Chunk;
use super::stage::{STREAMS, Stage, of};
use super::{Command, Drained, LogTrouble, Progress};
use crate::client::directive::EncodedChunk;
use crate::client::{CallError, Deadline, DirectiveCalls};

/// Requests in flight for one directive.
const MAX_IN_FLIGHT: usize = 8;
/// Without a request in flight, bytes that come so long after the last cut are sent at once. It bounds the requests of a
/// command that dribbles, however fast the mothership answers.
const QUIET: Duration = Duration::from_millis(10);
pub(super) struct Pump {
    /// Away while a blocking thread has it.
    stage: Option<Box<Stage>>,
    calls: DirectiveCalls,
    token_generation: u64,
    inbox: mpsc::Receiver<Command>,
    show: watch::Sender<Progress>,
    pipes: Vec<Pipe>,
    buffer: Vec<u8>,
    uploads: JoinSet<Uploaded>,
    timing: Timing,
    ending: Option<(Instant, Vec<oneshot::Sender<Drained>>)>,
    sealed: bool,
}

/// What became of one upload.
struct Uploaded {
    stream: LogStream,
    bytes: usize,
    segments: Vec<u32>,
    result: Result<(), CallError>,
}

/// When open chunks are cut. Pure but for the instants it is given.
#[derive(Debug, Clone, Copy)]
struct Timing {
    flush_interval: Duration,
    /// Since when each stream's open chunk has waited.
    waiting_since: [Option<Instant>; 2],
    last_cut: Option<Instant>,
}

impl Timing {
    /// When a stream's open chunk is due, if it holds anything.
    fn due(&self, stream: LogStream, in_flight: usize) -> Option<Instant> {
        let mut waiting = self.waiting_since;
        let since = (*of(&mut waiting, stream))?;
        if in_flight >= MAX_IN_FLIGHT {
            return None;
        }
        let flush = since + self.flush_interval;
        if in_flight > 0 {
            return Some(flush);
        }
        Some(self.last_cut.map_or(since, |last| since.max(last + QUIET)).min(flush))
    }
}

/// What woke the pump.
enum Event {
    Cancelled,
    Command(Option<Command>),
    Readable(usize),
    Uploaded(Uploaded),
    Due,
    DrainOver,
}

impl Pump {
    pub(super) fn new(
        stage: (Stage, Duration),
        calls: DirectiveCalls,
        inbox: mpsc::Receiver<Command>,
        show: watch::Sender<Progress>,
    ) -> Self {
        let (stage, flush_interval) = stage;
        Self {
            stage: Some(Box::new(stage)),
            calls,
            token_generation: u64::MAX,
            inbox,
            show,
            pipes: Vec::new(),
            buffer: Vec::new(),
            uploads: JoinSet::new(),
            timing: Timing { flush_interval, waiting_since: [None; 2], last_cut: None },
            ending: None,
            sealed: false,
        }
    }

    /// Runs until the log is sealed, shipped and let go, or `cancel`.
    pub(super) async fn run(mut self, cancel: CancellationToken, let_go: CancellationToken) {
        loop {
            self.cut_what_is_due();
            self.fill_uploads().await;
            self.publish();
            if self.is_done() {
                return self.finish(&cancel, &let_go).await;
            }
            match self.next_event(&cancel).await {
                Event::Cancelled => return self.uploads.shutdown().await,
                Event::Command(Some(command)) => self.obey(command).await,
                // Nobody holds the log any more: what is open is sealed and shipped.
                Event::Command(None) => self.seal().await,
                Event::Readable(at) => self.read(at).await,
                Event::Uploaded(uploaded) => self.settle(uploaded).await,
                Event::Due => {}
                Event::DrainOver => self.end_output().await,
            }
            if self.ending.is_some() && self.pipes.is_empty() {
                self.end_output().await;
            }
        }
    }

    async fn next_event(&mut self, cancel: &CancellationToken) -> Event {
        let in_flight = self.uploads.len();
        let due = STREAMS.into_iter().filter_map(|stream| self.timing.due(stream, in_flight)).min();
        let drain_over = self.ending.as_ref().map(|(until, _)| *until);
        tokio::select! {
            biased;
            () = cancel.cancelled() => Event::Cancelled,
            // Before the pipes: acknowledgements free slots, and a command is never kept waiting by output.
            Some(uploaded) = self.uploads.join_next(), if in_flight > 0 => match uploaded {
                Ok(uploaded) => Event::Uploaded(uploaded),
                Err(error) => {
                    tracing::error!(directive_id = %self.calls.id(), %error, "an upload broke off; its chunk stays in the spool");
                    Event::Due
                }
            },
            command = self.inbox.recv(), if !self.sealed => Event::Command(command),
            // Times before the pipes: there are writers that never pause.
            () = sleep_until(drain_over) => Event::DrainOver,
            () = sleep_until(due) => Event::Due,
            at = readable(&self.pipes) => Event::Readable(at),
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Read(stream, receiver) => self.pipes.push(Pipe::new(stream, receiver)),
            Command::Notice(stream, line) => {
                self.on_disk(move |stage| stage.notice(stream, &line)).await;
                self.note_open();
            }
            Command::Hide(secret) => {
                if let Some(stage) = &mut self.stage {
                    stage.hide(&secret);
                }
            }
            Command::End(drain, reply) => {
                let until = Instant::now() + drain;
                match &mut self.ending {
                    Some((_, replies)) => replies.push(reply),
                    None => self.ending = Some((until, vec![reply])),
                }
            }
            Command::Seal => self.seal().await,
        }
    }

    /// Reads a pipe, once or for a burst, and runs what came through the stage. Then it is the others' turn.
    async fn read(&mut self, at: usize) {
        let mut pipe = self.pipes.remove(at);
        let stream = pipe.stream;
        if self.stage.as_ref().is_some_and(|stage| stage.is_holding(stream)) {
            return self.read_burst(pipe).await;
        }
        let mut buffer = self.take_buffer();
        match pipe.receiver.try_read(&mut buffer) {
            Ok(0) => {
                self.buffer = buffer;
                return;
            }
            Ok(len) => {
                pipe.lengthen(len);
                self.hide_fresh_token();
                buffer = self
                    .on_disk(move |stage| {
                        stage.output(stream, buffer.get(..len).unwrap_or_default());
                        buffer
                    })
                    .await
                    .unwrap_or_default();
                self.note_open();
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return self.cannot_read(&error),
        }
        self.buffer = buffer;
        self.pipes.push(pipe);
    }

    async fn read_burst(&mut self, pipe: Pipe) {
        let mut buffer = self.take_buffer();
        let pipe = match pipe.unwatch() {
            Ok(pipe) => pipe,
            Err(error) => return self.cannot_read(&error),
        };
        self.hide_fresh_token();
        let read = move |stage: &mut Stage| {
            let burst = pipe.burst(&mut buffer, |bytes| stage.output(pipe.stream, bytes));
            (pipe, buffer, burst)
        };
        let Some((pipe, buffer, burst)) = self.on_disk(read).await else { return };
        self.buffer = buffer;
        self.note_open();
        match burst.and_then(|burst| if burst == Burst::Open { pipe.watch().map(Some) } else { Ok(None) }) {
            Ok(open) => self.pipes.extend(open),
            Err(error) => self.cannot_read(&error),
        }
    }

    fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(READ_BYTES, 0);
        buffer
    }

    fn cannot_read(&self, error: &std::io::Error) {
        tracing::error!(directive_id = %self.calls.id(), %error, "a pipe of the command cannot be read");
    }

    async fn end_output(&mut self) {
        let Some((_, replies)) = self.ending.take() else { return };
        let complete = self.pipes.is_empty();
        self.pipes.clear();
        self.buffer = Vec::new();
        self.on_disk(Stage::end).await;
        self.note_open();
        self.publish();
        for reply in replies {
            // Nobody waits any more: nothing to tell.
            reply.send(Drained { complete }).unwrap_or_default();
        }
    }

    async fn seal(&mut self) {
        if std::mem::replace(&mut self.sealed, true) {
            return;
        }
        self.inbox.close();
        self.pipes.clear();
        self.on_disk(Stage::end).await;
        self.note_open();
    }

    /// Cuts open chunks whose time has come; all of them once the log is sealed.
    fn cut_what_is_due(&mut self) {
        let now = Instant::now();
        let in_flight = self.uploads.len();
        for stream in STREAMS {
            let due = self.timing.due(stream, in_flight).is_some_and(|at| at <= now);
            if !(due || self.sealed) {
                continue;
            }
            if let Some(stage) = &mut self.stage {
                stage.cut(stream);
            }
            if of(&mut self.timing.waiting_since, stream).take().is_some() {
                self.timing.last_cut = Some(now);
            }
        }
    }

    /// Notes since when open chunks wait.
    fn note_open(&mut self) {
        let Some(stage) = &self.stage else { return };
        let now = Instant::now();
        for stream in STREAMS {
            let waiting = of(&mut self.timing.waiting_since, stream);
            if stage.spool.open_len(stream) == 0 {
                *waiting = None;
            } else {
                waiting.get_or_insert(now);
            }
        }
    }

    async fn fill_uploads(&mut self) {
        while self.uploads.len() < MAX_IN_FLIGHT {
            let reads_disk = self.stage.as_ref().is_some_and(|stage| stage.spool.reads_disk());
            let chunk = if reads_disk {
                self.on_disk(Stage::next).await.flatten()
            } else {
                self.stage.as_mut().and_then(|stage| stage.next())
            };
            let Some(chunk) = chunk else { return };
            self.timing.last_cut = Some(Instant::now());
            self.uploads.spawn(upload(self.calls.clone(), chunk));
        }
    }

    async fn settle(&mut self, uploaded: Uploaded) {
        let Uploaded { stream, bytes, segments, result } = uploaded;
        match (result, &mut self.stage) {
            (Ok(()), Some(stage)) => stage.acknowledged(stream, bytes, &segments),
            (Err(error), Some(_)) => {
                self.on_disk(move |stage| stage.refused(error.to_string(), bytes, &segments)).await;
            }
            (_, None) => {}
        }
    }

    fn publish(&self) {
        self.publish_with(false);
    }

    fn publish_with(&self, over: bool) {
        let Some(stage) = &self.stage else { return };
        let now = Progress { summary: stage.summary(), sealed: self.sealed, over };
        self.show.send_if_modified(|shown| {
            let changed = shown.sealed != now.sealed || shown.over != now.over || shown.summary != now.summary;
            if changed {
                *shown = now;
            }
            changed
        });
    }

    fn is_done(&self) -> bool {
        let settled = self.stage.as_ref().is_none_or(|stage| stage.spool.is_drained() && !stage.has_open());
        self.sealed && self.uploads.is_empty() && settled
    }

    async fn finish(&mut self, cancel: &CancellationToken, let_go: &CancellationToken) {
        let trouble = self.stage.as_ref().and_then(|stage| stage.trouble().cloned());
        let settled = self.stage.as_ref().is_some_and(|stage| stage.is_settled());
        // A spool that could not be read, or whose upload broke off, may hold what nobody has: the next start tries again.
        let keep = match &trouble {
            Some(trouble) => {
                tracing::error!(directive_id = %self.calls.id(), %trouble, "the log is not whole");
                matches!(trouble, LogTrouble::Spool(_))
            }
            None => !settled,
        };
        if keep {
            return self.publish();
        }
        self.on_disk(Stage::settle).await;
        self.publish_with(true);
        tokio::select! {
            biased;
            // Both at once is a daemon that goes: that the end is told is not said by that.
            () = cancel.cancelled() => return,
            () = let_go.cancelled() => {}
        }
        self.on_disk(Stage::remove).await;
    }

    /// Runs `work` where blocking on the disk stops nobody else.
    async fn on_disk<T: Send + 'static>(&mut self, work: impl FnOnce(&mut Stage) -> T + Send + 'static) -> Option<T> {
        let mut stage = self.stage.take()?;
        let done = tokio::task::spawn_blocking(move || {
            let out = work(&mut stage);
            (stage, out)
        });
        match done.await {
            Ok((stage, out)) => {
                self.stage = Some(stage);
                Some(out)
            }
            Err(error) => {
                tracing::error!(directive_id = %self.calls.id(), %error, "keeping output broke off; its spool stays on disk");
                None
            }
        }
    }

    /// The token changes with every heartbeat; none of them may show up in a log.
    fn hide_fresh_token(&mut self) {
        let generation = self.calls.token_generation();
        if generation != self.token_generation {
            self.token_generation = generation;
            if let Some(stage) = &mut self.stage {
                let token = self.calls.current_token();
                stage.hide(token.expose());
                stage.spool.renew(token);
            }
        }
    }
}

/// Sends one chunk until it is settled.
async fn upload(calls: DirectiveCalls, chunk: Chunk) -> Uploaded {
    let Chunk { stream, seq, truncated, bytes, segments } = chunk;
    let len = bytes.len();
    let encoded = EncodedChunk::new(&LogChunkRequest { stream, seq, bytes, truncated });
    let result = match encoded {
        Err(error) => Err(error),
        Ok(encoded) => {
            calls.mothership().with_retry(Deadline::Never, || calls.log_chunk(&encoded)).await.map(|answer| {
                if answer.accepted_bytes < len as u64 && !answer.duplicate {
                    tracing::debug!(directive_id = %calls.id(), seq, accepted = answer.accepted_bytes, len, "the mothership kept less of a chunk than was sent");
                }
            })
        }
    };
    if let Err(error) = &result {
        tracing::error!(directive_id = %calls.id(), stream = stream.as_str(), seq, %error, "the mothership refused a log chunk for good");
    }
    Uploaded { stream, bytes: len, segments, result }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
