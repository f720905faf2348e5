//! Through an HTTP proxy that tunnels (`CONNECT`), with a password, to a name that only the proxy knows.

use std::process::Command;

use testkit::{Process, WorkDir, free_port, require, wait_for_port};

use super::bed::{Host, Mothership, Way, read};
use crate::bed::SOON;

/// tinyproxy that knows `mothership.test`, and its log.
pub(crate) fn tinyproxy(dir: &WorkDir) -> (Process, u16, std::path::PathBuf) {
    let port = free_port();
    let log = dir.join("tinyproxy.log");
    let hosts = dir.write("hosts", "127.0.0.1 localhost mothership.test\n");
    let config = format!(
        "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 60\nLogLevel Info\nLogFile \"{}\"\n\
         BasicAuth operator {PASSWORD}\n",
        log.display()
    );
    let config = dir.write("tinyproxy.conf", config);
    let script = r#"mount --bind "$1" /etc/hosts && exec tinyproxy -d -c "$2""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(hosts).arg(config);
    let process = Process::spawn(&mut command);
    wait_for_port(([127, 0, 0, 1], port).into(), SOON);
    (process, port, log)
}

pub(crate) const PASSWORD: &str = "correct-horse-battery";

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_work_and_doctor_go_through_the_proxy_that_is_named() {
    require!(Root, Tinyproxy, Bwrap);
    let dir = WorkDir::new();
    let mothership = Mothership::start(&dir, &["--tls-name", "mothership.test"]);
    let (proxy, port, log) = tinyproxy(&dir);
    let by = format!("http://operator:{PASSWORD}@127.0.0.1:{port}");
    let url = mothership.url.replace("127.0.0.1", "mothership.test");
    let key = format!("proxy_url: \"{by}\"\n");
    // By the configuration, and by the environment.
    let ways = [
        Way { url: Some(&url), keys: &key, ..Way::default() },
        Way { url: Some(&url), environment: vec![("HTTPS_PROXY", by.clone())], ..Way::default() },
    ];
    for way in ways {
        let before = read(&log).matches("CONNECT mothership.test:").count();
        let host = Host::enrol(&mothership, way).await;
        assert!(read(&log).matches("CONNECT mothership.test:").count() > before, "{}", read(&log));
        let daemon = host.daemon();
        let id = mothership.queue("untrusted", "echo through").await;
        assert_eq!(mothership.ended(&id, SOON).await["state"], "succeeded");
        assert_eq!(mothership.stdout(&id).await, "through\n");
        assert_eq!(host.observe("/readyz").await.0, 200);
        let doctor = host.nexusd().arg("-doctor").arg("-config").arg(host.config()).output().unwrap();
        let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert!(doctor.contains(&format!("{url} answers")), "{doctor}");
        drop(daemon);
        mothership.post(&format!("/territories/{}/disable", host.territory), serde_json::json!({})).await;
    }
    drop(proxy);
}
