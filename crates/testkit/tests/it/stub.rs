use conduits::{DirectiveId, DirectiveState, FinishedStatus, LogStream, paths};
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testkit::stub::FaultKind;
use testkit::tls::ClientCertificates;
use testkit::{Endpoint, Fault, HeldHeartbeat, Stub, StubOptions, TestCa};

use crate::client::{self, Answer};

const SOON: Duration = Duration::from_secs(10);
const TERRITORY: (&str, &str) = ("x-nexus-territory-id", "t1");

fn address(stub: &Stub) -> SocketAddr {
    stub.url().trim_start_matches("http://").parse().unwrap()
}

fn try_call(stub: &Stub, path: &str, headers: &[(&str, &str)], body: &Value) -> io::Result<Answer> {
    let headers: Vec<(&str, &str)> = [TERRITORY].iter().chain(headers).copied().collect();
    client::request(address(stub), "POST", path, &headers, body.to_string().as_bytes())
}

fn call(stub: &Stub, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    try_call(stub, path, headers, body).unwrap()
}

fn about(stub: &Stub, path: &str, token: &str, body: &Value) -> Answer {
    call(stub, path, &[("authorization", &format!("Bearer {token}"))], body)
}

fn poll(stub: &Stub, headers: &[(&str, &str)], claim: Option<&str>) -> Value {
    let body = json!({"supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": 5, "claim_id": claim});
    call(stub, paths::POLLS, headers, &body).json()
}

