//! A control plane in the test's own process, which speaks the Conduits API as another vendor's would: it is written
//! from the protocol, knows the additions or does not, and fails on request.
//!
//! It keeps no database and checks more than a server would: what breaks the protocol without being refused (a chunk
//! sent twice with other bytes, an end reported before its chunks) is kept in [`Stub::violations`].

mod api;
mod fault;
mod ledger;
mod middleware;

pub use fault::{Endpoint, Fault, FaultKind};
pub use ledger::{Chunk, DirectiveView, Recorded};

use conduits::{DirectiveId, DirectiveState, FinishedRequest, LogStream, TerritoryId};
use rustls::ServerConfig;
use serde_json::Value;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

use crate::server::{ServerThread, loopback, serve_http};
use crate::tls::TestCa;
use crate::wait::until_changed;
use ledger::Ledger;

/// What the stub does with `Prefer: wait` on a directive's heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldHeartbeat {
    /// Holds the answer, as this project's server does.
    Held,
    /// Answers at once.
    Ignored,
    /// Does not know the path at all: 404.
    Missing,
}

/// What the stub knows and how it is reached.
#[derive(Clone)]
pub struct StubOptions {
    /// Whether a poll with `Prefer: wait` is held.
    pub knows_wait: bool,
    /// Whether a repeated `claim_id` gives the same leases.
    pub knows_claim_id: bool,
    /// Whether `/directives/{id}/token` exists.
    pub knows_token_recovery: bool,
    /// Whether `/directives/{id}/release` exists.
    pub knows_release: bool,
    /// What a heartbeat with `Prefer: wait` meets.
    pub held_heartbeat: HeldHeartbeat,
    /// Whether each heartbeat answers with a new token.
    pub rotates_tokens: bool,
    /// `lease_ttl_seconds` of every poll's answer.
    pub lease_ttl_seconds: u64,
    /// `retry_after_seconds` of an empty answer to a poll.
    pub retry_after_seconds: Option<u64>,
    /// `next_heartbeat_interval_seconds` of the territory heartbeat.
    pub next_heartbeat_interval_seconds: Option<u64>,
    /// `min_compatible_version` of the territory heartbeat.
    pub min_compatible_version: Option<String>,
    /// `removed_facility_ids` of the territory heartbeat, but for those that the request has.
    pub removed_facility_ids: Vec<conduits::FacilityId>,
    /// The id that enrolment gives.
    pub territory_id: TerritoryId,
    /// The only enrolment token that is taken, as often as it comes.
    pub enroll_token: String,
    /// Serves https with this configuration.
    pub tls: Option<Arc<ServerConfig>>,
    /// Signs certificate requests; without it they are refused with 422.
    pub ca: Option<Arc<TestCa>>,
    /// Whether a call without identity (header or client certificate) is 401.
    pub wants_identity: bool,
}

impl StubOptions {
    /// A server that knows every addition.
    #[must_use]
    pub fn full() -> Self {
        Self {
            knows_wait: true,
            knows_claim_id: true,
            knows_token_recovery: true,
            knows_release: true,
            held_heartbeat: HeldHeartbeat::Held,
            rotates_tokens: true,
            lease_ttl_seconds: 300,
            retry_after_seconds: Some(1),
            next_heartbeat_interval_seconds: None,
            min_compatible_version: None,
            removed_facility_ids: Vec::new(),
            territory_id: "stub-territory".parse().unwrap(),
            enroll_token: "stub-enroll-token".to_owned(),
            tls: None,
            ca: None,
            wants_identity: true,
        }
    }

    /// A server of another vendor: the protocol without any addition, answering polls at once.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            knows_wait: false,
            knows_claim_id: false,
            knows_token_recovery: false,
            knows_release: false,
            held_heartbeat: HeldHeartbeat::Ignored,
            retry_after_seconds: Some(0),
            ..Self::full()
        }
    }
}

impl Default for StubOptions {
    fn default() -> Self {
        Self::full()
    }
}

