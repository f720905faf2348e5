//! One absolute-form request and its answer, body and answer flowing at the same time.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use super::departure;
use super::session::READ_BYTES;
use crate::relay::Meter;
use crate::stream::Stream;
use crate::wire::body::{BodyError, BodyLength, BodyReader, Piece};
use crate::wire::head::HeadScanner;
use crate::wire::host::Destination;
use crate::wire::request::Forward;
use crate::wire::response::{self, Asked, Response};

/// How much of a body is read at once.
const BODY_BYTES: usize = 32 * 1024;
/// Interim answers (1xx) before the final one.
const MAX_INTERIM: usize = 16;

/// A connection to an origin that may serve the next request to the same destination.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) stream: Stream,
    pub(super) to: Destination,
    pub(super) address: Option<IpAddr>,
}

impl Origin {
    /// Whether it goes to this destination and is still quiet: an origin that has sent something
    /// unasked, or closed, has nothing to say to the next request.
    pub(super) fn serves(&self, to: &Destination) -> bool {
        self.to == *to && self.stream.is_quiet()
    }
}

/// What may go on after a whole exchange.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct After {
    pub(super) client_stays: bool,
    pub(super) origin_stays: bool,
}

/// Why an exchange did not become whole.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nobody is left to tell.
    ClientGone,
    /// What the client sends is no body.
    ClientBody(BodyError),
    /// The origin went away, or its answer is unusable.
    Origin(String),
}

/// How far an exchange came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// The client has received part of the answer.
    pub(super) answer_begun: bool,
    /// The origin has sent at least one byte.
    pub(super) origin_spoke: bool,
}

impl Progress {
    /// Whether the request can be sent again without anybody having noticed the first time.
    pub(super) fn may_retry(self, request: &Forward) -> bool {
        !self.answer_begun && !self.origin_spoke && request.is_idempotent && request.body == BodyLength::None
    }
}

/// One exchange under way.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    client: &'a Stream,
    client_buffer: &'a mut Vec<u8>,
    origin: &'a Stream,
    request: &'a Forward,
    meter: &'a Meter,
    flags: Flags,
}

#[derive(Debug, Default)]
struct Flags {
    answer_begun: AtomicBool,
    origin_spoke: AtomicBool,
    /// The client has been sent something, maybe not all of it.
    told: AtomicBool,
}

/// Why a body stopped.
enum Stopped {
    Source(io::Error),
    Body(BodyError),
    Sink,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(
        client: &'a Stream,
        client_buffer: &'a mut Vec<u8>,
        origin: &'a Stream,
        request: &'a Forward,
        meter: &'a Meter,
    ) -> Self {
        Self { client, client_buffer, origin, request, meter, flags: Flags::default() }
    }

    pub(super) fn progress(&self) -> Progress {
        Progress {
            answer_begun: self.flags.answer_begun.load(Relaxed),
            origin_spoke: self.flags.origin_spoke.load(Relaxed),
        }
    }

    /// Sends the request and its body, and the answer back, both as they come: the origin may
    /// answer before the body is whole, and `100 Continue` must reach a client that waits for it.
    pub(super) async fn run(&mut self) -> Result<After, Failure> {
        let upload = send_request(self.client, self.client_buffer, self.origin, self.request, self.meter);
        let download = Download {
            client: self.client,
            origin: self.origin,
            request: self.request,
            meter: self.meter,
            flags: &self.flags,
        };
        let answer = download.run();
        let may_tell = || self.request.is_http11 && !self.flags.told.load(Relaxed);
        let gone = departure::left(self.client, may_tell);
        tokio::pin!(upload, answer, gone);
        let mut uploaded = None;
        let response = loop {
            tokio::select! {
                sent = &mut upload, if uploaded.is_none() => match sent {
                    Ok(()) => uploaded = Some(true),
                    // The origin takes no more: its answer may already be on the way.
                    Err(Stopped::Sink) => uploaded = Some(false),
                    Err(Stopped::Source(_)) => return Err(Failure::ClientGone),
                    Err(Stopped::Body(BodyError::Truncated)) => return Err(Failure::ClientGone),
                    Err(Stopped::Body(error)) => return Err(Failure::ClientBody(error)),
                },
                answered = &mut answer => break answered?,
                () = &mut gone => return Err(Failure::ClientGone),
            }
        };
        let is_whole = uploaded == Some(true);
        Ok(After { client_stays: response.client_stays && is_whole, origin_stays: response.origin_stays && is_whole })
    }
}

async fn send_request(
    client: &Stream,
    client_buffer: &mut Vec<u8>,
    origin: &Stream,
    request: &Forward,
    meter: &Meter,
) -> Result<(), Stopped> {
    origin.write_all(&request.head).await.map_err(|_| Stopped::Sink)?;
    meter.moved(&meter.up, request.head.len());
    let pass =
        Pass { from: client, to: origin, is_chunked: request.body == BodyLength::Chunked, meter, counter: &meter.up };
    pass.body(request.body, client_buffer).await
}

struct Download<'a> {
    client: &'a Stream,
    origin: &'a Stream,
    request: &'a Forward,
    meter: &'a Meter,
    flags: &'a Flags,
}

