//! TLS sessions: a connection after the first one resumes what that agreed on.

use std::sync::{Arc, Mutex};

use nexusd::client::{ClientSettings, Mothership, PemIdentity, Trust};
use rustls::HandshakeKind;
use testkit::TestCa;
use testkit::tls::ClientCertificates;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::poll;

/// A server that closes each connection after one answer; how each handshake was made, and whether by whom is known.
async fn server(ca: &TestCa) -> (u16, Arc<Mutex<Vec<(HandshakeKind, bool)>>>, tokio::task::JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(ca.server_config(&["localhost"], ClientCertificates::Required));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (kept, mut tasks) = (Arc::clone(&seen), tokio::task::JoinSet::new());
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            let session = stream.get_ref().1;
            kept.lock().unwrap().push((session.handshake_kind().unwrap(), session.peer_certificates().is_some()));
            let mut head = Vec::new();
            while !head.ends_with(b"}") {
                let mut part = [0; 1024];
                let read = stream.read(&mut part).await.unwrap();
                head.extend_from_slice(&part[..read]);
            }
            let body = r#"{"directives":[],"lease_ttl_seconds":60}"#;
            let answer =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.ok();
        }
    });
    (port, seen, tasks)
}

#[tokio::test]
async fn a_second_connection_resumes_the_session_of_the_first() {
    let ca = TestCa::new();
    let (port, seen, _tasks) = server(&ca).await;
    let mut settings = ClientSettings::new(format!("https://localhost:{port}"));
    settings.tls.trust = Trust::OnlyCa(ca.pem().into_bytes());
    let identity = || {
        let pair = ca.client("t");
        PemIdentity { cert_pem: pair.certificate.into_bytes(), key_pem: pair.key.into_bytes() }
    };
    settings.tls.identity = Some(identity());
    let mothership = Mothership::new(&settings).unwrap();
    for _ in 0..3 {
        mothership.poll(&poll(), None).await.unwrap();
    }
    // A renewed identity begins anew: the session of the old one would go on proving the old one.
    mothership.take_identity(identity(), None).unwrap();
    mothership.poll(&poll(), None).await.unwrap();
    let kinds: Vec<(HandshakeKind, bool)> = seen.lock().unwrap().clone();
    let (full, resumed) = ((HandshakeKind::Full, true), (HandshakeKind::Resumed, true));
    assert_eq!(kinds, [full, resumed, resumed, full]);
}