/// What handlers and the test share.
pub(crate) struct Shared {
    pub(crate) options: StubOptions,
    pub(crate) ledger: Mutex<Ledger>,
    pub(crate) changes: watch::Sender<u64>,
}

impl Shared {
    /// Changes the ledger, and wakes everything that waits for a change.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let value = change(&mut self.ledger.lock().unwrap());
        self.changes.send_modify(|n| *n += 1);
        value
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.ledger.lock().unwrap())
    }
}

/// A running stub; stopped when dropped.
pub struct Stub {
    shared: Arc<Shared>,
    server: ServerThread,
}

impl Stub {
    /// Starts one on a free port of 127.0.0.1.
    #[must_use]
    pub fn start(options: StubOptions) -> Self {
        Self::start_on(loopback(), options)
    }

    /// Starts one on a listener, such as one in another network namespace.
    #[must_use]
    pub fn start_on(listener: TcpListener, options: StubOptions) -> Self {
        let tls = options.tls.clone();
        let (changes, _) = watch::channel(0);
        let shared = Arc::new(Shared { options, ledger: Mutex::default(), changes });
        let server = serve_http(listener, tls, api::router(Arc::clone(&shared))).unwrap();
        Self { shared, server }
    }

    /// What a daemon is configured with; `localhost` where there is TLS.
    #[must_use]
    pub fn url(&self) -> String {
        let address = self.server.address();
        match &self.shared.options.tls {
            Some(_) if address.ip().is_loopback() => format!("https://localhost:{}", address.port()),
            Some(_) => format!("https://{address}"),
            None => format!("http://{address}"),
        }
    }

    /// Ends it at once, as a crash would.
    pub fn stop(&mut self) {
        self.server.stop();
    }

    /// Queues a specification as it is, good or bad. Its directive id is the specification's where that is one, else
    /// a new one.
    pub fn queue(&self, spec: Value) -> DirectiveId {
        let named = spec.get("directive_id").and_then(Value::as_str).and_then(|text| text.parse().ok());
        let id: DirectiveId = named.unwrap_or_else(DirectiveId::generate);
        self.queue_as(&id, spec);
        id
    }

    /// Queues a specification under an id that need not be the one inside it.
    pub fn queue_as(&self, id: &DirectiveId, spec: Value) {
        self.shared.change(|ledger| ledger.queue(id.clone(), spec));
    }

    /// Asks to cancel: a queued directive is canceled at once, any other is told.
    pub fn cancel(&self, id: &DirectiveId) {
        self.shared.change(|ledger| ledger.cancel(id));
    }

    /// Takes the lease away: from now on every call about it is 409.
    pub fn lose_lease(&self, id: &DirectiveId) {
        self.shared.change(|ledger| ledger.directive_mut(id).lease_lost = true);
    }

    /// Puts it back into the queue under a new lease.
    pub fn requeue(&self, id: &DirectiveId) {
        self.shared.change(|ledger| ledger.requeue(id));
    }

    /// Makes every token of the directive that was given out so far invalid: 401 until it is recovered.
    pub fn expire_tokens(&self, id: &DirectiveId) {
        self.shared.change(|ledger| ledger.directive_mut(id).valid_tokens.clear());
    }

    /// The next calls of the endpoint meet this fault; several queue up.
    pub fn fail(&self, endpoint: Endpoint, fault: Fault) {
        self.shared.change(|ledger| ledger.faults.push(endpoint, fault));
    }

    /// Removes the faults of the endpoint that have not struck.
    pub fn mend(&self, endpoint: Endpoint) {
        self.shared.change(|ledger| ledger.faults.clear(endpoint));
    }