fn leased(stub: &Stub, spec: Value) -> (DirectiveId, String) {
    let id = stub.queue(spec);
    let answer = poll(stub, &[], None);
    let token = answer["directives"][0]["directive_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    (id, token)
}

fn running(stub: &Stub) -> (DirectiveId, String) {
    let (id, token) = leased(stub, json!({"command": "true"}));
    assert_eq!(about(stub, &paths::started(&id), &token, &json!({"nexus_version": "1"})).status, 200);
    (id, token)
}

fn chunk(seq: u64, text: &str) -> Value {
    let request = conduits::LogChunkRequest { stream: LogStream::Stdout, seq, bytes: text.into(), truncated: false };
    serde_json::to_value(request).unwrap()
}

#[tokio::test]
async fn a_directive_goes_its_whole_way() {
    let stub = Stub::start(StubOptions::full());
    let (id, token) = leased(&stub, json!({"directive_id": "d1", "anything": ["raw"]}));
    assert_eq!(id.as_str(), "d1");
    assert_eq!(stub.directive(&id).state, DirectiveState::Leased);
    let start = json!({"nexus_version": "1", "sandbox_version": "2"});
    let started = about(&stub, &paths::started(&id), &token, &start).json();
    assert_eq!((&started["state"], &started["duplicate"]), (&json!("running"), &json!(false)));
    assert_eq!(about(&stub, &paths::started(&id), &token, &start).json()["duplicate"], true);
    assert_eq!(about(&stub, &paths::started(&id), &token, &json!({"nexus_version": "9"})).status, 409);
    // Out of order, and one twice.
    for (seq, text) in [(1, "b"), (0, "a"), (1, "b"), (3, "d")] {
        assert_eq!(about(&stub, &paths::log_chunks(&id), &token, &chunk(seq, text)).status, 200);
    }
    assert_eq!(stub.log_text(&id, LogStream::Stdout), "ab", "the gap at 2 hides what follows");
    assert_eq!(about(&stub, &paths::log_chunks(&id), &token, &chunk(2, "c")).json()["stored"], true);
    assert_eq!(stub.log_contains(&id, LogStream::Stdout, "cd", SOON).await, "abcd");
    assert_eq!(stub.directive(&id).chunks[0][&1].received, 2);
    let end = json!({"status": "failed", "exit_code": 3, "finished_at": "2026-01-01T00:00:00Z"});
    assert_eq!(about(&stub, &paths::finished(&id), &token, &end).json()["final_state"], "failed");
    let again = json!({"status": "failed", "exit_code": 3, "finished_at": "2026-01-01T00:00:01Z"});
    assert_eq!(about(&stub, &paths::finished(&id), &token, &again).json()["duplicate"], true);
    assert_eq!(about(&stub, &paths::finished(&id), &token, &json!({"status": "succeeded"})).status, 409);
    let report = stub.finished(&id, SOON).await;
    assert_eq!((report.status, report.exit_code), (FinishedStatus::Failed, Some(3)));
    stub.in_state(&id, DirectiveState::Failed, SOON).await;
    assert_eq!(stub.violations(), Vec::<String>::new());
    let order: Vec<Endpoint> = stub.requests().iter().map(|request| request.endpoint).collect();
    assert_eq!(order[..3], [Endpoint::Poll, Endpoint::Started, Endpoint::Started]);
    assert!(stub.requests().windows(2).all(|pair| pair[0].at <= pair[1].at));
}

#[test]
fn what_breaks_the_protocol_is_told() {
    let stub = Stub::start(StubOptions::full());
    let (id, token) = running(&stub);
    about(&stub, &paths::log_chunks(&id), &token, &chunk(0, "a"));
    about(&stub, &paths::log_chunks(&id), &token, &chunk(0, "x"));
    about(&stub, &paths::log_chunks(&id), &token, &chunk(2, "c"));
    about(&stub, &paths::finished(&id), &token, &json!({"status": "succeeded"}));
    let violations = stub.violations();
    assert_eq!(violations.len(), 2, "{violations:?}");
    assert!(violations[0].contains("chunk 0 of stdout came again"), "{violations:?}");
    assert!(violations[1].contains("finished while stdout has a gap"), "{violations:?}");
    let large =
        conduits::LogChunkRequest { stream: LogStream::Stdout, seq: 9, bytes: vec![0; 262_145], truncated: false };
    assert_eq!(about(&stub, &paths::log_chunks(&id), &token, &serde_json::to_value(large).unwrap()).status, 422);
}

#[test]
fn a_poll_is_held_only_by_a_server_that_knows_how() {
    let stub = Stub::start(StubOptions::full());
    let address = address(&stub);
    let start = Instant::now();
    let body = json!({"supported_sandbox_profiles": [], "max_directives_to_claim": 1}).to_string();
    let held = std::thread::spawn(move || {
        client::request(address, "POST", paths::POLLS, &[TERRITORY, ("prefer", "wait=20")], body.as_bytes()).unwrap()
    });
    std::thread::sleep(Duration::from_millis(100));
    let id = stub.queue(json!({}));
    let answer = held.join().unwrap();
    assert!(answer.head.contains("preference-applied: wait"), "{}", answer.head);
    assert_eq!(answer.json()["directives"][0]["directive_id"], id.as_str());
    assert!(start.elapsed() >= Duration::from_millis(100) && start.elapsed() < SOON);
    let empty = poll(&stub, &[("prefer", "wait=1")], None);
    assert_eq!(empty["retry_after_seconds"], 1);
    assert!(start.elapsed() >= Duration::from_secs(1));

    let plain = Stub::start(StubOptions::plain());
    let start = Instant::now();
    let empty = poll(&plain, &[("prefer", "wait=20")], None);
    assert_eq!((&empty["directives"], &empty["retry_after_seconds"]), (&json!([]), &json!(0)));
    assert!(start.elapsed() < Duration::from_secs(5));
    plain.queue(json!({}));
    let body = json!({"supported_sandbox_profiles": [], "max_directives_to_claim": 1});
    assert!(!call(&plain, paths::POLLS, &[("prefer", "wait=20")], &body).head.contains("preference-applied"));
}

#[test]
fn a_claim_is_repeated_only_by_a_server_that_knows_how() {
    for (options, repeats) in [(StubOptions::full(), true), (StubOptions::plain(), false)] {
        let stub = Stub::start(options);
        stub.queue(json!({}));
        let first = poll(&stub, &[], Some("c1"));
        let again = poll(&stub, &[], Some("c1"));
        assert_eq!(first["directives"] == again["directives"], repeats);
        assert_eq!(poll(&stub, &[], Some("c2"))["directives"], json!([]));
    }
}

#[test]
fn additions_are_there_or_404() {
    let full = Stub::start(StubOptions::full());
    let (id, token) = leased(&full, json!({}));
    full.expire_tokens(&id);
    assert_eq!(about(&full, &paths::started(&id), &token, &json!({})).status, 401);
    let fresh =
        about(&full, &paths::token(&id), &token, &json!({})).json()["directive_token"].as_str().unwrap().to_owned();
    assert_eq!(about(&full, &paths::token(&id), "made up", &json!({})).status, 403);
    assert_eq!(about(&full, &paths::release(&id), &fresh, &json!({})).json()["state"], "queued");
    assert_eq!(poll(&full, &[], None)["directives"][0]["directive_id"], id.as_str());
    assert_eq!(about(&full, &paths::token(&id), &fresh, &json!({})).status, 409, "a token of the older lease");

    let plain = Stub::start(StubOptions { held_heartbeat: HeldHeartbeat::Missing, ..StubOptions::plain() });
    let (id, token) = running(&plain);
    for path in [paths::token(&id), paths::release(&id), paths::heartbeat(&id)] {
        assert_eq!(about(&plain, &path, &token, &json!({})).status, 404, "{path}");
    }
}

#[test]
fn a_heartbeat_is_held_until_the_cancel() {
    let stub = Stub::start(StubOptions::full());
    let (id, token) = running(&stub);
    let first = about(&stub, &paths::heartbeat(&id), &token, &json!({})).json();
    assert_eq!(first["cancel_requested"], false);
    let fresh = first["directive_token"].as_str().unwrap().to_owned();
    assert_ne!(fresh, token);
    let address = address(&stub);
    let path = paths::heartbeat(&id);
    let held = std::thread::spawn(move || {
        let bearer = format!("Bearer {fresh}");
        let headers = [TERRITORY, ("prefer", "wait=20"), ("authorization", bearer.as_str())];
        let start = Instant::now();
        (client::request(address, "POST", &path, &headers, b"{}").unwrap().json(), start.elapsed())
    });
    std::thread::sleep(Duration::from_millis(100));
    stub.cancel(&id);
    let (answer, took) = held.join().unwrap();
    assert_eq!(answer["cancel_requested"], true);
    assert!(took < SOON);
    stub.lose_lease(&id);
    assert_eq!(about(&stub, &paths::heartbeat(&id), &token, &json!({})).status, 409);
}

#[test]
fn faults_strike_as_asked() {
    let stub = Stub::start(StubOptions::full());
    let ask = |body: &Value| try_call(&stub, paths::TERRITORY_HEARTBEAT, &[], body);
    stub.fail(Endpoint::TerritoryHeartbeat, Fault::times(2, FaultKind::Status(503, Some(7))));
    for _ in 0..2 {
        let answer = ask(&json!({})).unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.head.contains("retry-after: 7"), "{}", answer.head);
    }
    assert_eq!(ask(&json!({})).unwrap().status, 200, "positive control");
    stub.fail(Endpoint::TerritoryHeartbeat, Fault::once(FaultKind::Garbage));
    assert!(serde_json::from_slice::<Value>(&ask(&json!({})).unwrap().body).is_err());
    stub.fail(Endpoint::TerritoryHeartbeat, Fault::once(FaultKind::Html));
    assert!(ask(&json!({})).unwrap().head.contains("text/html"));
    stub.fail(Endpoint::TerritoryHeartbeat, Fault::once(FaultKind::BadGateway));
    assert_eq!(ask(&json!({})).unwrap().status, 502);
    stub.fail(Endpoint::TerritoryHeartbeat, Fault::once(FaultKind::Oversized(5_000_000)));
    assert!(ask(&json!({})).unwrap().body.len() > 5_000_000);
    stub.fail(Endpoint::TerritoryHeartbeat, Fault::once(FaultKind::Delay(Duration::from_millis(80))));
    let start = Instant::now();
    assert_eq!(ask(&json!({})).unwrap().status, 200);
    assert!(start.elapsed() >= Duration::from_millis(80));
    let statuses: Vec<Option<u16>> = stub.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [503, 503, 200, 200, 200, 502, 200, 200].map(Some));
}

