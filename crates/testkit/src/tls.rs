//! A certificate authority of the test's own, and TLS configurations that go back to it.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// Which client certificates a server asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// None.
    Ignored,
    /// One of this authority, or none.
    Optional,
    /// One of this authority.
    Required,
}

/// A certificate and its key in PEM.
#[derive(Clone)]
pub struct PemPair {
    /// The certificate.
    pub certificate: String,
    /// Its private key (PKCS #8).
    pub key: String,
}

/// An authority that lives as long as the test.
pub struct TestCa {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl TestCa {
    /// Makes one.
    #[must_use]
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "a test's own authority");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Its certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Its certificate in DER.
    #[must_use]
    pub fn der(&self) -> CertificateDer<'static> {
        self.certificate.der().clone()
    }

    /// A certificate and key for a server of these names; addresses are recognised.
    #[must_use]
    pub fn server(&self, names: &[&str]) -> PemPair {
        let (certificate, key) = self.issue(names, ExtendedKeyUsagePurpose::ServerAuth);
        PemPair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A certificate and key for a client.
    #[must_use]
    pub fn client(&self, name: &str) -> PemPair {
        let (certificate, key) = self.issue(&[name], ExtendedKeyUsagePurpose::ClientAuth);
        PemPair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// Signs a certificate request as it is; `Err` with the reason where it is not one.
    pub fn sign_request(&self, csr_pem: &str) -> Result<String, String> {
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|e| e.to_string())?;
        Ok(request.signed_by(&self.issuer).map_err(|e| e.to_string())?.pem())
    }

    /// What a server of these names needs. The authority's certificate is in the chain.
    #[must_use]
    pub fn server_config(&self, names: &[&str], clients: ClientCertificates) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (certificate, key) = self.issue(names, ExtendedKeyUsagePurpose::ServerAuth);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()), provider);
        let builder = match clients {
            ClientCertificates::Ignored => builder.with_no_client_auth(),
            ClientCertificates::Optional => {
                builder.with_client_cert_verifier(verifier.allow_unauthenticated().build().unwrap())
            }
            ClientCertificates::Required => builder.with_client_cert_verifier(verifier.build().unwrap()),
        };
        let mut config = builder.with_single_cert(vec![certificate.der().clone(), self.der()], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// What a client that trusts this authority alone needs.
    #[must_use]
    pub fn client_config(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(self.roots()).with_no_client_auth())
    }

    /// The same with a client certificate of this name.
    #[must_use]
    pub fn client_config_as(&self, name: &str) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let (certificate, key) = self.issue(&[name], ExtendedKeyUsagePurpose::ClientAuth);
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let builder = builder.with_root_certificates(self.roots());
        Arc::new(builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der()).unwrap();
        roots
    }

    fn issue(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names.first().map_or("test", String::as_str));
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}
