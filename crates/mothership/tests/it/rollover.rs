//! From one certificate authority to the next without locking anybody out, and an authority that was brought along.

use std::process::Command;

use mothership::serve::{ServeConfig, start};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use testkit::require;

use crate::bed::{Bed, answer, client_of, key_and_csr};
use crate::process::{ended, mothership};

/// A daemon's view: what it holds, and what it trusts.
struct Held {
    pair: String,
    ca: String,
}

impl Held {
    async fn enrolled(bed: &Bed) -> Self {
        let (key, csr) = key_and_csr();
        let body = json!({ "enroll_token": bed.enroll_token().await, "name": "host-1", "csr_pem": csr });
        let url = format!("{}/conduits/v1/territories/enroll", bed.url());
        let (_, enrolled) = answer(bed.client(None).post(url).json(&body)).await;
        Self::of(&enrolled, &key)
    }

    fn of(answer: &Value, key: &rcgen::KeyPair) -> Self {
        let text = |field: &str| answer[field].as_str().unwrap().to_owned();
        Self { pair: format!("{}{}", text("mtls_client_cert_pem"), key.serialize_pem()), ca: text("ca_bundle_pem") }
    }

    fn client(&self) -> Client {
        client_of(&self.ca, &self.pair)
    }

    async fn renewed(&self, bed: &Bed) -> Self {
        let (key, csr) = key_and_csr();
        let url = format!("{}/conduits/v1/territories/renew", bed.url());
        let (status, renewed) = answer(self.client().post(url).json(&json!({ "csr_pem": csr }))).await;
        assert_eq!(status, StatusCode::OK, "{renewed}");
        Self::of(&renewed, &key)
    }

    /// The status of a heartbeat; the error where there is no connection.
    async fn beats(&self, bed: &Bed) -> Result<StatusCode, reqwest::Error> {
        let url = format!("{}/conduits/v1/territories/heartbeat", bed.url());
        Ok(self.client().post(url).json(&json!({})).send().await?.status())
    }
}