#[test]
fn a_cut_before_has_no_effect_and_a_cut_after_has() {
    let stub = Stub::start(StubOptions::full());
    let (id, token) = running(&stub);
    let bearer = format!("Bearer {token}");
    let send = |seq| try_call(&stub, &paths::log_chunks(&id), &[("authorization", &bearer)], &chunk(seq, "x"));
    stub.fail(Endpoint::LogChunk, Fault::once(FaultKind::DropBefore));
    assert!(send(0).is_err());
    assert!(stub.log(&id, LogStream::Stdout).is_empty());
    stub.fail(Endpoint::LogChunk, Fault::once(FaultKind::DropAfter));
    assert!(send(0).is_err());
    assert_eq!(stub.log(&id, LogStream::Stdout), b"x");
    assert_eq!(send(0).unwrap().json()["duplicate"], true);
}

#[test]
fn a_call_without_identity_is_refused_and_cancel_ends_what_waits() {
    let stub = Stub::start(StubOptions::full());
    let answer = client::request(address(&stub), "POST", paths::POLLS, &[], b"{}").unwrap();
    assert_eq!((answer.status, &answer.json()["error"]), (401, &json!("unauthorized")));
    let id = stub.queue(json!({}));
    stub.cancel(&id);
    assert_eq!(stub.directive(&id).state, DirectiveState::Canceled);
    assert_eq!(poll(&stub, &[], None)["directives"], json!([]));
    assert_eq!(call(&stub, "/conduits/v1/nothing", &[], &json!({})).status, 404);
    assert_eq!(call(&stub, paths::POLLS, &[], &json!({"max_directives_to_claim": 6})).status, 422);
}

