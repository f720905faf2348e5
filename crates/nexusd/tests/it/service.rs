//! What the service manager and the operator's SIGHUP are told and tell.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use conduits::LogStream;
use rustix::process::Signal;
use serde_json::json;
use testkit::{Endpoint, Output, StubOptions, WorkDir, require};

use crate::bed::{Bed, SOON, nexusd};

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_hears_when_it_is_up_that_it_lives_and_when_it_goes() {
    require!(Bwrap);
    let sockets = WorkDir::new();
    let path = sockets.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    let mut bed = Bed::started_by(StubOptions::full(), "", |_| {
        let mut command = nexusd();
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
        command
    });
    let next = || {
        let mut buffer = [0; 256];
        let len = socket.recv(&mut buffer).expect("nothing more is said");
        String::from_utf8_lossy(&buffer[..len]).trim().to_owned()
    };
    assert_eq!(next(), "READY=1");
    let began = Instant::now();
    for _ in 0..6 {
        assert_eq!(next(), "WATCHDOG=1");
    }
    assert!(began.elapsed() > Duration::from_millis(300), "not faster than asked: {:?}", began.elapsed());
    bed.daemon.signal(Signal::TERM);
    assert!(bed.daemon.wait(SOON).success());
    socket.set_nonblocking(true).unwrap();
    let mut rest = BTreeSet::new();
    let mut buffer = [0; 256];
    while let Ok(len) = socket.recv(&mut buffer) {
        rest.insert(String::from_utf8_lossy(&buffer[..len]).trim().to_owned());
    }
    assert!(rest.contains("STOPPING=1"), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_takes_labels_over_at_once_and_names_what_waits_for_a_restart() {
    require!(Bwrap);
    let bed = Bed::with(StubOptions::full(), "labels: {rack: a}\n");
    let beats = |stub: &testkit::Stub| stub.requests_of(Endpoint::TerritoryHeartbeat);
    assert_eq!(beats(&bed.stub)[0].body["labels"], json!({"rack": "a"}));
    let config = std::fs::read_to_string(bed.dir.join("config.yaml")).unwrap();
    bed.dir.write("config.yaml", config.replace("rack: a", "rack: b") + "max_concurrent_directives: 3\n");
    bed.daemon.signal(Signal::HUP);
    drop(bed.daemon.wait_for_line(Output::Stderr, "reloaded: log_level, labels and tls", SOON));
    let waiting = bed.daemon.wait_for_line(Output::Stderr, "in force only after a restart", SOON);
    assert!(waiting.contains("max_concurrent_directives") && !waiting.contains("labels"), "{waiting}");
    let look = |stub: &testkit::Stub| {
        let last = beats(stub).pop().unwrap().body["labels"].clone();
        if last == json!({"rack": "b"}) { Ok(()) } else { Err(last.to_string()) }
    };
    bed.stub.wait_for("the new labels", Duration::from_secs(5), look).await;
    // A file that cannot be read changes nothing.
    bed.dir.write("config.yaml", "labels: [");
    bed.daemon.signal(Signal::HUP);
    drop(bed.daemon.wait_for_line(Output::Stderr, "nothing was reloaded", SOON));
}

/// A drain may last for hours, in which certificates are replaced.
#[tokio::test(flavor = "multi_thread")]
async fn sighup_is_heard_during_a_drain() {
    require!(Bwrap);
    let mut bed = Bed::with(StubOptions::full(), "labels: {rack: a}\n");
    let id = bed.queue(json!({"command": "echo up; while [ ! -e go ]; do sleep 0.05; done"}));
    bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
    bed.daemon.signal(Signal::TERM);
    drop(bed.daemon.wait_for_line(Output::Stderr, "waiting for running directives", SOON));
    bed.daemon.signal(Signal::HUP);
    drop(bed.daemon.wait_for_line(Output::Stderr, "reloaded: log_level, labels and tls", SOON));
    // It was no order to hurry.
    std::fs::write(bed.dir.join(format!("w/f-{id}/go")), "").unwrap();
    assert!(bed.daemon.wait(SOON).success());
    assert_eq!(bed.ended(id).await.outcome(), ("succeeded", 0, "up\n"));
}
