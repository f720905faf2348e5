//! The command line as a process: what it prints where, and its exit codes.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;

use crate::bed::{Bed, answer, leases};
use crate::process::{claimed, command, ended, mothership, told};

#[tokio::test(flavor = "multi_thread")]
async fn run_streams_byte_for_byte_and_exits_with_the_command_s_code() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    let words =
        ["run", "--allow", "example.com:443", "--env", "A=b", "--timeout", "60s", "--cwd", "sub", "--", "echo", "it's"];
    let child = mothership(&bed, &words);
    let lease = claimed(&territory).await;
    assert_eq!(lease.spec["command"], r"echo 'it'\''s'");
    assert_eq!(
        (&lease.spec["timeout_seconds"], &lease.spec["cwd"], &lease.spec["env"]["A"]),
        (&json!(60), &json!("sub"), &json!("b"))
    );
    assert_eq!(lease.spec["capabilities"]["net"], json!({ "mode": "allowlist", "allow": ["example.com:443"] }));
    territory.started(&lease).await;
    territory.chunk(&lease, "stdout", 0, b"out\xff\x00").await;
    territory.chunk(&lease, "stderr", 0, b"err\n").await;
    let log = json!({ "stdout": { "chunks": 1, "bytes": 5 }, "stderr": { "chunks": 1, "bytes": 4 } });
    let body = json!({ "status": "failed", "exit_code": 7, "artifacts_manifest": { "log": log } });
    territory.report(&lease, "finished", body).await;
    let output = ended(child).await;
    assert_eq!(output.stdout, b"out\xff\x00");
    // The facility's name, then what the command wrote.
    let (made, written) = std::str::from_utf8(&output.stderr).unwrap().split_once('\n').unwrap();
    assert_eq!(written, "err\n");
    let (_, facilities) = bed.get("/api/v1/facilities").await;
    let name = facilities["facilities"][0]["name"].as_str().unwrap();
    assert!(name.starts_with("run-") && made.contains(&format!("--facility {name}")), "{name}: {made}");
    assert_eq!(output.status.code(), Some(7));
    let again = ended(mothership(&bed, &["logs", &lease.id])).await;
    assert_eq!((again.stdout, again.stderr), (b"out\xff\x00".to_vec(), b"err\n".to_vec()));
    let listed = ended(mothership(&bed, &["ls"])).await;
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.lines().nth(1).unwrap().contains("failed"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_printed_in_its_order_and_what_lacks_is_told_in_its_place() {
    let bed = Bed::with(|config| config.log_patience = Duration::from_secs(1)).await;
    let territory = bed.territory().await;
    let child = mothership(&bed, &["run", "--facility", &bed.facility().await, "--", "true"]);
    let lease = claimed(&territory).await;
    territory.started(&lease).await;
    for seq in [0, 3, 2, 1, 5] {
        territory.chunk(&lease, "stdout", seq, format!("{seq}\n").as_bytes()).await;
    }
    let log = json!({ "stdout": { "chunks": 6, "bytes": 12 }, "stderr": { "chunks": 0, "bytes": 0 } });
    let body = json!({ "status": "succeeded", "exit_code": 0, "artifacts_manifest": { "log": log } });
    territory.report(&lease, "finished", body).await;
    // Asked while the mothership still waits for what lacks: what there is without a gap, and that it is not all.
    let early = ended(mothership(&bed, &["logs", &lease.id])).await;
    let run = ended(child).await;
    let told = "mothership: 1 chunk of stdout never came: a part of the log is missing here\n";
    let all = b"0\n1\n2\n3\n5\n".to_vec();
    assert_eq!((run.status.code(), &run.stdout, run.stderr.as_slice()), (Some(0), &all, told.as_bytes()));
    assert!(all.starts_with(&early.stdout) && early.stdout.len() >= 8, "{early:?}");
    for words in [&["logs", &lease.id][..], &["logs", "-f", &lease.id]] {
        let late = ended(mothership(&bed, words)).await;
        assert_eq!((late.stdout, late.stderr.as_slice()), (all.clone(), told.as_bytes()), "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_all_there_yet_is_called_so() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    bed.directive().await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    territory.chunk(&lease, "stdout", 0, b"a\n").await;
    let running = ended(mothership(&bed, &["logs", &lease.id])).await;
    assert_eq!((running.stdout.as_slice(), running.stderr.as_slice()), (&b"a\n"[..], &b""[..]));
    let log = json!({ "stdout": { "chunks": 2, "bytes": 12 } });
    territory.report(&lease, "finished", json!({ "status": "succeeded", "artifacts_manifest": { "log": log } })).await;
    let early = ended(mothership(&bed, &["logs", &lease.id])).await;
    let told = String::from_utf8(early.stderr).unwrap();
    assert_eq!((early.status.code(), early.stdout.as_slice()), (Some(0), &b"a\n"[..]));
    assert!(told.contains("not come yet") && told.lines().count() == 1, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_in_a_line_and_a_token_comes_alone() {
    let bed = Bed::tls().await;
    let token = ended(mothership(&bed, &["enroll-token", "create", "--ttl", "5m"])).await;
    let token = String::from_utf8(token.stdout).unwrap();
    assert!(token.starts_with("nxe1.") && token.lines().count() == 1, "{token}");
    let refused = ended(mothership(&bed, &["run", "--allow", "1.2.3.4:443", "--", "true"])).await;
    assert_eq!(refused.status.code(), Some(1));
    let line = String::from_utf8(refused.stderr).unwrap();
    assert!(line.contains("1.2.3.4") && line.lines().count() == 1, "{line}");
    // Nor does it leave the facility behind that was made for it.
    assert_eq!(bed.get("/api/v1/facilities").await.1["facilities"], json!([]));
    assert_eq!(ended(mothership(&bed, &["frobnicate"])).await.status.code(), Some(2));
    for (flag, value, word) in [("--tls-name", "a b", "DNS name"), ("--listen", "3000", ":3000 (every address)")] {
        let refused = ended(mothership(&bed, &["serve", flag, value])).await;
        assert_eq!(refused.status.code(), Some(2), "{flag}");
        assert!(String::from_utf8(refused.stderr).unwrap().contains(word), "{flag}");
    }
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (server, fault) in [
        (format!("https://{closed}"), "nothing listens there"),
        (bed.url().replacen("https:", "http:", 1), "write https:// in --server"),
        (bed.url(), "give the mothership's as --ca-file"),
    ] {
        let failed = ended(mothership(&bed, &["--server", &server, "ls"])).await;
        let line = String::from_utf8(failed.stderr).unwrap();
        assert!(line.contains(fault) && line.lines().count() == 1, "{server}: {line}");
        assert!(!line.contains("client error"), "{server}: {line}");
    }
    for server in ["http://192.0.2.1:1", "HTTP://0.0.0.0:1", "hTtP://192.0.2.1:1"] {
        let plain = ended(mothership(&bed, &["--server", server, "ls"])).await;
        assert!(String::from_utf8(plain.stderr).unwrap().contains("use https"), "{server}");
    }
    let listed = ended(mothership(&bed, &["territories", "--json"])).await;
    assert_eq!(listed.stdout, b"[]\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_whose_facility_is_deleted_ends_and_says_so() {
    let bed = Bed::tls().await;
    let facility = bed.facility().await;
    let mut child = mothership(&bed, &["run", "--json", "--facility", &facility, "--", "true"]);
    let mut events = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut id = String::new();
    // Followed from here on: the first event of the live log has come.
    while let Some(line) = events.next_line().await.unwrap() {
        let event: Value = serde_json::from_str(&line).unwrap();
        match event["event"].as_str() {
            Some("created") => id = event["directive"]["id"].as_str().unwrap().to_owned(),
            _ => break,
        }
    }
    let path = format!("/api/v1/facilities/{facility}");
    assert_eq!(bed.user(reqwest::Method::DELETE, &path, None).await.0, reqwest::StatusCode::NO_CONTENT);
    let output = ended(child).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&id) && told.contains("deleted"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_waits_for_a_mothership_that_is_just_starting() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let early = command(&data, &["territories", "--json"]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut serve = command(&data, &["serve", "--listen", "127.0.0.1:0"]);
    let served = ended(early).await;
    assert_eq!((served.status.code(), served.stdout), (Some(0), b"[]\n".to_vec()));
    let pid = serve.id().unwrap().to_string();
    assert!(Command::new("kill").arg(&pid).status().await.unwrap().success());
    assert!(serve.wait().await.unwrap().success());
    // Stopped, it leaves no address behind that the next command would run into.
    assert!(!data.join("address").exists());
    let began = Instant::now();
    let late = ended(command(&data, &["territories"])).await;
    let told = String::from_utf8(late.stderr).unwrap();
    assert_eq!(late.status.code(), Some(1));
    assert!(told.contains(data.join("address").to_str().unwrap()) && told.contains("mothership serve"), "{told}");
    assert!((4..15).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directive_that_nobody_takes_is_told_once() {
    let bed = Bed::tls().await;
    let facility = bed.facility().await;
    let run = ["run", "--facility", &facility, "--profile", "host", "--", "true"];
    let mut alone = mothership(&bed, &run);
    told(&mut alone, "no territory is enrolled").await;
    drop(alone);
    let territory = bed.territory().await;
    let mut waits = mothership(&bed, &run);
    // It polls for the other profile.
    territory.poll(1).await;
    let text = told(&mut waits, "supported_sandbox_profiles").await;
    assert!(text.contains("no territory takes directives of profile host now"), "{text}");
    assert!(text.contains(&format!("({}): takes untrusted", territory.id)), "{text}");
    drop(waits);
    let (_, view) = bed.get(&format!("/api/v1/territories/{}", territory.id)).await;
    assert_eq!((&view["available_profiles"], view["last_poll_at"].is_string()), (&json!(["untrusted"]), true));
    // A facility that waits for its territory; and nothing is said where somebody polls for the profile.
    let (_, bound) = bed.post("/api/v1/facilities", json!({ "name": "b", "territory_id": territory.id })).await;
    let mut bound =
        mothership(&bed, &["run", "--facility", bound["id"].as_str().unwrap(), "--profile", "host", "--", "true"]);
    told(&mut bound, "facility b is on a territory that takes no directive of profile host now").await;
    let body = json!({ "supported_sandbox_profiles": ["host"], "max_directives_to_claim": 1 });
    let lease = leases(answer(territory.poll_request(None, &body)).await).remove(0);
    let mut quiet = mothership(&bed, &run);
    bound.kill().await.unwrap();
    let early = tokio::time::timeout(Duration::from_secs(4), quiet.stderr.as_mut().unwrap().read_u8()).await;
    assert!(early.is_err(), "it says something though its profile is polled for");
    drop((lease, quiet));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_facility_is_found_by_its_id_before_another_s_name() {
    let bed = Bed::tls().await;
    let (wanted, namesake) = (bed.facility().await, bed.facility().await);
    // As an older mothership let it be named.
    let database = rusqlite::Connection::open(bed.data().join("mothership.db")).unwrap();
    database.execute("UPDATE facilities SET name = id || '-old' WHERE id = ?1", [&wanted]).unwrap();
    database.execute("UPDATE facilities SET name = ?1 WHERE id = ?2", [&wanted, &namesake]).unwrap();
    drop(database);
    let deleted = ended(mothership(&bed, &["facility", "delete", &wanted])).await;
    assert!(deleted.status.success(), "{deleted:?}");
    let left = async || {
        let (_, listed) = bed.get("/api/v1/facilities").await;
        let ids = listed["facilities"].as_array().unwrap().iter();
        ids.map(|facility| facility["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(left().await, std::slice::from_ref(&namesake));
    // There is none with this id any more: it is a name.
    assert!(ended(mothership(&bed, &["facility", "delete", &wanted])).await.status.success());
    assert!(left().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_whole_and_an_end_that_no_line_tells_are_told_after_it() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    let cut = "[mothership] the log is not whole: 4096 bytes of stdout and 12 bytes of stderr were left out\n";
    for (ended_by, own_line, told) in [
        (Some("disk"), "", format!("{cut}[mothership] ended by: disk\n")),
        (Some("disk"), "[nexusd] the disk is full\n", format!("[nexusd] the disk is full\n{cut}")),
        (None, "", cut.to_owned()),
    ] {
        let child = mothership(&bed, &["run", "--facility", &bed.facility().await, "--", "true"]);
        let lease = claimed(&territory).await;
        territory.started(&lease).await;
        if !own_line.is_empty() {
            territory.chunk(&lease, "stderr", 0, own_line.as_bytes()).await;
        }
        let chunks = u8::from(!own_line.is_empty());
        let log = json!({ "stdout": { "chunks": 0, "left_out": 4096 }, "stderr": { "chunks": chunks, "left_out": 12 },
            "complete": false });
        let manifest = json!({ "log": log, "ended_by": ended_by });
        let body = json!({ "status": "failed", "exit_code": 125, "artifacts_manifest": manifest });
        territory.report(&lease, "finished", body).await;
        let run = ended(child).await;
        assert_eq!((run.status.code(), String::from_utf8(run.stderr).unwrap()), (Some(125), told));
        for words in [&["logs", &lease.id][..], &["logs", "-f", &lease.id]] {
            let logs = ended(mothership(&bed, words)).await;
            assert_eq!(String::from_utf8(logs.stderr).unwrap(), format!("{own_line}{cut}"), "{words:?}");
        }
    }
}
