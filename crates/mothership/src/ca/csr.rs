//! What a certificate signing request must be before its key is signed.
//!
//! Hostile bytes from whoever has an enrolment token: everything but the key is thrown away, and the key
//! must be one that is worth signing.

use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::ParsedExtension;
use x509_parser::pem::parse_x509_pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;

/// Bytes of PEM at most; a request with an RSA 4096 key has 1.7 kB.
const PEM_BYTES: usize = 16 * 1024;
/// Bits of an RSA key at least and at most: fewer are weak, more are a burden to verify.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
const OID_EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const OID_P256: &str = "1.2.840.10045.3.1.7";
const OID_P384: &str = "1.3.132.0.34";

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Too long to be a request.
    #[error("the request has {0} bytes, more than {PEM_BYTES}; send one PEM certificate request")]
    TooLong(usize),
    /// Not a PKCS #10 request in PEM.
    #[error("the request is not a PEM CERTIFICATE REQUEST (PKCS #10)")]
    NotARequest,
    /// Not signed by its own key.
    #[error("the request's signature is not by its own key")]
    BadSignature,
    /// A key that is not taken.
    #[error("the request's key is {0}; use ECDSA P-256 or P-384, or RSA of 2048 to 8192 bits")]
    Key(String),
    /// Asks to be an authority.
    #[error("the request asks for CA:TRUE; a territory's certificate is a leaf")]
    WantsCa,
}

/// The key of the request, once everything about it holds.
pub(super) fn checked_key(pem: &str) -> Result<SubjectPublicKeyInfo, CsrError> {
    if pem.len() > PEM_BYTES {
        return Err(CsrError::TooLong(pem.len()));
    }
    let (_, block) = parse_x509_pem(pem.as_bytes()).map_err(|_| CsrError::NotARequest)?;
    if block.label != "CERTIFICATE REQUEST" && block.label != "NEW CERTIFICATE REQUEST" {
        return Err(CsrError::NotARequest);
    }
    let (rest, request) = X509CertificationRequest::from_der(&block.contents).map_err(|_| CsrError::NotARequest)?;
    if !rest.is_empty() {
        return Err(CsrError::NotARequest);
    }
    let spki = &request.certification_request_info.subject_pki;
    let unknown = |what: &str| CsrError::Key(what.to_owned());
    match spki.parsed().map_err(|_| unknown("of an unknown type"))? {
        PublicKey::RSA(key) if RSA_BITS.contains(&key.key_size()) => {}
        PublicKey::RSA(key) => {
            return Err(CsrError::Key(format!("RSA of {} bits", key.key_size())));
        }
        PublicKey::EC(_) => {
            let curve = spki
                .algorithm
                .parameters
                .as_ref()
                .and_then(|parameters| parameters.as_oid().ok())
                .map(|oid| oid.to_id_string());
            let known = matches!(curve.as_deref(), Some(OID_P256 | OID_P384));
            if spki.algorithm.algorithm.to_id_string() != OID_EC_PUBLIC_KEY || !known {
                return Err(unknown("on a curve that is not taken"));
            }
        }
        _ => return Err(unknown("of a type that is not taken")),
    }
    request.verify_signature().map_err(|_| CsrError::BadSignature)?;
    let wants_ca = request.requested_extensions().is_some_and(|mut extensions| {
        extensions
            .any(|extension| matches!(extension, ParsedExtension::BasicConstraints(constraints) if constraints.ca))
    });
    if wants_ca {
        return Err(CsrError::WantsCa);
    }
    SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| unknown("of a type that is not taken"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

    fn request(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
        let key = KeyPair::generate_for(algorithm).unwrap();
        CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
    }

    #[test]
    fn the_keys_that_are_worth_signing() {
        for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256] {
            assert!(checked_key(&request(algorithm)).is_ok());
        }
        assert_eq!(
            checked_key(&request(&rcgen::PKCS_ED25519)).unwrap_err().to_string(),
            "the request's key is of a type that is not taken; use ECDSA P-256 or P-384, or RSA of 2048 to 8192 bits"
        );
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let key = KeyPair::generate().unwrap();
        for text in ["", "nonsense", key.serialize_pem().as_str()] {
            assert_eq!(checked_key(text).unwrap_err(), CsrError::NotARequest);
        }
        assert_eq!(checked_key(&"x".repeat(PEM_BYTES + 1)).unwrap_err(), CsrError::TooLong(PEM_BYTES + 1));
    }

    #[test]
    fn an_authority_is_not_signed() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        assert_eq!(checked_key(&pem).unwrap_err(), CsrError::WantsCa);
    }

    #[test]
    fn a_signature_by_another_key_is_refused() {
        let pem = request(&rcgen::PKCS_ECDSA_P256_SHA256);
        let (_, block) = parse_x509_pem(pem.as_bytes()).unwrap();
        let mut der = block.contents;
        // The last byte belongs to the signature's second number.
        *der.last_mut().unwrap() ^= 1;
        let broken = rcgen_pem(&der);
        assert_eq!(checked_key(&broken).unwrap_err(), CsrError::BadSignature);
    }

    fn rcgen_pem(der: &[u8]) -> String {
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<&str> = body.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", lines.join("\n"))
    }
}
