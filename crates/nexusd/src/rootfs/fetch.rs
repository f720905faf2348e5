//! The download: into a part on disk, continued after a cut, bounded in time, size and patience.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, IF_RANGE, LAST_MODIFIED, RANGE};
use reqwest::header::{CONTENT_LENGTH, RETRY_AFTER};
use reqwest::{Response, Url};
use sandbox::rootfs::{ArchivePart, MAX_ARCHIVE_BYTES, PartError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Wanted;
use super::progress::{Progress, Stage};
use super::resume::{Ask, Head, Origin, Verdict, ask, judge};
use crate::client::transport::with_proxy;
use crate::config::RootfsKeys;
use crate::enroll::causes;

/// Gathered before it is written.
const BUFFER: usize = 1024 * 1024;

/// Redirects that are followed: mirrors send on once or twice.
const MAX_REDIRECTS: usize = 5;

/// Downloads that are begun from the first byte, of one call: a file that changes all the time is given up.
const MAX_STARTS: u32 = 4;

/// How patient a download is. [`FetchPace::default`] outside tests.
#[derive(Debug, Clone)]
pub struct FetchPace {
    /// Longest wait for a connection.
    pub connect: Duration,
    /// Longest wait for the next byte.
    pub stall: Duration,
    /// The pauses after tries that brought nothing; after the last of them it is given up. A byte begins them anew.
    pub pauses: Vec<Duration>,
}

impl Default for FetchPace {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { connect: seconds(10), stall: seconds(30), pauses: vec![seconds(1), seconds(2)] }
    }
}

/// Why an archive did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody answers, or the answer ends too early, again and again.
    #[error("{why}")]
    Unreachable {
        /// What the last try came to.
        why: String,
    },
    /// The server has no such file for us.
    #[error("{why}")]
    Refused {
        /// Its answer.
        why: String,
    },
    /// It never came to its end.
    #[error(
        "it was begun {MAX_STARTS} times and never came to its end: the file changes, or the server cannot continue it"
    )]
    Restarts,
    /// It is larger than any root.
    #[error("it is larger than {MAX_ARCHIVE_BYTES} bytes, the most that is taken")]
    TooLarge,
    /// The disk has no room for it.
    #[error("there is no room for it")]
    NoRoom,
    /// Not within the time for all of it.
    #[error("it did not come in time")]
    TooSlow,
    /// Somebody wanted no more.
    #[error("interrupted")]
    Canceled,
    /// A local file.
    #[error("cannot read it: {0}")]
    File(std::io::Error),
    /// The part on disk.
    #[error(transparent)]
    Part(PartError),
    /// The client could not be made.
    #[error("no HTTP client: {0}")]
    Client(String),
}

impl FetchError {
    /// Whether the same may work later without anybody's help.
    pub(super) fn may_pass(&self) -> bool {
        !matches!(self, Self::Refused { .. } | Self::TooLarge | Self::NoRoom | Self::Part(_) | Self::Client(_))
    }

    /// What to do about it.
    pub(super) fn mend(&self, keys: RootfsKeys) -> String {
        let RootfsKeys { url, sha256 } = keys;
        match self {
            Self::Unreachable { .. } => {
                format!("check this host's network and proxy_url, or set {url} to a mirror or to a file:///")
            }
            Self::Refused { .. } | Self::TooLarge | Self::Restarts => {
                format!("set {url} to where the archive is, and {sha256} if it is another one")
            }
            Self::TooSlow => format!("what has come is kept, so try again, or set {url} to a faster mirror"),
            Self::Canceled => "what has come is kept, and the next try goes on from there".to_owned(),
            Self::File(_) => format!("set {url} to a file that can be read"),
            Self::Part(_) | Self::NoRoom => "free some space, or set rootfs.cache_dir to another disk".to_owned(),
            Self::Client(_) => format!("correct {url} or proxy_url"),
        }
    }
}

impl From<PartError> for FetchError {
    fn from(error: PartError) -> Self {
        match error {
            PartError::TooLarge => Self::TooLarge,
            other => Self::Part(other),
        }
    }
}

/// Fetches what is missing of the part. `room` is what may be written.
pub(super) async fn fetch(
    wanted: &Wanted,
    room: u64,
    part: ArchivePart,
    progress: &watch::Sender<Progress>,
    cancel: &CancellationToken,
) -> Result<ArchivePart, FetchError> {
    let url = Url::parse(&wanted.url).map_err(|error| FetchError::Client(error.to_string()))?;
    let sink = Sink { part: Some(part), buffer: Vec::new(), room, progress };
    if url.scheme() == "file" {
        let path = url.to_file_path().map_err(|()| FetchError::Client("the file:/// names no path".to_owned()))?;
        return copy(&path, sink, cancel).await;
    }
    let client = client(wanted, &url)?;
    Download { wanted, url, client, sink, starts: 0, cancel }.run().await
}

