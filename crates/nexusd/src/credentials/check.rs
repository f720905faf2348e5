//! What is wrong with TLS files: readable, kept to oneself, a pair; and from when to when it is valid.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::TlsSettings;

/// What the files say; times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// None configured.
    None,
    /// A pair in order.
    Pair { not_before: i64, not_after: i64 },
    /// Not usable: what is wrong, and the mend.
    Wrong { what: String, mend: String },
}

/// What is wrong with the files, with the mend; nothing when a daemon can use them.
#[must_use]
pub(super) fn fault(tls: &TlsSettings) -> Option<String> {
    check(tls).err().map(|(what, mend)| format!("{what}; {mend}"))
}

/// Reads and checks the files.
pub(crate) fn read(tls: &TlsSettings) -> Credentials {
    match check(tls) {
        Ok(credentials) => credentials,
        Err((what, mend)) => Credentials::Wrong { what, mend },
    }
}

type Wrong = (String, String);

const ENROL: &str = "enrol this host: nexusd -enroll-token TOKEN";

fn check(tls: &TlsSettings) -> Result<Credentials, Wrong> {
    if let Some(ca) = &tls.ca_file {
        let count = certificates(ca)?.len();
        if count == 0 {
            return Err((
                format!("{}: no certificate in it", ca.display()),
                "set tls.ca_file to a PEM file of roots".to_owned(),
            ));
        }
    }
    let (Some(cert), Some(key)) = (&tls.client_cert_file, &tls.client_key_file) else { return Ok(Credentials::None) };
    let chain = certificates(cert)?;
    let Some(leaf) = chain.first().cloned() else {
        return Err((format!("{}: no certificate in it", cert.display()), ENROL.to_owned()));
    };
    let mode = std::fs::metadata(key).map_err(|error| unreadable(key, &error))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err((format!("{} can be read by others", key.display()), format!("chmod 600 {}", key.display())));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let damaged = |path: &Path, why: String| (format!("{}: {why}", path.display()), ENROL.to_owned());
    let signing = provider.key_provider.load_private_key(private).map_err(|error| damaged(key, error.to_string()))?;
    CertifiedKey::new(chain, signing)
        .keys_match()
        .map_err(|_| damaged(cert, format!("is not the certificate of {}", key.display())))?;
    let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|error| damaged(cert, error.to_string()))?;
    let validity = parsed.validity();
    Ok(Credentials::Pair { not_before: validity.not_before.timestamp(), not_after: validity.not_after.timestamp() })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.map_err(|error| unreadable(path, &error))
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Wrong {
    (format!("{}: {error}", path.display()), ENROL.to_owned())
}
