//! The ways in which a directive ends, each with its status, exit code and words.

use std::time::{Duration, Instant};

use conduits::{DirectiveState, LogStream};
use serde_json::json;
use testkit::stub::FaultKind;
use testkit::{Endpoint, Fault, StubOptions, require};

use crate::bed::{Bed, SOON};

#[tokio::test]
async fn exit_codes_and_both_streams_arrive_as_they_are() {
    require!(Bwrap);
    let bed = Bed::new();
    for profile in ["untrusted", "host"] {
        let run = |command: &str| bed.run(json!({"command": command, "sandbox_profile": profile}));
        assert_eq!(run("echo out; echo err >&2; exit 3").await.outcome(), ("failed", 3, "out\n"), "{profile}");
        assert_eq!(run("kill -9 $$").await.outcome(), ("failed", 137, ""), "{profile}");
        assert_eq!(run("no-such-command").await.outcome(), ("failed", 127, ""), "{profile}");
        let ended = run("printf 'no newline'; printf '\\377\\000\\001' >&2").await;
        assert_eq!(ended.outcome(), ("succeeded", 0, "no newline"), "{profile}");
        let manifest = &ended.report.artifacts_manifest["log"];
        assert_eq!((&manifest["stdout"]["bytes"], &manifest["stderr"]["bytes"]), (&json!(10), &json!(3)), "{profile}");
    }
    assert_eq!(bed.stub.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_timeout_ends_with_124() {
    require!(Bwrap);
    let bed = Bed::new();
    for profile in ["untrusted", "host"] {
        let began = Instant::now();
        let fields = json!({"command": "echo before; sleep 30", "timeout_seconds": 1, "sandbox_profile": profile});
        let ended = bed.run(fields).await;
        assert_eq!(ended.outcome(), ("timed_out", 124, "before\n"), "{profile}");
        assert!(ended.stderr.contains("timeout of 1 s"), "{}", ended.stderr);
        assert!(began.elapsed() < Duration::from_secs(8), "{profile} took {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_cancel_arrives_at_once_as_sigterm() {
    require!(Bwrap);
    let bed = Bed::new();
    for profile in ["untrusted", "host"] {
        let command = "trap 'echo asked; exit 9' TERM; echo up; while :; do sleep 0.05; done";
        let id = bed.queue(json!({"command": command, "sandbox_profile": profile}));
        bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let asked = Instant::now();
        bed.stub.cancel(&id);
        bed.stub.log_contains(&id, LogStream::Stdout, "asked", SOON).await;
        assert!(asked.elapsed() < Duration::from_secs(2), "{profile}: SIGTERM came after {:?}", asked.elapsed());
        assert_eq!(bed.ended(id).await.outcome(), ("canceled", 9, "up\nasked\n"), "{profile}");
    }
}

/// The best of some tries: what a machine at other work adds is no heartbeat that was waited for.
#[tokio::test]
async fn a_cancel_is_a_sigterm_within_200_ms() {
    require!(Bwrap);
    let bed = Bed::new();
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let command = "trap 'echo asked; exit 9' TERM; echo up; while :; do sleep 0.01; done";
        let beats = bed.stub.count(Endpoint::Heartbeat);
        let id = bed.queue(json!({"command": command}));
        bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
        bed.stub.requested(Endpoint::Heartbeat, beats + 1, SOON).await;
        let asked = Instant::now();
        bed.stub.cancel(&id);
        bed.stub.log_contains(&id, LogStream::Stdout, "asked", SOON).await;
        fastest = fastest.min(asked.elapsed());
        assert_eq!(bed.ended(id).await.outcome(), ("canceled", 9, "up\nasked\n"));
    }
    assert!(fastest < Duration::from_millis(200), "SIGTERM came after {fastest:?} at best");
}

/// From the loss to the death of the command passes at most one heartbeat interval: the heartbeat that is held already is
/// answered as before, the next one is told. The best of some tries: what a machine at other work adds is no heartbeat.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_kills_the_run_within_a_heartbeat_and_is_not_reported() {
    require!(Bwrap);
    let interval = Duration::from_secs(2);
    let bed =
        Bed::with(StubOptions::full(), "heartbeat: {interval: 2s}\nsupported_sandbox_profiles: [untrusted, host]\n");
    let alive = bed.dir.join("alive");
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let command = format!("echo up; while :; do echo >> {}; sleep 0.02; done", alive.display());
        let id = bed.queue(json!({"command": command, "sandbox_profile": "host"}));
        bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
        let held = || (bed.stub.directive(&id).heartbeats > 0).then_some(());
        testkit::wait::until("a heartbeat is held, for an interval", SOON, held);
        testkit::wait::until("the command lives", SOON, || alive.exists().then_some(()));
        // Into the time for which it is held, so that what comes after that has some left.
        tokio::time::sleep(interval / 4).await;
        bed.stub.lose_lease(&id);
        let lost = std::time::SystemTime::now();
        // It is dead when it has been silent for ten of its turns; when it died is what it wrote last.
        let last = || std::fs::metadata(&alive).unwrap().modified().unwrap();
        testkit::wait::until("the command is dead", SOON, || {
            last().elapsed().is_ok_and(|silent| silent > Duration::from_millis(200)).then_some(())
        });
        fastest = fastest.min(last().duration_since(lost).unwrap_or_default());
        std::fs::remove_file(&alive).unwrap();
    }
    assert!(fastest > interval / 2, "the held heartbeat was not waited for: this shows nothing ({fastest:?})");
    assert!(fastest < interval, "the command outlived its lease by {fastest:?}");
    assert_eq!(bed.stub.count(Endpoint::Finished), 0, "the end of a lost directive was reported");
    // The daemon lives on.
    assert_eq!(bed.run(json!({"command": "echo next"})).await.outcome(), ("succeeded", 0, "next\n"));
}

/// Not a lost lease: the mothership is told that it failed, and why.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_is_refused_is_reported_with_the_refusal() {
    require!(Bwrap);
    let bed = Bed::new();
    bed.stub.fail(Endpoint::Started, Fault::once(FaultKind::Status(422, None)));
    let ended = bed.run(json!({"command": "echo never"})).await;
    assert_eq!(ended.outcome(), ("failed", 1, ""));
    assert_eq!(ended.report.artifacts_manifest["ended_by"], "start_refused");
    let why = ended.report.artifacts_manifest["reason"].as_str().unwrap();
    assert!(why.contains("422"), "{why}");
    // What was to be refused here keeps its own reason, which no log could bring.
    bed.stub.fail(Endpoint::Started, Fault::once(FaultKind::Status(422, None)));
    let ended = bed.run(json!({"command": "echo never", "cwd": "../out"})).await;
    assert_eq!((ended.outcome(), &ended.report.artifacts_manifest["ended_by"]), (("failed", 1, ""), &json!("refused")));
    let why = ended.report.artifacts_manifest["reason"].as_str().unwrap();
    assert!(why.contains("cwd") && why.contains("422"), "{why}");
    assert_eq!(bed.stub.count(Endpoint::LogChunk), 0, "no log of what has not started is taken");
    let said = bed.daemon.text(testkit::Output::Stderr);
    assert!(!said.contains("lost_lease") && !said.contains("lease is lost"), "{said}");
}

