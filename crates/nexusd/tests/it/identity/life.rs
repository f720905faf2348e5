//! The life of an identity.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use serde_json::json;
use testkit::wait::until;
use testkit::{Output, WorkDir, require};

use super::bed::{Host, Mothership, Way, as_host, read, reload};
use crate::bed::{SOON, nexusd};

/// Certificates that are due soon after they come (they are dated five minutes back).
const DUE_AT_ONCE: [&str; 2] = ["--client-certificate-seconds", "152"];

#[tokio::test(flavor = "multi_thread")]
async fn enrolled_renewed_in_the_middle_of_a_directive_and_revoked() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let mothership = Mothership::start(&dir, &DUE_AT_ONCE);
    let host = Host::enrol(&mothership, Way { keys: "heartbeat: {interval: 200ms}\n", ..Way::default() }).await;
    let daemon = host.daemon();
    let first = host.expiry().await;
    // It speaks all the time while the certificate is replaced, until it sees that that has happened.
    let script = "n=0; while [ ! -e stop ]; do n=$((n + 1)); echo $n; sleep 0.02; done; echo last $n";
    let id = mothership.queue("untrusted", script).await;
    mothership.once(&id, SOON, |state| state == "running").await;
    drop(daemon.wait_for_line(Output::Stderr, "the client certificate was renewed", SOON));
    let renewed = host.expiry().await;
    assert!(renewed > first, "{first} {renewed}");
    let directive = mothership.get(&format!("/directives/{id}")).await;
    assert_eq!(directive["state"], "running", "{directive:#}");
    let facility = directive["facility_id"].as_str().unwrap().to_owned();
    // Calls after it are made with the new one: the log goes on.
    let before = mothership.stdout(&id).await.lines().count();
    while mothership.stdout(&id).await.lines().count() <= before + 20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    std::fs::write(host.dir.join("w").join(&facility).join("stop"), "").unwrap();
    let ended = mothership.ended(&id, SOON).await;
    assert_eq!((&ended["state"], &ended["result"]["exit_code"]), (&json!("succeeded"), &json!(0)), "{ended:#}");
    // Nothing lost, nothing twice.
    let lines: Vec<String> = mothership.stdout(&id).await.lines().map(str::to_owned).collect();
    let (last, counted) = lines.split_last().unwrap();
    assert_eq!(*last, format!("last {}", counted.len()));
    assert!(counted.iter().enumerate().all(|(at, line)| *line == (at + 1).to_string()), "{counted:?}");
    let errors = host.observe("/metrics").await.1;
    assert!(
        errors.contains("nexusd_poll_errors_total 0") && errors.contains("nexusd_heartbeat_errors_total 0"),
        "{errors}"
    );

    // The renewed pair is kept as the enrolled one is, and is what a restart uses.
    let key = host.renewed().join("client-key.pem");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(read(&key), read(host.dir.join("c/client-key.pem")));
    drop(daemon);
    let daemon = host.daemon();
    assert!(host.expiry().await >= renewed);
    assert_eq!(host.observe("/readyz").await.0, 200);

    // Revoked while it polls and while a command of it runs: both end at once.
    let id = mothership.queue("untrusted", "sleep 60").await;
    mothership.once(&id, SOON, |state| state == "running").await;
    mothership.post(&format!("/territories/{}/disable", host.territory), json!({})).await;
    drop(daemon.wait_for_line(Output::Stderr, "territory_disabled", Duration::from_secs(5)));
    let page = until("an unready daemon", SOON, || {
        let answer = observed(&host, "/readyz");
        (answer.0 == 503).then_some(answer.1)
    });
    assert!(page.contains("the mothership refuses this territory") || page.contains("territory_disabled"), "{page}");
    let idle = "nexusd_directives_in_flight 0";
    until("the end of the command", SOON, || {
        observed(&host, "/metrics").1.lines().any(|line| line == idle).then_some(())
    });
}

fn observed(host: &Host, path: &str) -> (u16, String) {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(host.observe(path)))
}

