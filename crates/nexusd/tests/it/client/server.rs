//! A small control plane on loopback with faults to order: enough of the protocol to judge what arrived.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use conduits::{LogChunkRequest, LogStream};
use serde_json::json;

pub(crate) const FIRST_TOKEN: &str = "first-token.of.this-lease";

#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Status, Retry-After, body; nothing is done.
    Status(u16, Option<&'static str>, &'static str),
    /// 200 with this body; nothing is done.
    Body(String),
    /// The request is lost: the connection ends.
    Reset,
    /// It is done, but the answer is lost.
    LostAnswer,
    /// No answer for ten seconds.
    Stall,
    /// An answer without end.
    Endless,
}

#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    headers: HeaderMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
    }
}

type Chunks = BTreeMap<(LogStream, u64), Vec<u8>>;

#[derive(Debug, Default)]
pub(crate) struct Inner {
    seen: Mutex<Vec<Seen>>,
    once: Mutex<Vec<(&'static str, VecDeque<Fault>)>>,
    always: Mutex<Vec<(&'static str, Fault)>>,
    chunks: Mutex<Chunks>,
    truncated: Mutex<Vec<(LogStream, u64)>>,
    finished: Mutex<Vec<serde_json::Value>>,
    connections: AtomicUsize,
    expired: AtomicBool,
    beats: AtomicU64,
    /// Every nth request fails in a way of its own.
    every: AtomicUsize,
    delay_ms: AtomicU64,
    first_chunk: Mutex<Option<std::time::Instant>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

pub(crate) struct Server {
    inner: Arc<Inner>,
    port: u16,
    tasks: tokio::task::JoinSet<()>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let inner = Arc::new(Inner::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = axum::Router::new().fallback(serve).with_state(Arc::clone(&inner));
        let counting = Arc::clone(&inner);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                counting.connections.fetch_add(1, Ordering::Relaxed);
                let service = hyper_util::service::TowerToHyperService::new(app.clone());
                connections.spawn(async move {
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let served =
                        hyper_util::server::conn::auto::Builder::new(executor).serve_connection(io, service).await;
                    drop(served);
                });
            }
        });
        Self { inner, port, tasks }
    }

