//! What keeps a client from the mothership, in words for whoever typed the command: what it is, and what mends it.

use std::error::Error;
use std::io::{self, ErrorKind};

use rustls::CertificateError as Certificate;

/// What is to be said of a call that failed, after its URL; `None` where the libraries' words are all there is.
pub(super) fn words(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(words) = of(cause) {
            return Some(words);
        }
        next = cause.source();
    }
    None
}

fn of(cause: &(dyn Error + 'static)) -> Option<&'static str> {
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        // Layers of I/O put each other's errors into their own, and name none of them as the source.
        if let Some(inner) = error.get_ref() {
            return of(inner);
        }
        return match error.kind() {
            ErrorKind::ConnectionRefused => Some(
                "nothing listens there (connection refused): start it with `mothership serve`, or correct --server",
            ),
            ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => {
                Some("there is no way there (network unreachable): correct --server, or look at this machine's network")
            }
            _ => None,
        };
    }
    if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
        return of_tls(tls);
    }
    if cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
        return Some("what listens there does not speak plain HTTP: write https:// in --server, or the port that does");
    }
    // A type that the HTTP library keeps to itself.
    cause
        .to_string()
        .starts_with("dns error")
        .then_some("its name is not known (DNS): correct --server, or look at this machine's resolver")
}

fn of_tls(error: &rustls::Error) -> Option<&'static str> {
    match error {
        rustls::Error::InvalidMessage(_) => {
            Some("what listens there does not speak TLS: write http:// in --server, or the port that does speak it")
        }
        rustls::Error::InvalidCertificate(why) => match why {
            Certificate::UnknownIssuer | Certificate::BadSignature => Some(
                "its certificate is not signed by a CA that is trusted here: give the mothership's as --ca-file (ca.pem of its data directory)",
            ),
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => Some(
                "its certificate is for another name: write one that it has in --server, or add this one (mothership serve --tls-name)",
            ),
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                Some("its certificate has expired: renew it there, or correct this machine's clock")
            }
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                Some("its certificate is not valid yet: correct this machine's clock, or the mothership's")
            }
            _ => None,
        },
        _ => None,
    }
}
