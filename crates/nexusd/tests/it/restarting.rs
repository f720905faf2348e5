//! What a killed daemon left, and what one leaves that is stopped while nobody answers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use conduits::{DirectiveId, DirectiveState, LogStream};
use rustix::process::Signal;
use serde_json::json;
use testkit::stub::FaultKind;
use testkit::{Endpoint, Fault, StubOptions, require};

use crate::bed::{Bed, SOON, start};

/// All endpoints about directives and work.
const ALL: [Endpoint; 7] = [
    Endpoint::Poll,
    Endpoint::Started,
    Endpoint::Heartbeat,
    Endpoint::LogChunk,
    Endpoint::Finished,
    Endpoint::Release,
    Endpoint::TerritoryHeartbeat,
];

fn lines(count: usize) -> String {
    (1..=count).map(|n| format!("{n}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_cut_off_is_reported_with_all_that_it_had_printed() {
    require!(Bwrap);
    let mut bed = Bed::with(StubOptions::full(), "observability: {enabled: false}\nlog: {chunk_bytes: 1000}\n");
    for token in ["kept", "expired"] {
        let id = bed.queue(json!({"command": "echo up; sleep 0.3; seq 1 5000; touch printed; sleep 60"}));
        bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
        bed.stub.fail(Endpoint::LogChunk, Fault::always(FaultKind::Status(503, None)));
        let printed = bed.dir.join(format!("w/f-{id}/printed"));
        let began = Instant::now();
        while !printed.exists() {
            assert!(began.elapsed() < SOON, "it never printed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // What it printed is read from the pipe within the flush interval, whoever answers.
        tokio::time::sleep(Duration::from_millis(300)).await;
        bed.daemon.signal(Signal::KILL);
        bed.daemon.wait(SOON);
        bed.stub.mend(Endpoint::LogChunk);
        if token == "expired" {
            bed.stub.expire_tokens(&id);
        }
        bed.daemon = start(&bed.dir);
        let ended = bed.ended(id.clone()).await;
        assert_eq!(ended.report.status.as_str(), "failed", "{token}");
        assert_eq!(ended.report.artifacts_manifest["reason"], "nexusd_restarted", "{token}");
        assert_eq!(ended.stdout, format!("up\n{}", lines(5000)), "{token}");
        assert_eq!(ended.stderr, "[nexusd] ended: nexusd was restarted while this ran\n", "{token}");
        let counted = &ended.report.artifacts_manifest["log"];
        let (out, err) = (&counted["stdout"]["bytes"], &counted["stderr"]["bytes"]);
        assert_eq!((out.as_u64(), err.as_u64()), (Some(23_896), Some(ended.stderr.len() as u64)), "{token}");
        assert_eq!(counted["complete"], true, "{token}");
        assert_eq!(bed.stub.directive(&id).leases, 1, "{token}");
    }
    assert_eq!(bed.run(json!({"command": "echo next"})).await.outcome(), ("succeeded", 0, "next\n"));
    assert_eq!(bed.stub.violations(), Vec::<String>::new());
}

/// Its lease is over and another is given before what was left of the first is told: what was set aside of it stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_aside_outlives_another_lease_of_its_directive() {
    require!(Bwrap);
    let mut bed = Bed::new();
    bed.stub.fail(Endpoint::LogChunk, Fault::always(FaultKind::Status(503, None)));
    let id = bed
        .queue(json!({"command": "seq 1 5000; touch printed; while [ ! -e go ]; do sleep 0.05; done; echo $$ > two"}));
    let facility = bed.dir.join(format!("w/f-{id}"));
    let spool = bed.dir.join(format!("w/.nexus/spool/{id}"));
    let began = Instant::now();
    let segment = spool.join("00000001.seg");
    // All that was printed lies in the spool: 23,893 bytes.
    while std::fs::metadata(&segment).map_or(0, |file| file.len()) < 23_893 {
        assert!(began.elapsed() < SOON, "it never printed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bed.daemon.signal(Signal::KILL);
    bed.daemon.wait(SOON);
    let damaged = std::fs::read(&segment).unwrap();
    let damaged: Vec<u8> =
        damaged.into_iter().enumerate().map(|(at, byte)| if at == 9000 { !byte } else { byte }).collect();
    std::fs::write(&segment, &damaged).unwrap();
    bed.daemon = start(&bed.dir);
    assert!(spool.join("00000001.seg.corrupt").exists());
    std::fs::write(facility.join("go"), "").unwrap();
    bed.stub.requeue(&id);
    drop(bed.daemon.wait_for_line(testkit::Output::Stderr, "leased a directive that runs here again", SOON));
    bed.stub.mend(Endpoint::LogChunk);
    let ended = bed.ended(id).await;
    assert_eq!(ended.report.status.as_str(), "succeeded");
    assert_eq!(ended.report.artifacts_manifest["log"]["complete"], true, "the new lease's log lacks nothing");
    let kept: Vec<_> = std::fs::read_dir(&spool).unwrap().map(|item| item.unwrap().path()).collect();
    let same = kept.iter().any(|path| std::fs::read(path).unwrap() == damaged);
    assert!(same, "what was set aside is gone: {kept:?}");
}

/// A restarted daemon that ships the log of an earlier run, from a disk that hangs in the middle of it: what reads the second
/// segment waits until somebody writes to the pipe that lies in its place.
async fn shipping_from_a_disk_that_hangs() -> (Bed, DirectiveId, PathBuf) {
    let mut bed = Bed::with(StubOptions::full(), "log: {max_output_bytes: 8000000}\n");
    bed.stub.fail(Endpoint::LogChunk, Fault::always(FaultKind::Status(503, None)));
    let id = bed.queue(json!({"command": "[ -e go ] && exec echo two; seq 1 300000; sleep 60"}));
    let second = bed.dir.join(format!("w/.nexus/spool/{id}/00000002.seg"));
    testkit::wait::until("all that it prints is spooled", SOON, || {
        std::fs::metadata(&second).ok().filter(|file| file.len() > 900_000)
    });
    bed.daemon.signal(Signal::KILL);
    bed.daemon.wait(SOON);
    bed.daemon = start(&bed.dir);
    std::fs::remove_file(&second).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &second, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    bed.stub.mend(Endpoint::LogChunk);
    let look = |stub: &testkit::Stub| {
        let bytes = stub.log(&id, LogStream::Stdout).len();
        if bytes > 900_000 { Ok(()) } else { Err(bytes.to_string()) }
    };
    bed.stub.wait_for("the first segment", SOON, look).await;
    // A thread that waits in openat(2) (/proc/pid/syscall): nothing else of the daemon's does so for long.
    let openat = if cfg!(target_arch = "x86_64") { "257 " } else { "56 " };
    let tasks = format!("/proc/{}/task", bed.daemon.id());
    testkit::wait::until("the second is being opened", SOON, || {
        let waits = |task: std::fs::DirEntry| {
            std::fs::read_to_string(task.path().join("syscall")).is_ok_and(|call| call.starts_with(openat))
        };
        std::fs::read_dir(&tasks).unwrap().flatten().any(waits).then_some(())
    });
    (bed, id, second)
}

/// The log of the earlier lease is at work in the place where the new one's is going to lie: it is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn another_lease_waits_for_the_log_of_the_earlier_one() {
    require!(Bwrap);
    let (bed, id, hanging) = shipping_from_a_disk_that_hangs().await;
    std::fs::write(bed.dir.join(format!("w/f-{id}/go")), "").unwrap();
    let started = bed.stub.count(Endpoint::Started);
    bed.stub.requeue(&id);
    drop(bed.daemon.wait_for_line(testkit::Output::Stderr, "leased a directive that runs here again", SOON));
    let patience = Duration::from_secs(1);
    tokio::time::sleep(patience).await;
    assert_eq!(bed.stub.count(Endpoint::Started), started, "it began while the earlier log was at work");
    drop(std::fs::File::options().write(true).open(&hanging).unwrap());
    assert_eq!(bed.ended(id).await.report.status.as_str(), "succeeded");
}

/// Nor does it wait until a mothership takes the earlier one's that is not to have it any more.
#[tokio::test(flavor = "multi_thread")]
async fn another_lease_does_not_wait_for_the_earlier_log_to_arrive() {
    require!(Bwrap);
    let bed = Bed::new();
    let id = bed.queue(json!({"command": "[ -e go ] && exec echo two; echo up; touch up; sleep 60"}));
    bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
    bed.stub.fail(Endpoint::LogChunk, Fault::always(FaultKind::Hang));
    std::fs::write(bed.dir.join(format!("w/f-{id}/go")), "").unwrap();
    let started = bed.stub.count(Endpoint::Started);
    bed.stub.requeue(&id);
    // A call that is not answered is given up after 10 s.
    bed.stub.requested(Endpoint::Started, started + 1, Duration::from_secs(5)).await;
    bed.stub.mend(Endpoint::LogChunk);
    let ended = bed.ended(id).await;
    assert_eq!(ended.report.status.as_str(), "succeeded", "{:?}", ended.report.artifacts_manifest);
    assert_eq!(ended.report.artifacts_manifest["log"]["complete"], true);
    assert_eq!(ended.report.artifacts_manifest["log"]["stdout"]["seen"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_does_not_keep_a_daemon_that_is_to_stop() {
    require!(Bwrap);
    let (mut bed, ..) = shipping_from_a_disk_that_hangs().await;
    bed.daemon.signal(Signal::TERM);
    assert!(bed.daemon.wait(SOON).success());
    let said = bed.daemon.text(testkit::Output::Stderr);
    assert!(said.contains("did not end in time"), "the disk did not hang: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_began_is_given_back_and_runs_after_the_restart() {
    require!(Bwrap);
    let mut bed = Bed::new();
    bed.stub.fail(Endpoint::Started, Fault::always(FaultKind::Hang));
    let id = bed.queue(json!({"command": "echo once"}));
    bed.stub.requested(Endpoint::Started, 1, SOON).await;
    bed.daemon.signal(Signal::KILL);
    bed.daemon.wait(SOON);
    bed.stub.mend(Endpoint::Started);
    bed.daemon = start(&bed.dir);
    assert_eq!(bed.ended(id.clone()).await.outcome(), ("succeeded", 0, "once\n"));
    assert_eq!((bed.stub.count(Endpoint::Release), bed.stub.directive(&id).leases), (1, 2));
}

/// A server without releases is told that it started and failed.
#[tokio::test(flavor = "multi_thread")]
async fn what_never_began_is_reported_where_it_cannot_be_given_back() {
    require!(Bwrap);
    let mut bed = Bed::with(StubOptions::plain(), "");
    bed.stub.fail(Endpoint::Started, Fault::always(FaultKind::Hang));
    let id = bed.queue(json!({"command": "echo never"}));
    bed.stub.requested(Endpoint::Started, 1, SOON).await;
    bed.daemon.signal(Signal::KILL);
    bed.daemon.wait(SOON);
    bed.stub.mend(Endpoint::Started);
    bed.daemon = start(&bed.dir);
    let ended = bed.ended(id).await;
    assert_eq!((ended.report.status.as_str(), ended.stdout.as_str()), ("failed", ""));
    assert_eq!(ended.report.artifacts_manifest["reason"], "nexusd_restarted");
    assert!(ended.stderr.contains("not run"), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_heartbeat_lists_what_is_still_to_be_told() {
    require!(Bwrap);
    let mut bed = Bed::new();
    bed.stub.fail(Endpoint::Finished, Fault::always(FaultKind::Status(503, None)));
    let id = bed.queue(json!({"command": "echo whole"}));
    bed.stub.requested(Endpoint::Finished, 1, SOON).await;
    bed.daemon.signal(Signal::KILL);
    bed.daemon.wait(SOON);
    let before = bed.stub.count(Endpoint::TerritoryHeartbeat);
    bed.daemon = start(&bed.dir);
    let beats = bed.stub.requested(Endpoint::TerritoryHeartbeat, before + 1, SOON).await;
    let listed = &beats[before].body["runtime_status"]["directive_ids"];
    assert_eq!(*listed, json!([id]), "a server takes what is not listed for lost");
    bed.stub.mend(Endpoint::Finished);
    assert_eq!(bed.ended(id).await.outcome(), ("succeeded", 0, "whole\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_nobody_hears_at_a_shutdown_is_told_after_it() {
    require!(Bwrap);
    let mut bed = Bed::with(StubOptions::full(), "heartbeat: {interval: 1s}\n");
    let id = bed.queue(json!({"command": "trap 'seq 1 100; exit 3' TERM; echo up; while :; do sleep 0.05; done"}));
    bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
    for endpoint in ALL {
        bed.stub.fail(endpoint, Fault::always(FaultKind::DropBefore));
    }
    bed.stub.fail(Endpoint::Other, Fault::always(FaultKind::DropBefore));
    let began = Instant::now();
    bed.daemon.signal(Signal::TERM);
    drop(bed.daemon.wait_for_line(testkit::Output::Stderr, "shutting down", SOON));
    bed.daemon.signal(Signal::TERM);
    assert!(bed.daemon.wait(Duration::from_secs(40)).success());
    assert!(began.elapsed() < Duration::from_secs(35), "it waited for nobody: {:?}", began.elapsed());
    assert_eq!(bed.stub.directive(&id).state, DirectiveState::Running);
    for endpoint in ALL {
        bed.stub.mend(endpoint);
    }
    bed.stub.mend(Endpoint::Other);
    bed.daemon = start(&bed.dir);
    let ended = bed.ended(id).await;
    assert_eq!(ended.report.status.as_str(), "canceled", "what happened, not that there was a restart");
    assert_eq!((ended.report.exit_code, ended.stdout), (Some(3), format!("up\n{}", lines(100))));
}
