//! The client against a real server on loopback that misbehaves in every way the protocol's table knows.

mod faults;
pub(crate) mod server;
mod sessions;

use std::time::{Duration, Instant};

use conduits::{
    DirectiveHeartbeatRequest, DirectiveToken, FinishedRequest, FinishedStatus, LogChunkRequest, LogStream,
    PollRequest, StartedRequest,
};
use nexusd::client::directive::EncodedChunk;
use nexusd::client::{CallError, ClientSettings, Deadline, DirectiveCalls, Mothership};

use server::{Fault, Server};

pub(crate) fn mothership(server: &Server) -> Mothership {
    let mut settings = ClientSettings::new(server.url());
    settings.territory_header = Some("t-1".parse().unwrap());
    settings.request_timeout = Duration::from_secs(1);
    Mothership::new(&settings).unwrap()
}

pub(crate) fn directive(server: &Server) -> DirectiveCalls {
    mothership(server).directive("d-1".parse().unwrap(), DirectiveToken::new(server::FIRST_TOKEN))
}

fn finished() -> FinishedRequest {
    FinishedRequest::new(FinishedStatus::Succeeded)
}

fn poll() -> PollRequest {
    PollRequest { supported_sandbox_profiles: vec![], max_directives_to_claim: 1, claim_id: None }
}

fn chunk(seq: u64, bytes: &[u8]) -> EncodedChunk {
    EncodedChunk::new(&LogChunkRequest { stream: LogStream::Stdout, seq, bytes: bytes.to_vec(), truncated: false })
        .unwrap()
}

#[tokio::test]
async fn calls_carry_identity_token_and_preference() {
    let server = Server::start().await;
    let calls = directive(&server);
    calls.started(&StartedRequest::default()).await.unwrap();
    let polled = calls.mothership().poll(&poll(), Some(Duration::from_secs(25))).await.unwrap();
    assert!(polled.wait_applied);
    assert!(!calls.mothership().poll(&poll(), None).await.unwrap().wait_applied);
    let seen = server.seen();
    assert_eq!(seen[0].path, "/conduits/v1/directives/d-1/started");
    assert_eq!(seen[0].header("x-nexus-territory-id"), "t-1");
    assert_eq!(seen[0].header("authorization"), format!("Bearer {}", server::FIRST_TOKEN));
    assert!(seen[0].header("user-agent").starts_with("nexusd/"));
    assert_eq!(seen[1].header("prefer"), "wait=25");
    assert_eq!(seen[1].header("authorization"), "");
    assert_eq!(seen[2].header("prefer"), "");
    assert_eq!(server.connections(), 1, "one connection is kept alive");
}

#[tokio::test]
async fn a_heartbeat_replaces_the_token_everywhere() {
    let server = Server::start().await;
    let calls = directive(&server);
    let uploads = calls.clone();
    calls.heartbeat(&DirectiveHeartbeatRequest::default(), Some(Duration::from_secs(1))).await.unwrap();
    uploads.log_chunk(&chunk(0, b"x")).await.unwrap();
    assert_eq!(server.seen().last().unwrap().header("authorization"), "Bearer beat-1");
}

#[tokio::test]
async fn a_401_starts_one_recovery_for_all_who_met_it() {
    let server = Server::start().await;
    let calls = directive(&server);
    server.expire_tokens();
    let (first, second, third) = (chunk(0, b"a"), chunk(1, b"b"), chunk(2, b"c"));
    let (a, b, c) = tokio::join!(calls.log_chunk(&first), calls.log_chunk(&second), calls.log_chunk(&third));
    a.and(b).and(c).unwrap();
    assert_eq!(server.count("/token"), 1);
    assert_eq!(server.stored(LogStream::Stdout), b"abc");
}

#[tokio::test]
async fn a_server_without_recovery_ends_it_after_one_try() {
    let server = Server::start().await;
    let calls = directive(&server);
    server.expire_tokens();
    server.always("/token", Fault::Status(404, None, ""));
    for _ in 0..3 {
        assert!(matches!(calls.finished(&finished()).await, Err(CallError::Unauthorized(_))));
    }
    assert_eq!(server.count("/token"), 1, "asked once");
    assert_eq!(server.count("/finished"), 1, "and not again without a token");
}

