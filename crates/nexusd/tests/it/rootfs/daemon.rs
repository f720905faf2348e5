//! The daemon with `rootfs.auto`: up at once, untrusted as soon as the root is there, and no other root before.

use std::net::TcpListener;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use nexusd::config::Config;
use rustix::process::Signal;
use serde_json::json;
use testkit::archive::{debian_archive, sha256_hex};
use testkit::{Endpoint, Output, Process, StubOptions, TarBytes, require};

use super::server::{Reply, Server};
use super::{assert_installed, packed};
use crate::bed::{Bed, SOON, nexusd, start};

/// Fetching, unpacking and taking into use what is a whole distribution, on a loaded machine.
const LONG: Duration = Duration::from_secs(100);

const ROOT_IS_THERE: &str = "the sandboxes' root is there";
const ROOT_IS_NOT_THERE: &str = "the sandboxes' root is not there, so untrusted is not offered";

fn keys(url: &str, archive: &[u8]) -> String {
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    format!(
        "supported_sandbox_profiles: [untrusted, host]\nrootfs:\n  auto: true\n  cache_dir: ./cache\n  {arch}:\n    url: \
         \"{url}\"\n    sha256: {}\n",
        sha256_hex(archive)
    )
}

fn bed(url: &str, archive: &[u8]) -> Bed {
    Bed::with(StubOptions::full(), &keys(url, archive))
}

/// Only a root of its own has a /var: the host's /usr comes without.
const IN_DEBIAN: &str = "test -d /var/lib/dpkg && . /etc/os-release && echo $ID";

#[tokio::test]
async fn it_is_up_at_once_and_offers_untrusted_when_the_root_is_there() {
    require!(Rootfs, Bwrap);
    let archive = std::fs::read(debian_archive()).unwrap();
    let served = archive.clone();
    let (go, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let server = Server::start(move |_, asked| {
        gate.lock().unwrap().recv_timeout(SOON).unwrap();
        Reply::of(&served, "\"one\"", asked)
    });
    // Up: the bed has waited for that.
    let mut bed = bed(&server.url(), &archive);
    let meanwhile = bed.run(json!({"command": "echo host", "sandbox_profile": "host"})).await;
    assert_eq!(meanwhile.outcome(), ("succeeded", 0, "host\n"));
    let offered = |bed: &Bed| {
        let polls = bed.stub.requests_of(Endpoint::Poll);
        polls.last().unwrap().body["supported_sandbox_profiles"].clone()
    };
    assert_eq!(offered(&bed), json!(["host"]));
    let beats = bed.stub.requests_of(Endpoint::TerritoryHeartbeat);
    let health = &beats[0].body["capacity"]["sandbox_health"]["bwrap"];
    assert_eq!(health["healthy"], json!(false));
    let reason = health["details"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("rootfs.auto: the root "), "{reason}");
    go.send(()).unwrap();
    drop(bed.daemon.wait_for_line(Output::Stderr, ROOT_IS_THERE, LONG));
    assert_eq!(bed.run(json!({"command": IN_DEBIAN})).await.outcome(), ("succeeded", 0, "debian\n"));
    assert_eq!(server.asked().len(), 1);
    drop(server);

    // The next start needs no network, and does not wait.
    bed.daemon.signal(Signal::TERM);
    assert!(bed.daemon.wait(SOON).success());
    bed.daemon = start(&bed.dir);
    assert_eq!(bed.run(json!({"command": IN_DEBIAN})).await.outcome(), ("succeeded", 0, "debian\n"));
    assert!(!bed.daemon.text(Output::Stderr).contains("fetching the sandboxes' root"));
}

/// A network that comes up late: one error, the daemon stays, and fetches the root when it can.
#[tokio::test]
async fn a_missing_network_is_one_error_and_no_crash_loop() {
    require!(Bwrap);
    let file = packed();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut bed = bed(&format!("http://{address}/root.tar.xz"), &file);
    let line = bed.daemon.wait_for_line(Output::Stderr, ROOT_IS_NOT_THERE, SOON);
    assert!(line.contains("\"ERROR\"") && line.contains("Connection refused"), "{line}");
    assert!(line.contains("it is tried again") && line.contains(Config::rootfs_keys().url), "{line}");
    assert_eq!(bed.run(json!({"command": "true", "sandbox_profile": "host"})).await.report.exit_code, Some(0));
    // A second try fails with the same words, and says nothing.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(bed.daemon.is_running());
    let served = file.clone();
    let server =
        Server::start_on(TcpListener::bind(address).unwrap(), move |_, asked| Reply::of(&served, "\"one\"", asked));
    drop(bed.daemon.wait_for_line(Output::Stderr, ROOT_IS_THERE, SOON));
    assert_installed(&bed.dir.join("cache").join(sha256_hex(&file)).join("root"));
    let text = bed.daemon.text(Output::Stderr);
    assert_eq!(text.matches(ROOT_IS_NOT_THERE).count(), 1, "{text}");
    assert_eq!(server.asked().len(), 1);
}

/// Fetching it again would not make it another one: a person must look.
#[tokio::test]
async fn a_wrong_digest_is_said_once_and_not_fetched_again() {
    require!(Bwrap);
    let (file, other) = (packed(), TarBytes::new().file("other", 0o644, b"").tar_xz());
    let server = Server::honest(&other);
    let mut bed = bed(&server.url(), &file);
    let line = bed.daemon.wait_for_line(Output::Stderr, ROOT_IS_NOT_THERE, SOON);
    for needed in [sha256_hex(&file), sha256_hex(&other), Config::rootfs_keys().url.into(), "not tried again".into()] {
        assert!(line.contains(&needed), "{needed} in {line}");
    }
    // What arrives all the same is refused with the reason, and never run over another root.
    let refused = bed.run(json!({"command": "echo ran"})).await;
    assert_eq!(refused.outcome(), ("failed", 1, ""));
    assert!(refused.stderr.contains("has sha256"), "{}", refused.stderr);
    assert_eq!(server.asked().len(), 1);
    bed.daemon.signal(Signal::TERM);
    assert!(bed.daemon.wait(SOON).success());
}

#[tokio::test]
async fn a_signal_ends_a_download() {
    require!(Bwrap);
    let file = packed();
    let served = file.clone();
    let server = Server::start(move |_, asked| Reply::of(&served, "\"one\"", asked).stalled(200_000));
    let mut bed = bed(&server.url(), &file);
    let part = bed.dir.join("cache").join(format!("{}.part", sha256_hex(&file)));
    testkit::wait::until("the download", SOON, || (!server.asked().is_empty() && part.exists()).then_some(()));
    let began = std::time::Instant::now();
    bed.daemon.signal(Signal::TERM);
    assert!(bed.daemon.wait(SOON).success());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    let text = bed.daemon.text(Output::Stderr);
    assert!(!text.contains("\"ERROR\"") && text.contains("nexusd is down"), "{text}");
    // The lock went with the process: another takes over at once.
    let next = Process::spawn(nexusd().arg("-config").arg(bed.dir.join("config.yaml")).args(["rootfs", "ensure"]));
    drop(next.wait_for_line(Output::Stderr, "fetching", SOON));
}
