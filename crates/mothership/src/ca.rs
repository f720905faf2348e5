//! The mothership's own certificate authority.
//!
//! Made at the first start: an ECDSA P-256 key (`ca-key.pem`, 0600) and a certificate that may sign leaves
//! and no further authority. It signs the server's certificate and the territories' client certificates;
//! the names in a request are never taken over, only its key. All are dated five minutes
//! back, for hosts whose clock is behind.
//!
//! Beside it there may be the one that will follow it, or the one that it followed: they verify, and are handed out, but sign
//! nothing (`rollover`).

mod csr;
pub mod rollover;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use conduits::Fingerprint;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::clock::Micros;
use crate::serve::directory;
pub use csr::CsrError;

/// How far certificates are dated back.
const BACKDATED: Duration = Duration::from_secs(5 * 60);
const DAY: u64 = 24 * 60 * 60;
/// How long before its end the operator is told: a change of authorities takes months where hosts are away.
const TOLD_BEFORE: Duration = Duration::from_secs(365 * DAY);
/// Lifetime of the authority's own certificate.
const CA_LIFETIME: Duration = Duration::from_secs(3650 * DAY);
/// Lifetime of a server certificate: under what clients take, and renewed long before.
const SERVER_LIFETIME: Duration = Duration::from_secs(90 * DAY);
/// Lifetime of a territory's client certificate.
pub const CLIENT_LIFETIME: Duration = Duration::from_secs(30 * DAY);

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read or written.
    #[error("{path}: {source}; the mothership's user must own the data directory")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Only one half of the pair is there.
    #[error(
        "{0} is missing beside its other half; restore both from the backup, or move both away to start a new authority (every territory must then enrol anew)"
    )]
    Half(PathBuf),
    /// A file does not hold what it should.
    #[error("{path} is damaged: {detail}; restore it from the backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// Others may read the key.
    #[error("{path} can be read by others (mode {mode:o}); run: chmod 600 {path}")]
    Exposed {
        /// The key's file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A step of a change of authorities out of its turn.
    #[error("{0}")]
    Turn(String),
    /// The crypto library fails.
    #[error("cannot make a certificate: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// The authority: its certificate and the key that signs.
pub struct Authority {
    certificate: CertificateDer<'static>,
    pem: String,
    key_sha256: [u8; 32],
    issuer: Issuer<'static, KeyPair>,
    /// Those that are trusted besides.
    others: Vec<Beside>,
}

/// An authority that verifies and signs nothing.
#[derive(Debug, Clone)]
struct Beside {
    certificate: CertificateDer<'static>,
    pem: String,
    key_sha256: [u8; 32],
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

/// A client certificate just issued.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// PEM, one certificate.
    pub pem: String,
    /// What identifies it.
    pub fingerprint: Fingerprint,
    /// Its end.
    pub not_after: Micros,
}

/// A server's chain and key, ready for TLS.
#[derive(Debug)]
pub struct ServerCertificate {
    /// The leaf, then the authority: with it a newcomer can check the digest in his enrolment token.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Loads the authority of `dir`, or makes one where there is none.
    ///
    /// A certificate whose key is missing is half of one. Beside no database it is what a first start left that was cut
    /// off before the key was written: nothing was ever signed, and it is made again. Beside one, the key was lost.
    ///
    /// # Errors
    /// The files cannot be read or written, are damaged, or only one is there.
    pub fn load_or_create(dir: &Path) -> Result<Self, CaError> {
        let (key_path, cert_path) = (dir.join(directory::CA_KEY), dir.join(directory::CA_CERTIFICATE));
        rollover::finish(dir)?;
        match (key_path.exists(), cert_path.exists()) {
            (true, true) => {}
            (false, false) => create(&key_path, &cert_path)?,
            (true, false) => return Err(CaError::Half(cert_path)),
            (false, true) if dir.join(directory::DATABASE).exists() => return Err(CaError::Half(key_path)),
            (false, true) => {
                tracing::warn!(
                    certificate = %cert_path.display(),
                    "the first start was cut off while it made the authority; making it again"
                );
                create(&key_path, &cert_path)?;
            }
        }
        let mut authority = load(&key_path, &cert_path)?;
        for name in [directory::CA_NEXT_CERTIFICATE, directory::CA_OLD_CERTIFICATE] {
            authority.others.extend(beside(&dir.join(name))?);
        }
        Ok(authority)
    }

    /// The authorities' certificates in PEM, the one that signs first.
    #[must_use]
    pub fn bundle_pem(&self) -> String {
        let all = std::iter::once(&self.pem).chain(self.others.iter().map(|other| &other.pem));
        all.map(|pem| format!("{}\n", pem.trim_end())).collect()
    }

    /// The authorities whose certificates are taken: the one that signs, and those beside it.
    pub fn trusted(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.certificate).chain(self.others.iter().map(|other| &other.certificate))
    }

    /// SHA-256 of each trusted authority's SubjectPublicKeyInfo.
    pub fn trusted_keys(&self) -> impl Iterator<Item = [u8; 32]> {
        std::iter::once(self.key_sha256).chain(self.others.iter().map(|other| other.key_sha256))
    }

    /// What its operator is to be told of the end of the authority, at `now`; nothing while it is far.
    #[must_use]
    pub fn ending(&self, now: SystemTime) -> Option<String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&self.certificate).ok()?;
        let end = parsed.validity().not_after.timestamp();
        let now = i64::try_from(now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).unwrap_or(i64::MAX);
        let date = Micros(end.saturating_mul(1_000_000)).rfc3339();
        if end <= now {
            Some(format!("the certificate authority ended on {date}: hosts cannot enrol; see `mothership ca --help`"))
        } else if end.saturating_sub_unsigned(TOLD_BEFORE.as_secs()) <= now {
            Some(format!("the certificate authority ends on {date}: begin the next one with `mothership ca prepare`"))
        } else {
            None
        }
    }

    /// SHA-256 of the authority's SubjectPublicKeyInfo: what enrolment tokens carry.
    #[must_use]
    pub fn key_sha256(&self) -> [u8; 32] {
        self.key_sha256
    }

    /// A server certificate for these names and addresses, with a fresh key.
    ///
    /// # Errors
    /// A name is not a DNS name; the crypto library fails.
    pub fn server(&self, names: &[String], addresses: &[IpAddr]) -> Result<ServerCertificate, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = leaf("Nexus mothership", SERVER_LIFETIME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        let leaf = params.signed_by(&key, &self.issuer)?;
        Ok(ServerCertificate {
            chain: vec![leaf.der().clone(), self.certificate.clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }

    /// A client certificate for `territory` with the key of the request `csr_pem`, good for `lifetime`.
    ///
    /// # Errors
    /// The request is not acceptable; the crypto library fails.
    pub fn client(
        &self,
        territory: &str,
        csr_pem: &str,
        lifetime: Duration,
    ) -> Result<ClientCertificate, ClientCertificateError> {
        let key = csr::checked_key(csr_pem)?;
        let mut params = leaf(territory, lifetime);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let not_after = params.not_after;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ClientCertificate {
            pem: certificate.pem(),
            fingerprint: Fingerprint::of_der(certificate.der()),
            not_after: Micros(not_after.unix_timestamp().saturating_mul(1_000_000)),
        })
    }
}

/// Why no client certificate was issued.
#[derive(Debug, thiserror::Error)]
pub enum ClientCertificateError {
    /// The request is not acceptable.
    #[error(transparent)]
    Request(#[from] CsrError),
    /// The crypto library fails.
    #[error("cannot make a certificate: {0}")]
    Crypto(#[from] rcgen::Error),
}

/// What every leaf has: a subject, dates, a random serial number, no authority.
fn leaf(subject: &str, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    date(&mut params, lifetime);
    params
}

fn date(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + lifetime).into();
    let mut serial: [u8; 16] = rand::random();
    // RFC 5280, 4.1.2.2: positive, and not zero.
    serial[0] = serial[0] & 0x7f | 0x01;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

fn create(key_path: &Path, cert_path: &Path) -> Result<(), CaError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    params.distinguished_name.push(
        DnType::CommonName,
        // The time keeps two authorities of one host apart in people's trust stores.
        format!("Nexus mothership CA {}", since_epoch.as_secs()),
    );
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    date(&mut params, CA_LIFETIME);
    let certificate = params.self_signed(&key)?;
    // The key last, and the database only after both: a kill in between leaves a certificate that signed nothing.
    write(cert_path, &certificate.pem(), 0o644)?;
    write(key_path, &key.serialize_pem(), 0o600)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), CaError> {
    crate::serve::files::write_atomically(path, text.as_bytes(), mode)
        .map_err(|source| CaError::File { path: path.to_owned(), source })
}

fn load(key_path: &Path, cert_path: &Path) -> Result<Authority, CaError> {
    refuse_exposed(key_path)?;
    let damaged = |detail: String| CaError::Damaged { path: key_path.to_owned(), detail };
    let key = KeyPair::from_pem(&read(key_path)?).map_err(|error| damaged(error.to_string()))?;
    let Beside { certificate, pem, key_sha256 } = parse(cert_path)?;
    if key_sha256 != crate::secret::sha256(&key.subject_public_key_info()) {
        let detail = "it is not the certificate of ca-key.pem".to_owned();
        return Err(CaError::Damaged { path: cert_path.to_owned(), detail });
    }
    let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
    Ok(Authority { certificate, pem, key_sha256, issuer, others: Vec::new() })
}

fn read(path: &Path) -> Result<String, CaError> {
    std::fs::read_to_string(path).map_err(|source| CaError::File { path: path.to_owned(), source })
}

/// The certificate of a file, which must be one that may sign others.
fn parse(path: &Path) -> Result<Beside, CaError> {
    let damaged = |detail: String| CaError::Damaged { path: path.to_owned(), detail };
    let pem = read(path)?;
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| damaged(error.to_string()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|error| damaged(error.to_string()))?;
    if !parsed.is_ca() {
        return Err(damaged("it is no certificate authority's certificate".to_owned()));
    }
    let key_sha256 = crate::secret::sha256(parsed.public_key().raw);
    drop(parsed);
    Ok(Beside { certificate, pem, key_sha256 })
}

/// The certificate of a file that need not be there.
fn beside(path: &Path) -> Result<Option<Beside>, CaError> {
    if path.exists() { parse(path).map(Some) } else { Ok(None) }
}

#[cfg(unix)]
fn refuse_exposed(path: &Path) -> Result<(), CaError> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = std::fs::metadata(path).map_err(|source| CaError::File { path: path.to_owned(), source })?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(CaError::Exposed { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_exposed(_: &Path) -> Result<(), CaError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_authority_is_told_a_year_before() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(dir.path()).unwrap();
        let in_days = |days: u64| authority.ending(SystemTime::now() + Duration::from_secs(days * DAY));
        assert_eq!((in_days(0), in_days(3284)), (None, None));
        assert!(in_days(3286).is_some_and(|text| text.contains(" ends on 20")));
        assert!(in_days(3651).is_some_and(|text| text.contains(" ended on 20")));
    }
}