async fn ca(bed: &Bed, words: &[&str]) -> (Option<i32>, String, String) {
    let output = ended(mothership(bed, &[&["ca"], words].concat())).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

async fn restart(bed: &mut Bed) {
    bed.stop().await;
    bed.start_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_follows_another_and_nobody_is_locked_out() {
    let mut bed = Bed::tls().await;
    let first = Held::enrolled(&bed).await;
    assert_eq!(ca(&bed, &["prepare"]).await.0, Some(0));
    restart(&mut bed).await;
    // It does not know the next one yet, and that is not forgotten.
    assert_eq!(first.beats(&bed).await.unwrap(), StatusCode::OK);
    let (_, status, _) = ca(&bed, &["status"]).await;
    assert!(status.starts_with("prepared\n") && status.contains("host-1"), "{status}");
    let (code, _, why) = ca(&bed, &["switch"]).await;
    assert!(code == Some(1) && why.contains("1 territories") && why.contains("host-1"), "{why}");
    // A renewal brings the next one; the certificate is still the present one's.
    let overlapping = first.renewed(&bed).await;
    assert_eq!(overlapping.ca.matches("BEGIN").count(), 2);
    assert_eq!(ca(&bed, &["status"]).await.1, "prepared\n");
    let old_token = bed.enroll_token().await;
    assert_eq!(ca(&bed, &["switch"]).await.0, Some(0));
    restart(&mut bed).await;
    // Who was given the next one is served as before; who was not does not trust the server any more.
    assert_eq!(overlapping.beats(&bed).await.unwrap(), StatusCode::OK);
    assert!(first.beats(&bed).await.is_err());
    let fresh_token = bed.enroll_token().await;
    let pin = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    assert_ne!(pin(&old_token), pin(&fresh_token), "a token names the authority that signs");
    // It would be locked out: its certificate is the old authority's.
    let (code, _, why) = ca(&bed, &["retire"]).await;
    assert!(code == Some(1) && why.contains("1 territories") && why.contains("host-1"), "{why}");
    let (_, status, _) = ca(&bed, &["status"]).await;
    assert!(status.starts_with("switched\n") && status.contains("host-1"), "{status}");
    let second = overlapping.renewed(&bed).await;
    assert_eq!(ca(&bed, &["status"]).await.1, "switched\n");
    assert_eq!(ca(&bed, &["retire"]).await.0, Some(0));
    restart(&mut bed).await;
    assert_eq!(second.beats(&bed).await.unwrap(), StatusCode::OK);
    assert!(overlapping.beats(&bed).await.is_err(), "the retired authority's certificate ends the handshake");
    assert_eq!(second.renewed(&bed).await.ca.matches("BEGIN").count(), 1);
    assert_eq!(ca(&bed, &["status"]).await.1, "settled\n");
    assert_eq!(ca(&bed, &["retire"]).await.0, Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_by_force_is_the_operator_s_to_decide() {
    let mut bed = Bed::tls().await;
    let held = Held::enrolled(&bed).await;
    ca(&bed, &["prepare"]).await;
    // Without a restart nothing was handed out, whatever is renewed.
    held.renewed(&bed).await;
    assert_eq!(ca(&bed, &["switch"]).await.0, Some(1));
    assert_eq!(ca(&bed, &["switch", "--force"]).await.0, Some(0));
    restart(&mut bed).await;
    assert!(held.beats(&bed).await.is_err());
    // The mend.
    assert_eq!(Held::enrolled(&bed).await.beats(&bed).await.unwrap(), StatusCode::OK);
    // Who was left behind is the operator's to decide here, too.
    assert_eq!(ca(&bed, &["retire"]).await.0, Some(1));
    assert_eq!(ca(&bed, &["retire", "--force"]).await.0, Some(0));
}

/// A host that is gone without having been disabled holds nothing up: it must enrol anew anyway.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_certificates_have_ended_is_not_waited_for() {
    let mut bed = Bed::with(|config| config.client_lifetime = std::time::Duration::ZERO).await;
    Held::enrolled(&bed).await;
    ca(&bed, &["prepare"]).await;
    restart(&mut bed).await;
    assert_eq!(ca(&bed, &["status"]).await.1, "prepared\n");
    assert_eq!(ca(&bed, &["switch"]).await.0, Some(0));
    restart(&mut bed).await;
    assert_eq!(ca(&bed, &["retire"]).await.0, Some(0));
}

/// Copies of a running mothership's directory, as the operating guide says to make them, are a whole backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_the_middle_of_a_change_is_restored_whole() {
    let mut bed = Bed::tls().await;
    ca(&bed, &["prepare"]).await;
    restart(&mut bed).await;
    let held = Held::enrolled(&bed).await;
    let backup = bed.dir.path().join("backup");
    std::fs::create_dir(&backup).unwrap();
    let database = rusqlite::Connection::open(bed.data().join("mothership.db")).unwrap();
    database.execute("VACUUM INTO ?1", [backup.join("mothership.db").to_str().unwrap()]).unwrap();
    for name in ["ca.pem", "ca-key.pem", "ca-next.pem", "ca-next-key.pem", "admin-token"] {
        std::fs::copy(bed.data().join(name), backup.join(name)).unwrap();
    }
    bed.stop().await;
    std::fs::remove_dir_all(bed.data()).unwrap();
    std::fs::rename(&backup, bed.data()).unwrap();
    bed.start_again().await;
    assert_eq!(held.beats(&bed).await.unwrap(), StatusCode::OK);
    assert_eq!(held.renewed(&bed).await.ca.matches("BEGIN").count(), 2);
    assert_eq!(ca(&bed, &["status"]).await.1, "prepared\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_brought_along_is_used() {
    require!(Openssl);
    for key in [&["EC", "ec_paramgen_curve:P-256"], &["RSA", "rsa_keygen_bits:3072"]] {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::DirBuilder::new().create(&data).unwrap();
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&data, closed).unwrap();
        let openssl = |words: &[&str]| {
            let output = Command::new("openssl").args(words).current_dir(&data).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        };
        openssl(&["genpkey", "-algorithm", key[0], "-pkeyopt", key[1], "-out", "ca-key.pem"]);
        openssl(&[
            "req",
            "-x509",
            "-new",
            "-key",
            "ca-key.pem",
            "-days",
            "3650",
            "-subj",
            "/CN=Our own",
            "-out",
            "ca.pem",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]);
        let config = ServeConfig { listen: "127.0.0.1:0".parse().unwrap(), ..ServeConfig::new(&data) };
        let running = start(config).await.unwrap();
        let token = std::fs::read_to_string(data.join("admin-token")).unwrap();
        let client = crate::bed::client(&data, None);
        let made = client.post(format!("{}/api/v1/enrollment-tokens", running.url())).bearer_auth(token.trim());
        let (_, made) = answer(made.json(&json!({}))).await;
        let (key, csr) = key_and_csr();
        let body = json!({ "enroll_token": made["token"], "csr_pem": csr });
        let enrol = client.post(format!("{}/conduits/v1/territories/enroll", running.url())).json(&body);
        let held = Held::of(&answer(enrol).await.1, &key);
        let beat = held.client().post(format!("{}/conduits/v1/territories/heartbeat", running.url())).json(&json!({}));
        assert_eq!(answer(beat).await.0, StatusCode::OK);
        running.stop().await;
    }
}
