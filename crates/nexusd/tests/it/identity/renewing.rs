//! Renewals that do not go well, and servers that know of none.

use std::sync::Arc;
use std::time::Duration;

use conduits::DirectiveId;
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use testkit::stub::FaultKind;
use testkit::tls::ClientCertificates;
use testkit::wait::until;
use testkit::{Endpoint, Fault, Output, StubOptions, TestCa, WorkDir};

use super::bed::read;
use crate::bed::{Bed, SOON, nexusd};

/// A control plane with an authority; and what a daemon needs whose certificate, of `key`, is due and lasts for a while.
fn due(key: &KeyPair) -> (StubOptions, impl FnOnce(&WorkDir) + use<>) {
    let ca = Arc::new(TestCa::new());
    // It looks at no certificate, so that any will do.
    let tls = ca.server_config(&["localhost", "127.0.0.1"], ClientCertificates::Ignored);
    let options =
        StubOptions { tls: Some(tls), ca: Some(Arc::clone(&ca)), wants_identity: false, ..StubOptions::full() };
    let now = std::time::SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = (now - Duration::from_secs(1000)).into();
    params.not_after = (now + Duration::from_secs(150)).into();
    let certificate = params.self_signed(key).unwrap().pem();
    let key = key.serialize_pem();
    let files = move |dir: &WorkDir| {
        dir.write("ca.pem", ca.pem());
        dir.write("client.pem", certificate);
        let key = dir.write("client-key.pem", key);
        std::fs::set_permissions(key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    };
    (options, files)
}

const KEYS: &str = "supported_sandbox_profiles: [host]\n\
    tls: {ca_file: ./ca.pem, client_cert_file: ./client.pem, client_key_file: ./client-key.pem}\n";

fn bed(key: &KeyPair, fault: Option<Fault>) -> Bed {
    let (options, files) = due(key);
    Bed::faulty(options, KEYS, Endpoint::Renew, fault, |dir| {
        files(dir);
        nexusd()
    })
}

async fn works(bed: &Bed) {
    let id = DirectiveId::generate();
    let spec = json!({ "directive_id": id, "facility": { "id": format!("f-{id}") }, "command": "true",
        "sandbox_profile": "host", "capabilities": { "net": { "mode": "unrestricted" } } });
    bed.stub.queue_as(&id, spec);
    bed.stub.finished(&id, SOON).await;
}

/// Each way in which a renewal may fail for now: it is made again, and nothing else is disturbed.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_fails_is_tried_again() {
    let key = KeyPair::generate().unwrap();
    for fault in [FaultKind::Status(503, None), FaultKind::DropAfter, FaultKind::Garbage] {
        let bed = bed(&key, Some(Fault::once(fault.clone())));
        drop(bed.daemon.wait_for_line(Output::Stderr, "it is tried again", SOON));
        works(&bed).await;
        drop(bed.daemon.wait_for_line(Output::Stderr, "the client certificate was renewed", SOON));
        let asked = bed.stub.requests_of(Endpoint::Renew);
        let requests: std::collections::BTreeSet<String> =
            asked.iter().map(|request| request.body.to_string()).collect();
        assert_eq!(requests.len(), asked.len(), "{fault:?}: each try has a key of its own");
        works(&bed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_renews_nothing_is_told_of_and_works_on() {
    let bed = bed(&KeyPair::generate().unwrap(), Some(Fault::always(FaultKind::Status(404, None))));
    drop(bed.daemon.wait_for_line(Output::Stderr, "this mothership renews no certificates: enrol anew", SOON));
    works(&bed).await;
    assert_eq!(bed.stub.count(Endpoint::Renew), 1, "it is not asked again at once");
    assert!(!bed.dir.join("w/.nexus/credentials").exists());
}

/// Who asked for an RSA key once gets RSA keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_key_is_of_the_kind_of_the_enrolled_one() {
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    for (key, kind) in [(rsa, &rcgen::PKCS_RSA_SHA256), (KeyPair::generate().unwrap(), &rcgen::PKCS_ECDSA_P256_SHA256)]
    {
        let bed = bed(&key, None);
        let file = bed.dir.join("w/.nexus/credentials/current/client-key.pem");
        until("a renewed pair", SOON, || file.exists().then_some(()));
        assert_eq!(KeyPair::from_pem(&read(&file)).unwrap().algorithm(), kind);
    }
}