/// Asks for one byte of the archive: whether it could be fetched now. The size, where the server says it.
///
/// # Errors
/// Why not, for people.
pub async fn reachable(wanted: &Wanted, within: Duration) -> Result<Option<u64>, String> {
    let url = Url::parse(&wanted.url).map_err(|error| error.to_string())?;
    if url.scheme() == "file" {
        let path = url.to_file_path().map_err(|()| "it names no path".to_owned())?;
        let meta = std::fs::metadata(&path).map_err(|error| error.to_string())?;
        return if meta.is_file() { Ok(Some(meta.len())) } else { Err("it is no file".to_owned()) };
    }
    let client = client(wanted, &url).map_err(|error| error.to_string())?;
    let request = client.get(url).header(RANGE, "bytes=0-0").timeout(within);
    let response = request.send().await.map_err(|error| causes(&error))?;
    let total = text(response.headers(), CONTENT_RANGE).and_then(|range| range.rsplit_once('/')?.1.parse().ok());
    match response.status().as_u16() {
        206 => Ok(total),
        200 => Ok(response.content_length()),
        status => Err(format!("the server answers {status}")),
    }
}

/// As toward the mothership, but for redirects: mirrors send on, and nothing secret is sent.
fn client(wanted: &Wanted, url: &Url) -> Result<reqwest::Client, FetchError> {
    let builder = reqwest::Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
        .referer(false)
        .user_agent(concat!("nexusd/", env!("CARGO_PKG_VERSION")))
        .tls_version_min(reqwest::tls::Version::TLS_1_2)
        .connect_timeout(wanted.pace.connect)
        .read_timeout(wanted.pace.stall);
    let builder = with_proxy(builder, url, &wanted.proxy).map_err(|error| FetchError::Client(error.to_string()))?;
    builder.build().map_err(|error| FetchError::Client(causes(&error)))
}

/// One archive from one server.
struct Download<'a> {
    wanted: &'a Wanted,
    url: Url,
    client: reqwest::Client,
    sink: Sink<'a>,
    /// How often it was begun from the first byte.
    starts: u32,
    cancel: &'a CancellationToken,
}

/// How a try ended that did not fail for good.
enum Try {
    Complete,
    /// Ask again, at once.
    Next,
    /// It brought this many bytes and then this.
    Cut {
        bytes: u64,
        why: String,
        after: Option<Duration>,
    },
}

impl Download<'_> {
    async fn run(mut self) -> Result<ArchivePart, FetchError> {
        let wanted = self.wanted;
        let mut pauses = wanted.pace.pauses.iter();
        loop {
            match self.attempt().await? {
                Try::Complete => return self.sink.finish().await,
                Try::Next => {}
                Try::Cut { bytes, why, after } => {
                    if bytes > 0 {
                        pauses = wanted.pace.pauses.iter();
                    }
                    let Some(pause) = pauses.next() else { return Err(FetchError::Unreachable { why }) };
                    self.sink.say(Stage::Pausing { why });
                    unless(self.cancel, tokio::time::sleep(after.unwrap_or(*pause))).await?;
                }
            }
        }
    }

    async fn attempt(&mut self) -> Result<Try, FetchError> {
        let (have, note) = self.sink.state();
        let ask = ask(have, Origin::parse(&note).as_ref(), &self.wanted.url);
        if ask == Ask::Nothing {
            return Ok(Try::Complete);
        }
        self.sink.say(Stage::Asking);
        let mut request = self.client.get(self.url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Ask::Rest { from, validator } = &ask {
            request = request.header(RANGE, format!("bytes={from}-")).header(IF_RANGE, validator);
        }
        let response = match unless(self.cancel, request.send()).await? {
            Ok(response) => response,
            Err(error) if error.is_redirect() => {
                return Err(FetchError::Refused { why: "the server sends on and on".to_owned() });
            }
            Err(error) => return Ok(Try::Cut { bytes: 0, why: causes(&error), after: None }),
        };
        let fields = response.headers();
        let head = Head {
            status: response.status().as_u16(),
            etag: text(fields, ETAG),
            last_modified: text(fields, LAST_MODIFIED),
            content_range: text(fields, CONTENT_RANGE),
            content_length: text(fields, CONTENT_LENGTH).and_then(|length| length.parse().ok()),
            retry_after: text(fields, RETRY_AFTER),
        };
        match judge(&ask, &head, &self.wanted.url) {
            Verdict::Append { total } => {
                self.sink.progress.send_modify(|progress| progress.continued = true);
                self.receive(response, total).await
            }
            Verdict::StartOver(origin) => {
                self.begin(&origin)?;
                self.receive(response, origin.total).await
            }
            Verdict::Complete => Ok(Try::Complete),
            Verdict::AskWhole => {
                self.sink.start_over("")?;
                Ok(Try::Next)
            }
            Verdict::Again { why, after } => Ok(Try::Cut { bytes: 0, why, after }),
            Verdict::Refused { why } => Err(FetchError::Refused { why }),
        }
    }

    fn begin(&mut self, origin: &Origin) -> Result<(), FetchError> {
        self.starts += 1;
        if self.starts > MAX_STARTS {
            return Err(FetchError::Restarts);
        }
        self.sink.check_size(origin.total)?;
        self.sink.start_over(&origin.text())
    }

    /// Takes a body in. What came before a cut stays.
    async fn receive(&mut self, mut response: Response, total: Option<u64>) -> Result<Try, FetchError> {
        let before = self.sink.bytes();
        let cut = loop {
            match unless(self.cancel, response.chunk()).await {
                Ok(Ok(Some(bytes))) => self.sink.push(&bytes, total).await?,
                Ok(Ok(None)) => break None,
                Ok(Err(error)) => break Some(causes(&error)),
                Err(canceled) => {
                    self.sink.flush().await?;
                    return Err(canceled);
                }
            }
        };
        self.sink.flush().await?;
        let have = self.sink.bytes();
        match (cut, total) {
            // Without a length, the end of the answer is the end of the file; the digest decides.
            (None, None) => Ok(Try::Complete),
            (_, Some(total)) if have >= total => Ok(Try::Complete),
            (cut, _) => {
                let why = cut.unwrap_or_else(|| "the answer ended too early".to_owned());
                Ok(Try::Cut { bytes: have - before, why, after: None })
            }
        }
    }
}