    pub(crate) fn url(&self) -> String {
        assert!(!self.tasks.is_empty());
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn once(&self, path: &'static str, fault: Fault) {
        let mut once = self.inner.once.lock().unwrap();
        match once.iter_mut().find(|(known, _)| *known == path) {
            Some((_, faults)) => faults.push_back(fault),
            None => once.push((path, VecDeque::from([fault]))),
        }
    }

    pub(crate) fn always(&self, path: &'static str, fault: Fault) {
        self.inner.always.lock().unwrap().insert(0, (path, fault));
    }

    pub(crate) fn heal(&self) {
        self.inner.always.lock().unwrap().clear();
    }

    pub(crate) fn fail_every(&self, nth: usize) {
        self.inner.every.store(nth, Ordering::Relaxed);
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.inner.delay_ms.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub(crate) fn expire_tokens(&self) {
        self.inner.expired.store(true, Ordering::Relaxed);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, end: &str) -> usize {
        self.inner.seen.lock().unwrap().iter().filter(|seen| seen.path.ends_with(end)).count()
    }

    pub(crate) fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn most_in_flight(&self) -> usize {
        self.inner.most_in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn first_chunk_at(&self) -> Option<std::time::Instant> {
        *self.inner.first_chunk.lock().unwrap()
    }

    pub(crate) fn finished(&self) -> Vec<serde_json::Value> {
        self.inner.finished.lock().unwrap().clone()
    }

    /// The stream as a reader puts it together; panics when a number is missing.
    pub(crate) fn stored(&self, stream: LogStream) -> Vec<u8> {
        let chunks = self.inner.chunks.lock().unwrap();
        let mut all = Vec::new();
        for (expected, ((_, seq), bytes)) in chunks.iter().filter(|((s, _), _)| *s == stream).enumerate() {
            assert_eq!(*seq, u64::try_from(expected).unwrap(), "a chunk is missing");
            all.extend_from_slice(bytes);
        }
        all
    }

    pub(crate) fn chunk_lengths(&self, stream: LogStream) -> Vec<usize> {
        self.inner.chunks.lock().unwrap().iter().filter(|((s, _), _)| *s == stream).map(|(_, b)| b.len()).collect()
    }

    pub(crate) fn truncated(&self) -> Vec<(LogStream, u64)> {
        self.inner.truncated.lock().unwrap().clone()
    }

    pub(crate) fn forget_chunks(&self) -> usize {
        let mut chunks = self.inner.chunks.lock().unwrap();
        let len = chunks.len();
        chunks.clear();
        len
    }
}

async fn serve(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let headers = request.headers().clone();
    let nth = {
        let mut seen = inner.seen.lock().unwrap();
        seen.push(Seen { path: path.clone(), headers: headers.clone() });
        seen.len()
    };
    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap_or_default();
    match fault(&inner, &path, nth) {
        None => {}
        Some(Fault::Status(status, after, text)) => {
            let mut response = (StatusCode::from_u16(status).unwrap(), text).into_response();
            if let Some(after) = after {
                response.headers_mut().insert("retry-after", after.parse().unwrap());
            }
            return response;
        }
        Some(Fault::Body(text)) => return text.into_response(),
        Some(Fault::Reset) => return broken(),
        Some(Fault::LostAnswer) => {
            drop(answer(&inner, &path, &headers, &body).await);
            return broken();
        }
        Some(Fault::Stall) => tokio::time::sleep(Duration::from_secs(10)).await,
        Some(Fault::Endless) => {
            let part = Bytes::from(vec![b' '; 65536]);
            let endless = tokio_stream::iter(std::iter::repeat_with(move || Ok::<_, std::io::Error>(part.clone())));
            return Body::from_stream(endless).into_response();
        }
    }
    answer(&inner, &path, &headers, &body).await
}

fn fault(inner: &Inner, path: &str, nth: usize) -> Option<Fault> {
    for (end, faults) in inner.once.lock().unwrap().iter_mut() {
        if path.ends_with(*end)
            && let Some(fault) = faults.pop_front()
        {
            return Some(fault);
        }
    }
    if let Some((_, fault)) = inner.always.lock().unwrap().iter().find(|(end, _)| path.ends_with(end)) {
        return Some(fault.clone());
    }
    let every = inner.every.load(Ordering::Relaxed);
    if every == 0 || !nth.is_multiple_of(every) {
        return None;
    }
    Some(match nth / every % 5 {
        0 => Fault::Reset,
        1 => Fault::LostAnswer,
        2 => Fault::Status(500, None, "oops"),
        3 => Fault::Status(429, Some("0"), ""),
        _ => Fault::Status(200, None, "<html>"),
    })
}

/// Ends the connection before the answer is complete.
fn broken() -> Response {
    Body::from_stream(tokio_stream::iter([Err::<Bytes, _>(std::io::Error::other("broken on purpose"))])).into_response()
}

async fn answer(inner: &Inner, path: &str, headers: &HeaderMap, body: &[u8]) -> Response {
    let delay = inner.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let token = headers.get("authorization").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    let expired = inner.expired.load(Ordering::Relaxed) && token == format!("Bearer {FIRST_TOKEN}");
    if path.ends_with("/token") {
        return axum::Json(json!({ "directive_token": "recovered.to.ken" })).into_response();
    }
    if path.contains("/directives/") && expired {
        return (StatusCode::UNAUTHORIZED, "").into_response();
    }
    if path.ends_with("/log_chunks") {
        return take_chunk(inner, body).await;
    }
    if path.ends_with("/heartbeat") {
        let beat = inner.beats.fetch_add(1, Ordering::Relaxed) + 1;
        return axum::Json(
            json!({ "cancel_requested": false, "lease_renewed": true, "directive_token": format!("beat-{beat}") }),
        )
        .into_response();
    }
    if path.ends_with("/finished") {
        inner.finished.lock().unwrap().push(serde_json::from_slice(body).unwrap());
    }
    let mut answer =
        axum::Json(json!({ "ok": true, "directives": [], "lease_ttl_seconds": 60, "retry_after_seconds": 1 }))
            .into_response();
    if headers.contains_key("prefer") {
        answer.headers_mut().insert("preference-applied", "wait".parse().unwrap());
    }
    answer
}

async fn take_chunk(inner: &Inner, body: &[u8]) -> Response {
    inner.first_chunk.lock().unwrap().get_or_insert_with(std::time::Instant::now);
    let now = inner.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
    inner.most_in_flight.fetch_max(now, Ordering::Relaxed);
    let chunk: LogChunkRequest = serde_json::from_slice(body).unwrap();
    assert!(!chunk.bytes.is_empty());
    let len = chunk.bytes.len();
    let key = (chunk.stream, chunk.seq);
    let duplicate = {
        let mut chunks = inner.chunks.lock().unwrap();
        match chunks.get(&key) {
            Some(known) => {
                assert_eq!(known, &chunk.bytes, "a chunk that was sent again must be the same");
                true
            }
            None => {
                if chunk.truncated {
                    inner.truncated.lock().unwrap().push(key);
                }
                chunks.insert(key, chunk.bytes);
                false
            }
        }
    };
    tokio::task::yield_now().await;
    inner.in_flight.fetch_sub(1, Ordering::Relaxed);
    let answer = json!({ "ok": true, "directive_id": "d-1", "stream": chunk.stream, "seq": chunk.seq, "stored": !duplicate, "duplicate": duplicate, "accepted_bytes": len, "truncated": false });
    axum::Json(answer).into_response()
}
