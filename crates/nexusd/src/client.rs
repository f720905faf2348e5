//! The mothership as this daemon sees it: one method per call of the protocol, one client beneath them all.
//!
//! Promises: every call is bounded in time and in the size of its answer; the outcome of each is told to the one state of
//! [`reach`]ability; an answer that is not of this protocol is an error and never half an answer; no token, key or body is in
//! any error. A call is made once: [`Mothership::with_retry`] is what asks again.
//!
//! Leaves to others: what to do about an error (`poll`, `directive`, [`outbox`](crate::outbox), [`logs`](crate::logs)).

pub mod directive;
pub mod error;
pub(crate) mod plain;
pub mod reach;
pub mod retry;
pub mod seldom;
pub mod token;
pub mod transport;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use conduits::{
    EnrollAnswer, EnrollRequest, PollAnswer, PollRequest, RenewAnswer, RenewRequest, TerritoryHeartbeatAnswer,
    TerritoryHeartbeatRequest, TerritoryId, headers, prefer,
};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use reqwest::{Method, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

pub use directive::DirectiveCalls;
pub use error::{CallError, Said};
pub use reach::Reach;
pub use retry::Deadline;
pub use token::MAX_TOKEN_BYTES;
pub use transport::{ClientError, PemIdentity, Presented, ProxyChoice, TlsSettings, Trust};

use crate::observe::tape::Tape;
use seldom::Seldom;
use transport::{Fixed, Transport};

/// Time within which an ordinary call must be answered.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// What a held call (long poll, held heartbeat) gets beyond the time it asks to be held.
pub const HELD_MARGIN: Duration = Duration::from_secs(5);
/// Log uploads in flight over all directives; waiting ones are served in order, so that none starves.
const UPLOAD_SLOTS: usize = 64;
/// Time within which a probe must be answered; every fourth gets [`REQUEST_TIMEOUT`], for a network that is merely slow.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// What a probe asks for. No server serves it to a GET, and any server that is up says so at once.
const PROBE_PATH: &str = conduits::paths::POLLS;

/// What a [`Mothership`] is made of.
#[derive(Debug, Clone)]
pub struct ClientSettings {
    /// `server_url`: scheme, host, port and perhaps a path in front of `/conduits/v1`.
    pub server_url: String,
    /// Sent as `X-Nexus-Territory-Id` (header mode, for development).
    pub territory_header: Option<TerritoryId>,
    /// Trust and identity.
    pub tls: TlsSettings,
    /// The way out.
    pub proxy: ProxyChoice,
    /// `nexusd/<version>`.
    pub user_agent: String,
    /// Time for an ordinary call; [`REQUEST_TIMEOUT`] outside tests.
    pub request_timeout: Duration,
    /// Is told of every call.
    pub tape: Option<Tape>,
}

impl ClientSettings {
    /// Settings for `server_url` with everything else at its default.
    #[must_use]
    pub fn new(server_url: impl Into<String>) -> Self {
        Self {
            server_url: server_url.into(),
            territory_header: None,
            tls: TlsSettings::default(),
            proxy: ProxyChoice::default(),
            user_agent: concat!("nexusd/", env!("CARGO_PKG_VERSION")).to_owned(),
            request_timeout: REQUEST_TIMEOUT,
            tape: None,
        }
    }
}

/// An answer, and whether the server held the call as `Prefer: wait` asked (`Preference-Applied: wait`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held<T> {
    /// The answer.
    pub answer: T,
    /// True when the server knows how to hold calls.
    pub wait_applied: bool,
}

/// How many calls were made and how they went, since the start.
#[derive(Debug, Default)]
pub struct CallCounters {
    calls: AtomicU64,
    failures: AtomicU64,
    retries: AtomicU64,
    unreadable: AtomicU64,
}

/// A reading of [`CallCounters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallCounts {
    /// Requests sent.
    pub calls: u64,
    /// Those that ended in a transport error, a timeout, a 5xx, a 429 or nonsense.
    pub failures: u64,
    /// Calls that were made again.
    pub retries: u64,
    /// Answers that were not of this protocol.
    pub unreadable: u64,
}

/// The control plane. Cheap to clone; all clones share connections and reachability.
#[derive(Debug, Clone)]
pub struct Mothership {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    transport: Transport,
    reach: Reach,
    request_timeout: Duration,
    counters: CallCounters,
    probes: AtomicU32,
    uploads: tokio::sync::Semaphore,
    /// What the mothership says to polls, while it refuses them.
    refusal: Mutex<Option<String>>,
    /// Of answers that cannot be read.
    unreadable: Seldom,
    /// Of calls that fail again and again while others do not.
    failing: Seldom,
}

/// One request before it is sent.
struct Call<'a> {
    path: &'a str,
    token: Option<&'a str>,
    wait: Option<Duration>,
    body: Bytes,
}

