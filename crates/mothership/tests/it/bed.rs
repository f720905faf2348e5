//! A served mothership and clients of it.

use std::path::Path;
use std::time::Duration;

use mothership::serve::{AuthMode, Running, ServeConfig, start};
use rcgen::{CertificateParams, KeyPair};
use reqwest::{Certificate, Client, Identity, Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) type Answer = (StatusCode, Value);

pub(crate) struct Bed {
    pub(crate) dir: TempDir,
    pub(crate) running: Option<Running>,
    pub(crate) token: String,
    config: ServeConfig,
}

/// A territory as the mothership sees it: a client with its identity.
#[derive(Clone)]
pub(crate) struct Territory {
    pub(crate) id: String,
    pub(crate) http: Client,
    pub(crate) url: String,
    header: bool,
}

/// A lease that a poll gave.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) spec: Value,
}

impl Bed {
    pub(crate) async fn tls() -> Self {
        Self::with(|_| ()).await
    }

    pub(crate) async fn dev() -> Self {
        Self::with(|config| config.auth = AuthMode::Dev).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut ServeConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = ServeConfig::new(&dir.path().join("data"));
        config.listen = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        let running = start(config.clone()).await.unwrap();
        let token = std::fs::read_to_string(dir.path().join("data/admin-token")).unwrap();
        Self { dir, running: Some(running), token: token.trim().to_owned(), config }
    }

    pub(crate) fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn url(&self) -> String {
        self.running.as_ref().unwrap().url().to_owned()
    }

    pub(crate) async fn stop(&mut self) {
        self.running.take().unwrap().stop().await;
    }

    pub(crate) async fn start_again(&mut self) {
        self.running = Some(start(self.config.clone()).await.unwrap());
    }

    /// A client that trusts this mothership, with a client certificate where given.
    pub(crate) fn client(&self, identity: Option<Identity>) -> Client {
        client(&self.data(), identity)
    }

