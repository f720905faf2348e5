//! What others make of it: OpenSSL and curl see what this server shows, and show what it sees.

use std::process::{Command, Output};
use std::sync::Arc;

use mothership::serve::AuthMode;
use reqwest::StatusCode;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use serde_json::{Value, json};
use testkit::require;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bed::{Bed, answer, key_and_csr};

/// A bed, and a territory's `client.pem` and `client-key.pem` in its folder.
async fn enrolled(bed: &Bed) -> String {
    let (key, csr) = key_and_csr();
    let body = json!({ "enroll_token": bed.enroll_token().await, "csr_pem": csr });
    let enrol = bed.client(None).post(format!("{}/conduits/v1/territories/enroll", bed.url())).json(&body);
    let (_, enrolled) = answer(enrol).await;
    std::fs::write(bed.dir.path().join("client.pem"), enrolled["mtls_client_cert_pem"].as_str().unwrap()).unwrap();
    std::fs::write(bed.dir.path().join("client-key.pem"), key.serialize_pem()).unwrap();
    enrolled["territory_id"].as_str().unwrap().to_owned()
}

async fn run(bed: &Bed, program: &str, words: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(words).current_dir(bed.dir.path()).stdin(std::process::Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn host_and_port(bed: &Bed) -> String {
    bed.url().trim_start_matches("https://").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_verifies_the_server_in_both_versions_and_no_older_one() {
    require!(Openssl);
    let bed = Bed::with(|config| config.tls_names = vec!["mothership.example.com".parse().unwrap()]).await;
    enrolled(&bed).await;
    let target = host_and_port(&bed);
    let client = |more: &[&'static str]| {
        let base = ["s_client", "-connect", &target, "-CAfile", "data/ca.pem", "-verify_return_error"];
        let words: Vec<String> = base.iter().chain(more).map(|word| (*word).to_owned()).collect();
        let bed = &bed;
        async move {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            run(bed, "openssl", &words).await
        }
    };
    for (version, name) in [("-tls1_3", "TLSv1.3"), ("-tls1_2", "TLSv1.2")] {
        let seen = client(&[
            version,
            "-verify_hostname",
            "mothership.example.com",
            "-cert",
            "client.pem",
            "-key",
            "client-key.pem",
        ])
        .await;
        let shown = text(&seen);
        assert!(seen.status.success() && shown.contains("Verification: OK"), "{shown}");
        assert!(shown.contains(name), "{shown}");
        // It asks for a certificate of its own authority, and shows the authority itself.
        assert!(
            shown.contains("Acceptable client certificate CA names") && shown.contains("Nexus mothership CA"),
            "{shown}"
        );
    }
    assert!(!client(&["-verify_hostname", "other.example.com"]).await.status.success());
    for version in ["-tls1", "-tls1_1"] {
        let refused = client(&[version, "-cipher", "DEFAULT:@SECLEVEL=0"]).await;
        let shown = text(&refused);
        assert!(!refused.status.success() && shown.contains("no peer certificate available"), "{version}: {shown}");
    }
    // A cipher without forward secrecy, or without encryption.
    for cipher in ["AES256-GCM-SHA384", "NULL:@SECLEVEL=0"] {
        let refused = client(&["-tls1_2", "-cipher", cipher]).await;
        assert!(!refused.status.success(), "{cipher}: {}", text(&refused));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_and_curl_agree_with_what_a_territory_holds() {
    require!(Openssl, Curl);
    let bed = Bed::with(|config| {
        config.auth = AuthMode::Either;
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let id = enrolled(&bed).await;
    let verified =
        run(&bed, "openssl", &["verify", "-CAfile", "data/ca.pem", "-purpose", "sslclient", "client.pem"]).await;
    assert_eq!(text(&verified), "client.pem: OK\n");
    let url = format!("{}/conduits/v1/territories/heartbeat", bed.url());
    let curl = ["--silent", "--show-error", "--noproxy", "*", "--cacert", "data/ca.pem", "--json", "{}", url.as_str()];
    let with = [&curl[..], &["--cert", "client.pem", "--key", "client-key.pem"]].concat();
    let seen: Value = serde_json::from_slice(&run(&bed, "curl", &with).await.stdout).unwrap();
    assert_eq!(seen["territory_id"], json!(id));
    let without: Value = serde_json::from_slice(&run(&bed, "curl", &curl).await.stdout).unwrap();
    assert_eq!(without["error"], "unauthorized");
    // OpenSSL's fingerprint, with its colons and capitals, is the one that a proxy may name.
    let shown = text(&run(&bed, "openssl", &["x509", "-in", "client.pem", "-noout", "-fingerprint", "-sha256"]).await);
    let fingerprint = shown.trim().split('=').nth(1).unwrap().to_owned();
    let named = bed.client(None).post(&url).header("x-nexus-client-cert-fingerprint", fingerprint).json(&json!({}));
    assert_eq!(answer(named).await.1["territory_id"], json!(id));
}

/// A second connection resumes the session of the first, proves the same territory by it, and is looked up all the same.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_and_revoked_all_the_same() {
    let bed = Bed::tls().await;
    let id = enrolled(&bed).await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let config = Arc::new(identified(&bed, version));
        let (first, _) = beat(&bed, &config).await;
        let (second, answered) = beat(&bed, &config).await;
        assert_eq!((first, second), (HandshakeKind::Full, HandshakeKind::Resumed), "{version:?}");
        assert!(answered.contains(&id), "{answered}");
        bed.post(&format!("/api/v1/territories/{id}/disable"), json!({})).await;
        let (third, refused) = beat(&bed, &config).await;
        assert_eq!(third, HandshakeKind::Resumed);
        assert!(refused.starts_with("HTTP/1.1 403") && refused.contains("territory_disabled"), "{refused}");
        let (status, _) = bed.post(&format!("/api/v1/territories/{id}/enable"), json!({})).await;
        assert_eq!(status, StatusCode::OK);
    }
}

fn identified(bed: &Bed, version: &'static rustls::SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(bed.data().join("ca.pem")).unwrap()).unwrap();
    let certificate = CertificateDer::from_pem_file(bed.dir.path().join("client.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(bed.dir.path().join("client-key.pem")).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap()
}

async fn beat(bed: &Bed, config: &Arc<ClientConfig>) -> (HandshakeKind, String) {
    let stream = TcpStream::connect(bed.running.as_ref().unwrap().address()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
    let mut stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let request = "POST /conduits/v1/territories/heartbeat HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                   content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answered = String::new();
    stream.read_to_string(&mut answered).await.unwrap();
    (stream.get_ref().1.handshake_kind().unwrap(), answered)
}
