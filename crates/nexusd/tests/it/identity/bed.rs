//! A control plane over TLS as a process, its administrator, and daemons that are enrolled at it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Certificate, Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::{Output, Process, WorkDir, free_port};

use crate::bed::{SOON, nexusd};

/// A control plane and its files.
pub(crate) struct Mothership {
    process: Process,
    pub(crate) url: String,
    pub(crate) data: PathBuf,
    client: reqwest::Client,
    token: String,
}

pub(crate) fn mothership_program() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_nexusd")).with_file_name("mothership");
    assert!(program.exists(), "{} is not built: cargo build -p mothership", program.display());
    program
}

impl Mothership {
    pub(crate) fn start(dir: &WorkDir, options: &[&str]) -> Self {
        Self::start_with(dir, options, &[])
    }

    pub(crate) fn start_with(dir: &WorkDir, options: &[&str], environment: &[(&str, &str)]) -> Self {
        let data = dir.join("mothership");
        let mut command = Command::new(mothership_program());
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).args(options);
        command.envs(environment.iter().copied());
        let process = Process::start(&mut command);
        let ready = process.wait_for_line(Output::Stdout, "mothership ready on ", SOON);
        let url = ready.rsplit(' ').next().unwrap().to_owned();
        let token = std::fs::read_to_string(data.join("admin-token")).unwrap().trim().to_owned();
        let ca = Certificate::from_pem(&std::fs::read(data.join("ca.pem")).unwrap()).unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(SOON).tls_certs_only([ca]).build().unwrap();
        Self { process, url, data, client, token }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it by SIGABRT; its database and its log, and what it said.
    pub(crate) fn abort(mut self) -> (Vec<u8>, String) {
        self.process.signal(Signal::ABORT);
        self.process.wait(SOON);
        let file = |name: &str| std::fs::read(self.data.join(name)).unwrap_or_default();
        let said = self.process.text(Output::Stderr) + &self.process.text(Output::Stdout);
        ([file("mothership.db"), file("mothership.db-wal")].concat(), said)
    }

