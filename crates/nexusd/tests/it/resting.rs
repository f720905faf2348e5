//! A daemon without work is small again, whatever it had to do before.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Map, Value, json};
use testkit::{Output, StubOptions, wait};

use crate::bed::{Bed, SOON};

/// What an idle daemon's own memory may be: that of an optimised build stays below 15 MB with its program text. The text of
/// this build is of another size.
const OWN: u64 = 10_000_000;

/// How far above its smallest an idle daemon may stay.
const ABOVE_SMALLEST: u64 = 4_000_000;

/// What is given back after the work, at least: more than a third of this build's program text.
const GIVEN: u64 = 8_000_000;

/// Two looks without work, and a few more for a machine that has much to do.
const GIVEN_BACK: Duration = Duration::from_secs(30);

/// A line of `/proc/PID/status`, in bytes.
fn memory(bed: &Bed, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bed.daemon.id())).unwrap();
    let value = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
    value.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Specifications that are refused, each large in another way.
fn refused(nth: usize) -> Value {
    match nth % 5 {
        0 => json!({"cwd": "x/".repeat(5_000) + "../.."}),
        1 => json!({"command": "x\0".repeat(100_000)}),
        2 => json!({"sandbox_profile": "y".repeat(100_000)}),
        3 => json!({"env": (0..500).map(|n| (format!("LD_{n}"), json!("v".repeat(500)))).collect::<Map<_, _>>()}),
        _ => {
            let allow: Vec<_> = (0..2_000).map(|n| format!("h{n}.example.com")).collect();
            json!({"capabilities": {"net": {"mode": "allowlist", "allow": allow}}})
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_comes_back_after_bad_directives_and_after_what_is_no_directive() {
    let bed = Bed::with(StubOptions::full(), "supported_sandbox_profiles: [host]\nmax_concurrent_directives: 4\n");
    let ids: Vec<_> = (0..115).map(|nth| bed.queue(refused(nth))).collect();
    // At its largest: on a busy machine it may have rested between two of them, or before the last end is seen here.
    let mut large = 0;
    for id in ids {
        assert_eq!(bed.ended(id).await.outcome().0, "failed");
        large = large.max(memory(&bed, "VmRSS"));
    }
    let ended = Instant::now();
    let small = loop {
        let [all, own] = ["VmRSS", "RssAnon"].map(|line| memory(&bed, line));
        if all + GIVEN < large && own < OWN {
            break all;
        }
        assert!(ended.elapsed() < GIVEN_BACK, "{all} bytes resident, {own} of them its own; at work {large}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    // Reading the configuration again takes much of the program, and no directive comes after it.
    bed.daemon.signal(Signal::HUP);
    drop(bed.daemon.wait_for_line(Output::Stderr, "reloaded: ", SOON));
    wait::until("memory is given back again", GIVEN_BACK, || {
        (memory(&bed, "VmRSS") < small + ABOVE_SMALLEST).then_some(())
    });
}