    /// Every request so far in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.look(|ledger| ledger.requests.clone())
    }

    /// The requests of one endpoint.
    #[must_use]
    pub fn requests_of(&self, endpoint: Endpoint) -> Vec<Recorded> {
        let of_endpoint = |request: &&Recorded| request.endpoint == endpoint;
        self.shared.look(|ledger| ledger.requests.iter().filter(of_endpoint).cloned().collect())
    }

    /// How many requests the endpoint has had.
    #[must_use]
    pub fn count(&self, endpoint: Endpoint) -> usize {
        self.shared.look(|ledger| ledger.requests.iter().filter(|request| request.endpoint == endpoint).count())
    }

    /// What broke the protocol without being refused, in plain words. A test of a daemon ends by asserting that there
    /// is nothing.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.shared.look(|ledger| ledger.violations.clone())
    }

    /// What is known of the directive.
    ///
    /// # Panics
    /// When it was never queued.
    #[must_use]
    pub fn directive(&self, id: &DirectiveId) -> DirectiveView {
        self.look_at(id, Clone::clone)
    }

    /// The stream as far as its chunks are there without a gap from 0.
    #[must_use]
    pub fn log(&self, id: &DirectiveId, stream: LogStream) -> Vec<u8> {
        self.look_at(id, |view| view.log(stream))
    }

    /// Looks at a directive without a copy of its chunks: they may be many.
    fn look_at<T>(&self, id: &DirectiveId, look: impl FnOnce(&DirectiveView) -> T) -> T {
        self.shared.look(|ledger| look(ledger.view(id)))
    }

    /// The stream as text, invalid UTF-8 replaced.
    #[must_use]
    pub fn log_text(&self, id: &DirectiveId, stream: LogStream) -> String {
        String::from_utf8_lossy(&self.log(id, stream)).into_owned()
    }

    /// Waits until `look` gives a value.
    ///
    /// # Panics
    /// At the deadline, with what was seen last.
    pub async fn wait_for<T>(
        &self,
        what: &str,
        within: Duration,
        mut look: impl FnMut(&Self) -> Result<T, String>,
    ) -> T {
        let mut changes = self.shared.changes.subscribe();
        match until_changed(&mut changes, within, || look(self)).await {
            Ok(value) => value,
            Err(seen) => panic!("{what}: {seen}; requests: {}", self.summary()),
        }
    }

    /// Waits for the directive's end as a territory reported it.
    pub async fn finished(&self, id: &DirectiveId, within: Duration) -> FinishedRequest {
        let look = |stub: &Self| stub.look_at(id, |view| view.finished.clone().ok_or_else(|| view.summary()));
        self.wait_for(&format!("the end of {id}"), within, look).await
    }

    /// Waits until the directive has this state.
    pub async fn in_state(&self, id: &DirectiveId, state: DirectiveState, within: Duration) {
        let look =
            |stub: &Self| stub.look_at(id, |view| if view.state == state { Ok(()) } else { Err(view.summary()) });
        self.wait_for(&format!("state {state} of {id}"), within, look).await;
    }

    /// Waits until a stream contains the text, and gives the whole stream so far.
    pub async fn log_contains(&self, id: &DirectiveId, stream: LogStream, needle: &str, within: Duration) -> String {
        let look = |stub: &Self| {
            let text = stub.log_text(id, stream);
            if text.contains(needle) { Ok(text) } else { Err(text) }
        };
        self.wait_for(&format!("{needle:?} on {stream} of {id}"), within, look).await
    }

    /// Waits until the endpoint has had `count` requests, and gives them.
    pub async fn requested(&self, endpoint: Endpoint, count: usize, within: Duration) -> Vec<Recorded> {
        let look = |stub: &Self| {
            let arrived = stub.count(endpoint);
            if arrived >= count { Ok(stub.requests_of(endpoint)) } else { Err(format!("{arrived} requests")) }
        };
        self.wait_for(&format!("{count} requests of {endpoint:?}"), within, look).await
    }

    fn summary(&self) -> String {
        let shown = |request: &Recorded| format!("{:?}→{:?}", request.endpoint, request.status);
        self.requests().iter().map(shown).collect::<Vec<_>>().join(" ")
    }
}