impl Download<'_> {
    async fn run(&self) -> Result<Response, Failure> {
        let mut buffer = Vec::new();
        let mut interim = 0;
        let mut response = loop {
            let response = self.head(&mut buffer).await?;
            if response.status >= 200 {
                break response;
            }
            interim += 1;
            if interim > MAX_INTERIM {
                return Err(Failure::Origin(format!("the origin sent more than {MAX_INTERIM} interim answers")));
            }
            self.flags.told.store(true, Relaxed);
            self.client.write_all(&response.head).await.map_err(|_| Failure::ClientGone)?;
        };
        self.flags.told.store(true, Relaxed);
        self.flags.answer_begun.store(true, Relaxed);
        self.client.write_all(&response.head).await.map_err(|_| Failure::ClientGone)?;
        self.meter.moved(&self.meter.down, response.head.len());
        let pass = Pass {
            from: self.origin,
            to: self.client,
            is_chunked: response.to_client_chunked,
            meter: self.meter,
            counter: &self.meter.down,
        };
        match pass.body(response.body, &mut buffer).await {
            Ok(()) => {}
            Err(Stopped::Sink) => return Err(Failure::ClientGone),
            Err(Stopped::Source(error)) => return Err(Failure::Origin(error.to_string())),
            Err(Stopped::Body(error)) => return Err(Failure::Origin(error.to_string())),
        }
        // Bytes after the answer answer nothing that was asked: never kept for the next request.
        response.origin_stays &= buffer.is_empty();
        Ok(response)
    }

    async fn head(&self, buffer: &mut Vec<u8>) -> Result<Response, Failure> {
        let mut scanner = HeadScanner::default();
        let length = loop {
            let found =
                scanner.scan(buffer).map_err(|error| Failure::Origin(format!("the origin's answer has {error}")))?;
            if let Some(length) = found {
                break length;
            }
            match self.origin.read_into(buffer, READ_BYTES).await {
                Ok(0) => return Err(Failure::Origin("the origin closed the connection without an answer".to_owned())),
                Ok(_) => self.flags.origin_spoke.store(true, Relaxed),
                Err(error) => return Err(Failure::Origin(format!("the connection to the origin failed: {error}"))),
            }
            self.meter.touch();
        };
        let block: Vec<u8> = buffer.drain(..length).collect();
        let asked = Asked {
            is_head: self.request.is_head,
            is_http11: self.request.is_http11,
            keep_alive: self.request.keep_alive,
        };
        response::parse(&block, asked).map_err(|error| Failure::Origin(error.to_string()))
    }
}

/// Carries one body from one hop to the next, framed anew.
struct Pass<'a> {
    from: &'a Stream,
    to: &'a Stream,
    is_chunked: bool,
    meter: &'a Meter,
    counter: &'a AtomicU64,
}

impl Pass<'_> {
    /// `buffer` holds what was read beyond the header block, and afterwards what lies beyond the body.
    async fn body(&self, length: BodyLength, buffer: &mut Vec<u8>) -> Result<(), Stopped> {
        let mut reader = BodyReader::new(length);
        let mut used = 0;
        // Content of the chunks that were read at once, to go on as one: a sender of tiny chunks pays for each, not the proxy.
        let mut gathered = Vec::new();
        loop {
            let piece = match reader.next(&buffer[used..]) {
                Ok(piece) => piece,
                Err(error) => {
                    self.content(&gathered).await?;
                    return Err(Stopped::Body(error));
                }
            };
            match piece {
                Piece::Content(bytes) => {
                    let content = &buffer[used..used + bytes];
                    used += bytes;
                    if gathered.is_empty() && used == buffer.len() {
                        self.content(content).await?;
                    } else {
                        gathered.extend_from_slice(content);
                    }
                }
                Piece::Framing(bytes) => used += bytes,
                Piece::End { consumed, trailers } => {
                    self.content(&gathered).await?;
                    buffer.drain(..used + consumed);
                    return self.end(&trailers).await;
                }
                Piece::More => {
                    self.content(&gathered).await?;
                    gathered.clear();
                    buffer.clear();
                    used = 0;
                    // Sockets that are always ready must not keep the other tasks from running.
                    tokio::task::consume_budget().await;
                    if self.from.read_into(buffer, BODY_BYTES).await.map_err(Stopped::Source)? == 0 {
                        reader.at_end().map_err(Stopped::Body)?;
                        return self.end(&[]).await;
                    }
                    self.meter.touch();
                }
            }
        }
    }

    async fn content(&self, content: &[u8]) -> Result<(), Stopped> {
        if content.is_empty() {
            return Ok(());
        }
        if self.is_chunked {
            let mut chunk = format!("{:x}\r\n", content.len()).into_bytes();
            chunk.extend_from_slice(content);
            chunk.extend_from_slice(b"\r\n");
            self.write(&chunk).await?;
        } else {
            self.write(content).await?;
        }
        self.meter.moved(self.counter, content.len());
        Ok(())
    }

    async fn end(&self, trailers: &[u8]) -> Result<(), Stopped> {
        if !self.is_chunked {
            return Ok(());
        }
        self.write(&[b"0\r\n", trailers, b"\r\n"].concat()).await
    }

    async fn write(&self, bytes: &[u8]) -> Result<(), Stopped> {
        self.to.write_all(bytes).await.map_err(|_| Stopped::Sink)
    }
}