impl Mothership {
    /// A client for these settings; connects when first used.
    ///
    /// # Errors
    /// A URL, certificate, key or proxy that cannot be used.
    pub fn new(settings: &ClientSettings) -> Result<Self, ClientError> {
        let mut fields = HeaderMap::new();
        let header = |what, text: &str| HeaderValue::from_str(text).map_err(|_| ClientError::Header { what });
        fields.insert(USER_AGENT, header("the user agent", &settings.user_agent)?);
        if let Some(id) = &settings.territory_header {
            fields.insert(headers::TERRITORY_ID, header("territory_id", id.as_str())?);
        }
        let fixed = Fixed {
            base: base_url(&settings.server_url)?,
            proxy: settings.proxy.clone(),
            headers: fields,
            tape: settings.tape.clone(),
        };
        Ok(Self {
            inner: Arc::new(Inner {
                transport: Transport::new(fixed, &settings.tls)?,
                reach: Reach::new(),
                request_timeout: settings.request_timeout,
                counters: CallCounters::default(),
                probes: AtomicU32::new(0),
                uploads: tokio::sync::Semaphore::new(UPLOAD_SLOTS),
                refusal: Mutex::default(),
                unreadable: Seldom::default(),
                failing: Seldom::default(),
            }),
        })
    }

    /// Takes other TLS files into use for calls that begin from now on; those in flight are not disturbed.
    ///
    /// # Errors
    /// Files that cannot be used; the old ones stay in force.
    pub fn reload_tls(&self, tls: &TlsSettings) -> Result<(), ClientError> {
        self.inner.transport.reload(tls)
    }

    /// Takes a renewed identity into use for calls that begin from now on; `further_ca` (PEM) is believed too, where
    /// authorities were named at all.
    ///
    /// # Errors
    /// It cannot be used; the old one stays in force.
    pub fn take_identity(&self, identity: PemIdentity, further_ca: Option<&[u8]>) -> Result<(), ClientError> {
        self.inner.transport.take_identity(identity, further_ca)
    }

    /// The client certificate in use; `None` where there is none.
    #[must_use]
    pub fn presented(&self) -> Option<Presented> {
        self.inner.transport.presented()
    }

    /// When the client certificate in use ends, in Unix seconds; `None` where there is none.
    #[must_use]
    pub fn certificate_expiry(&self) -> Option<i64> {
        self.presented().map(|present| present.not_after)
    }

    /// The state of reachability that all calls share.
    #[must_use]
    pub fn reach(&self) -> &Reach {
        &self.inner.reach
    }

    /// Waits until calls may go out (at once, while the mothership is reachable). Cancel safe.
    pub async fn ready(&self) {
        self.inner.reach.ready(|| self.probe()).await;
    }

    /// As [`Mothership::ready`], for the few calls that nothing waits in line with: they go out the moment it is back.
    pub async fn up(&self) {
        tokio::select! {
            biased;
            () = self.ready() => {}
            () = self.reach().changed_from(true) => {}
        }
    }

    /// Calls, failures and retries since the start.
    #[must_use]
    pub fn counts(&self) -> CallCounts {
        let counters = &self.inner.counters;
        CallCounts {
            calls: counters.calls.load(Ordering::Relaxed),
            failures: counters.failures.load(Ordering::Relaxed),
            retries: counters.retries.load(Ordering::Relaxed),
            unreadable: counters.unreadable.load(Ordering::Relaxed),
        }
    }

