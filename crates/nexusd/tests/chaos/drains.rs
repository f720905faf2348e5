//! SIGTERM at any moment of the daemon's life leaves no lease behind.

use std::time::{Duration, Instant};

use testkit::{Dice, require};

use crate::bed::{Bed, End, faults};
use crate::figure;

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_with_claims_in_flight_leaves_no_orphan() {
    require!(Bwrap);
    let mut dice = Dice::announced("drains");
    let count = figure(50, 1000);
    let mut bed = Bed::new("drains", &mut dice, 300, "").await;
    bed.proxy.plan(faults_without_stalls(dice.split()));
    let began = Instant::now();
    let command = bed.command(1, 100, 10, "0");
    for drain in 0..count {
        bed.begin();
        // Some are asked to stop before they are up, some in their first poll, some with directives at work.
        if dice.percent(80) {
            bed.await_up();
        }
        for number in 0..usize::try_from(dice.below(4)).unwrap() {
            bed.queue(drain + number, &command).await;
            tokio::time::sleep(dice.time(Duration::from_millis(10))).await;
        }
        if dice.percent(50) {
            tokio::time::sleep(dice.time(Duration::from_millis(150))).await;
        }
        bed.stop_daemon();
        let held = bed.mothership.held().await;
        let said: Vec<String> = held.iter().map(|id| bed.said_of(id)).collect();
        assert_eq!(held, Vec::<String>::new(), "orphans of drain {drain}: {said:#?}");
    }
    let took = began.elapsed();
    bed.proxy.calm();
    bed.start();
    let ends = bed.ends(Duration::from_secs(60)).await;
    let other: Vec<_> = ends.iter().filter(|(_, end)| **end != End::Whole).collect();
    assert!(other.is_empty(), "{other:?}");
    bed.stop_daemon();
    bed.settled().await;
    eprintln!(
        "{count} drains by SIGTERM with claims in flight in {:.1} s: 0 orphans; {} directives, all whole",
        took.as_secs_f64(),
        ends.len()
    );
}

/// A twentieth of all calls fails at once: what stalls is another test's, for each would take ten seconds here.
fn faults_without_stalls(dice: Dice) -> impl FnMut(&str) -> Option<testkit::Trouble> + Send + 'static {
    let mut faults = faults(dice, 5);
    move |path| {
        faults(path).filter(|trouble| {
            !matches!(
                trouble,
                testkit::Trouble::Stall(_) | testkit::Trouble::LateAnswer(_) | testkit::Trouble::HalfOpen(_)
            )
        })
    }
}
