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