    /// `POST /territories/enroll`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn enroll(&self, request: &EnrollRequest) -> Result<EnrollAnswer, CallError> {
        self.post(conduits::paths::ENROLL, None, request).await
    }

    /// `POST /territories/renew`.
    ///
    /// # Errors
    /// See [`CallError`]; `NotFound` from a server that does not renew.
    pub async fn renew(&self, request: &RenewRequest) -> Result<RenewAnswer, CallError> {
        self.post(conduits::paths::RENEW, None, request).await
    }

    /// `POST /territories/heartbeat`.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn territory_heartbeat(
        &self,
        request: &TerritoryHeartbeatRequest,
    ) -> Result<TerritoryHeartbeatAnswer, CallError> {
        self.post(conduits::paths::TERRITORY_HEARTBEAT, None, request).await
    }

    /// `POST /polls`, held by the server for up to `wait` where it knows how.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn poll(&self, request: &PollRequest, wait: Option<Duration>) -> Result<Held<PollAnswer>, CallError> {
        let body = encode(request)?;
        self.call(Call { path: conduits::paths::POLLS, token: None, wait, body }).await
    }

    /// The calls about one directive, with its token.
    #[must_use]
    pub fn directive(&self, id: conduits::DirectiveId, token: conduits::DirectiveToken) -> DirectiveCalls {
        DirectiveCalls::new(self.clone(), id, token)
    }

    async fn post<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        token: Option<&str>,
        request: &Q,
    ) -> Result<A, CallError> {
        let body = encode(request)?;
        Ok(self.call(Call { path, token, wait: None, body }).await?.answer)
    }

    /// What the mothership says while it refuses this territory's polls (401, 403).
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.inner.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn call<A: DeserializeOwned>(&self, call: Call<'_>) -> Result<Held<A>, CallError> {
        let counters = &self.inner.counters;
        counters.calls.fetch_add(1, Ordering::Relaxed);
        let path = call.path;
        let outcome = self.exchange(call).await;
        if path == conduits::paths::POLLS {
            self.note_refusal(outcome.as_ref().err());
        }
        if let Err(CallError::Nonsense { what }) = &outcome {
            counters.unreadable.fetch_add(1, Ordering::Relaxed);
            if let Some(unsaid) = self.inner.unreadable.say(Instant::now()) {
                tracing::warn!(
                    call = path,
                    what,
                    unsaid,
                    "the mothership's answer cannot be read: asked again until one can; see that server_url is the mothership's and no other server answers in its place"
                );
            }
        }
        match &outcome {
            Err(error) if error.is_transient() => {
                counters.failures.fetch_add(1, Ordering::Relaxed);
                self.report_failure(error);
            }
            Err(CallError::NotSent { .. }) => {}
            _ => self.inner.reach.succeeded(),
        }
        outcome
    }

    /// Only an answer takes a refusal back: without one, the mothership is merely out of reach.
    fn note_refusal(&self, error: Option<&CallError>) {
        let refusal = match error {
            Some(error @ (CallError::Unauthorized(_) | CallError::Forbidden(_))) => Some(error.to_string()),
            Some(error) if error.is_transient() => return,
            _ => None,
        };
        *self.inner.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    /// Nonsense counts as a failure to serve (a captive portal, a proxy's page); a 429 is an answer.
    fn report_failure(&self, error: &CallError) {
        match error {
            CallError::RateLimited { .. } => self.inner.reach.succeeded(),
            other => self.inner.reach.failed(&other.to_string(), other.retry_after()),
        }
    }

    async fn exchange<A: DeserializeOwned>(&self, call: Call<'_>) -> Result<Held<A>, CallError> {
        let mut fields = HeaderMap::new();
        if let Some(token) = call.token {
            fields.insert(AUTHORIZATION, token::bearer(token).map_err(CallError::not_sent)?);
        }
        let mut timeout = self.inner.request_timeout;
        if let Some(wait) = call.wait {
            // Digits and letters are always a valid value.
            if let Ok(value) = HeaderValue::try_from(prefer::format_wait(wait.as_secs())) {
                fields.insert(headers::PREFER, value);
            }
            timeout = timeout.max(wait + HELD_MARGIN);
        }
        let raw = self.inner.transport.send(Method::POST, call.path, fields, Some(call.body), timeout).await?;
        if !raw.status.is_success() {
            let retry_after = raw.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            return Err(CallError::from_status(raw.status, retry_after, &raw.body));
        }
        // An array of the right length would pass for an object (serde reads structs from sequences too).
        if raw.body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            let shown = String::from_utf8_lossy(raw.body.get(..100).unwrap_or(&raw.body)).into_owned();
            return Err(CallError::nonsense(format!("status {}, no JSON object: {shown}", raw.status.as_u16())));
        }
        let answer = serde_json::from_slice(&raw.body)
            .map_err(|error| CallError::nonsense(format!("status {}, {error}", raw.status.as_u16())))?;
        let applied = raw.headers.get_all(headers::PREFERENCE_APPLIED).iter();
        let applied = applied.filter_map(|value| value.to_str().ok()).any(prefer::is_wait_applied);
        Ok(Held { answer, wait_applied: applied })
    }

    /// One light request that any server answers somehow; only the fact that it does is of interest.
    async fn probe(&self) {
        let nth = self.inner.probes.fetch_add(1, Ordering::Relaxed);
        let timeout = if nth % 4 == 3 { self.inner.request_timeout } else { PROBE_TIMEOUT };
        self.inner.counters.calls.fetch_add(1, Ordering::Relaxed);
        let answer = self.inner.transport.send(Method::GET, PROBE_PATH, HeaderMap::new(), None, timeout).await;
        let outcome = match answer {
            Ok(raw) if raw.status.is_server_error() || raw.status.as_u16() == 429 => {
                let retry_after = raw.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                Err(CallError::from_status(raw.status, retry_after, &raw.body))
            }
            Ok(_) | Err(CallError::Nonsense { .. }) => Ok(()),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => self.inner.reach.succeeded(),
            Err(error) => self.inner.reach.failed(&error.to_string(), error.retry_after()),
        }
    }

    fn count_retry(&self) {
        self.inner.counters.retries.fetch_add(1, Ordering::Relaxed);
    }
}

fn encode<Q: Serialize>(request: &Q) -> Result<Bytes, CallError> {
    serde_json::to_vec(request).map(Bytes::from).map_err(|error| CallError::not_sent(format!("not JSON: {error}")))
}

fn base_url(text: &str) -> Result<Url, ClientError> {
    let fault = |why: &str| ClientError::ServerUrl { url: shown(text), why: why.to_owned() };
    let url = Url::parse(text).map_err(|error| fault(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(fault("the scheme is neither https nor http"));
    }
    if url.host_str().is_none() || url.query().is_some() || url.fragment().is_some() {
        return Err(fault("it needs a host, and no query or fragment"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(fault("it holds credentials"));
    }
    Ok(url)
}

/// The URL for a message, without what stands before an `@`.
fn shown(text: &str) -> String {
    error::bounded(text.rsplit_once('@').map_or(text, |(_, rest)| rest))
}
