//! Through an nginx that terminates mutual TLS, with the configuration that the operating guide gives.

use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{Output, Process, TestCa, WorkDir, free_port, require, wait_for_port};

use super::bed::{Host, Mothership, Way, as_host, mothership_program, read};
use crate::bed::SOON;

/// The documented configuration with this test's places.
fn nginx(dir: &WorkDir, mothership: &Mothership, authority: &TestCa) -> (Process, String) {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/edge");
    let port = free_port();
    let address = mothership.url.trim_start_matches("https://");
    let pair = authority.server(&["mothership.example.com", "127.0.0.1"]);
    dir.write("edge/server.pem", pair.certificate);
    dir.write("edge/server-key.pem", pair.key);
    dir.write("edge/nexus-ca.pem", read(mothership.data.join("ca.pem")));
    dir.write("edge/nexus.js", read(format!("{docs}/nexus.js")));
    let edge = dir.join("edge");
    let mut config = read(format!("{docs}/nginx.conf"));
    for (documented, here) in [
        ("load_module modules/", "load_module /usr/lib/nginx/modules/".to_owned()),
        ("worker_processes auto;", "worker_processes 1; user root;".to_owned()),
        ("/run/nginx.pid", format!("{}/nginx.pid", edge.display())),
        ("/var/log/nginx/error.log warn", "stderr warn".to_owned()),
        ("access_log /var/log/nginx/access.log;", "access_log off;".to_owned()),
        ("/etc/nginx/", format!("{}/", edge.display())),
        ("server 127.0.0.1:3000;", format!("server {address};")),
        ("listen 443 ssl http2;", format!("listen 127.0.0.1:{port} ssl http2;")),
    ] {
        assert!(config.contains(documented), "{documented} is not in the documented configuration");
        config = config.replace(documented, &here);
    }
    let file = dir.write("edge/nginx.conf", config);
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&edge).arg("-c").arg(file).args(["-e", "stderr", "-g", "daemon off;"]);
    let process = Process::start(command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"));
    wait_for_port(([127, 0, 0, 1], port).into(), SOON);
    (process, format!("https://127.0.0.1:{port}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_are_held_and_logs_are_live_through_an_edge_that_names_the_certificate() {
    require!(Root, Nginx, Bwrap);
    let dir = WorkDir::new();
    let mothership = Mothership::start(&dir, &["--auth-mode", "header", "--trusted-proxy", "127.0.0.1/32"]);
    let authority = TestCa::new();
    let edge_ca = dir.write("edge-ca.pem", authority.pem());
    let (nginx, url) = nginx(&dir, &mothership, &authority);
    let way = || Way { url: Some(&url), ca_file: Some(&edge_ca), ..Way::default() };
    let (host, other) = (Host::enrol(&mothership, way()).await, Host::enrol(&mothership, way()).await);
    let conduits = format!("{url}/conduits/v1");
    let client = as_host(&host, &authority.pem());

    // Whatever a client says it is, its certificate says who it is; and without one nobody is anybody.
    let victim = conduits::Fingerprint::of_der(&der(&read(other.dir.join("c/client.pem")))).to_string();
    let beat = |client: &reqwest::Client| {
        let request = client.post(format!("{conduits}/territories/heartbeat")).json(&json!({}));
        request.header("x-nexus-client-cert-fingerprint", &victim).header("x-nexus-territory-id", &other.territory)
    };
    let seen: Value = beat(&client).send().await.unwrap().json().await.unwrap();
    assert_eq!(seen["territory_id"], json!(host.territory));
    let edge_ca_of = || reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let nobody = reqwest::Client::builder().no_proxy().tls_certs_only([edge_ca_of()]).build().unwrap();
    assert_eq!(beat(&nobody).send().await.unwrap().status(), 401);
    let stranger = authority.client("stranger");
    let stranger = format!("{}{}", stranger.certificate, stranger.key);
    let stranger = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([edge_ca_of()])
        .identity(reqwest::Identity::from_pem(stranger.as_bytes()).unwrap())
        .build()
        .unwrap();
    assert_eq!(beat(&stranger).send().await.unwrap().status(), 400);

    // A poll is held until its time is up, and answered the moment there is work.
    let poll = |wait: &str| {
        let body = json!({ "supported_sandbox_profiles": ["host"], "max_directives_to_claim": 1 });
        client.post(format!("{conduits}/polls")).header("prefer", wait).json(&body).send()
    };
    let began = Instant::now();
    let empty = poll("wait=2").await.unwrap();
    assert_eq!(empty.headers()["preference-applied"], "wait");
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
    let (held, queued) = tokio::join!(poll("wait=30"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        (mothership.queue("host", "true").await, Instant::now())
    });
    assert!(queued.1.elapsed() < Duration::from_secs(5), "{:?}", queued.1.elapsed());
    let held: Value = held.unwrap().json().await.unwrap();
    assert_eq!(held["directives"][0]["directive_id"], json!(queued.0));
    mothership.call(Method::POST, &format!("/directives/{}/cancel", queued.0), Some(json!({}))).await;
    mothership.post(&format!("/territories/{}/disable", other.territory), json!({})).await;

    // A whole directive, its log read live through the edge.
    let daemon = host.daemon();
    let id = mothership.queue("untrusted", "echo first; while [ ! -e go ]; do sleep 0.02; done; echo second").await;
    let directive = mothership.once(&id, SOON, |state| state == "running").await;
    let mut follow = Command::new(mothership_program());
    follow
        .args(["--server", &url, "--ca-file"])
        .arg(&edge_ca)
        .arg("--token-file")
        .arg(mothership.data.join("admin-token"));
    let mut follow = Process::spawn(follow.args(["logs", "-f", &id]));
    drop(follow.wait_for_line(Output::Stdout, "first", SOON));
    assert_eq!(mothership.get(&format!("/directives/{id}")).await["state"], "running");
    let facility = directive["facility_id"].as_str().unwrap();
    std::fs::write(host.dir.join("w").join(facility).join("go"), "").unwrap();
    assert!(follow.wait(SOON).success(), "{}", follow.text(Output::Stderr));
    assert_eq!(follow.text(Output::Stdout), "first\nsecond\n");
    assert_eq!(mothership.ended(&id, SOON).await["state"], "succeeded");
    assert_eq!(host.observe("/readyz").await.0, 200);

    // Revoked, at once, on the edge's kept connections, too.
    mothership.post(&format!("/territories/{}/disable", host.territory), json!({})).await;
    drop(daemon.wait_for_line(Output::Stderr, "territory_disabled", Duration::from_secs(5)));
    drop(nginx);
}

fn der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}