    /// A call of the user API as the administrator.
    pub(crate) async fn user(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.client(None).request(method, format!("{}{path}", self.url())).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.user(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.user(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn enroll_token(&self) -> String {
        let (status, created) = self.post("/api/v1/enrollment-tokens", json!({})).await;
        assert_eq!(status, StatusCode::CREATED, "{created}");
        created["token"].as_str().unwrap().to_owned()
    }

    /// Enrols a territory; over TLS with a certificate, in development by name.
    pub(crate) async fn territory(&self) -> Territory {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let body = json!({ "enroll_token": self.enroll_token().await, "name": "t", "csr_pem": csr });
        let (status, enrolled) =
            answer(self.client(None).post(format!("{}/conduits/v1/territories/enroll", self.url())).json(&body)).await;
        assert_eq!(status, StatusCode::CREATED, "{enrolled}");
        let header = self.config.auth == AuthMode::Dev;
        let pem = format!("{}{}", enrolled["mtls_client_cert_pem"].as_str().unwrap(), key.serialize_pem());
        let identity = (!header).then(|| Identity::from_pem(pem.as_bytes()).unwrap());
        Territory {
            id: enrolled["territory_id"].as_str().unwrap().to_owned(),
            http: self.client(identity),
            url: self.url(),
            header,
        }
    }

    pub(crate) async fn facility(&self) -> String {
        let (status, created) = self.post("/api/v1/facilities", json!({})).await;
        assert_eq!(status, StatusCode::CREATED, "{created}");
        created["id"].as_str().unwrap().to_owned()
    }

    /// Queues a directive in a facility of its own.
    pub(crate) async fn directive(&self) -> String {
        let facility = self.facility().await;
        self.directive_in(&facility).await
    }

    pub(crate) async fn directive_in(&self, facility: &str) -> String {
        let body = json!({ "facility_id": facility, "command": "true" });
        let (status, created) = self.post("/api/v1/directives", body).await;
        assert_eq!(status, StatusCode::CREATED, "{created}");
        created["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn state(&self, id: &str) -> String {
        let (_, directive) = self.get(&format!("/api/v1/directives/{id}")).await;
        directive["state"].as_str().unwrap_or("?").to_owned()
    }

    pub(crate) async fn until_state(&self, id: &str, state: &str) {
        for _ in 0..200 {
            if self.state(id).await == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{id} is {} and not {state}", self.state(id).await);
    }

    /// Waits until this many polls are held and this many directives are watched.
    pub(crate) async fn until_waiting(&self, polls: usize, watched: usize) {
        let found = || self.running.as_ref().unwrap().waiting();
        for _ in 0..4000 {
            if found() == (polls, watched) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{:?} wait and not {:?}", found(), (polls, watched));
    }

    pub(crate) async fn cancel(&self, id: &str) -> Answer {
        self.post(&format!("/api/v1/directives/{id}/cancel"), json!({})).await
    }
}

/// A client that trusts these authorities, with this certificate and key.
pub(crate) fn client_of(ca: &str, pair: &str) -> Client {
    let ca = Certificate::from_pem_bundle(ca.as_bytes()).unwrap();
    let identity = Identity::from_pem(pair.as_bytes()).unwrap();
    Client::builder().no_proxy().tls_certs_only(ca).identity(identity).build().unwrap()
}

/// A fresh key and the request for its certificate.
pub(crate) fn key_and_csr() -> (KeyPair, String) {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    (key, csr)
}

pub(crate) fn client(data: &Path, identity: Option<Identity>) -> Client {
    let ca = std::fs::read(data.join("ca.pem")).unwrap();
    let mut builder = Client::builder().no_proxy().tls_certs_only([Certificate::from_pem(&ca).unwrap()]);
    if let Some(identity) = identity {
        builder = builder.identity(identity);
    }
    builder.build().unwrap()
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    (status, body)
}

impl Territory {
    pub(crate) fn request(&self, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.post(format!("{}/conduits/v1{path}", self.url));
        if self.header { request.header("x-nexus-territory-id", &self.id) } else { request }
    }

    pub(crate) async fn call(&self, path: &str, body: Value) -> Answer {
        answer(self.request(path).json(&body)).await
    }

    pub(crate) async fn heartbeat(&self, body: Value) -> Answer {
        self.call("/territories/heartbeat", body).await
    }

    pub(crate) async fn may_run(&self, max_concurrent: u32) {
        let body = json!({ "capacity": { "max_concurrent": max_concurrent } });
        assert_eq!(self.heartbeat(body).await.0, StatusCode::OK);
    }

    pub(crate) fn poll_request(&self, wait: Option<u64>, body: &Value) -> reqwest::RequestBuilder {
        let mut request = self.request("/polls").json(body);
        if let Some(wait) = wait {
            request = request.header("prefer", format!("wait={wait}"));
        }
        request
    }

    pub(crate) async fn poll(&self, max: u8) -> Vec<Lease> {
        let body = json!({ "supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": max });
        leases(answer(self.poll_request(None, &body)).await)
    }

    /// Claims the one directive there is.
    pub(crate) async fn one(&self) -> Lease {
        let mut found = self.poll(1).await;
        assert_eq!(found.len(), 1);
        found.remove(0)
    }

    pub(crate) async fn report(&self, lease: &Lease, what: &str, body: Value) -> Answer {
        let path = format!("/directives/{}/{what}", lease.id);
        answer(self.request(&path).bearer_auth(&lease.token).json(&body)).await
    }

    pub(crate) async fn started(&self, lease: &Lease) -> Answer {
        self.report(lease, "started", json!({ "nexus_version": "1", "sandbox_version": "2" })).await
    }

    pub(crate) async fn chunk(&self, lease: &Lease, stream: &str, seq: u64, bytes: &[u8]) -> Answer {
        self.report(lease, "log_chunks", chunk_body(stream, seq, bytes)).await
    }

    pub(crate) async fn finished(&self, lease: &Lease) -> Answer {
        self.report(lease, "finished", json!({ "status": "succeeded", "exit_code": 0 })).await
    }
}

pub(crate) fn chunk_body(stream: &str, seq: u64, bytes: &[u8]) -> Value {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.encode(bytes);
    json!({ "stream": stream, "seq": seq, "bytes": bytes })
}

pub(crate) fn leases((status, answer): Answer) -> Vec<Lease> {
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["directives"]
        .as_array()
        .unwrap()
        .iter()
        .map(|lease| Lease {
            id: lease["directive_id"].as_str().unwrap().to_owned(),
            token: lease["directive_token"].as_str().unwrap().to_owned(),
            spec: lease["spec"].clone(),
        })
        .collect()
}

/// Status and error code of a refusal.
pub(crate) fn refusal((status, body): Answer) -> (u16, String) {
    (status.as_u16(), body["error"].as_str().unwrap_or("no error code").to_owned())
}

pub(crate) fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}
