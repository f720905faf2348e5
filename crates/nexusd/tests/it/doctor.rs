//! The doctor on this very machine: real programs, real certificates, a real server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nexusd::config::{Config, Platform, Surroundings};
use nexusd::doctor::{Report, Row, State, Subject, examine};
use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

async fn report(dir: &Path, text: &str) -> Report {
    let surroundings =
        Surroundings { platform: Platform::Linux, environment: &|_| None, folder: dir.to_path_buf(), home: None };
    let config = Config::from_text("config.yaml", text, &surroundings).unwrap();
    let subject =
        Subject { platform: Platform::Linux, config: Ok(Some(config)), config_path: PathBuf::from("config.yaml") };
    examine(&subject, Err("no drivers in this test".to_owned())).await
}

fn row<'r>(report: &'r Report, name: &str) -> &'r Row {
    report.rows.iter().find(|row| row.name == name).unwrap()
}

/// Answers every request with this head.
async fn server(head: String) -> (u16, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 4096];
            if stream.read(&mut bytes).await.unwrap_or(0) > 0 {
                stream.write_all(head.as_bytes()).await.ok();
            }
        }
    });
    (port, tasks)
}

#[tokio::test]
async fn contact_and_clock_are_measured() {
    let dir = tempfile::tempdir().unwrap();
    let host =
        |port| format!("server_url: http://127.0.0.1:{port}\nsupported_sandbox_profiles: [host]\nmin_free_bytes: 0\n");
    let now = jiff::Timestamp::now();
    for (hours, state) in [(0, State::Pass), (1, State::Fail), (-1, State::Fail)] {
        let date = (now + jiff::SignedDuration::from_hours(hours)).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        let (port, _tasks) = server(format!("HTTP/1.1 404 x\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n")).await;
        let report = report(dir.path(), &host(port)).await;
        assert_eq!(row(&report, "mothership").state, state, "{}", report.render());
        assert_eq!(report.failed(), state == State::Fail, "{}", report.render());
    }
    let report = report(dir.path(), &host(1)).await;
    let found = row(&report, "mothership");
    assert!(found.state == State::Fail && found.detail.contains("refused"), "{found:?}");
}

#[tokio::test]
async fn a_server_that_never_answers_does_not_hold_the_doctor_up() {
    let dir = tempfile::tempdir().unwrap();
    let (port, _tasks) = server(String::new()).await;
    let started = std::time::Instant::now();
    let report =
        report(dir.path(), &format!("server_url: http://127.0.0.1:{port}\nsupported_sandbox_profiles: [host]\n")).await;
    assert!(started.elapsed() < std::time::Duration::from_secs(15));
    assert_eq!(row(&report, "mothership").state, State::Fail, "{}", report.render());
}

#[tokio::test]
async fn credentials_are_looked_into() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = "server_url: http://127.0.0.1:1\nsupported_sandbox_profiles: [host]\n\
                tls: {client_cert_file: client.pem, client_key_file: client-key.pem}\n";
    let key = KeyPair::generate().unwrap();
    let certificate = |until: i32| {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params.self_signed(&key).unwrap().pem()
    };
    let write = |name: &str, text: &str, mode: u32| {
        std::fs::write(path(name), text).unwrap();
        std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let look = async |state: State, said: &str| {
        let report = report(dir.path(), text).await;
        let found = row(&report, "tls");
        assert!(found.state == state && found.detail.contains(said), "{said}: {found:?}");
        assert_eq!(found.mend.is_some(), state != State::Pass);
    };
    look(State::Fail, "client.pem").await;
    write("client.pem", &certificate(2090), 0o644);
    look(State::Fail, "client-key.pem").await;
    write("client-key.pem", &key.serialize_pem(), 0o640);
    look(State::Fail, "can be read by others").await;
    write("client-key.pem", &key.serialize_pem(), 0o600);
    look(State::Pass, "certificate and key match, valid until 2090-01-01").await;
    write("client-key.pem", &KeyPair::generate().unwrap().serialize_pem(), 0o600);
    look(State::Fail, "is not the certificate of").await;
    write("client-key.pem", &key.serialize_pem(), 0o600);
    write("client.pem", &certificate(2021), 0o644);
    look(State::Fail, "the certificate ended on 2021-01-01").await;
    write("client.pem", "nothing", 0o644);
    look(State::Fail, "no certificate in it").await;
}

/// Programs that hang or lie do not hold the doctor up either.
#[tokio::test]
async fn programs_are_asked_with_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let bwrap = dir.path().join("bwrap");
    std::fs::write(&bwrap, "#!/bin/sh\necho 'bubblewrap 9.9.9'\n").unwrap();
    std::fs::set_permissions(&bwrap, std::fs::Permissions::from_mode(0o755)).unwrap();
    let text = "server_url: http://127.0.0.1:1\nbwrap: {bwrap_path: ./bwrap, socat_path: ./nowhere}\n";
    let found = report(dir.path(), text).await;
    assert_eq!(row(&found, "bwrap").detail, "bubblewrap 9.9.9");
    assert_eq!(
        (row(&found, "socat").state, row(&found, "socat").detail.as_str()),
        (State::Skip, "not needed (built-in bridge)")
    );
    assert_eq!(row(&found, "git").state, State::Pass, "{}", found.render());
    // Without drivers the functional check fails aloud: it is never taken for passed.
    assert_eq!(row(&found, "bwrap_functional").state, State::Fail);
    assert_eq!(found.rows.len(), 17);
    assert!(matches!(row(&found, "disk_limit").state, State::Pass | State::Skip));

    std::fs::write(&bwrap, "#!/bin/sh\nexec sleep 60\n").unwrap();
    let found = report(dir.path(), text).await;
    assert_eq!(row(&found, "bwrap").detail, "did not answer within 5 s");
}
