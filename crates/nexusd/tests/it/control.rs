//! `nexusd status`, `drain` and `undrain`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::wait::until;
use testkit::{Endpoint, StubOptions, WorkDir, require};

use crate::bed::{Bed, SOON, nexusd, ordinary_user_s, start};

const KEYS: &str =
    "supported_sandbox_profiles: [host]\nmax_concurrent_directives: 2\nterritory_heartbeat: {interval: 1s}\n";

fn said(mut command: Command, dir: &WorkDir, words: &[&str]) -> (Option<i32>, String, String) {
    let output = command.arg("-config").arg(dir.join("config.yaml")).args(words).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn ask(bed: &Bed, words: &[&str]) -> (Option<i32>, String, String) {
    said(nexusd(), &bed.dir, words)
}

fn status(bed: &Bed) -> Value {
    let (code, stdout, stderr) = ask(bed, &["status", "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    serde_json::from_str(&stdout).unwrap()
}

const WAITS: &str = "echo up > up; until test -e ../go; do sleep 0.05; done; echo done";

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_daemon_ends_what_runs_and_takes_on_nothing_until_it_is_told() {
    let mut bed = Bed::with(StubOptions::full(), KEYS);
    let free = status(&bed);
    assert_eq!((&free["slots"], &free["drained"], &free["directives"]), (&json!(2), &json!(false), &json!([])));
    let first = bed.queue(json!({ "facility": { "id": "a" }, "sandbox_profile": "host", "command": WAITS }));
    until("it runs", SOON, || bed.dir.join("w/a/up").exists().then_some(()));
    let busy = status(&bed);
    assert_eq!(busy["directives"][0]["directive_id"], first.as_str(), "{busy}");
    assert_eq!(busy["profiles"], json!(["host"]));

    assert_eq!(ask(&bed, &["drain"]), (Some(0), "drained; 1 directives are left\n".into(), String::new()));
    let second = bed.queue(json!({ "facility": { "id": "b" }, "sandbox_profile": "host", "command": "echo second" }));
    let (code, _, stderr) = ask(&bed, &["drain", "--wait", "--timeout", "700ms"]);
    assert_eq!(code, Some(1));
    assert_eq!(stderr, format!("nexusd: 1 directives still run: {first}\n"));
    let drained = status(&bed);
    assert_eq!(drained["not_ready"], json!(["drained (nexusd undrain ends it)"]), "{drained}");
    bed.dir.write("w/go", "");
    assert_eq!(ask(&bed, &["drain", "--wait"]), (Some(0), "drained; 0 directives are left\n".into(), String::new()));
    assert_eq!(bed.ended(first).await.outcome(), ("succeeded", 0, "done\n"));

    // A restart changes nothing.
    bed.daemon.signal(Signal::TERM);
    bed.daemon.wait(SOON);
    let (code, _, stderr) = ask(&bed, &["status"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no nexusd runs with work_dir") && stderr.contains("nexusd.sock"), "{stderr}");
    bed.daemon = start(&bed.dir);
    assert_eq!(status(&bed)["drained"], json!(true));
    let (polls, beats) = (bed.stub.count(Endpoint::Poll), bed.stub.count(Endpoint::TerritoryHeartbeat));
    bed.stub.requested(Endpoint::TerritoryHeartbeat, beats + 2, SOON).await;
    assert_eq!(bed.stub.count(Endpoint::Poll), polls, "it asks for nothing");

    assert_eq!(ask(&bed, &["undrain"]), (Some(0), "taking on directives\n".into(), String::new()));
    assert_eq!(bed.ended(second).await.outcome(), ("succeeded", 0, "second\n"));
    let (_, page, _) = ask(&bed, &["status"]);
    assert!(page.contains("\n  ready             yes\n"), "{page}");
    assert_eq!(bed.stub.violations(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_not_answered_and_a_long_path_is_no_obstacle() {
    require!(Root);
    let dir = WorkDir::new();
    let long = dir.join("long".repeat(40));
    let keys = format!("{KEYS}min_free_bytes: 0\nbwrap: {{proxy_socket_dir: {}}}\n", dir.join("p").display());
    let bed = Bed::with_work_dir(StubOptions::full(), &long, &keys);
    assert_eq!(status(&bed)["slots"], 2);
    let user = WorkDir::new();
    std::fs::copy(bed.dir.join("config.yaml"), user.join("config.yaml")).unwrap();
    let asked = || {
        let (code, stdout, stderr) = said(ordinary_user_s(&user), &user, &["status"]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        stderr
    };
    std::os::unix::fs::chown(user.join("config.yaml"), Some(65_534), Some(65_534)).unwrap();
    assert!(asked().contains("another user's"), "the folder is closed");
    // Were it open, the kernel still says who asks.
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    let state = long.join(".nexus");
    [dir.path(), &long, &state, &state.join("nexusd.sock")].into_iter().for_each(open);
    let refused = asked();
    assert!(refused.contains("nexusd did not answer"), "{refused}");
    assert_eq!(status(&bed)["slots"], 2, "the control");
}
