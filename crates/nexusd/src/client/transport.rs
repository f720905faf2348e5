//! The HTTP client beneath the calls: connections, TLS identity, limits, and the swap of all that on a reload.
//!
//! Promises: TLS 1.2 or newer; redirects are never followed (a redirect would carry the token elsewhere); an answer is
//! read as it comes and given up beyond [`MAX_ANSWER_BYTES`]; a reload replaces identity and trust for calls that begin
//! after it, while calls in flight end on the connections they have.
//!
//! HTTP/1.1 on purpose, also where the server offers HTTP/2: a few connections with one request each have no flow-control
//! window shared between logs and heartbeats, and one dead connection stalls one call instead of all of them.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::HeaderMap;
use reqwest::{StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::error::CallError;
use crate::observe::tape::{Spoken, Tape};

/// Longest answer that is read, in bytes.
pub const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// Longest wait for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection that is idle for longer is closed; shorter than what common edge proxies allow, so that it is we who close.
const POOL_IDLE: Duration = Duration::from_secs(55);
/// Idle connections kept: polls, heartbeats and the uploads of a few directives.
const POOL_MAX_IDLE: usize = 32;
/// Data that the peer has not acknowledged for so long ends the connection (a half-open one, a vanished network).
const UNACKED_TIMEOUT: Duration = Duration::from_secs(10);

/// Whom the client believes to be the mothership.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// The system's certificate roots.
    #[default]
    System,
    /// Only what these CA certificates (PEM, one or more) signed.
    OnlyCa(Vec<u8>),
    /// A TLS configuration of the caller's own (an enrollment that checks a pinned key); carries the client identity too.
    Custom(Box<rustls::ClientConfig>),
    /// Anybody. `tls.insecure_skip_verify`; the caller warns about it.
    Anybody,
}

/// The client certificate with its chain, and its key, both PEM.
#[derive(Clone)]
pub struct PemIdentity {
    /// Certificate chain, leaf first.
    pub cert_pem: Vec<u8>,
    /// Private key.
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for PemIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PemIdentity(redacted)")
    }
}

/// The part of the settings that a reload replaces.
#[derive(Debug, Clone, Default)]
pub struct TlsSettings {
    /// Whom to believe.
    pub trust: Trust,
    /// Who we are, for mutual TLS.
    pub identity: Option<PemIdentity>,
}

/// Through what proxy the mothership is reached. Loopback is always reached directly.
#[derive(Debug, Clone, Default)]
pub enum ProxyChoice {
    /// The environment's `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`.
    #[default]
    Environment,
    /// None at all.
    Direct,
    /// This one (`http://`, `https://` or `socks5h://`, credentials allowed).
    Url(String),
}

/// Why no client could be made of the settings.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server's URL is unusable.
    #[error("server_url {url:?} cannot be used: {why}; give it as https://host[:port]")]
    ServerUrl {
        /// The text as configured.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// A certificate or key could not be read as PEM.
    #[error("{what} is not usable: {source}; check that the file is PEM and that certificate and key belong together")]
    Pem {
        /// Which one.
        what: &'static str,
        /// The library's reason.
        source: reqwest::Error,
    },
    /// The proxy's URL is unusable (it is not shown: it may hold a password).
    #[error("proxy_url cannot be used: {source}")]
    Proxy {
        /// The library's reason.
        source: reqwest::Error,
    },
    /// A header value that cannot be sent.
    #[error("{what} cannot be sent as a header: use printable ASCII")]
    Header {
        /// Which one.
        what: &'static str,
    },
    /// The client could not be built.
    #[error("the HTTP client could not be made: {source}")]
    Build {
        /// The library's reason.
        source: reqwest::Error,
    },
}

/// What stays the same over reloads.
#[derive(Debug)]
pub(super) struct Fixed {
    pub(super) base: Url,
    pub(super) proxy: ProxyChoice,
    pub(super) headers: HeaderMap,
    pub(super) tape: Option<Tape>,
}

/// A client that can be replaced while calls are in flight.
#[derive(Debug)]
pub(super) struct Transport {
    fixed: Fixed,
    current: RwLock<Current>,
}

/// What a reload replaces, as one.
#[derive(Debug)]
struct Current {
    client: reqwest::Client,
    tls: TlsSettings,
    presented: Option<Presented>,
}

impl Current {
    fn new(fixed: &Fixed, tls: TlsSettings) -> Result<Self, ClientError> {
        Ok(Self { client: build(fixed, &tls)?, presented: tls.identity.as_ref().and_then(presented), tls })
    }
}

/// The client certificate in use; times are Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented {
    /// From when on it is valid.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
    /// Its key is an RSA key.
    pub is_rsa: bool,
}

/// An answer as it came.
#[derive(Debug)]
pub(super) struct RawAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Transport {
    pub(super) fn new(fixed: Fixed, tls: &TlsSettings) -> Result<Self, ClientError> {
        let current = RwLock::new(Current::new(&fixed, tls.clone())?);
        Ok(Self { fixed, current })
    }

    /// Replaces the TLS identity and trust for all calls that begin from now on.
    pub(super) fn reload(&self, tls: &TlsSettings) -> Result<(), ClientError> {
        let fresh = Current::new(&self.fixed, tls.clone())?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// Replaces the identity alone, and believes these authorities too where authorities were named at all.
    pub(super) fn take_identity(&self, identity: PemIdentity, further_ca: Option<&[u8]>) -> Result<(), ClientError> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut tls = TlsSettings { identity: Some(identity), ..current.tls.clone() };
        if let (Trust::OnlyCa(known), Some(further)) = (&mut tls.trust, further_ca)
            && !known.windows(further.len().max(1)).any(|part| part == further)
        {
            known.push(b'\n');
            known.extend_from_slice(further);
        }
        *current = Current::new(&self.fixed, tls)?;
        Ok(())
    }

