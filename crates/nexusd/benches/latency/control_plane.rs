//! The control plane and the daemon enrolled with it, used through the user API as any client would.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};

use crate::processes::{Files, Process, await_file, command, output};

/// Directives that the daemon runs at the same time.
pub(crate) const SLOTS: usize = 5;

/// How long one directive may take, its log included.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running system.
pub(crate) struct System {
    // Dropped in this order: the daemon while its control plane still listens.
    pub(crate) daemon: Process,
    _mothership: Process,
    client: Client,
    url: String,
    token: String,
    files: Files,
}

/// A directive that has ended.
pub(crate) struct Ended {
    pub(crate) queued: Timestamp,
    pub(crate) leased: Timestamp,
    pub(crate) finished: Timestamp,
    pub(crate) id: String,
}

impl Ended {
    pub(crate) fn lease_to_end(&self) -> Duration {
        between(self.leased, self.finished)
    }

    pub(crate) fn queue_to_lease(&self) -> Duration {
        between(self.queued, self.leased)
    }
}

/// From one moment to a later one.
pub(crate) fn between(earlier: Timestamp, later: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).expect("timestamps in order")
}

impl System {
    /// Starts both processes and enrols the daemon, for the profiles that need nothing but this machine.
    pub(crate) fn start(nexusd: &Path, mothership: &Path) -> Self {
        Self::start_with(nexusd, mothership, "supported_sandbox_profiles: [untrusted, host]", &[])
    }

    /// The same with these lines of configuration and variables of the daemon's.
    pub(crate) fn start_with(nexusd: &Path, mothership: &Path, keys: &str, variables: &[(String, String)]) -> Self {
        let files = Files::new();
        let data = files.at("mothership");
        let data_text = data.to_str().unwrap();
        let serve = ["serve", "--data-dir", data_text, "--listen", "127.0.0.1:0"];
        let control = Process::start(&mut command(mothership, &serve), &files.at("mothership.log"));
        let url = await_file(&data.join("address"), "mothership");
        let enroll_token = output(&mut command(mothership, &["enroll-token", "create", "--data-dir", data_text]));
        fs::write(files.at("enroll-token"), enroll_token).unwrap();
        let config = files.at("nexusd.yaml");
        let home = files.home.path().display();
        fs::write(
            &config,
            format!(
                "server_url: {url}\n\
                 name: bench\n\
                 work_dir: {home}/facilities\n\
                 {keys}\n\
                 max_concurrent_directives: {SLOTS}\n\
                 poll: {{ max_directives_to_claim: {SLOTS} }}\n\
                 tls:\n  \
                   ca_file: {home}/credentials/ca.pem\n  \
                   client_cert_file: {home}/credentials/client.pem\n  \
                   client_key_file: {home}/credentials/client-key.pem\n"
            ),
        )
        .unwrap();
        let config = config.to_str().unwrap();
        let credentials = files.at("credentials");
        let enroll_token = files.at("enroll-token");
        let mut words = vec!["-config", config, "--enroll-token-file", enroll_token.to_str().unwrap()];
        words.extend(["-enroll-out-dir", credentials.to_str().unwrap()]);
        output(&mut command(nexusd, &words));
        let mut daemon = command(nexusd, &["-config", config]);
        daemon.envs(variables.iter().map(|(name, value)| (name, value)));
        let daemon = Process::start(&mut daemon, &files.at("nexusd.log"));
        let ca = Certificate::from_pem(&fs::read(data.join("ca.pem")).unwrap()).unwrap();
        let client = Client::builder().tls_certs_only([ca]).timeout(PATIENCE).no_proxy().build().unwrap();
        let token = fs::read_to_string(data.join("admin-token")).unwrap().trim().to_owned();
        Self { daemon, _mothership: control, client, url, token, files }
    }

    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> String {
        let mut request = self.client.request(method, format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        text
    }

    /// A new facility's id.
    pub(crate) async fn facility(&self) -> String {
        let answer = self.call(Method::POST, "/facilities", Some(json!({}))).await;
        serde_json::from_str::<Value>(&answer).unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Queues a directive and returns its id.
    pub(crate) async fn queue(&self, facility: &str, profile: &str, command: &str) -> String {
        let body = json!({ "facility_id": facility, "sandbox_profile": profile, "command": command });
        let answer = self.call(Method::POST, "/directives", Some(body)).await;
        serde_json::from_str::<Value>(&answer).unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// Waits for a directive's end without asking again and again: its live log ends with it.
    pub(crate) async fn ended(&self, id: &str) -> Ended {
        self.call(Method::GET, &format!("/directives/{id}/logs/stream"), None).await;
        let answer = self.call(Method::GET, &format!("/directives/{id}"), None).await;
        let view: Value = serde_json::from_str(&answer).unwrap();
        assert_eq!(view["state"], "succeeded", "{view:#}");
        let at = |name: &str| view[name].as_str().unwrap().parse::<Timestamp>().unwrap();
        Ended { queued: at("queued_at"), leased: at("leased_at"), finished: at("finished_at"), id: id.to_owned() }
    }

    /// Where the daemon keeps its facilities.
    pub(crate) fn work_dir(&self) -> PathBuf {
        self.files.at("facilities")
    }

    /// Asks for a directive's cancel.
    pub(crate) async fn cancel(&self, id: &str) {
        self.call(Method::POST, &format!("/directives/{id}/cancel"), Some(json!({}))).await;
    }

    /// Waits for a directive's end, whatever it is.
    pub(crate) async fn gone(&self, id: &str) {
        self.call(Method::GET, &format!("/directives/{id}/logs/stream"), None).await;
    }

    /// Queues a directive and waits for its end.
    pub(crate) async fn run(&self, facility: &str, profile: &str, command: &str) -> Ended {
        let id = self.queue(facility, profile, command).await;
        self.ended(&id).await
    }

    /// The first chunk of a directive's standard output: what it says, and when it came.
    pub(crate) async fn first_output(&self, id: &str) -> (String, Timestamp) {
        let answer = self.call(Method::GET, &format!("/directives/{id}/logs?stream=stdout"), None).await;
        let page: Value = serde_json::from_str(&answer).unwrap();
        let chunk = &page["chunks"][0];
        let bytes = STANDARD.decode(chunk["bytes"].as_str().unwrap()).unwrap();
        (String::from_utf8(bytes).unwrap(), chunk["received_at"].as_str().unwrap().parse().unwrap())
    }
}
