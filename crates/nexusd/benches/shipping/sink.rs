//! The cheapest control plane that a daemon works for: hands out what is queued, counts the bytes of logs, keeps nothing.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::watch;

#[derive(Default)]
struct Known {
    queued: VecDeque<Value>,
    bytes: BTreeMap<String, u64>,
    finished: BTreeMap<String, Value>,
}

struct Shared {
    known: Mutex<Known>,
    changes: watch::Sender<u64>,
}

/// Serves on a thread of its own until the program ends.
pub(crate) struct Sink {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Sink {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared { known: Mutex::default(), changes: watch::Sender::new(0) });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new()
            .route("/conduits/v1/polls", post(poll))
            .route("/conduits/v1/directives/{id}/log_chunks", post(chunk))
            .route("/conduits/v1/directives/{id}/heartbeat", post(heartbeat))
            .route("/conduits/v1/directives/{id}/finished", post(finished))
            .fallback(async || Json(json!({ "ok": true })))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(Arc::clone(&shared));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                let listener = axum::serve::ListenerExt::tap_io(listener, |stream: &mut tokio::net::TcpStream| {
                    drop(stream.set_nodelay(true));
                });
                axum::serve(listener, app).await.unwrap();
            });
        });
        Self { shared, address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn queue(&self, spec: Value) {
        self.shared.change(|known| known.queued.push_back(spec));
    }

    pub(crate) fn bytes(&self, id: &str) -> u64 {
        self.shared.known.lock().unwrap().bytes.get(id).copied().unwrap_or(0)
    }

    /// Waits for the end of a directive.
    pub(crate) async fn finished(&self, id: &str) {
        let mut changes = self.shared.changes.subscribe();
        let wait = async {
            loop {
                if let Some(end) = self.shared.known.lock().unwrap().finished.get(id) {
                    assert_eq!(end["status"], "succeeded", "{end:#}");
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(120), wait).await.expect("it never ends");
    }
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut Known) -> T) -> T {
        let value = change(&mut self.known.lock().unwrap());
        self.changes.send_modify(|n| *n += 1);
        value
    }
}

async fn poll(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let asked: Value = serde_json::from_slice(&body).unwrap();
    let most = usize::try_from(asked["max_directives_to_claim"].as_u64().unwrap()).unwrap();
    let mut changes = shared.changes.subscribe();
    let wait = async {
        while shared.known.lock().unwrap().queued.is_empty() {
            changes.changed().await.unwrap();
        }
    };
    drop(tokio::time::timeout(Duration::from_secs(20), wait).await);
    let mut known = shared.known.lock().unwrap();
    let count = most.min(known.queued.len());
    let leases: Vec<Value> = known
        .queued
        .drain(..count)
        .map(|spec| json!({ "directive_id": spec["directive_id"], "directive_token": "a.b.c", "spec": spec }))
        .collect();
    drop(known);
    let answer = Json(json!({ "directives": leases, "lease_ttl_seconds": 300, "retry_after_seconds": 0 }));
    match headers.contains_key("prefer") {
        true => ([("preference-applied", "wait")], answer).into_response(),
        false => answer.into_response(),
    }
}

async fn heartbeat() -> Json<Value> {
    Json(json!({ "cancel_requested": false, "lease_renewed": true }))
}

async fn chunk(State(shared): State<Arc<Shared>>, Path(id): Path<String>, body: Bytes) -> Json<Value> {
    // Counted, not decoded: base64 has no quotes.
    let key = b"\"bytes\":\"";
    let start = body.windows(key.len()).position(|window| window == key).unwrap() + key.len();
    let text = &body[start..];
    let base64 = &text[..memchr::memchr(b'"', text).unwrap()];
    let padding = base64.iter().rev().take_while(|byte| **byte == b'=').count();
    let bytes = base64.len() / 4 * 3 - padding;
    *shared.known.lock().unwrap().bytes.entry(id).or_default() += bytes as u64;
    Json(json!({ "ok": true, "stored": true }))
}

async fn finished(State(shared): State<Arc<Shared>>, Path(id): Path<String>, body: Bytes) -> Json<Value> {
    let end = serde_json::from_slice(&body).unwrap();
    shared.change(|known| known.finished.insert(id, end));
    Json(json!({ "ok": true }))
}