    pub(super) fn presented(&self) -> Option<Presented> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).presented
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.fixed.base.as_str().trim_end_matches('/'))
    }

    /// One request; its whole answer must be here within `timeout`.
    pub(super) async fn send(
        &self,
        method: reqwest::Method,
        path: &str,
        headers: HeaderMap,
        body: Option<Bytes>,
        timeout: Duration,
    ) -> Result<RawAnswer, CallError> {
        let client = self.current.read().unwrap_or_else(PoisonError::into_inner).client.clone();
        let mut request = client.request(method.clone(), self.url(path)).headers(headers).timeout(timeout);
        if let Some(body) = body.clone() {
            request = request.header(reqwest::header::CONTENT_TYPE, "application/json").body(body);
        }
        let (began, answer) = (Instant::now(), answer(request).await);
        if let Some(tape) = &self.fixed.tape {
            let said = answer.as_ref().map(|answer| (answer.status.as_u16(), answer.body.as_slice()));
            tape.tell(&Spoken {
                method: method.as_str(),
                path,
                request: body.as_deref(),
                answer: said.map_err(ToString::to_string),
                took: began.elapsed(),
            });
        }
        answer
    }
}

async fn answer(request: reqwest::RequestBuilder) -> Result<RawAnswer, CallError> {
    let mut response = request.send().await.map_err(CallError::transport)?;
    let status = response.status();
    let headers = std::mem::take(response.headers_mut());
    let body = read_bounded(&mut response).await?;
    Ok(RawAnswer { status, headers, body })
}

/// What the leaf says of itself. What cannot be read is no certificate: a server that asks for one says so.
fn presented(identity: &PemIdentity) -> Option<Presented> {
    let leaf = CertificateDer::from_pem_slice(&identity.cert_pem).ok()?;
    let (_, parsed) = X509Certificate::from_der(&leaf).ok()?;
    let validity = parsed.validity();
    Some(Presented {
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
        is_rsa: matches!(parsed.public_key().parsed(), Ok(PublicKey::RSA(_))),
    })
}

async fn read_bounded(response: &mut reqwest::Response) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(CallError::transport)? {
        if body.len() + part.len() > MAX_ANSWER_BYTES {
            return Err(CallError::nonsense(format!("longer than {MAX_ANSWER_BYTES} bytes")));
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

fn build(fixed: &Fixed, tls: &TlsSettings) -> Result<reqwest::Client, ClientError> {
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .default_headers(fixed.headers.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_MAX_IDLE)
        .tcp_nodelay(true)
        .tcp_keepalive(Duration::from_secs(15));
    #[cfg(target_os = "linux")]
    {
        builder = builder.tcp_user_timeout(UNACKED_TIMEOUT);
    }
    builder = with_proxy(builder, &fixed.base, &fixed.proxy)?;
    builder = with_tls(builder, fixed, tls)?;
    builder.build().map_err(|e| ClientError::Build { source: e.without_url() })
}

/// The way out to `base`: what it is for the mothership it is for every other server.
///
/// # Errors
/// A proxy that cannot be used.
pub(crate) fn with_proxy(
    builder: reqwest::ClientBuilder,
    base: &Url,
    proxy: &ProxyChoice,
) -> Result<reqwest::ClientBuilder, ClientError> {
    Ok(match proxy {
        _ if is_loopback(base) => builder.no_proxy(),
        ProxyChoice::Environment => builder,
        ProxyChoice::Direct => builder.no_proxy(),
        ProxyChoice::Url(url) => {
            let proxy = reqwest::Proxy::all(url).map_err(|e| ClientError::Proxy { source: e.without_url() })?;
            builder.no_proxy().proxy(proxy)
        }
    })
}

fn with_tls(
    mut builder: reqwest::ClientBuilder,
    fixed: &Fixed,
    tls: &TlsSettings,
) -> Result<reqwest::ClientBuilder, ClientError> {
    if fixed.base.scheme() == "http" {
        // No certificate is ever looked at: do not read the system's roots into memory.
        return Ok(builder.tls_certs_only([]));
    }
    builder = builder.tls_version_min(reqwest::tls::Version::TLS_1_2);
    builder = match &tls.trust {
        Trust::System => builder,
        Trust::Anybody => builder.tls_danger_accept_invalid_certs(true),
        Trust::OnlyCa(pem) => {
            let certs = reqwest::Certificate::from_pem_bundle(pem)
                .map_err(|source| ClientError::Pem { what: "tls.ca_file", source })?;
            builder.tls_certs_only(certs)
        }
        Trust::Custom(config) => return Ok(builder.tls_backend_preconfigured((**config).clone())),
    };
    if let Some(identity) = &tls.identity {
        let mut pem = identity.key_pem.clone();
        pem.push(b'\n');
        pem.extend_from_slice(&identity.cert_pem);
        let identity = reqwest::Identity::from_pem(&pem)
            .map_err(|source| ClientError::Pem { what: "the client certificate or key", source })?;
        builder = builder.identity(identity);
    }
    Ok(builder)
}

/// A host that is this machine by its very name.
fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or("").trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
