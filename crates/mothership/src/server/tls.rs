//! TLS: versions 1.2 and 1.3, client certificates asked for, not demanded, and verified when shown.
//!
//! Enrolment and the user API have no client certificate; calls that need one find it missing later. A
//! certificate of another authority, an expired or a self-signed one ends the handshake. The server's own
//! certificate is made anew at each start and replaced while running, long before its end.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::server::{ClientHello, ResolvesServerCert, ServerSessionMemoryCache, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use crate::ca::{Authority, ServerCertificate};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The library refuses the configuration.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The authority's certificate cannot verify clients.
    #[error("TLS: the authority cannot verify client certificates: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The certificate that connections get, replaceable while running.
#[derive(Debug)]
pub struct Presented {
    current: RwLock<Arc<CertifiedKey>>,
}

impl Presented {
    /// Starts with `certificate`.
    ///
    /// # Errors
    /// The key does not fit the certificate.
    pub fn new(certificate: ServerCertificate) -> Result<Self, TlsError> {
        Ok(Self { current: RwLock::new(certified(certificate)?) })
    }

    /// Presents `certificate` to connections from now on.
    ///
    /// # Errors
    /// The key does not fit the certificate; the old one stays.
    pub fn replace(&self, certificate: ServerCertificate) -> Result<(), TlsError> {
        let certified = certified(certificate)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

fn certified(certificate: ServerCertificate) -> Result<Arc<CertifiedKey>, TlsError> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = CertifiedKey::from_der(certificate.chain, certificate.key, &provider)?;
    Ok(Arc::new(key))
}

/// Sessions that can be resumed at once: a daemon has a few, and each is some two kilobytes.
const SESSIONS: usize = 4096;

/// The configuration for connections: `presented` as the server's certificate, as client certificates those of `authority` and
/// of the ones beside it. Sessions are resumed, in this process alone: what a client proved in the first is proved in the next,
/// and looked up at each request all the same.
///
/// # Errors
/// The library refuses the authority or the configuration.
pub fn config(authority: &Authority, presented: Arc<Presented>) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for trusted in authority.trusted() {
        roots.add(trusted.clone())?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(presented);
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
