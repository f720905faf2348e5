//! kill -9 of the daemon at any moment: every directive is reported, none runs twice, what was printed is there.

use std::time::{Duration, Instant};

use testkit::{Dice, require};

use crate::bed::{Bed, End, SLOTS};
use crate::{figure, oracle};

/// Within this time of the daemon's restart every directive that it held is reported.
const REPORTED_WITHIN: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_leaves_every_directive_reported_and_none_twice() {
    require!(Bwrap);
    let mut dice = Dice::announced("kills");
    let count = figure(10, 100);
    let mut bed = Bed::new("kills", &mut dice, 300, "log: {chunk_bytes: 4096}\n").await;
    bed.start();
    let (mut longest, mut cut_off) = (Duration::ZERO, 0);
    for kill in 0..count {
        for number in 0..SLOTS {
            let (parts, pause) = (1 + usize::try_from(dice.below(8)).unwrap(), ["0", "0.05", "0.2"][number % 3]);
            let command = bed.command(parts, 20_000, 2000, pause);
            bed.queue(kill + number, &command).await;
        }
        tokio::time::sleep(dice.time(Duration::from_millis(900))).await;
        // Sometimes the way to the control plane is gone already: what was printed lies in the spool.
        let cut = dice.percent(40);
        if cut {
            bed.proxy.plan(|_| Some(testkit::Trouble::Reset));
            tokio::time::sleep(dice.time(Duration::from_millis(300))).await;
        }
        let held = bed.mothership.held().await;
        bed.kill_daemon();
        bed.proxy.calm();
        let back = Instant::now();
        bed.begin();
        for id in &held {
            let lease = |view: &serde_json::Value| view["lease_number"].as_u64().unwrap();
            let before = lease(&bed.mothership.directive(id).await);
            loop {
                let view = bed.mothership.directive(id).await;
                let state = view["state"].as_str().unwrap();
                if !["leased", "running"].contains(&state) || lease(&view) > before {
                    break;
                }
                let said = || format!("{view:#}\n{}", bed.said_of(id));
                assert!(back.elapsed() < REPORTED_WITHIN, "kill {kill}: {id} is not reported\n{}", said());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        longest = longest.max(back.elapsed());
        bed.await_up();
        cut_off += held.len();
    }
    let ends = bed.ends(Duration::from_secs(60)).await;
    for (id, end) in &ends {
        let fine = match end {
            End::Whole => true,
            // Never: the start was told, and the daemon killed before it heard that it was taken.
            End::CutOff(reason) | End::NeverRan(reason) => reason == "nexusd_restarted",
        };
        assert!(fine, "{id}: {end:?}\n{}", bed.said_of(id));
    }
    bed.stop_daemon();
    bed.settled().await;
    let failed = ends.values().filter(|end| **end != End::Whole).count();
    assert!(oracle::processes(&bed.mark).is_empty());
    eprintln!(
        "{count} kill -9, {cut_off} directives held at them, {failed} of {} cut off and reported as nexusd_restarted; the \
         last report {:.2} s after the restart (goal {REPORTED_WITHIN:?})",
        ends.len(),
        longest.as_secs_f64()
    );
}
