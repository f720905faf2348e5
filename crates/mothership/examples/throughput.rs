//! Requests a second of the way a directive takes: create, poll, started, log, finished; over kept-alive mutual TLS and over
//! plain HTTP, in turns, and what TLS costs by their best rounds.
//!
//! `cargo run --release -p mothership --example throughput -- [directives] [at once] [rounds]`. Server and clients share the
//! machine, so the figures are for both together.
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

use base64::Engine as _;
use mothership::serve::{AuthMode, Running, ServeConfig, start};
use rcgen::{CertificateParams, KeyPair};
use reqwest::{Certificate, Client, Identity};
use serde_json::{Value, json};

/// Bytes of output that each directive ships, in chunks of the daemon's own size.
const CHUNKS: usize = 8;
const CHUNK: usize = 16 * 1024;

#[tokio::main]
async fn main() {
    let mut words = std::env::args().skip(1);
    let mut number = |default: usize| words.next().map_or(default, |word| word.parse().unwrap());
    let (count, at_once, rounds) = (number(500), number(5), number(5));
    let mut best = [[Duration::MAX; 3]; 2];
    for round in 0..rounds {
        for (at, auth) in [AuthMode::Dev, AuthMode::Mtls].into_iter().enumerate() {
            let name = if at == 0 { "plain" } else { "mutual TLS" };
            let took = Bench::new(auth, at_once).await.run(count, round == 0).await;
            println!("round {round}, {name}: {took:.2?}");
            for (best, took) in best[at].iter_mut().zip(took) {
                *best = (*best).min(took);
            }
        }
    }
    let calls = ["facility + directive, one after the other", "poll + started + finished", "log chunks of 16 KiB"];
    let requests = [2 * count, 3 * count, CHUNKS * count];
    for ((what, requests), (plain, tls)) in calls.iter().zip(requests).zip(best[0].iter().zip(best[1])) {
        report(&format!("{what}, plain"), requests, *plain);
        report(&format!("{what}, mutual TLS"), requests, tls);
        let permille = tls.as_micros() * 1000 / plain.as_micros().max(1);
        println!("  TLS takes {}.{} % of plain's time", permille / 10, permille % 10);
    }
}

