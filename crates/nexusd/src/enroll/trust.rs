//! The first trust: how a mothership is verified that nothing here knows yet.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Certificates of a chain that are looked at: a hostile server must not make us hash megabytes.
const MAX_CHAIN: usize = 10;

/// What the mothership is verified by.
#[derive(Debug, Clone)]
pub enum FirstTrust {
    /// These roots alone.
    Roots(Arc<RootCertStore>),
    /// The authority whose public key has this SHA-256, which the server presents in its chain.
    Pin([u8; 32]),
    /// The system's roots.
    System,
}

/// Why roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {why}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// No certificate in it.
    #[error("{}: holds no PEM certificate that can be a root", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// The TLS library refuses to be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl FirstTrust {
    /// Chooses: the file named on the command line, else the token's digest, else the configured file where it is
    /// there (enrolment may be what is going to write it), else the system's roots. What was chosen is final: there is
    /// no second try by something weaker.
    ///
    /// # Errors
    /// When the chosen file cannot be used.
    pub fn choose(named: Option<&Path>, pin: Option<[u8; 32]>, configured: Option<&Path>) -> Result<Self, TrustError> {
        match (named, pin, configured) {
            (Some(file), _, _) => Ok(Self::Roots(Arc::new(roots(file)?))),
            (None, Some(pin), _) => Ok(Self::Pin(pin)),
            (None, None, Some(file)) if file.exists() => Ok(Self::Roots(Arc::new(roots(file)?))),
            (None, None, _) => Ok(Self::System),
        }
    }

    /// The same and, where it is by roots, by those of one more file.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn with(self, further: Option<&Path>) -> Result<Self, TrustError> {
        match (self, further) {
            (Self::Roots(roots), Some(path)) => {
                let mut roots = Arc::unwrap_or_clone(roots);
                add(&mut roots, path)?;
                Ok(Self::Roots(Arc::new(roots)))
            }
            (trust, _) => Ok(trust),
        }
    }
}

/// The certificates of a PEM file as roots.
fn roots(path: &Path) -> Result<RootCertStore, TrustError> {
    let mut store = RootCertStore::empty();
    add(&mut store, path)?;
    if store.is_empty() { Err(TrustError::Empty { path: path.to_path_buf() }) } else { Ok(store) }
}

fn add(store: &mut RootCertStore, path: &Path) -> Result<(), TrustError> {
    let unreadable = |why: String| TrustError::Unreadable { path: path.to_path_buf(), why };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        store.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    Ok(())
}

/// A TLS client that verifies by `trust` and presents no certificate; `None` for the system's roots, which are
/// the HTTP client's own default.
///
/// # Errors
/// When the TLS library refuses the roots.
pub fn client_config(trust: &FirstTrust) -> Result<Option<ClientConfig>, TrustError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let setup = |error: &dyn fmt::Display| TrustError::Setup(error.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?;
    let config = match trust {
        FirstTrust::System => return Ok(None),
        FirstTrust::Roots(roots) => {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), provider);
            builder.with_webpki_verifier(verifier.build().map_err(|error| setup(&error))?).with_no_client_auth()
        }
        FirstTrust::Pin(pin) => {
            // Not a weaker verification: the pin chooses the root, webpki does the rest.
            let verifier = Arc::new(PinVerifier { pin: *pin, provider });
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
    };
    Ok(Some(config))
}

/// Verifies a server by the digest of its authority's key.
///
/// The chain that the server presents must hold a certificate with that very key. That certificate becomes the one
/// root, and the server's own is then verified against it as always: signatures, dates, name, usages. A copy of the
/// public authority's certificate in a stranger's chain therefore gains him nothing.
#[derive(Debug)]
struct PinVerifier {
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

/// Why a chain does not go back to the pinned key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum PinError {
    #[error(
        "no certificate of the server has the key that the enrolment token names: this is another server, or its \
         authority was replaced (make a new token, or give --ca-file)"
    )]
    Absent,
    #[error("the certificate that the enrolment token names is no certificate authority")]
    NoAuthority,
    #[error("the authority that the enrolment token names is out of date: check the clocks, or make a new token")]
    OutOfDate,
}

impl From<PinError> for rustls::Error {
    fn from(error: PinError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

impl PinVerifier {
    fn pinned<'c>(
        &self,
        mut chain: impl Iterator<Item = &'c CertificateDer<'c>>,
        now: UnixTime,
    ) -> Result<&'c CertificateDer<'c>, PinError> {
        let found = chain.by_ref().take(MAX_CHAIN).find(|der| {
            let key =
                X509Certificate::from_der(der).map(|(_, certificate)| Sha256::digest(certificate.public_key().raw));
            key.is_ok_and(|digest| digest[..] == self.pin)
        });
        let der = found.ok_or(PinError::Absent)?;
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| PinError::Absent)?;
        // webpki takes a root as given; that it may issue, and still, is checked here.
        let is_ca = certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca);
        let may_sign = certificate.key_usage().is_ok_and(|usage| usage.is_none_or(|usage| usage.value.key_cert_sign()));
        if !is_ca || !may_sign {
            return Err(PinError::NoAuthority);
        }
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let validity = certificate.validity();
        if now < validity.not_before.timestamp() || now > validity.not_after.timestamp() {
            return Err(PinError::OutOfDate);
        }
        Ok(der)
    }
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain: Vec<CertificateDer<'static>> =
            std::iter::once(end_entity).chain(intermediates).map(|der| der.clone().into_owned()).collect();
        let root = self.pinned(chain.iter(), now)?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
