//! No secret where it could be read by somebody else: in logs, arguments, error bodies, pages or what a crash leaves.

use std::collections::BTreeMap;
use std::process::Command;

use rustix::process::Signal;
use serde_json::json;
use testkit::{Output, WorkDir, require};

use super::bed::{Host, Mothership, Way, as_host, mothership_program, read};
use super::proxy::{PASSWORD, tinyproxy};
use crate::bed::SOON;

/// What was seen, by where.
#[derive(Default)]
struct Seen(BTreeMap<String, String>);

impl Seen {
    fn add(&mut self, place: &str, text: impl Into<String>) {
        self.0.entry(place.to_owned()).or_default().push_str(&text.into());
    }

    /// The arguments of this process and of all beneath it.
    fn arguments(&mut self, pid: u32) {
        let text = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        self.add("arguments", text("cmdline").replace('\0', " "));
        for child in text(&format!("task/{pid}/children")).split_whitespace() {
            self.arguments(child.parse().unwrap());
        }
    }
}

/// The base64 of a private key, line by line: any of them is as good as the key.
fn key_lines(pem: &str) -> Vec<String> {
    pem.lines().filter(|line| line.len() > 20 && !line.starts_with('-')).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_logs_arguments_error_bodies_pages_or_a_crash() {
    require!(Root, Tinyproxy, Bwrap);
    let dir = WorkDir::new();
    let options = ["--tls-name", "mothership.test", "--client-certificate-seconds", "152"];
    let mothership = Mothership::start_with(&dir, &options, &[("MOTHERSHIP_LOG", "trace"), ("RUST_BACKTRACE", "full")]);
    let (_proxy, port, _) = tinyproxy(&dir);
    let url = mothership.url.replace("127.0.0.1", "mothership.test");
    let keys = format!(
        "proxy_url: \"http://operator:{PASSWORD}@127.0.0.1:{port}\"\nlog_level: trace\nheartbeat: {{interval: 200ms}}\n"
    );
    let environment = vec![("RUST_BACKTRACE", "full".to_owned())];
    let host = Host::enrol(&mothership, Way { url: Some(&url), keys: &keys, environment, ..Way::default() }).await;
    let mut seen = Seen::default();
    let daemon = host.daemon();

    // Work, a renewal, and another token for the same host.
    let id = mothership.queue("untrusted", "env; cat /proc/*/cmdline | tr '\\0' ' '; sleep 1").await;
    mothership.once(&id, SOON, |state| state == "running").await;
    seen.arguments(daemon.id());
    seen.arguments(mothership.id());
    drop(daemon.wait_for_line(Output::Stderr, "the client certificate was renewed", SOON));
    mothership.ended(&id, SOON).await;
    seen.add("a command's output", mothership.stdout(&id).await);
    let spare = mothership.enroll_token().await;
    let made = mothership.post("/api-tokens", json!({ "name": "spare", "scope": "read" })).await;

    // What goes wrong, told to whoever asked.
    let client = as_host(&host, &read(host.dir.join("c/ca.pem")));
    let enroll = format!("{}/conduits/v1/territories/enroll", mothership.url);
    let key = read(host.dir.join("c/client-key.pem"));
    for body in [
        json!({ "enroll_token": spare, "csr_pem": key }).to_string(),
        json!({ "enroll_token": spare, "name": "x".repeat(200) }).to_string(),
        json!({ "enroll_token": format!("{spare}x") }).to_string(),
        json!({ "enroll_token": [spare] }).to_string(),
        format!("{{\"enroll_token\": \"{spare}\", }}"),
        spare.clone(),
    ] {
        let answer = client.post(&enroll).body(body).send().await.unwrap();
        assert!(answer.status().is_client_error());
        seen.add("error bodies", answer.text().await.unwrap());
    }
    let admin = read(mothership.data.join("admin-token")).trim().to_owned();
    for (path, token) in [
        (format!("/api/v1/facilities?{admin}=1"), admin.clone()),
        (format!("/conduits/v1/directives/{id}/started"), spare.clone()),
        ("/nowhere".to_owned(), admin.clone()),
    ] {
        let request = client.post(format!("{}{path}", mothership.url)).bearer_auth(token).body("{");
        let answer = request.send().await.unwrap();
        // What a caller puts into an address is his own doing, and his alone to read.
        let text = answer.text().await.unwrap();
        seen.add("error bodies", if path.contains('?') { text.replace(&admin, "") } else { text });
    }
    // A token that was spent, on the command line of all places, and a server that is not there.
    let run = |words: &[&str]| {
        let output = host.nexusd().args(words).current_dir(host.dir.path()).output().unwrap();
        [output.stdout, output.stderr].concat()
    };
    for words in [
        &["-config", "config.yaml", "-enroll-token", &spare, "-enroll-out-dir", "c"][..],
        &["-config", "config.yaml", "-enroll-token", &format!("{spare} {spare}"), "-enroll-out-dir", "d"],
        &["-config", "config.yaml", "-doctor"],
        &["doctor", "--json", "-config", "config.yaml"],
        &["config", "check", "-config", "config.yaml"],
    ] {
        seen.add("what commands say", String::from_utf8_lossy(&run(words)));
    }
    let list =
        Command::new(mothership_program()).arg("--data-dir").arg(&mothership.data).args(["api-token", "list"]).output();
    seen.add("what commands say", String::from_utf8_lossy(&list.unwrap().stdout));
    for page in ["/metrics", "/readyz", "/healthz"] {
        seen.add("pages", host.observe(page).await.1);
    }
    for page in
        ["/audit-events?limit=500", "/enrollment-tokens", "/api-tokens", "/territories", &format!("/directives/{id}")]
    {
        seen.add("pages", mothership.get(page).await.to_string());
    }

    let authority_key = key_lines(&read(mothership.data.join("ca-key.pem")));
    // The worst end.
    let mut daemon = daemon;
    daemon.signal(Signal::ABORT);
    daemon.wait(SOON);
    seen.add("nexusd's log", daemon.text(Output::Stderr) + &daemon.text(Output::Stdout));
    let (database, log) = mothership.abort();
    seen.add("mothership's log", log);
    for place in ["nexusd's log", "mothership's log", "a command's output", "pages", "error bodies", "arguments"] {
        assert!(seen.0[place].len() > 50, "nothing was seen in {place}: {:?}", seen.0[place]);
    }

    // What must be in none of it.
    let mut secrets: Vec<(String, String)> = vec![
        ("the administrator's token".to_owned(), admin),
        ("an API token".to_owned(), made["token"].as_str().unwrap().to_owned()),
        ("an enrolment token".to_owned(), spare.split('.').nth(1).unwrap().to_owned()),
        ("the proxy's password".to_owned(), PASSWORD.to_owned()),
    ];
    let renewed = host.renewed().join("client-key.pem");
    secrets.extend(authority_key.into_iter().map(|line| ("the authority's key".to_owned(), line)));
    for (whose, file) in [("the enrolled key", host.dir.join("c/client-key.pem")), ("the renewed key", renewed)] {
        let lines = key_lines(&read(file));
        assert!(!lines.is_empty());
        secrets.extend(lines.into_iter().map(|line| (whose.to_owned(), line)));
    }
    for (place, text) in &seen.0 {
        for (what, secret) in &secrets {
            assert!(!text.contains(secret), "{what} is in {place}");
        }
        // A directive token is a JWT: no text that begins like one has a signature behind it.
        let tokens: Vec<&str> = text.split(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c))).collect();
        let token = tokens.iter().find(|word| word.starts_with("eyJ") && word.matches('.').count() == 2);
        assert_eq!(token, None, "a directive token is in {place}");
        assert!(!text.contains("PRIVATE KEY-----\nM") && !text.contains("PRIVATE KEY-----\\nM"), "a key is in {place}");
    }
    // The database keeps digests alone.
    for (what, secret) in &secrets {
        assert!(!database.windows(secret.len()).any(|part| part == secret.as_bytes()), "{what} is in the database");
    }
    // Nothing was left where a crash would leave it.
    for folder in [host.dir.path(), dir.path(), &host.dir.join("w")] {
        let cores = std::fs::read_dir(folder)
            .unwrap()
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("core"));
        assert_eq!(cores.count(), 0, "a memory image in {}", folder.display());
    }
}
