//! The disk of `work_dir` fills up: the directive fails with that reason, the daemon lives on.

use std::time::{Duration, Instant};

use testkit::{Dice, Trouble, require};

use crate::bed::{Bed, SOON};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_the_directive_and_not_the_daemon() {
    require!(Root, Bwrap);
    let mut dice = Dice::announced("disk");
    let mut bed = Bed::new("disk", &mut dice, 300, "log: {max_output_bytes: 400000000}\n").await;
    bed.start_on_tmpfs("24m");
    // Nothing can be shipped, so everything stays in the spool until there is no room for it.
    bed.proxy.plan(|path| path.ends_with("/log_chunks").then_some(Trouble::Status(503, None)));
    let command = format!(": {}; head -c 100000000 /dev/zero", bed.mark);
    let facility = bed.facilities[0].clone();
    let id = bed.mothership.queue_with(&facility, &command, 400_000_000).await;
    let began = Instant::now();
    // The end is told once the log had its time, or the log is given up: not before there is room again.
    while !bed.said_of(&id).contains("output cannot be kept") {
        assert!(began.elapsed() < SOON, "{}", bed.said_of(&id));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bed.proxy.calm();
    let view = loop {
        let view = bed.mothership.directive(&id).await;
        if view["state"] != "running" && view["state"] != "leased" && view["state"] != "queued" {
            break view;
        }
        assert!(began.elapsed() < Duration::from_secs(50), "{view:#}\n{}", bed.said_of(&id));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let manifest = &view["result"]["artifacts_manifest"];
    assert_eq!((view["state"].as_str(), manifest["ended_by"].as_str()), (Some("failed"), Some("disk")), "{view:#}");
    assert_eq!(manifest["log"]["complete"], false, "{view:#}");
    // What was kept until then is there.
    let log = bed.mothership.log(&id, "stdout").await;
    assert!(log.len() > 5_000_000 && log.iter().all(|byte| *byte == 0), "{}", log.len());
    let quick = bed.command(1, 20_000, 2000, "0");
    for number in 0..3 {
        bed.queue(number, &quick).await;
    }
    for end in bed.ends(SOON).await.values() {
        assert_eq!(*end, crate::bed::End::Whole);
    }
    assert!(bed.state_is_empty(), "spool and outbox are not empty");
    bed.stop_daemon();
}

/// An end that the disk does not take is not sent before it does: a crash would leave nobody to tell it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_withholds_the_end_until_it_is_kept() {
    require!(Root, Bwrap);
    let mut dice = Dice::announced("withheld");
    // A lease that has to be renewed while the end is withheld.
    let mut bed = Bed::new("withheld", &mut dice, 6, "").await;
    bed.start_on_tmpfs("24m");
    let command = format!(": {}; true > here; while [ -e here ]; do sleep 0.02; done", bed.mark);
    let id = bed.queue(0, &command).await;
    let facility = bed.work_dir().join(&bed.facilities[0]);
    until(|| facility.join("here").exists(), || bed.said_of(&id)).await;
    // The outbox sets aside the room for small reports. A file system that writes elsewhere what is written over has none to
    // set aside: so has this one, once the room behind the start's is given back and taken by something else.
    let state = bed.work_dir().join(".nexus");
    let slots = std::fs::File::options().write(true).open(state.join("outbox/slots")).unwrap();
    let all_but_the_first = slots.metadata().unwrap().len() - 4096;
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&slots, punch, 4096, all_but_the_first).unwrap();
    let filler = state.join("filler");
    let full = std::io::copy(&mut std::io::repeat(1), &mut std::fs::File::create(&filler).unwrap()).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    std::fs::remove_file(facility.join("here")).unwrap();
    until(|| bed.said_of(&id).contains("the end is withheld until it can be kept"), || bed.said_of(&id)).await;
    assert!(bed.said_of(&id).contains("No space left"), "{}", bed.said_of(&id));
    let calls = |what: &str| bed.proxy.calls().get(what).copied().unwrap_or(0);
    let renewed = calls("heartbeat");
    let began = Instant::now();
    // Longer than the lease: it is renewed meanwhile.
    while began.elapsed() < Duration::from_secs(8) || calls("heartbeat") < renewed + 3 {
        assert!(began.elapsed() < SOON, "no heartbeats: {:?}\n{}", bed.proxy.calls(), bed.said_of(&id));
        assert_eq!(calls("finished"), 0, "{}", bed.said_of(&id));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(bed.mothership.directive(&id).await["state"], "running", "{}", bed.said_of(&id));
    std::fs::remove_file(&filler).unwrap();
    let state = loop {
        let state = bed.mothership.directive(&id).await["state"].clone();
        if state != "running" {
            break state;
        }
        assert!(began.elapsed() < SOON + SOON, "{}", bed.said_of(&id));
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    // The disk was full while it ran: that it ended by itself just then, or by that, is both true.
    assert!(state == "succeeded" || state == "failed", "{state}");
    assert!(bed.state_is_empty(), "spool and outbox are not empty");
    bed.stop_daemon();
}

async fn until(mut done: impl FnMut() -> bool, said: impl Fn() -> String) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < SOON, "{}", said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
