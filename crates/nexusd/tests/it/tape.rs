//! `debug_tape.*`: what is said with the mothership is on it, and no secret.

use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::StubOptions;

use crate::bed::{Bed, SOON};

#[tokio::test]
async fn the_tape_tells_of_each_call_and_of_no_secret() {
    let keys =
        "supported_sandbox_profiles: [host]\nheartbeat: {interval: 1s}\ndebug_tape: {enabled: true, path: tape}\n";
    let mut bed = Bed::with(StubOptions::full(), keys);
    let ended = bed
        .run(json!({
            "sandbox_profile": "host",
            "command": "echo $SAID | tr a-z b-za; sleep 1.5",
            "env": { "SAID": "hushhushhush" },
        }))
        .await;
    assert_eq!(ended.outcome(), ("succeeded", 0, "ivtiivtiivti\n"));
    bed.daemon.signal(Signal::TERM);
    bed.daemon.wait(SOON);
    let tape = std::fs::read_to_string(bed.dir.join("tape")).unwrap();
    let calls: Vec<Value> = tape.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |end: &str| calls.iter().find(|call| call["path"].as_str().unwrap().ends_with(end));
    for end in ["/polls", "/started", "/log_chunks", "/finished", "/heartbeat"] {
        let call = of(end).unwrap_or_else(|| panic!("{end}: {tape}"));
        assert_eq!((&call["method"], &call["status"]), (&json!("POST"), &json!(200)), "{call}");
        assert!(call["request"].is_object() && call["answer"].is_object(), "{call}");
    }
    let finished = of("/finished").unwrap();
    assert_eq!(finished["request"]["status"], "succeeded");
    assert!(finished["ms"].as_u64().unwrap() < 20_000, "{finished}");
    // The control: it was said, and what was said of it is there.
    let leased = calls.iter().find(|call| call["answer"]["directives"][0]["spec"].is_object()).unwrap();
    assert_eq!(leased["answer"]["directives"][0]["spec"]["env"]["SAID"], "(12 bytes)", "{leased}");
    assert!(leased["answer"]["directives"][0]["directive_token"].as_str().unwrap().ends_with(" bytes)"), "{leased}");
    // What every token of this mothership begins with; the output is base64 there.
    for secret in ["stub-token-", "hushhush", "ivtiivti", "aXZ0aWl2dGlpdnRp"] {
        assert!(!tape.contains(secret), "{secret}: {tape}");
    }
}

#[test]
fn a_tape_that_cannot_be_opened_is_named_before_the_start() {
    let dir = testkit::WorkDir::new();
    let config = format!(
        "server_url: \"http://127.0.0.1:1\"\nterritory_id: t\nwork_dir: {}\nsupported_sandbox_profiles: [host]\n\
         debug_tape: {{enabled: true, path: /nowhere/tape}}\n",
        dir.join("w").display()
    );
    let config = dir.write("config.yaml", config);
    let output = crate::bed::nexusd().arg("-config").arg(config).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot open debug_tape.path /nowhere/tape: No such file"), "{stderr}");
}
