//! Whether the mothership answers, and whether its clock and ours agree.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::client::plain;
use crate::config::Config;
use crate::credentials::InForce;
use crate::enroll::{FirstTrust, causes, client_config};

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Contact {
    /// Not asked, why not.
    NotAsked(String),
    /// It answered; the seconds that its clock is ahead of ours, where it said.
    Answered { ahead_seconds: Option<i64> },
    /// It did not, or was not trusted.
    Failed(String),
}

/// Asks. Any HTTP answer counts: what is asked for is contact, not a page.
pub(super) async fn ask(config: &Config) -> Contact {
    let client = match client(config) {
        Ok(client) => client,
        Err(why) => return Contact::Failed(why),
    };
    let before = jiff::Timestamp::now();
    match client.get(config.server_url.join("/healthz")).send().await {
        Ok(response) => {
            let date = response.headers().get(reqwest::header::DATE).and_then(|value| value.to_str().ok());
            let theirs = date.and_then(|text| jiff::fmt::rfc2822::parse(text).ok()).map(|zoned| zoned.timestamp());
            // Halfway between question and answer is when the date was written, as nearly as can be known.
            let after = jiff::Timestamp::now();
            let ours = before.as_second().midpoint(after.as_second());
            Contact::Answered { ahead_seconds: theirs.map(|theirs| theirs.as_second() - ours) }
        }
        Err(error) => Contact::Failed(plain::words(&error).map_or_else(|| causes(&error), str::to_owned)),
    }
}

fn client(config: &Config) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder().timeout(TIMEOUT).redirect(reqwest::redirect::Policy::none());
    if config.server_url.is_tls() {
        builder = with_tls(builder, config)?;
    }
    if config.server_url.is_loopback() {
        builder = builder.no_proxy();
    } else if let Some(proxy) = &config.proxy_url {
        let proxy =
            reqwest::Proxy::all(proxy.expose().as_str()).map_err(|_| format!("the proxy {proxy} cannot be used"))?;
        builder = builder.proxy(proxy);
    }
    builder.build().map_err(|error| causes(&error))
}

fn with_tls(builder: reqwest::ClientBuilder, config: &Config) -> Result<reqwest::ClientBuilder, String> {
    let InForce { files: tls, further_ca } = super::facts::in_force(config);
    if tls.insecure_skip_verify {
        return Ok(builder.tls_danger_accept_invalid_certs(true));
    }
    let trust = FirstTrust::choose(tls.ca_file.as_deref(), None, None)
        .and_then(|trust| trust.with(further_ca.as_deref()))
        .map_err(|error| error.to_string())?;
    let Some(mut own) = client_config(&trust).map_err(|error| error.to_string())? else { return Ok(builder) };
    if let (Some(cert), Some(key)) = (&tls.client_cert_file, &tls.client_key_file) {
        // A mothership that demands the certificate in the handshake would refuse us without it. A pair that cannot
        // be used has a row of its own.
        let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        if let (Ok(chain), Ok(key)) = (chain, PrivateKeyDer::from_pem_file(key))
            && let Ok(signing) = own.crypto_provider().key_provider.load_private_key(key)
        {
            let pair = Arc::new(rustls::sign::CertifiedKey::new(chain, signing));
            own.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(pair));
        }
    }
    Ok(builder.tls_backend_preconfigured(own))
}