#[tokio::test]
async fn nonsense_is_survived_and_named() {
    let server = Server::start().await;
    let calls = directive(&server);
    let huge = "x".repeat(5_000_000);
    let cases: [(Fault, &str); 9] = [
        (Fault::Status(200, None, "<html>Welcome to the hotel</html>"), "no JSON object: <html>Welcome"),
        (Fault::Body(huge), "longer than 4194304 bytes"),
        (Fault::Status(200, None, r#"{"ok":"perhaps"}"#), "invalid type"),
        (Fault::Status(200, None, r#"{"ok":true,"directive_id":"d-2"}"#), "about directive d-2"),
        (Fault::Status(302, None, ""), "unexpected status 302"),
        (Fault::Status(200, None, "[]"), "no JSON object: []"),
        (Fault::Status(200, None, "{}"), "does not say that the report was taken"),
        (Fault::Status(200, None, r#"{"directives":[]}"#), "does not say that the report was taken"),
        (Fault::Status(200, None, r#"{"ok":false}"#), "does not say that the report was taken"),
    ];
    for (fault, want) in cases {
        server.once("/finished", fault);
        let error = calls.finished(&finished()).await.unwrap_err();
        assert!(matches!(&error, CallError::Nonsense { what } if what.contains(want)), "{want}: {error:?}");
        assert!(error.to_string().len() < 700);
    }
    server.once("/log_chunks", Fault::Status(200, None, "{}"));
    assert!(
        matches!(calls.log_chunk(&chunk(0, b"x")).await, Err(CallError::Nonsense { .. })),
        "{{}} acknowledges nothing"
    );
    server.once("/log_chunks", Fault::Status(200, None, r#"{"ok":true,"stored":true,"stream":"stdout","seq":7}"#));
    assert!(matches!(calls.log_chunk(&chunk(0, b"x")).await, Err(CallError::Nonsense { .. })), "another chunk's");
    calls.finished(&finished()).await.unwrap();
}

#[tokio::test]
async fn an_endless_answer_is_cut_and_a_stalled_one_times_out() {
    let server = Server::start().await;
    let calls = directive(&server);
    server.once("/finished", Fault::Endless);
    let error = calls.finished(&finished()).await.unwrap_err();
    assert!(matches!(error, CallError::Nonsense { .. }), "{error:?}");
    server.once("/finished", Fault::Stall);
    let begun = Instant::now();
    let error = calls.finished(&finished()).await.unwrap_err();
    assert!(matches!(&error, CallError::Unavailable { why, .. } if why.starts_with("timed out")), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn retries_obey_retry_after_and_end_with_refusals() {
    let server = Server::start().await;
    let calls = directive(&server);
    let (home, report) = (calls.mothership(), finished());
    server.once("/finished", Fault::Status(429, Some("1"), ""));
    let begun = Instant::now();
    home.with_retry(Deadline::Never, || calls.finished(&report)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    server.always("/finished", Fault::Status(409, None, r#"{"error":"conflict","detail":"payload differs"}"#));
    let before = server.count("/finished");
    let error = home.with_retry(Deadline::Never, || calls.finished(&report)).await.unwrap_err();
    assert_eq!(error.to_string(), "409, in conflict with what the mothership holds (conflict: payload differs)");
    assert_eq!(server.count("/finished"), before + 1);
    server.always("/finished", Fault::Status(500, None, ""));
    let begun = Instant::now();
    let error = home.with_retry(Deadline::within(Duration::from_millis(400)), || calls.finished(&report)).await;
    assert!(matches!(error, Err(CallError::Unavailable { .. })));
    assert!(begun.elapsed() < Duration::from_millis(900));
}

#[tokio::test]
async fn lost_answers_are_asked_for_again() {
    let server = Server::start().await;
    let calls = directive(&server);
    server.once("/log_chunks", Fault::LostAnswer);
    server.once("/log_chunks", Fault::Reset);
    let chunk = chunk(0, b"only once");
    let answer = calls.mothership().with_retry(Deadline::Never, || calls.log_chunk(&chunk)).await.unwrap();
    assert!(answer.duplicate);
    assert_eq!(server.stored(LogStream::Stdout), b"only once");
}

#[tokio::test]
async fn an_outage_is_probed_by_one_and_work_flows_within_two_seconds_of_its_end() {
    let server = Server::start().await;
    let calls = directive(&server);
    server.always("", Fault::Reset);
    let home = calls.mothership().clone();
    let mut waiting = tokio::task::JoinSet::new();
    for seq in 0..20u64 {
        let (home, calls) = (home.clone(), calls.clone());
        waiting.spawn(async move {
            let chunk = chunk(seq, b"0123456789");
            home.with_retry(Deadline::Never, || calls.log_chunk(&chunk)).await.unwrap();
            Instant::now()
        });
    }
    tokio::time::sleep(Duration::from_millis(4500)).await;
    assert!(home.reach().is_down());
    let asked = server.seen().len();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let probes = server.seen().len() - asked;
    assert!((1..=4).contains(&probes), "{probes} requests in three seconds of outage");
    server.heal();
    let back = Instant::now();
    let mut first = None;
    let mut last = back;
    while let Some(at) = waiting.join_next().await {
        let at = at.unwrap();
        first.get_or_insert(at);
        last = at;
    }
    assert!(first.unwrap() - back < Duration::from_secs(2), "{:?}", first.unwrap() - back);
    assert!(last - back < Duration::from_millis(3000), "{:?}", last - back);
    assert_eq!(server.stored(LogStream::Stdout).len(), 200);
}

#[tokio::test]
async fn settings_that_cannot_work_say_why() {
    let fault = |url: &str| Mothership::new(&ClientSettings::new(url)).unwrap_err().to_string();
    assert!(fault("ftp://x").contains("neither https nor http"));
    assert!(fault("https://user:hunter2@x/").contains("credentials"));
    assert!(!fault("https://user:hunter2@x/").contains("hunter2"));
    assert!(fault("nonsense").contains("server_url"));
    let mut settings = ClientSettings::new("https://localhost:1");
    settings.tls.identity = Some(nexusd::client::PemIdentity { cert_pem: b"x".to_vec(), key_pem: b"y".to_vec() });
    assert!(Mothership::new(&settings).unwrap_err().to_string().contains("client certificate"));
}

#[tokio::test]
async fn the_expiry_is_that_of_the_certificate_in_use() {
    let identity = |year| {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let cert_pem = params.self_signed(&key).unwrap().pem().into_bytes();
        nexusd::client::PemIdentity { cert_pem, key_pem: key.serialize_pem().into_bytes() }
    };
    let mut settings = ClientSettings::new("https://localhost:1");
    let mothership = Mothership::new(&settings).unwrap();
    assert_eq!(mothership.certificate_expiry(), None);
    for (year, expected) in [(2040, 2_208_988_800), (2041, 2_240_611_200)] {
        settings.tls.identity = Some(identity(year));
        mothership.reload_tls(&settings.tls).unwrap();
        assert_eq!(mothership.certificate_expiry(), Some(expected), "{year}");
    }
}

/// The token is the server's doing, but nothing of it reaches the server: it must not look like an outage.
#[tokio::test]
async fn a_token_that_no_header_can_carry_is_an_error_of_its_own() {
    let server = Server::start().await;
    let mothership = mothership(&server);
    for bad in ["", "a\nb", "a\0b", "tök", &"x".repeat(1 << 20)] {
        let calls = mothership.directive("d-1".parse().unwrap(), DirectiveToken::new(bad));
        let (within, report) = (Duration::from_secs(5), finished());
        let call = mothership.with_retry(Deadline::Never, || calls.finished(&report));
        let outcome = tokio::time::timeout(within, call).await.expect("it is tried again for ever");
        assert!(matches!(outcome, Err(CallError::NotSent { .. })), "{outcome:?}");
        assert!(!mothership.reach().is_down());
    }
    assert_eq!(server.seen().len(), 0);
}

#[tokio::test]
async fn a_heartbeat_s_bad_token_does_not_replace_a_good_one() {
    let server = Server::start().await;
    let calls = directive(&server);
    let body = r#"{"cancel_requested": false, "lease_renewed": true, "directive_token": "a\nb"}"#;
    server.once("/heartbeat", Fault::Body(body.to_owned()));
    calls.heartbeat(&DirectiveHeartbeatRequest::default(), None).await.unwrap();
    calls.started(&StartedRequest::default()).await.unwrap();
    assert_eq!(server.seen().last().unwrap().header("authorization"), format!("Bearer {}", server::FIRST_TOKEN));
}

#[tokio::test]
async fn a_lease_without_a_usable_token_costs_nobody_else_anything() {
    let server = Server::start().await;
    let lease = |id: &str, token: &str| serde_json::json!({ "directive_id": id, "directive_token": token, "spec": {} });
    let bad = ["", "a\nb", "a\0b", "tök", &"x".repeat(1 << 20)].map(|token| lease("d-bad", token));
    for leases in [serde_json::json!(bad), serde_json::json!([lease("d-worse", "\r\n"), lease("d-good", "t")])] {
        let body = serde_json::json!({ "directives": leases, "lease_ttl_seconds": 300 });
        server.once("/polls", Fault::Body(body.to_string()));
    }
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(5));
    let metrics = nexusd::engine::metrics(
        &std::sync::Arc::default(),
        std::sync::Arc::new(nexusd::observe::metrics::WorkSample::default),
    );
    let stop = tokio_util::sync::CancellationToken::new();
    let offer = || nexusd::poll::PollSettings {
        profiles: vec![conduits::SandboxProfile::Untrusted],
        max_claim: 5,
        wait: Duration::ZERO,
        backoff: Duration::from_millis(10),
    };
    let mut given = Vec::new();
    let mothership = mothership(&server);
    let polling = nexusd::poll::poll_until(&mothership, &slots, &metrics, &stop, offer, |claimed| {
        given.push(claimed.lease.directive_id.to_string());
        stop.cancel();
    });
    tokio::time::timeout(Duration::from_secs(10), polling).await.unwrap();
    assert_eq!(given, ["d-good"]);
    assert_eq!(slots.available_permits(), 5);
}
