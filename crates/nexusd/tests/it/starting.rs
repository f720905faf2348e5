//! What a start refuses, and what it mends: before anything is asked of a control plane.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use testkit::{StubOptions, WorkDir, require};

use crate::bed::{Bed, nexusd};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A program that a sandbox leaves set-uid is nobody's way to the sandbox's rights as long as nobody reaches it.
#[tokio::test(flavor = "multi_thread")]
async fn other_users_reach_nothing_that_a_sandbox_leaves() {
    require!(Root, Bwrap);
    let bed = Bed::new();
    let script = "cp /usr/bin/id id; chmod 4755 id; chmod 755 /workspace";
    let ended = bed
        .run(serde_json::json!({ "facility": { "id": "f1" }, "sandbox_profile": "untrusted", "command": script }))
        .await;
    assert_eq!(ended.report.exit_code, Some(0), "{}", ended.stderr);
    let work_dir = bed.dir.join("w");
    assert_eq!((mode(&work_dir), mode(&work_dir.join(".nexus"))), (0o700, 0o700));
    // The bed's own folder stands open for this, so that the daemon's is what holds.
    std::fs::set_permissions(bed.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |program: &Path| {
        let mut words = std::process::Command::new("setpriv");
        // The shell between has given up every right before it looks for the program.
        let drop = ["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", "exec \"$0\""];
        words.args(drop).arg(program).output().unwrap()
    };
    let left = work_dir.join("f1/id");
    assert!(left.exists());
    assert!(!as_nobody(&left).status.success(), "another user of the host ran what the sandbox left");
    // Control: where the folder is open, another user does run it.
    std::fs::set_permissions(&work_dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = as_nobody(&left);
    assert!(String::from_utf8_lossy(&output.stdout).contains("euid="), "{output:?}");
}

#[test]
fn a_work_dir_of_somebody_else_s_files_is_refused() {
    let dir = WorkDir::new();
    dir.write("shared/letter.txt", "x");
    std::fs::set_permissions(dir.join("shared"), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir.write("config.yaml", "server_url: http://127.0.0.1:9\nterritory_id: t\nwork_dir: ./shared\n");
    let output = nexusd().arg("-config").arg(dir.join("config.yaml")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("is open to other users and holds files that are not nexusd's"), "{stderr}");
    assert!(!dir.join("shared/.nexus").exists());
}

#[test]
fn every_missing_credential_is_named_at_once() {
    let dir = WorkDir::new();
    let tls = "tls: {ca_file: ./ca.pem, client_cert_file: ./client.pem, client_key_file: ./client-key.pem}";
    dir.write("config.yaml", format!("server_url: https://127.0.0.1:9\n{tls}\n"));
    let config = dir.join("config.yaml");
    let output = nexusd().arg("-config").arg(&config).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for key in ["tls.ca_file", "tls.client_cert_file", "tls.client_key_file"] {
        assert!(stderr.contains(&format!("nexusd: {key}: cannot read ")), "{key}: {stderr}");
    }
    // The file itself is sound, which is what the check is asked; what is missing is said all the same.
    let check = nexusd().args(["config", "check", "-config"]).arg(&config).output().unwrap();
    assert_eq!(check.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&check.stderr).contains("before it can run: "), "{check:?}");
}

/// Files that are there and of no use are named with what is wrong, by the daemon and by the check alike.
#[test]
fn an_unusable_credential_is_named() {
    let dir = WorkDir::new();
    let pair = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        dir.write(format!("{name}.pem"), certificate.pem());
        dir.write(format!("{name}-key.pem"), key.serialize_pem());
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(dir.join(format!("{name}-key.pem")), closed).unwrap();
    };
    pair("a");
    pair("b");
    dir.write("empty.pem", "root:x:0:0\n");
    let config = dir.join("config.yaml");
    let said = |tls: &str| {
        dir.write("config.yaml", format!("server_url: https://127.0.0.1:9\nterritory_id: t\ntls: {{{tls}}}\n"));
        let daemon = nexusd().arg("-config").arg(&config).output().unwrap();
        let check = nexusd().args(["config", "check", "-config"]).arg(&config).output().unwrap();
        let text = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(daemon.status.code(), Some(2), "{}", text(&daemon));
        (text(&daemon), text(&check))
    };
    let table = [
        ("ca_file: ./empty.pem", "empty.pem: no certificate in it; set tls.ca_file"),
        ("client_cert_file: ./a.pem, client_key_file: ./b-key.pem", "a.pem: is not the certificate of "),
    ];
    for (tls, expected) in table {
        let (daemon, check) = said(tls);
        assert!(daemon.contains(expected), "{daemon}");
        assert!(check.contains("before it can run: ") && check.contains(expected), "{check}");
    }
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(dir.join("a-key.pem"), open).unwrap();
    let (daemon, _) = said("client_cert_file: ./a.pem, client_key_file: ./a-key.pem");
    assert!(daemon.contains("can be read by others; chmod 600 "), "{daemon}");
}

/// Even where the operator opened the range.
#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_s_own_listener_is_no_destination() {
    require!(Bwrap);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = open.local_addr().unwrap().port();
    let bed = Bed::with(
        StubOptions::full(),
        &format!(
            "observability: {{enabled: true, listen_addr: \"127.0.0.1:{port}\"}}\negress: {{allow_private: [127.0.0.0/8]}}\n"
        ),
    );
    let ask = |port| {
        let script =
            format!("curl -s -o /dev/null -m 5 --noproxy '' -w '%{{http_code}}' http://localhost:{port}/metrics; true");
        serde_json::json!({
            "facility": { "id": "f" }, "command": script,
            "capabilities": { "net": { "mode": "allowlist", "allow": [format!("localhost:{port}")] } },
        })
    };
    let refused = bed.run(ask(port)).await;
    assert_eq!(refused.stdout, "403", "{}", refused.stderr);
    // Control: another port of the same address is reached, since the operator opened it.
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = open.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
    });
    let reached = bed.run(ask(other)).await;
    assert_eq!(reached.stdout, "204", "{}", reached.stderr);
    answering.join().unwrap();
}

