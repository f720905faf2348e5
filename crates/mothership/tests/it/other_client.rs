//! A territory that is none of this project's programs: a script in Python, written from the protocol's page alone.

use reqwest::StatusCode;
use serde_json::{Value, json};
use testkit::require;

use crate::bed::Bed;
use crate::process::ended;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_python_enrols_runs_a_directive_and_renews() {
    require!(Python);
    let bed = Bed::tls().await;
    let token = bed.dir.path().join("token");
    std::fs::write(&token, bed.enroll_token().await).unwrap();
    let facility = bed.facility().await;
    let body = json!({ "facility_id": facility, "sandbox_profile": "host", "command": "echo from python; echo err >&2; exit 3" });
    let (status, made) = bed.post("/api/v1/directives", body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/territory.py");
    let child = tokio::process::Command::new("python3")
        .args(["-B", script, &bed.url()])
        .arg(bed.data().join("ca.pem"))
        .args([token.as_path(), bed.dir.path()])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = ended(child).await;
    assert!(output.status.success(), "{output:?}");
    let did: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (_, territories) = bed.get("/api/v1/territories").await;
    assert_eq!(did["territory_id"], territories["territories"][0]["id"]);
    assert_eq!(territories["territories"][0]["labels"], json!({ "made": "by hand" }));
    assert_eq!((&did["directive_id"], &did["final_state"]), (&made["id"], &json!("failed")));
    assert_eq!((&did["wait_applied"], &did["duplicate"]), (&json!("wait"), &json!(true)));
    let id = made["id"].as_str().unwrap();
    let (_, directive) = bed.get(&format!("/api/v1/directives/{id}")).await;
    assert_eq!((&directive["state"], &directive["result"]["exit_code"]), (&json!("failed"), &json!(3)));
    let (_, page) = bed.get(&format!("/api/v1/directives/{id}/logs")).await;
    let text = |stream: &str| -> Vec<u8> {
        use base64::Engine as _;
        let chunks = page["chunks"].as_array().unwrap().iter().filter(|chunk| chunk["stream"] == stream);
        let bytes = chunks
            .map(|chunk| base64::engine::general_purpose::STANDARD.decode(chunk["bytes"].as_str().unwrap()).unwrap());
        bytes.flatten().collect()
    };
    assert_eq!((text("stdout"), text("stderr")), (b"from python\n".to_vec(), b"err\n".to_vec()));
}