/// A file of this machine. It is copied first: what is hashed is then what is unpacked, whoever changes the file.
async fn copy(path: &Path, mut sink: Sink<'_>, cancel: &CancellationToken) -> Result<ArchivePart, FetchError> {
    let mut file = open_plain(path).map_err(FetchError::File)?;
    let total = file.metadata().map_err(FetchError::File)?.len();
    sink.check_size(Some(total))?;
    sink.start_over("")?;
    while !cancel.is_cancelled() {
        let piece = on_thread(move || {
            let mut piece = Vec::new();
            let read = (&mut file).take(BUFFER as u64).read_to_end(&mut piece);
            read.map(|_| (piece, file))
        });
        let (piece, again) = piece.await?.map_err(FetchError::File)?;
        file = again;
        if piece.is_empty() {
            return sink.finish().await;
        }
        sink.push(&piece, Some(total)).await?;
    }
    Err(FetchError::Canceled)
}

/// Waits for it, unless it is cancelled. Never for a write: that is always waited for.
async fn unless<T>(cancel: &CancellationToken, work: impl Future<Output = T>) -> Result<T, FetchError> {
    tokio::select! {
        () = cancel.cancelled() => Err(FetchError::Canceled),
        done = work => Ok(done),
    }
}

/// A regular file: a pipe would be waited for.
fn open_plain(path: &Path) -> std::io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let file = File::options().read(true).custom_flags(flags.cast_signed()).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(std::io::Error::other("it is no regular file")) }
}

/// The part, written a megabyte at a time on a thread that may block.
struct Sink<'a> {
    /// `None` only while a thread has it.
    part: Option<ArchivePart>,
    buffer: Vec<u8>,
    room: u64,
    progress: &'a watch::Sender<Progress>,
}

impl Sink<'_> {
    /// Refuses early what could not be taken to its end.
    fn check_size(&self, total: Option<u64>) -> Result<(), FetchError> {
        match total {
            Some(total) if total > MAX_ARCHIVE_BYTES => Err(FetchError::TooLarge),
            Some(total) if total > self.room => Err(FetchError::NoRoom),
            _ => Ok(()),
        }
    }

    fn say(&self, stage: Stage) {
        self.progress.send_modify(|progress| progress.stage = stage);
    }

    fn bytes(&self) -> u64 {
        self.part.as_ref().map_or(0, ArchivePart::bytes)
    }

    fn state(&self) -> (u64, String) {
        self.part.as_ref().map(|part| (part.bytes(), part.note())).unwrap_or_default()
    }

    fn start_over(&mut self, note: &str) -> Result<(), FetchError> {
        self.buffer.clear();
        match &mut self.part {
            Some(part) => Ok(part.start_over(note)?),
            None => Err(lost()),
        }
    }

    async fn push(&mut self, bytes: &[u8], total: Option<u64>) -> Result<(), FetchError> {
        self.buffer.extend_from_slice(bytes);
        let done = self.bytes() + u64::try_from(self.buffer.len()).unwrap_or(0);
        self.say(Stage::Fetching { done, total });
        if self.buffer.len() >= BUFFER { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), FetchError> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut part = self.part.take().ok_or_else(lost)?;
        let (part, written) = on_thread(move || {
            let written = part.append(&buffer);
            (part, written)
        })
        .await?;
        self.part = Some(part);
        Ok(written?)
    }

    async fn finish(mut self) -> Result<ArchivePart, FetchError> {
        self.flush().await?;
        self.part.ok_or_else(lost)
    }
}

async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| FetchError::File(std::io::Error::other(error)))
}

fn lost() -> FetchError {
    FetchError::File(std::io::Error::other("the part was lost with its thread"))
}

fn text(fields: &HeaderMap, name: HeaderName) -> Option<&str> {
    fields.get(name)?.to_str().ok()
}
