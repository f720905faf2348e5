//! A real control plane as a process, and a user of it.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::{Output, Process, WorkDir};

use crate::bed::SOON;
use crate::wall::WallClock;

/// A control plane, its files, and its administrator.
pub(crate) struct Mothership {
    process: Process,
    pub(crate) url: String,
    data: PathBuf,
    lease_ttl: u64,
    clock: Option<WallClock>,
    token: String,
    client: reqwest::Client,
}

impl Mothership {
    pub(crate) fn start(dir: &WorkDir, lease_ttl: u64, clock: Option<WallClock>) -> Self {
        let data = dir.join("mothership");
        let (process, url) = serve(&data, "127.0.0.1:0", lease_ttl, clock.as_ref());
        let token = std::fs::read_to_string(data.join("admin-token")).unwrap().trim().to_owned();
        let client = reqwest::Client::builder().no_proxy().timeout(SOON).build().unwrap();
        Self { process, url, data, lease_ttl, clock, token, client }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait(SOON);
    }

    /// On the same address again.
    pub(crate) fn start_again(&mut self) {
        let address = self.url.strip_prefix("http://").unwrap().to_owned();
        (self.process, self.url) = serve(&self.data, &address, self.lease_ttl, self.clock.as_ref());
    }

    /// A call of the user API, made again while the control plane is not there.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}/api/v1{path}", self.url);
        for _ in 0..100 {
            let mut request = self.client.request(method.clone(), &url).bearer_auth(&self.token);
            if let Some(body) = &body {
                request = request.json(body);
            }
            let Ok(answer) = request.send().await else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let status = answer.status();
            let text = answer.text().await.unwrap();
            assert!(status.is_success(), "{method} {path}: {status} {text}");
            return serde_json::from_str(&text).unwrap();
        }
        panic!("{method} {path}: nobody answers");
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await
    }

    /// The day that it says it is, in the head of its answers.
    pub(crate) async fn date(&self) -> String {
        let answer = self.client.get(format!("{}/api/v1/facilities", self.url)).send().await.unwrap();
        answer.headers()["date"].to_str().unwrap().to_owned()
    }

    /// A territory of its own, by name: the control plane believes whoever says to be it.
    pub(crate) async fn territory(&self) -> String {
        let token = self.call(Method::POST, "/enrollment-tokens", Some(json!({}))).await;
        let body = json!({ "enroll_token": token["token"], "name": "chaos" });
        let url = format!("{}/conduits/v1/territories/enroll", self.url);
        let answer: Value = self.client.post(url).json(&body).send().await.unwrap().json().await.unwrap();
        answer["territory_id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn facility(&self, territory: &str) -> String {
        let made = self.call(Method::POST, "/facilities", Some(json!({ "territory_id": territory }))).await;
        made["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn queue(&self, facility: &str, profile: &str, command: &str) -> String {
        let body = json!({ "facility_id": facility, "sandbox_profile": profile, "command": command });
        self.call(Method::POST, "/directives", Some(body)).await["id"].as_str().unwrap().to_owned()
    }

    /// The same, for an output of up to `most` bytes.
    pub(crate) async fn queue_with(&self, facility: &str, command: &str, most: u64) -> String {
        let limits = json!({ "max_output_bytes": most });
        let body = json!({ "facility_id": facility, "command": command, "limits": limits });
        self.call(Method::POST, "/directives", Some(body)).await["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn directive(&self, id: &str) -> Value {
        self.get(&format!("/directives/{id}")).await
    }

    /// The directives that somebody holds a lease of.
    pub(crate) async fn held(&self) -> Vec<String> {
        let mut held = Vec::new();
        for state in ["leased", "running"] {
            let page = self.get(&format!("/directives?state={state}&limit=200")).await;
            held.extend(page["directives"].as_array().unwrap().iter().map(|d| d["id"].as_str().unwrap().to_owned()));
        }
        held
    }

    /// A stream as a reader puts it together.
    pub(crate) async fn log(&self, id: &str, stream: &str) -> Vec<u8> {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let page = self.get(&format!("/directives/{id}/logs?stream={stream}&from_seq={from}")).await;
            let chunks = page["chunks"].as_array().unwrap();
            if chunks.is_empty() {
                return all;
            }
            for chunk in chunks {
                assert_eq!(chunk["missing"], 0, "{id} {stream}: chunks are missing: {chunk}");
                all.extend(STANDARD.decode(chunk["bytes"].as_str().unwrap()).unwrap());
            }
            from = page["next_seq"].as_u64().unwrap();
        }
    }
}

fn serve(data: &std::path::Path, listen: &str, lease_ttl: u64, clock: Option<&WallClock>) -> (Process, String) {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_nexusd")).with_file_name("mothership");
    assert!(program.exists(), "{} is not built: cargo build -p mothership", program.display());
    let mut command = Command::new(program);
    command.args(["serve", "--dev", "--listen", listen, "--lease-ttl-seconds", &lease_ttl.to_string(), "--data-dir"]);
    command.arg(data);
    if let Some(clock) = clock {
        clock.wear(&mut command);
    }
    let process = Process::start(&mut command);
    let ready = process.wait_for_line(Output::Stdout, "mothership ready on ", SOON);
    let url = ready.rsplit(' ').next().unwrap().to_owned();
    (process, url)
}