/// Enrolled anew while it runs: the fresh pair is taken over without a restart, and nothing in flight is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_fresh_credentials_over_in_the_middle_of_a_directive() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let mothership = Mothership::start(&dir, &[]);
    let host = Host::enrol(&mothership, Way { keys: "heartbeat: {interval: 200ms}\n", ..Way::default() }).await;
    let daemon = host.daemon();
    let first = host.expiry().await;
    let id = mothership.queue("untrusted", "while [ ! -e stop ]; do echo x; sleep 0.02; done").await;
    let directive = mothership.once(&id, SOON, |state| state == "running").await;
    // The same territory with another key, as a renewal by hand would bring it.
    let renewed = renew_by_hand(&mothership, &host).await;
    reload(&daemon);
    assert!(host.expiry().await >= first);
    let facility = directive["facility_id"].as_str().unwrap();
    std::fs::write(host.dir.join("w").join(facility).join("stop"), "").unwrap();
    let ended = mothership.ended(&id, SOON).await;
    assert_eq!(ended["state"], "succeeded", "{ended:#}");
    let page = host.observe("/metrics").await.1;
    assert!(page.contains("nexusd_poll_errors_total 0") && page.contains("nexusd_heartbeat_errors_total 0"), "{page}");
    // The old pair may be gone: the new one is what is used.
    let serial = mothership.get(&format!("/territories/{}", host.territory)).await;
    assert_eq!(serial["certificate_not_after"], renewed, "{serial:#}");
    // A pair that cannot be used changes nothing.
    std::fs::write(host.dir.join("c/client.pem"), "nonsense").unwrap();
    daemon.signal(rustix::process::Signal::HUP);
    drop(daemon.wait_for_line(Output::Stderr, "nothing was reloaded", SOON));
    let id = mothership.queue("host", "true").await;
    assert_eq!(mothership.ended(&id, SOON).await["state"], "succeeded");
}

/// Renews with the host's own pair, and puts the new one in its place. When it ends, as the control plane shows it.
async fn renew_by_hand(mothership: &Mothership, host: &Host) -> serde_json::Value {
    let client = as_host(host, &read(host.dir.join("c/ca.pem")));
    let key = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let request = client.post(format!("{}/conduits/v1/territories/renew", mothership.url));
    let answer: serde_json::Value =
        request.json(&json!({ "csr_pem": csr })).send().await.unwrap().json().await.unwrap();
    std::fs::write(host.dir.join("c/client.pem"), answer["mtls_client_cert_pem"].as_str().unwrap()).unwrap();
    std::fs::write(host.dir.join("c/client-key.pem"), key.serialize_pem()).unwrap();
    mothership.get(&format!("/territories/{}", host.territory)).await["certificate_not_after"].clone()
}

/// A certificate that has ended: said at the start, in readiness and by the doctor, with the mend; and the mend works.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_ended_is_told_with_the_mend_and_the_mend_works() {
    let dir = WorkDir::new();
    let mothership = Mothership::start(&dir, &[]);
    let host = Host::enrol(&mothership, Way::default()).await;
    let ca_key = rcgen::KeyPair::from_pem(&read(mothership.data.join("ca-key.pem"))).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read(mothership.data.join("ca.pem")), ca_key).unwrap();
    let key = rcgen::KeyPair::from_pem(&read(host.dir.join("c/client-key.pem"))).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 31);
    std::fs::write(host.dir.join("c/client.pem"), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    let daemon = host.daemon();
    let said = daemon.text(Output::Stderr);
    let mend = "the client certificate ended on 2020-01-31T00:00:00Z: enrol this host anew (nexusd -enroll-token TOKEN --force)";
    assert!(said.contains(mend), "{said}");
    let (status, page) = host.observe("/readyz").await;
    assert!(status == 503 && page.contains(mend), "{status} {page}");
    let doctor = nexusd().arg("-doctor").arg("-config").arg(host.config()).output().unwrap();
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.contains("the certificate ended on 2020-01-31"), "{doctor}");
    // The mend, without a restart.
    let options = ["--force", "-enroll-name", "lab-7", "-enroll-key", "rsa", "-enroll-with-csr=true"];
    let territory = host.enrol_again(&mothership.enroll_token().await, &options);
    assert_ne!(territory["territory_id"], json!(host.territory));
    let shown = mothership.get(&format!("/territories/{}", territory["territory_id"].as_str().unwrap())).await;
    assert_eq!(shown["name"], "lab-7", "{shown:#}");
    reload(&daemon);
    until("a ready daemon", Duration::from_secs(60), || (observed(&host, "/readyz").0 == 200).then_some(()));
}
