//! What keeps two machines from talking, in words for whoever runs this one: what it is, and what mends it.

use std::error::Error;
use std::io::{self, ErrorKind};

use rustls::{AlertDescription, CertificateError};

/// What went wrong beneath HTTP, where there is more to say than the libraries do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Refused,
    NoRoute,
    NoSuchName,
    NotTls,
    NotPlain,
    UnknownCa,
    OtherCa,
    OtherName,
    Expired,
    NotValidYet,
    WantsCertificate,
    RefusesCertificate,
}

/// What is to be said of a request to the mothership that failed, after the name of the place; `None` where the libraries'
/// words are all there is.
pub(crate) fn words(error: &reqwest::Error) -> Option<&'static str> {
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(fault) = Fault::of(cause) {
            return Some(fault.sentence());
        }
        next = cause.source();
    }
    None
}

impl Fault {
    fn of(cause: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
            return Self::of_tls(tls);
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            // Layers of I/O put each other's errors into their own, and name none of them as the source.
            if let Some(inner) = error.get_ref() {
                return Self::of(inner);
            }
            return match error.kind() {
                ErrorKind::ConnectionRefused => Some(Self::Refused),
                ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => Some(Self::NoRoute),
                _ => None,
            };
        }
        // Types of the HTTP library that it keeps to itself.
        match cause.to_string() {
            text if text.starts_with("dns error") => Some(Self::NoSuchName),
            text if text.starts_with("invalid HTTP version parsed") => Some(Self::NotPlain),
            _ => None,
        }
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        use CertificateError as Certificate;
        match error {
            rustls::Error::InvalidCertificate(why) => match why {
                Certificate::UnknownIssuer => Some(Self::UnknownCa),
                Certificate::BadSignature => Some(Self::OtherCa),
                Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => Some(Self::OtherName),
                Certificate::Expired | Certificate::ExpiredContext { .. } => Some(Self::Expired),
                Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => Some(Self::NotValidYet),
                _ => None,
            },
            rustls::Error::InvalidMessage(_) => Some(Self::NotTls),
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => Some(Self::WantsCertificate),
            rustls::Error::AlertReceived(
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::DecryptError,
            ) => Some(Self::RefusesCertificate),
            _ => None,
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::Refused => {
                "nothing listens there (connection refused): start the mothership, or correct server_url or proxy_url"
            }
            Self::NoRoute => {
                "there is no way there (network unreachable): look at this machine's network, or set proxy_url"
            }
            Self::NoSuchName => {
                "its name is not known (DNS): correct server_url or proxy_url, or look at this machine's resolver"
            }
            Self::NotTls => {
                "what listens there does not speak TLS: write http:// in server_url, or the port that does speak it"
            }
            Self::NotPlain => {
                "what listens there does not speak plain HTTP: write https:// in server_url, or the port that does"
            }
            Self::UnknownCa => {
                "its certificate is not signed by a CA that is trusted here: give the mothership's CA as tls.ca_file (its ca.pem)"
            }
            Self::OtherCa => {
                "its certificate was not signed by the CA that it names: another server answers there, or tls.ca_file is an earlier mothership's"
            }
            Self::OtherName => {
                "its certificate is for another name: write one that it has in server_url, or add this one (mothership serve --tls-name)"
            }
            Self::Expired => "its certificate has expired: renew it there, or correct this machine's clock",
            Self::NotValidYet => "its certificate is not valid yet: correct this machine's clock, or the mothership's",
            Self::WantsCertificate => {
                "it wants a client certificate: enrol, and set tls.client_cert_file and tls.client_key_file"
            }
            Self::RefusesCertificate => {
                "it does not accept the client certificate: enrol again, and set tls.client_cert_file and tls.client_key_file"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_libraries_say_is_understood() {
        let tls = |error: rustls::Error| io::Error::new(ErrorKind::InvalidData, error);
        let invalid = |why| tls(rustls::Error::InvalidCertificate(why));
        let alert = |alert| tls(rustls::Error::AlertReceived(alert));
        let table: [(io::Error, Option<Fault>); 14] = [
            (ErrorKind::ConnectionRefused.into(), Some(Fault::Refused)),
            (ErrorKind::HostUnreachable.into(), Some(Fault::NoRoute)),
            (ErrorKind::ConnectionReset.into(), None),
            (invalid(CertificateError::UnknownIssuer), Some(Fault::UnknownCa)),
            (invalid(CertificateError::BadSignature), Some(Fault::OtherCa)),
            (invalid(CertificateError::NotValidForName), Some(Fault::OtherName)),
            (invalid(CertificateError::Expired), Some(Fault::Expired)),
            (invalid(CertificateError::NotValidYet), Some(Fault::NotValidYet)),
            (tls(rustls::InvalidMessage::InvalidContentType.into()), Some(Fault::NotTls)),
            (alert(AlertDescription::CertificateRequired), Some(Fault::WantsCertificate)),
            (alert(AlertDescription::UnknownCA), Some(Fault::RefusesCertificate)),
            (alert(AlertDescription::InternalError), None),
            (io::Error::other(alert(AlertDescription::CertificateExpired)), Some(Fault::RefusesCertificate)),
            (io::Error::other("dns error: no records"), Some(Fault::NoSuchName)),
        ];
        for (error, expected) in table {
            assert_eq!(Fault::of(&error), expected, "{error:?}");
        }
    }
}