    /// A call of the user API as the administrator.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (StatusCode, Value) {
        let mut request = self.client.request(method, format!("{}/api/v1{path}", self.url)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await.1
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(Method::POST, path, Some(body)).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    pub(crate) async fn enroll_token(&self) -> String {
        self.post("/enrollment-tokens", json!({})).await["token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn queue(&self, profile: &str, command: &str) -> String {
        let facility = self.post("/facilities", json!({})).await;
        let body = json!({ "facility_id": facility["id"], "sandbox_profile": profile, "command": command });
        self.post("/directives", body).await["id"].as_str().unwrap().to_owned()
    }

    /// The directive once `is_so` of its state.
    pub(crate) async fn once(&self, id: &str, within: Duration, is_so: impl Fn(&str) -> bool) -> Value {
        let end = Instant::now() + within;
        loop {
            let directive = self.get(&format!("/directives/{id}")).await;
            if is_so(directive["state"].as_str().unwrap()) {
                return directive;
            }
            assert!(Instant::now() < end, "{directive:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) async fn ended(&self, id: &str, within: Duration) -> Value {
        self.once(id, within, |state| !["queued", "leased", "running"].contains(&state)).await
    }

    /// Standard output as a reader puts it together.
    pub(crate) async fn stdout(&self, id: &str) -> String {
        let (mut all, mut from) = (Vec::new(), 0);
        loop {
            let page = self.get(&format!("/directives/{id}/logs?stream=stdout&from_seq={from}")).await;
            let chunks = page["chunks"].as_array().unwrap();
            if chunks.is_empty() {
                return String::from_utf8(all).unwrap();
            }
            for chunk in chunks {
                assert_eq!(chunk["missing"], 0, "{chunk}");
                all.extend(STANDARD.decode(chunk["bytes"].as_str().unwrap()).unwrap());
            }
            from = page["next_seq"].as_u64().unwrap();
        }
    }
}

/// A host that is enrolled.
pub(crate) struct Host {
    pub(crate) dir: WorkDir,
    pub(crate) territory: String,
    /// Of `/metrics` and `/readyz`.
    observed: u16,
    environment: Vec<(&'static str, String)>,
}

/// How a host reaches its control plane.
#[derive(Default)]
pub(crate) struct Way<'w> {
    /// Where, if not directly.
    pub(crate) url: Option<&'w str>,
    /// Whom it trusts, if not the control plane's own authority.
    pub(crate) ca_file: Option<&'w Path>,
    /// Further lines of the configuration.
    pub(crate) keys: &'w str,
    /// Of the daemon and of the enrolment.
    pub(crate) environment: Vec<(&'static str, String)>,
}

impl Host {
    /// Enrols by the command line, the token on standard input.
    pub(crate) async fn enrol(mothership: &Mothership, way: Way<'_>) -> Self {
        let dir = WorkDir::new();
        let observed = free_port();
        let (url, keys) = (way.url.unwrap_or(&mothership.url), way.keys);
        let ca_file = way.ca_file.map_or_else(|| dir.join("c/ca.pem"), Path::to_path_buf);
        let config = format!(
            "server_url: \"{url}\"\nwork_dir: ./w\nmin_free_bytes: 0\nsupported_sandbox_profiles: [untrusted, host]\n\
             max_concurrent_directives: 4\nobservability: {{enabled: true, listen_addr: \"127.0.0.1:{observed}\"}}\n\
             tls: {{ca_file: {}, client_cert_file: ./c/client.pem, client_key_file: ./c/client-key.pem}}\n{keys}",
            ca_file.display()
        );
        dir.write("config.yaml", config);
        let mut host = Self { dir, territory: String::new(), observed, environment: way.environment };
        let first_trust = way.ca_file.map(|file| ["--ca-file".to_owned(), file.display().to_string()]);
        let options: Vec<&str> = first_trust.iter().flatten().map(String::as_str).collect();
        let enrolled = host.enrol_again(&mothership.enroll_token().await, &options);
        host.territory = enrolled["territory_id"].as_str().unwrap().to_owned();
        host
    }

    /// nexusd with the host's environment.
    pub(crate) fn nexusd(&self) -> Command {
        let mut command = nexusd();
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Enrols with this token; what the line on standard output says.
    pub(crate) fn enrol_again(&self, token: &str, options: &[&str]) -> Value {
        let mut command = self.nexusd();
        command.arg("-config").arg(self.config()).args(["--enroll-token-file", "-", "-enroll-out-dir"]);
        command.arg(self.dir.join("c")).args(options).stdin(Stdio::piped());
        let mut process = Process::start(&mut command);
        std::io::Write::write_all(&mut process.take_stdin().unwrap(), format!("{token}\n").as_bytes()).unwrap();
        let status = process.wait(SOON);
        assert!(status.success(), "{}", process.text(Output::Stderr));
        serde_json::from_str(&process.text(Output::Stdout)).unwrap()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("config.yaml")
    }

    pub(crate) fn daemon(&self) -> Process {
        crate::bed::start_by(self.nexusd(), &self.dir)
    }

    /// What one of the daemon's endpoints answers: status and body.
    pub(crate) async fn observe(&self, path: &str) -> (u16, String) {
        let client = reqwest::Client::builder().no_proxy().timeout(SOON).tls_certs_only([]).build().unwrap();
        let answer = client.get(format!("http://127.0.0.1:{}{path}", self.observed)).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// When the certificate in use ends, as the metrics say.
    pub(crate) async fn expiry(&self) -> i64 {
        let page = self.observe("/metrics").await.1;
        let line = page.lines().find_map(|line| line.strip_prefix("nexusd_client_cert_expiry_seconds "));
        line.unwrap().parse().unwrap()
    }

    /// The pair that the daemon renewed last.
    pub(crate) fn renewed(&self) -> PathBuf {
        self.dir.join("w/.nexus/credentials/current")
    }
}

/// A client with the host's own pair.
pub(crate) fn as_host(host: &Host, ca: &str) -> reqwest::Client {
    let pem = format!("{}{}", read(host.dir.join("c/client.pem")), read(host.dir.join("c/client-key.pem")));
    let ca = Certificate::from_pem(ca.as_bytes()).unwrap();
    let client = reqwest::Client::builder().no_proxy().timeout(SOON * 2).tls_certs_only([ca]);
    client.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap()).build().unwrap()
}

/// Reloads the daemon and waits until it says so.
pub(crate) fn reload(daemon: &Process) {
    daemon.signal(Signal::HUP);
    drop(daemon.wait_for_line(Output::Stderr, "reloaded: ", SOON));
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}