/// Also where the configuration knows it by a name only, and a directive has another one for it.
#[tokio::test(flavor = "multi_thread")]
async fn the_mothership_is_no_destination_by_another_name() {
    require!(Root, Bwrap);
    let bed = Bed::with(StubOptions::full(), "egress: {allow_private: [127.0.0.0/8]}\n");
    let config = bed.dir.join("config.yaml");
    let by_address = std::fs::read_to_string(&config).unwrap();
    let by_name = by_address.replace("http://127.0.0.1:", "http://localhost:");
    assert_ne!(by_address, by_name);
    std::fs::write(&config, by_name).unwrap();
    let bed = bed.with_hosts("127.0.0.1 localhost other.example.test\n");
    let ask = |port: u16| {
        let script = format!("curl -s -o /dev/null -m 5 -w '%{{http_code}}' http://other.example.test:{port}/; true");
        serde_json::json!({
            "facility": { "id": "f" }, "command": script,
            "capabilities": { "net": { "mode": "allowlist", "allow": [format!("other.example.test:{port}")] } },
        })
    };
    let mothership = bed.stub.url().rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
    let refused = bed.run(ask(mothership)).await;
    assert_eq!(refused.stdout, "403", "{}", refused.stderr);
    assert!(refused.stderr.contains("DNS_DENIED"), "{}", refused.stderr);
    // Control: another port of the same address is reached, since the operator opened it.
    let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = open.local_addr().unwrap().port();
    let answering = std::thread::spawn(move || {
        let (mut stream, _) = open.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
    });
    let reached = bed.run(ask(other)).await;
    assert_eq!(reached.stdout, "204", "{}", reached.stderr);
    answering.join().unwrap();
}

/// An older daemon would misread what a newer one wrote there.
#[tokio::test]
async fn a_work_dir_of_a_newer_version_is_left_alone() {
    let mut bed = Bed::new();
    let format = bed.dir.join("w/.nexus/format");
    assert_eq!(std::fs::read_to_string(&format).unwrap(), "1\n");
    bed.daemon.signal(rustix::process::Signal::TERM);
    bed.daemon.wait(crate::bed::SOON);
    std::fs::write(&format, "2\n").unwrap();
    let output = nexusd().arg("-config").arg(bed.dir.join("config.yaml")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("was written by a newer nexusd (format 2, this one knows 1)"), "{stderr}");
    std::fs::write(&format, "1\n").unwrap();
    bed.daemon = crate::bed::start(&bed.dir);
}
