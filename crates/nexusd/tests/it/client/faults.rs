//! What keeps the daemon from the mothership is said in words, with the mend.

use std::net::TcpListener;

use nexusd::client::{CallError, ClientSettings, Mothership, Trust};
use testkit::tls::ClientCertificates;
use testkit::{Stub, StubOptions, TestCa};

use super::server::{Fault, Server};
use super::{chunk, directive, poll};

async fn said(url: &str, trust: Option<&TestCa>) -> String {
    let mut settings = ClientSettings::new(url);
    if let Some(ca) = trust {
        settings.tls.trust = Trust::OnlyCa(ca.pem().into_bytes());
    }
    match Mothership::new(&settings).unwrap().poll(&poll(), None).await {
        Err(CallError::Unavailable { why, .. }) => why,
        other => panic!("{url}: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_from_the_mothership_is_said_with_its_mend() {
    let ca = TestCa::new();
    let plain = Stub::start(StubOptions::full());
    let with = |names: &[&str], clients| {
        Stub::start(StubOptions { tls: Some(ca.server_config(names, clients)), ..StubOptions::full() })
    };
    let tls = with(&["localhost"], ClientCertificates::Ignored);
    let elsewhere = with(&["mothership.example.com"], ClientCertificates::Ignored);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let other = TestCa::new();
    let swap = |url: String, from: &str, to: &str| url.replacen(from, to, 1);
    for (url, trust, fault, mend) in [
        (format!("http://{closed}"), None, "nothing listens there", "server_url"),
        (swap(plain.url(), "http:", "https:"), Some(&ca), "does not speak TLS", "http://"),
        (swap(tls.url(), "https:", "http:"), None, "does not speak plain HTTP", "https://"),
        (tls.url(), Some(&other), "not signed by the CA that it names", "tls.ca_file"),
        (elsewhere.url(), Some(&ca), "is for another name", "--tls-name"),
    ] {
        let said = said(&url, trust).await;
        assert!(said.contains(fault) && said.contains(mend), "{url}: {said}");
        assert!(!said.contains("client error") && !said.contains("os error"), "{url}: {said}");
        let place = url.split_once("://").unwrap().1;
        assert!(said.starts_with(place), "{url}: {said}");
    }
}

/// Any JSON object parses as an answer. One that says nothing of what was asked keeps no lease, takes no chunk and gives
/// nothing back.
#[tokio::test]
async fn an_answer_that_says_nothing_of_the_call_is_nonsense() {
    let server = Server::start().await;
    let calls = directive(&server);
    let chunk = chunk(0, b"x");
    for body in
        [r#"{"status":"up"}"#, r#"{"ok":false,"stream":"stdout","seq":0,"state":"queued","lease_renewed":true}"#]
    {
        server.always("", Fault::Status(200, None, body));
        let beat = calls.heartbeat(&conduits::DirectiveHeartbeatRequest::default(), None).await.map(drop);
        let chunk = calls.log_chunk(&chunk).await.map(drop);
        let release = calls.release().await.map(drop);
        for (what, answered) in [("heartbeat", beat), ("chunk", chunk), ("release", release)] {
            assert!(matches!(answered, Err(CallError::Nonsense { .. })), "{what} {body}: {answered:?}");
        }
        server.heal();
    }
}