/// A mothership, its administrator and one territory.
struct Bench {
    running: Running,
    url: String,
    admin: String,
    user: Client,
    territory: Client,
    id: Option<String>,
    at_once: usize,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn new(auth: AuthMode, at_once: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ServeConfig::new(&dir.path().join("data"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.auth = auth;
        let running = start(config).await.unwrap();
        let url = running.url().to_owned();
        let read = |name: &str| std::fs::read_to_string(dir.path().join("data").join(name)).unwrap();
        let admin = read("admin-token").trim().to_owned();
        let ca = Certificate::from_pem(read("ca.pem").as_bytes()).unwrap();
        // HTTP/1.1, as the daemon speaks it.
        let client = || Client::builder().http1_only().no_proxy().tls_certs_only([ca.clone()]);
        let user = client().build().unwrap();
        let mut bench = Self { running, url, admin, territory: user.clone(), user, id: None, at_once, _dir: dir };
        let token = bench.make("enrollment-tokens", json!({})).await;
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let body = json!({ "enroll_token": token["token"], "csr_pem": csr });
        let enrolled = bench.call("territories/enroll", "", body).await;
        if auth == AuthMode::Dev {
            bench.id = enrolled["territory_id"].as_str().map(str::to_owned);
        } else {
            let pem = format!("{}{}", enrolled["mtls_client_cert_pem"].as_str().unwrap(), key.serialize_pem());
            bench.territory = client().identity(Identity::from_pem(pem.as_bytes()).unwrap()).build().unwrap();
        }
        let beat = json!({ "capacity": { "max_concurrent": at_once } });
        bench.call("territories/heartbeat", "", beat).await;
        bench
    }

    async fn make(&self, path: &str, body: Value) -> Value {
        let request = self.user.post(format!("{}/api/v1/{path}", self.url)).bearer_auth(&self.admin).json(&body);
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn call(&self, path: &str, token: &str, body: Value) -> Value {
        let mut request = self.territory.post(format!("{}/conduits/v1/{path}", self.url)).json(&body);
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        if let Some(id) = &self.id {
            request = request.header("x-nexus-territory-id", id);
        }
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn directive(&self) -> Value {
        let facility = self.make("facilities", json!({})).await;
        self.make("directives", json!({ "facility_id": facility["id"], "command": "true" })).await
    }

    /// How long the creates took, the calls about directives, and the chunks.
    async fn run(self, count: usize, with_hand_over: bool) -> [Duration; 3] {
        let began = Instant::now();
        for _ in 0..count {
            self.directive().await;
        }
        let creates = began.elapsed();
        let (done, calls, chunks) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let this = Arc::new((self, done, calls, chunks));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..this.0.at_once {
            let this = Arc::clone(&this);
            workers.spawn(async move {
                while this.0.one(&this.2, &this.3).await {
                    this.1.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        workers.join_all().await;
        let (this, done, calls, chunks) = Arc::into_inner(this).unwrap();
        assert_eq!(done.into_inner(), count);
        if with_hand_over {
            this.hand_over().await;
        }
        let each =
            |micros: AtomicUsize| Duration::from_micros(u64::try_from(micros.into_inner() / this.at_once).unwrap());
        let took = [creates, each(calls), each(chunks)];
        this.running.stop().await;
        took
    }

    /// One directive from poll to finished, and the time that its calls and chunks took; false when there is none.
    async fn one(&self, calls: &AtomicUsize, chunks: &AtomicUsize) -> bool {
        let add = |counter: &AtomicUsize, began: Instant| {
            counter.fetch_add(usize::try_from(began.elapsed().as_micros()).unwrap(), Ordering::Relaxed);
        };
        let began = Instant::now();
        let poll = json!({ "supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": 1 });
        let polled = self.call("polls", "", poll).await;
        let Some(lease) = polled["directives"].get(0) else { return false };
        let (id, token) = (lease["directive_id"].as_str().unwrap(), lease["directive_token"].as_str().unwrap());
        self.call(&format!("directives/{id}/started"), token, json!({})).await;
        add(calls, began);
        let began = Instant::now();
        let bytes = base64::engine::general_purpose::STANDARD.encode([b'x'; CHUNK]);
        for seq in 0..CHUNKS {
            let chunk = json!({ "stream": "stdout", "seq": seq, "bytes": bytes });
            self.call(&format!("directives/{id}/log_chunks"), token, chunk).await;
        }
        add(chunks, began);
        let began = Instant::now();
        self.call(&format!("directives/{id}/finished"), token, json!({ "status": "succeeded" })).await;
        add(calls, began);
        true
    }

    /// How long it takes from the queue into the hands of a poll that is held.
    async fn hand_over(&self) {
        let mut waits = Vec::new();
        for _ in 0..100 {
            let poll = json!({ "supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": 1 });
            let mut held = self.territory.post(format!("{}/conduits/v1/polls", self.url)).header("prefer", "wait=20");
            if let Some(id) = &self.id {
                held = held.header("x-nexus-territory-id", id);
            }
            let (polled, made) = tokio::join!(held.json(&poll).send(), async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                self.directive().await
            });
            let polled: Value = polled.unwrap().json().await.unwrap();
            let token = polled["directives"][0]["directive_token"].as_str().unwrap();
            let id = made["id"].as_str().unwrap();
            let request = self.user.get(format!("{}/api/v1/directives/{id}", self.url)).bearer_auth(&self.admin);
            let seen: Value = request.send().await.unwrap().json().await.unwrap();
            let time = |field: &str| seen[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
            waits.push(time("leased_at").duration_since(time("queued_at")).as_micros());
            self.call(&format!("directives/{id}/finished"), token, json!({ "status": "succeeded" })).await;
        }
        waits.sort_unstable();
        let (median, most) = (waits[waits.len() / 2], waits[waits.len() * 95 / 100]);
        println!("queued to leased by a held poll: median {median} us, 95 % {most} us, of {}", waits.len());
    }
}

fn report(what: &str, requests: usize, took: Duration) {
    let micros = took.as_micros() / u128::try_from(requests).unwrap_or(1).max(1);
    let rate = 1_000_000_u128.checked_div(micros).unwrap_or_default();
    println!("{what}: {requests} requests in {took:.2?}, {rate}/s, {micros} us each");
}
