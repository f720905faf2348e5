//! The key, the certificate request, and the one call.

use std::time::Duration;

use conduits::{EnrollAnswer, EnrollRequest, EnrollToken, ErrorBody, TerritoryKind};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use reqwest::StatusCode;
use rustls::CertificateError;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Map, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::EnrollError;
use super::trust::{FirstTrust, client_config};
use crate::client::plain;
use crate::config::Config;

/// Bounds of the call: a token is spent by an answer that must still be read, so they are generous.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

/// Longest piece of an answer that a message repeats, in characters.
const MAX_DETAIL: usize = 300;

/// What a server that names no time is given, in seconds.
const DEFAULT_RETRY_AFTER: u64 = 60;

/// The kind of a territory's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256: small, fast, taken by every TLS peer.
    EcdsaP256,
    /// RSA with 3072 bits, for peers that take nothing else.
    Rsa3072,
}

/// A private key and the request for its certificate.
pub(crate) struct KeyAndRequest {
    key: KeyPair,
    csr_pem: String,
}

impl KeyAndRequest {
    /// Makes both. The subject is the name; a server need not take it over.
    pub(crate) fn make(kind: KeyKind, name: &str) -> Result<Self, rcgen::Error> {
        let key = match kind {
            KeyKind::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?,
            KeyKind::Rsa3072 => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072)?,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // RFC 5280, upper bound of a common name.
        params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
        let csr_pem = params.serialize_request(&key)?.pem()?;
        Ok(Self { key, csr_pem })
    }

    /// The key as PKCS #8 PEM.
    pub(crate) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The request as PEM.
    pub(crate) fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    /// The certificate of the answer, if it is one for this very key.
    pub(crate) fn check<'a>(&self, pem: Option<&'a str>) -> Result<&'a str, EnrollError> {
        let unusable = |why: &str| EnrollError::Unusable(why.to_owned());
        let pem = pem.ok_or_else(|| unusable("it brings no certificate although one was asked for"))?;
        let der = leaf_of(pem).ok_or_else(|| unusable("its certificate is not PEM"))?;
        let (_, certificate) = X509Certificate::from_der(&der).map_err(|_| unusable("its certificate is damaged"))?;
        let ours = rcgen::PublicKeyData::subject_public_key_info(&self.key);
        if certificate.public_key().raw != ours {
            return Err(unusable("its certificate is for another key"));
        }
        Ok(pem)
    }
}

/// The first certificate of a PEM text.
pub(crate) fn leaf_of(pem: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).next().and_then(Result::ok)
}

/// The authorities of the answer, if they are PEM certificates.
pub(crate) fn check_bundle(pem: &str) -> Result<&str, EnrollError> {
    let mut count = 0_usize;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let damaged = || EnrollError::Unusable("its CA bundle is damaged".to_owned());
        let der = certificate.map_err(|_| damaged())?;
        X509Certificate::from_der(&der).map_err(|_| damaged())?;
        count += 1;
    }
    if count == 0 { Err(EnrollError::Unusable("its CA bundle holds no certificate".to_owned())) } else { Ok(pem) }
}

/// The operating system and architecture as the protocol has them, such as `linux/amd64`.
#[must_use]
pub fn platform_name() -> String {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("{}/{arch}", crate::config::Platform::current().as_str())
}

/// Makes the call and reads its answer.
pub(super) async fn ask(
    config: &Config,
    trust: &FirstTrust,
    token: EnrollToken,
    name: &str,
    pair: Option<&KeyAndRequest>,
) -> Result<EnrollAnswer, EnrollError> {
    let server = config.server_url.to_string();
    let unreachable = |error: reqwest::Error| EnrollError::Unreachable {
        server: server.clone(),
        why: plain::words(&error).map_or_else(|| causes(&error), str::to_owned),
    };
    let mut metadata = Map::new();
    metadata.insert("capacity".to_owned(), json!({ "max_concurrent": config.max_concurrent_directives }));
    let request = EnrollRequest {
        enroll_token: token,
        name: Some(name.to_owned()),
        kind: TerritoryKind::Server,
        platform: Some(platform_name()),
        display_name: Some(name.to_owned()),
        labels: config.labels.clone(),
        metadata,
        csr_pem: pair.map(|pair| pair.csr_pem.clone()),
    };
    let client = client(config, trust)?.build().map_err(unreachable)?;
    let url = config.server_url.join(conduits::paths::ENROLL);
    let mut response = client.post(url).json(&request).send().await.map_err(unreachable)?;
    let status = response.status();
    let retry_after =
        response.headers().get(reqwest::header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            return Err(EnrollError::Unusable(format!("it is larger than {MAX_ANSWER_BYTES} bytes")));
        }
    }
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| EnrollError::Unusable(one_line(&error.to_string())));
    }
    let said: ErrorBody = serde_json::from_slice(&body).unwrap_or_default();
    let detail = one_line(if said.detail.is_empty() { &said.error } else { &said.detail });
    Err(match status {
        StatusCode::UNPROCESSABLE_ENTITY => EnrollError::Refused { detail: or_unsaid(detail) },
        StatusCode::TOO_MANY_REQUESTS => EnrollError::TooMany { seconds: retry_after.unwrap_or(DEFAULT_RETRY_AFTER) },
        _ => EnrollError::Answer { server, status: status.as_u16(), detail },
    })
}

fn client(config: &Config, trust: &FirstTrust) -> Result<reqwest::ClientBuilder, EnrollError> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(TIMEOUT)
        // The token goes where the operator said, and nowhere a server points to.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("nexusd/", env!("CARGO_PKG_VERSION")));
    if let Some(tls) = client_config(trust)? {
        builder = builder.tls_backend_preconfigured(tls);
    }
    if config.server_url.is_loopback() {
        // Plain http is allowed here because nothing leaves the machine: a proxy would change that.
        builder = builder.no_proxy();
    } else if let Some(proxy) = &config.proxy_url {
        let proxy = reqwest::Proxy::all(proxy.expose().as_str())
            .map_err(|_| EnrollError::Unusable(format!("the proxy {proxy} cannot be used")))?;
        builder = builder.proxy(proxy);
    }
    Ok(builder)
}

/// An error with its causes: the outermost alone says "error sending request".
pub(crate) fn causes(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = next {
        let text = trust_words(cause).unwrap_or_else(|| cause.to_string());
        // Layers repeat each other's words.
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        next = cause.source();
    }
    if parts.is_empty() {
        parts.push(error.to_string());
    }
    one_line(&parts.join(": "))
}

/// What our own verifier said: the TLS library shows a foreign error only by its `Debug`, and layers of I/O errors
/// around it hide it from `source`.
fn trust_words(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(own))) = cause.downcast_ref() {
        return Some(own.0.to_string());
    }
    trust_words(cause.downcast_ref::<std::io::Error>()?.get_ref()?)
}

/// A foreign text for a message: no control characters, bounded.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL).collect()
}

fn or_unsaid(detail: String) -> String {
    if detail.is_empty() { "it gave no reason".to_owned() } else { detail }
}
