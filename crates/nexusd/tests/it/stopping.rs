//! How the daemon itself begins and ends.

use std::time::{Duration, Instant};

use conduits::LogStream;
use rustix::process::Signal;
use serde_json::json;
use testkit::stub::FaultKind;
use testkit::{Endpoint, Fault, Output, Process, Stub, StubOptions, WorkDir, require};

use crate::bed::{Bed, SOON, nexusd, start};

#[tokio::test]
async fn sigterm_lets_running_directives_end() {
    require!(Bwrap);
    let mut bed = Bed::new();
    let id = bed.queue(json!({"command": "echo up; sleep 2; echo done"}));
    bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
    bed.daemon.signal(Signal::TERM);
    assert!(bed.daemon.wait(SOON).success());
    assert_eq!(bed.ended(id).await.outcome(), ("succeeded", 0, "up\ndone\n"));
}

#[tokio::test]
async fn a_second_signal_cancels_them() {
    require!(Bwrap);
    let mut bed = Bed::new();
    let id = bed.queue(json!({"command": "echo up; sleep 60"}));
    bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
    bed.daemon.signal(Signal::TERM);
    drop(bed.daemon.wait_for_line(Output::Stderr, "waiting for running directives", SOON));
    bed.daemon.signal(Signal::TERM);
    assert!(bed.daemon.wait(SOON).success());
    assert_eq!(bed.ended(id).await.report.status.as_str(), "canceled");
}

/// A mothership that does not answer is no reason to be deaf.
#[test]
fn a_signal_before_the_daemon_is_up_is_heard_at_once() {
    require!(Bwrap);
    let stub = Stub::start(StubOptions::full());
    stub.fail(Endpoint::TerritoryHeartbeat, Fault { kind: FaultKind::Hang, times: usize::MAX });
    let dir = WorkDir::new();
    let config = format!("server_url: \"{}\"\nterritory_id: t-1\nwork_dir: ./w\nmin_free_bytes: 0\n", stub.url());
    dir.write("config.yaml", config);
    for signal in [Signal::TERM, Signal::INT] {
        let before = stub.count(Endpoint::TerritoryHeartbeat);
        let mut daemon = Process::start(nexusd().arg("-config").arg(dir.join("config.yaml")));
        testkit::wait::until("the first heartbeat", SOON, || {
            (stub.count(Endpoint::TerritoryHeartbeat) > before).then_some(())
        });
        daemon.signal(signal);
        let began = Instant::now();
        assert!(daemon.wait(SOON).success());
        let said = daemon.text(Output::Stderr);
        assert!(!said.contains("nexusd is up") && said.contains("nexusd is down"), "{said}");
        // The heartbeat itself would have been waited for for 10 s.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

/// The first signal asks the mothership for what it may have leased, and waits for the answer; nobody has to.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_is_heard_while_the_mothership_hangs() {
    require!(Bwrap);
    let mut bed = Bed::new();
    let id = bed.queue(json!({"command": "trap 'echo asked; exit 1' TERM; echo up; while :; do sleep 0.05; done"}));
    bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
    bed.stub.fail(Endpoint::Poll, Fault { kind: FaultKind::Hang, times: usize::MAX });
    bed.daemon.signal(Signal::TERM);
    drop(bed.daemon.wait_for_line(Output::Stderr, "SIGTERM: shutting down", SOON));
    let began = Instant::now();
    bed.daemon.signal(Signal::TERM);
    bed.stub.log_contains(&id, LogStream::Stdout, "asked", SOON).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(bed.daemon.wait(SOON).success());
    assert_eq!(bed.ended(id).await.report.status.as_str(), "canceled");
}

#[tokio::test]
async fn kill_9_leaves_nothing_running_and_the_next_daemon_works() {
    require!(Bwrap);
    let mut bed = Bed::new();
    let alive = |mark: &str| {
        let listed = std::process::Command::new("pgrep").args(["-f", mark]).output().unwrap();
        !listed.stdout.is_empty()
    };
    let mut marks = Vec::new();
    for profile in ["untrusted", "host"] {
        // A number that no other command line on this machine holds.
        let mark = format!("31{:09}.5", u64::from(std::process::id()) + if profile == "host" { 1 << 23 } else { 0 });
        let command = format!("echo up; sleep {mark}");
        let id = bed.queue(json!({"command": command, "sandbox_profile": profile}));
        bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
        assert!(alive(&mark), "the control: {profile} must be seen running");
        marks.push(mark);
    }
    bed.daemon.kill();
    for mark in marks {
        let gone = async {
            while alive(&mark) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(SOON, gone).await.expect("a sandbox outlived its daemon");
    }
    bed.daemon = start(&bed.dir);
    assert_eq!(bed.run(json!({"command": "echo back"})).await.outcome(), ("succeeded", 0, "back\n"));
}

#[test]
fn a_second_daemon_on_the_same_folder_is_refused() {
    require!(Bwrap);
    let bed = Bed::new();
    let mut second = Process::start(nexusd().arg("-config").arg(bed.dir.join("config.yaml")));
    assert_eq!(second.wait(SOON).code(), Some(1));
    let said = second.text(Output::Stderr);
    assert!(said.contains("another nexusd already works in"), "{said}");
}

/// The daemon does not know yet that the server gives the same leases again: it waits for the answer, and gives back.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_very_first_poll_brings_too_late_is_given_back() {
    require!(Bwrap);
    for (options, end) in [(StubOptions::full(), "queued"), (StubOptions::plain(), "failed")] {
        let stub = Stub::start(options);
        let slow = FaultKind::DelayAnswer(Duration::from_millis(700));
        stub.fail(Endpoint::Poll, Fault::once(slow));
        let dir = WorkDir::new();
        let config = format!("server_url: \"{}\"\nterritory_id: t-1\nwork_dir: ./w\nmin_free_bytes: 0\n", stub.url());
        dir.write("config.yaml", config);
        let id = stub.queue(json!({"facility": {"id": "f"}, "command": "true"}));
        let mut daemon = Process::start(nexusd().arg("-config").arg(dir.join("config.yaml")));
        stub.in_state(&id, conduits::DirectiveState::Leased, SOON).await;
        daemon.signal(Signal::TERM);
        assert!(daemon.wait(SOON).success());
        assert_eq!(stub.directive(&id).state.as_str(), end, "{}", daemon.text(Output::Stderr));
    }
}

/// The answer to the very first poll was lost: it may have been a lease.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_claim_whose_answer_was_lost_is_asked_for_again_and_given_back() {
    require!(Bwrap);
    let stub = Stub::start(StubOptions::full());
    // A lost answer, and nothing but refusals until the daemon is asked to stop.
    stub.fail(Endpoint::Poll, Fault::once(FaultKind::DropAfter));
    stub.fail(Endpoint::Poll, Fault::times(3, FaultKind::Status(503, None)));
    let dir = WorkDir::new();
    let config = format!("server_url: \"{}\"\nterritory_id: t-1\nwork_dir: ./w\nmin_free_bytes: 0\n", stub.url());
    dir.write("config.yaml", config);
    let id = stub.queue(json!({"facility": {"id": "f"}, "command": "true"}));
    let mut daemon = Process::start(nexusd().arg("-config").arg(dir.join("config.yaml")));
    stub.in_state(&id, conduits::DirectiveState::Leased, SOON).await;
    daemon.signal(Signal::TERM);
    assert!(daemon.wait(SOON).success());
    assert_eq!(stub.directive(&id).state.as_str(), "queued", "{}", daemon.text(Output::Stderr));
}