#[tokio::test]
async fn nothing_is_lost_while_the_server_fails() {
    require!(Bwrap);
    let bed = Bed::new();
    let kinds = [
        FaultKind::Status(503, None),
        FaultKind::DropBefore,
        FaultKind::DropAfter,
        FaultKind::Html,
        FaultKind::Garbage,
        FaultKind::Oversized(5_000_000),
    ];
    for endpoint in [Endpoint::Poll, Endpoint::Started, Endpoint::LogChunk, Endpoint::Finished] {
        for kind in kinds.clone() {
            bed.stub.fail(endpoint, Fault::once(kind.clone()));
            let ended = bed.run(json!({"command": "echo whole; seq 1 1000"})).await;
            let expected: String =
                std::iter::once("whole\n".to_owned()).chain((1..=1000).map(|n| format!("{n}\n"))).collect();
            assert!(
                ended.outcome() == ("succeeded", 0, &expected),
                "{endpoint:?} failed by {kind:?}: {:?}",
                ended.report
            );
        }
    }
}

#[tokio::test]
async fn a_log_that_is_refused_ends_the_run_and_is_not_called_the_disk() {
    require!(Bwrap);
    let bed = Bed::new();
    for status in [404, 422] {
        bed.stub.fail(Endpoint::LogChunk, Fault::once(FaultKind::Status(status, None)));
        let ended = bed.run(json!({"command": "echo up; sleep 30"})).await;
        let end = (ended.outcome().0, ended.outcome().1, &ended.report.artifacts_manifest["ended_by"]);
        assert_eq!(end, ("failed", 137, &json!("log")), "{status}: {}", ended.stderr);
        assert!(ended.stderr.contains("ended: the mothership refused the log: "), "{status}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn an_expired_token_is_replaced() {
    require!(Bwrap);
    let bed = Bed::new();
    let id = bed.queue(json!({"command": "echo up; sleep 1; echo late"}));
    bed.stub.in_state(&id, DirectiveState::Running, SOON).await;
    bed.stub.expire_tokens(&id);
    assert_eq!(bed.ended(id).await.outcome(), ("succeeded", 0, "up\nlate\n"));
}

#[tokio::test]
async fn a_facility_keeps_its_files_and_its_trust() {
    require!(Bwrap);
    let bed = Bed::new();
    let facility = json!({"id": "shared"});
    let run = |command: &str, profile: &str| {
        bed.run(json!({"command": command, "facility": facility, "sandbox_profile": profile}))
    };
    assert_eq!(run("echo kept > file", "untrusted").await.outcome(), ("succeeded", 0, ""));
    assert_eq!(run("cat file", "untrusted").await.outcome(), ("succeeded", 0, "kept\n"));
    let ended = run("cat file", "host").await;
    assert_eq!(ended.outcome(), ("failed", 1, ""));
    assert!(ended.stderr.contains("less trusted"), "{}", ended.stderr);
}
