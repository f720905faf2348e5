//! Requests a second of the way a directive takes: create, poll, started, finished, over kept-alive mutual TLS.
//!
//! `cargo run --release -p mothership --example throughput -- [directives] [at once]`. Server and clients share the
//! machine, so the figure is for both together.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "a measuring program, one script from top to bottom: it prints, and any failure ends it"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mothership::serve::{ServeConfig, start};
use rcgen::{CertificateParams, KeyPair};
use reqwest::{Certificate, Client, Identity};
use serde_json::{Value, json};

#[tokio::main]
async fn main() {
    let mut words = std::env::args().skip(1);
    let count: usize = words.next().map_or(2000, |word| word.parse().unwrap());
    let at_once: u32 = words.next().map_or(5, |word| word.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut config = ServeConfig::new(dir.path());
    config.listen = "127.0.0.1:0".parse().unwrap();
    let running = start(config).await.unwrap();
    let url = running.url().to_owned();
    let admin = std::fs::read_to_string(dir.path().join("admin-token")).unwrap();
    let admin = admin.trim().to_owned();
    let ca = Certificate::from_pem(&std::fs::read(dir.path().join("ca.pem")).unwrap()).unwrap();
    let user = Client::builder().no_proxy().tls_certs_only([ca.clone()]).build().unwrap();
    let make = async |path: &str, body: Value| -> Value {
        let request = user.post(format!("{url}/api/v1/{path}")).bearer_auth(&admin).json(&body);
        request.send().await.unwrap().json().await.unwrap()
    };
    let token = make("enrollment-tokens", json!({})).await;
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let enrolled: Value = user
        .post(format!("{url}/conduits/v1/territories/enroll"))
        .json(&json!({ "enroll_token": token["token"], "csr_pem": csr }))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let pem = format!("{}{}", enrolled["mtls_client_cert_pem"].as_str().unwrap(), key.serialize_pem());
    let identity = Identity::from_pem(pem.as_bytes()).unwrap();
    let territory = Client::builder().no_proxy().tls_certs_only([ca]).identity(identity).build().unwrap();
    let call = async |client: &Client, path: &str, token: &str, body: Value| -> Value {
        let request = client.post(format!("{url}/conduits/v1/{path}")).bearer_auth(token).json(&body);
        request.send().await.unwrap().json().await.unwrap()
    };
    let beat = json!({ "capacity": { "max_concurrent": at_once } });
    call(&territory, "territories/heartbeat", "", beat).await;

    let began = Instant::now();
    for _ in 0..count {
        let facility = make("facilities", json!({})).await;
        make("directives", json!({ "facility_id": facility["id"], "command": "true" })).await;
    }
    report("facility + directive, one after the other", 2 * count, began.elapsed());

    let done = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..at_once {
        let (territory, url, done) = (territory.clone(), url.clone(), Arc::clone(&done));
        workers.spawn(async move {
            let call = async |path: &str, token: &str, body: Value| -> Value {
                let request = territory.post(format!("{url}/conduits/v1/{path}")).bearer_auth(token).json(&body);
                request.send().await.unwrap().json().await.unwrap()
            };
            let poll = json!({ "supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": 1 });
            loop {
                let polled = call("polls", "", poll.clone()).await;
                let Some(lease) = polled["directives"].get(0) else { return };
                let (id, token) = (lease["directive_id"].as_str().unwrap(), lease["directive_token"].as_str().unwrap());
                call(&format!("directives/{id}/started"), token, json!({})).await;
                call(&format!("directives/{id}/finished"), token, json!({ "status": "succeeded" })).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    workers.join_all().await;
    assert_eq!(done.load(Ordering::Relaxed), count);
    report("poll + started + finished", 3 * count, began.elapsed());

    let mut waits = Vec::new();
    for _ in 0..200 {
        let poll = json!({ "supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": 1 });
        let held = territory.post(format!("{url}/conduits/v1/polls")).header("prefer", "wait=20").json(&poll);
        let held = tokio::spawn(async move { held.send().await.unwrap().json::<Value>().await.unwrap() });
        tokio::time::sleep(Duration::from_millis(10)).await;
        let facility = make("facilities", json!({})).await;
        let made = make("directives", json!({ "facility_id": facility["id"], "command": "true" })).await;
        let polled = held.await.unwrap();
        let token = polled["directives"][0]["directive_token"].as_str().unwrap();
        let id = made["id"].as_str().unwrap();
        let request = user.get(format!("{url}/api/v1/directives/{id}")).bearer_auth(&admin);
        let seen: Value = request.send().await.unwrap().json().await.unwrap();
        let time = |field: &str| seen[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        waits.push(time("leased_at").duration_since(time("queued_at")).as_micros());
        let body = json!({ "status": "succeeded" });
        call(&territory, &format!("directives/{id}/finished"), token, body).await;
    }
    waits.sort_unstable();
    println!(
        "queued to leased by a held poll: median {} us, 95 % {} us, of {}",
        waits[waits.len() / 2],
        waits[waits.len() * 95 / 100],
        waits.len()
    );
    running.stop().await;
}

fn report(what: &str, requests: usize, took: Duration) {
    let micros = took.as_micros() / u128::try_from(requests).unwrap_or(1).max(1);
    let rate = 1_000_000_u128.checked_div(micros).unwrap_or_default();
    println!("{what}: {requests} requests in {took:.2?}, {rate}/s, {micros} us each");
}
