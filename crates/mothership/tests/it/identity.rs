//! Who gets in, and who does not.

use std::time::{Duration, Instant};

use mothership::serve::{AuthMode, ServeConfig, ServeError, start};
use rcgen::{CertificateParams, KeyPair};
use reqwest::{Identity, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::bed::{Bed, Lease, answer, refusal, refused};

fn csr() -> String {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap()
}

fn enroll(bed: &Bed, body: &Value) -> reqwest::RequestBuilder {
    bed.client(None).post(format!("{}/conduits/v1/territories/enroll", bed.url())).json(body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_once_whatever_the_hurry() {
    let bed = Bed::with(|config| config.enroll_failures_per_hour = 1000).await;
    let token = bed.enroll_token().await;
    let mut tries = JoinSet::new();
    for _ in 0..50 {
        let request = enroll(&bed, &json!({ "enroll_token": token, "csr_pem": csr() }));
        tries.spawn(async move { answer(request).await.0.as_u16() });
    }
    let mut statuses = tries.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses[..2], [201, 422]);
    assert!(statuses[1..].iter().all(|status| *status == 422));
    let (_, territories) = bed.get("/api/v1/territories").await;
    assert_eq!(territories["territories"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_leaves_the_token_usable_and_a_revoked_one_is_not() {
    let bed = Bed::tls().await;
    let token = bed.enroll_token().await;
    let bad = answer(enroll(&bed, &json!({ "enroll_token": token, "csr_pem": "nonsense" }))).await;
    assert_eq!(refusal(bad), refused(422, "invalid_csr"));
    let good = answer(enroll(&bed, &json!({ "enroll_token": token, "csr_pem": csr() }))).await;
    assert_eq!(good.0, StatusCode::CREATED);
    let (_, created) = bed.post("/api/v1/enrollment-tokens", json!({ "labels": { "zone": "a" } })).await;
    let id = created["id"].as_str().unwrap();
    let revoked = bed.user(reqwest::Method::DELETE, &format!("/api/v1/enrollment-tokens/{id}"), None).await;
    assert_eq!(revoked.0, StatusCode::NO_CONTENT);
    let late = answer(enroll(&bed, &json!({ "enroll_token": created["token"] }))).await;
    assert_eq!(refusal(late), refused(422, "invalid_enroll_token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_counted_and_then_refused_with_a_time() {
    let bed = Bed::with(|config| config.enroll_failures_per_hour = 3).await;
    for _ in 0..3 {
        let guess = answer(enroll(&bed, &json!({ "enroll_token": "guess" }))).await;
        assert_eq!(refusal(guess), refused(422, "invalid_enroll_token"));
    }
    let good = bed.enroll_token().await;
    let response = enroll(&bed, &json!({ "enroll_token": good })).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((3000..=3601).contains(&wait), "{wait}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tries_side_by_side_get_no_further_than_one_after_the_other() {
    let bed = Bed::with(|config| {
        config.auth = AuthMode::Dev;
        config.enroll_failures_per_hour = 3;
    })
    .await;
    let body = json!({ "enroll_token": "guess" }).to_string();
    let head = format!(
        "POST /conduits/v1/territories/enroll HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // All of them are being served before the first has said what it guesses.
    let mut guesses = Vec::new();
    for _ in 0..30 {
        let mut guess = TcpStream::connect(bed.running.as_ref().unwrap().address()).await.unwrap();
        guess.write_all(head.as_bytes()).await.unwrap();
        guesses.push(guess);
    }
    // Whose body is asked for has passed the first look at its address.
    for guess in &mut guesses {
        let mut go_on = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        guess.read_exact(&mut go_on).await.unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    let mut answers = JoinSet::new();
    for mut guess in guesses {
        let body = body.clone();
        answers.spawn(async move {
            guess.write_all(body.as_bytes()).await.unwrap();
            let mut answer = String::new();
            guess.read_to_string(&mut answer).await.unwrap();
            answer.split(' ').nth(1).unwrap().to_owned()
        });
    }
    let mut statuses = answers.join_all().await;
    statuses.sort_unstable();
    assert_eq!(
        (&statuses[..3], &statuses[3..]),
        (&["422"; 3].map(String::from)[..], &["429"; 27].map(String::from)[..])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn many_machines_behind_one_address_enrol_at_once() {
    let bed = Bed::with(|config| config.enroll_failures_per_hour = 2).await;
    let mut machines = JoinSet::new();
    for _ in 0..12 {
        let machine = enroll(&bed, &json!({ "enroll_token": bed.enroll_token().await, "csr_pem": csr() }));
        machines.spawn(async move { answer(machine).await.0.as_u16() });
    }
    assert_eq!(machines.join_all().await, [201; 12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_is_immediate_on_open_connections_and_held_requests() {
    let bed = Bed::tls().await;
    let (territory, other) = (bed.territory().await, bed.territory().await);
    territory.may_run(5).await;
    bed.directive().await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    let body = json!({ "supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": 1 });
    let poll = tokio::spawn(answer(territory.poll_request(Some(30), &body)));
    let beat = territory
        .request(&format!("/directives/{}/heartbeat", lease.id))
        .bearer_auth(&lease.token)
        .header("prefer", "wait=30")
        .json(&json!({}));
    let beat = tokio::spawn(answer(beat));
    bed.until_waiting(1, 1).await;
    let began = Instant::now();
    let path = format!("/api/v1/territories/{}/disable", territory.id);
    assert_eq!(bed.post(&path, json!({})).await.0, StatusCode::OK);
    for held in [poll, beat] {
        assert_eq!(refusal(held.await.unwrap()), refused(403, "territory_disabled"));
    }
    assert!(began.elapsed() < Duration::from_secs(5));
    let shut_out = refused(403, "territory_disabled");
    assert_eq!(refusal(territory.heartbeat(json!({})).await), shut_out);
    assert_eq!(refusal(territory.finished(&lease).await), shut_out);
    assert_eq!(refusal(territory.call("/territories/renew", json!({ "csr_pem": csr() })).await), shut_out);
    assert_eq!(other.heartbeat(json!({})).await.0, StatusCode::OK);
    let path = format!("/api/v1/territories/{}/enable", territory.id);
    bed.post(&path, json!({})).await;
    assert_eq!(territory.finished(&lease).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_is_401_and_a_foreign_one_ends_the_handshake() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    let polls = format!("{}/conduits/v1/polls", bed.url());
    let none = bed.client(None).post(&polls).header("x-nexus-territory-id", &territory.id).json(&json!({}));
    assert_eq!(refusal(answer(none).await), refused(401, "unauthorized"));
    let elsewhere = Bed::tls().await;
    let foreign = elsewhere.territory().await;
    // The foreign territory's client trusts its own mothership; give it ours to talk to.
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::default().self_signed(&key).unwrap();
    let pem = format!("{}{}", own.pem(), key.serialize_pem());
    let identity = Identity::from_pem(pem.as_bytes()).unwrap();
    assert!(bed.client(Some(identity)).post(&polls).json(&json!({})).send().await.is_err());
    assert!(foreign.http.post(&polls).json(&json!({})).send().await.is_err());
    let plain = polls.replace("https://", "http://");
    assert!(bed.client(None).post(&plain).json(&json!({})).send().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directive_token_works_for_its_directive_and_its_territory_only() {
    let bed = Bed::tls().await;
    let (one, two) = (bed.territory().await, bed.territory().await);
    bed.directive().await;
    let lease = one.one().await;
    assert_eq!(refusal(two.started(&lease).await), refused(403, "forbidden"));
    let elsewhere = Lease { id: bed.directive().await, ..lease.clone() };
    assert_eq!(refusal(one.started(&elsewhere).await), refused(403, "forbidden"));
    let forged = Lease { token: "eyJhbGciOiJub25lIn0.e30.".to_owned(), ..lease.clone() };
    assert_eq!(refusal(one.started(&forged).await), refused(401, "token_invalid"));
    let without = one.call(&format!("/directives/{}/started", lease.id), json!({})).await;
    assert_eq!(refusal(without), refused(401, "unauthorized"));
    let (status, fresh) = one.report(&lease, "token", json!({})).await;
    assert_eq!(status, StatusCode::OK);
    let token = fresh["directive_token"].as_str().unwrap().to_owned();
    assert_eq!(one.started(&Lease { token, ..lease }).await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_the_same_territory() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let (status, renewed) = territory.call("/territories/renew", json!({ "csr_pem": csr })).await;
    assert_eq!(status, StatusCode::OK, "{renewed}");
    let pem = format!("{}{}", renewed["mtls_client_cert_pem"].as_str().unwrap(), key.serialize_pem());
    let http = bed.client(Some(Identity::from_pem(pem.as_bytes()).unwrap()));
    let beat = http.post(format!("{}/conduits/v1/territories/heartbeat", bed.url())).json(&json!({}));
    assert_eq!(answer(beat).await.1["territory_id"], json!(territory.id));
    let bad = territory.call("/territories/renew", json!({ "csr_pem": "x" })).await;
    assert_eq!(refusal(bad), refused(422, "invalid_csr"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_labels_of_a_token_win_over_those_that_a_host_gives_itself() {
    let bed = Bed::tls().await;
    let (_, made) = bed.post("/api/v1/enrollment-tokens", json!({ "labels": { "zone": "a" } })).await;
    let body = json!({ "enroll_token": made["token"], "labels": { "zone": "b", "rack": "7" }, "csr_pem": csr() });
    let (status, enrolled) = answer(enroll(&bed, &body)).await;
    assert_eq!(status, StatusCode::CREATED, "{enrolled}");
    let (_, shown) = bed.get(&format!("/api/v1/territories/{}", enrolled["territory_id"].as_str().unwrap())).await;
    assert_eq!(shown["labels"], json!({ "zone": "a", "rack": "7" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_territory_has_a_bounded_number_of_certificates() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    let (csr, renew) = (json!({ "csr_pem": csr() }), "/territories/renew");
    for _ in 1..64 {
        assert_eq!(territory.call(renew, csr.clone()).await.0, StatusCode::OK);
    }
    let response = territory.request(renew).json(&csr).send().await.unwrap();
    assert_eq!(
        (response.status(), response.headers()["retry-after"].as_bytes()),
        (StatusCode::TOO_MANY_REQUESTS, &b"3601"[..])
    );
    // Those that ended long ago are forgotten, those that ended lately are not.
    let database = rusqlite::Connection::open(bed.data().join("mothership.db")).unwrap();
    let ids: Vec<String> = {
        let mut query = database.prepare("SELECT fingerprint FROM certificates ORDER BY issued_at DESC").unwrap();
        query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    for old in &ids[..30] {
        database.execute("UPDATE certificates SET not_after = 1 WHERE fingerprint = ?1", [old]).unwrap();
    }
    assert_eq!(territory.call(renew, csr).await.0, StatusCode::OK);
    let left: u32 = database.query_row("SELECT count(*) FROM certificates", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 64 - 30 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_may_name_the_certificate() {
    let bed = Bed::with(|config| {
        config.auth = AuthMode::Either;
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let body = json!({ "enroll_token": bed.enroll_token().await, "csr_pem": request });
    let (_, enrolled) = answer(enroll(&bed, &body)).await;
    let pem = enrolled["mtls_client_cert_pem"].as_str().unwrap();
    let der: Vec<u8> = rustls_pem(pem);
    let fingerprint = conduits::Fingerprint::of_der(&der).to_string();
    let beat = |value: String| {
        let request = bed
            .client(None)
            .post(format!("{}/conduits/v1/territories/heartbeat", bed.url()))
            .header("x-nexus-client-cert-fingerprint", value)
            .json(&json!({}));
        answer(request)
    };
    assert_eq!(beat(fingerprint.to_uppercase()).await.0, StatusCode::OK);
    assert_eq!(refusal(beat("0".repeat(64)).await), refused(401, "unauthorized"));
}

fn rustls_pem(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn development_and_header_modes_have_their_conditions() {
    let dir = tempfile::tempdir().unwrap();
    for everywhere in ["0.0.0.0:0", ":0"] {
        let listen = everywhere.parse().unwrap();
        let config = |auth| ServeConfig { listen, auth, ..ServeConfig::new(&dir.path().join("d")) };
        assert!(matches!(start(config(AuthMode::Dev)).await, Err(ServeError::DevOffLoopback(_))));
        assert!(matches!(start(config(AuthMode::Header)).await, Err(ServeError::NoTrustedProxy)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_every_address_is_reached_over_ipv4_and_verified() {
    let bed = Bed::with(|config| config.listen = ":0".parse().unwrap()).await;
    assert!(bed.url().starts_with("https://127.0.0.1:"), "{}", bed.url());
    let territory = bed.territory().await;
    assert_eq!(territory.heartbeat(json!({})).await.0, StatusCode::OK);
    let port = bed.running.as_ref().unwrap().address().port();
    let local = bed.client(None).get(format!("https://localhost:{port}/healthz"));
    assert_eq!(local.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_ended_is_nobody_s_on_an_open_connection_too() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    assert_eq!(territory.heartbeat(json!({})).await.0, StatusCode::OK);
    // As if its 30 days were over: the connection is the one of before.
    let database = rusqlite::Connection::open(bed.data().join("mothership.db")).unwrap();
    database.execute("UPDATE certificates SET not_after = 1", []).unwrap();
    assert_eq!(refusal(territory.heartbeat(json!({})).await), refused(401, "unauthorized"));
    let renewal = territory.call("/territories/renew", json!({ "csr_pem": csr() })).await;
    assert_eq!(refusal(renewal), refused(401, "unauthorized"));
}