#[tokio::test]
#[should_panic(expected = "the end of")]
async fn a_wait_in_vain_panics_with_what_was_seen() {
    let stub = Stub::start(StubOptions::full());
    let id = stub.queue(json!({}));
    stub.finished(&id, Duration::from_millis(30)).await;
}

#[tokio::test]
async fn enrolment_signs_and_tls_knows_its_clients() {
    let ca = Arc::new(TestCa::new());
    let options = StubOptions {
        tls: Some(ca.server_config(&["localhost"], ClientCertificates::Optional)),
        ca: Some(Arc::clone(&ca)),
        ..StubOptions::full()
    };
    let stub = Stub::start(options);
    let port: u16 = stub.url().rsplit(':').next().unwrap().parse().unwrap();
    assert!(stub.url().starts_with("https://localhost:"));
    let key = rcgen::KeyPair::generate().unwrap();
    let csr =
        rcgen::CertificateParams::new(vec!["t".to_owned()]).unwrap().serialize_request(&key).unwrap().pem().unwrap();
    let body = json!({"enroll_token": "stub-enroll-token", "csr_pem": csr}).to_string();
    let text = format!(
        "POST {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        paths::ENROLL,
        body.len()
    );
    let answer = client::parse(&over_tls(ca.client_config(), port, text.as_bytes()).await).unwrap();
    assert_eq!(answer.status, 201);
    assert!(answer.json()["mtls_client_cert_pem"].as_str().unwrap().contains("BEGIN CERTIFICATE"));
    assert_eq!(answer.json()["ca_bundle_pem"], ca.pem());
    assert_eq!(stub.requests()[0].fingerprint, None);
    // A client certificate is an identity; without one the same call is refused.
    let poll =
        "POST /conduits/v1/polls HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    let with = client::parse(&over_tls(ca.client_config_as("t"), port, poll.as_bytes()).await).unwrap();
    let without = client::parse(&over_tls(ca.client_config(), port, poll.as_bytes()).await).unwrap();
    assert_eq!((with.status, without.status), (200, 401));
    assert!(stub.requests_of(Endpoint::Poll)[0].fingerprint.is_some());
    // Another authority's client is not fooled.
    let stranger = tokio_rustls::TlsConnector::from(TestCa::new().client_config());
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    assert!(stranger.connect("localhost".try_into().unwrap(), stream).await.is_err());
}

async fn over_tls(config: Arc<rustls::ClientConfig>, port: u16, request: &[u8]) -> Vec<u8> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(config);
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // A close without TLS's own goodbye is an error here and no matter of this test.
    drop(stream.read_to_end(&mut answer).await);
    answer
}
