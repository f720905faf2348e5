//! The wall clock jumps, of the control plane, of the daemon and of both: leases, tokens and reports do not care.

use std::time::Duration;

use testkit::{Dice, Output, require};

use crate::bed::{Bed, End, SOON};
use crate::figure;

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

#[tokio::test(flavor = "multi_thread")]
async fn jumps_of_the_wall_clock_lose_and_double_nothing() {
    require!(Bwrap, Faketime);
    let mut dice = Dice::announced("clocks");
    let count = figure(8, 60);
    // Short, so that the control plane looks for leases that are over while directives run: ten times in a lease.
    let (mut bed, clocks) = Bed::with_clocks("clocks", &mut dice, 10).await;
    bed.start();
    let (mut restarts, mut kills, first) = (0, 0, usize::try_from(dice.below(4)).unwrap());
    for jump in 0..count {
        let slow = bed.command(4, 10_000, 1000, "0.4");
        for number in 0..4 {
            bed.queue(jump + number, &slow).await;
        }
        tokio::time::sleep(dice.time(Duration::from_millis(700))).await;
        // Further than a lease, than a token, than a day; and around the whole.
        let far = [MINUTE / 2, 10 * MINUTE, DAY, 4000 * DAY][usize::try_from(dice.below(4)).unwrap()];
        let off = i64::try_from(far).unwrap() * if dice.percent(50) { 1 } else { -1 };
        let whose = dice.below(3);
        clocks.iter().zip([whose != 1, whose != 0]).filter(|(_, jumps)| *jumps).for_each(|(clock, _)| clock.set(off));
        // Whoever starts takes the time from its wall clock, and finds what it wrote by another.
        match (first + jump) % 4 {
            0 => {
                restarts += 1;
                bed.mothership.kill();
                bed.mothership.start_again();
            }
            1 => {
                kills += 1;
                bed.kill_daemon();
                bed.begin();
                bed.await_up();
            }
            _ => {}
        }
    }
    assert!(restarts > 0 && kills > 0);
    seen_by_both(&mut bed, &clocks).await;
    let ends = bed.ends(Duration::from_secs(60)).await;
    for (id, end) in &ends {
        let fine = match end {
            End::Whole => true,
            End::CutOff(reason) | End::NeverRan(reason) => reason == "nexusd_restarted",
        };
        assert!(fine, "{id}: {end:?}\n{}", bed.said_of(id));
    }
    bed.stop_daemon();
    bed.settled().await;
    let whole = ends.values().filter(|end| **end == End::Whole).count();
    eprintln!(
        "{count} jumps of wall clocks, {restarts} restarts of the control plane and {kills} kill -9 of the daemon among them: {} \
         directives, {whole} whole, the others reported as nexusd_restarted",
        ends.len()
    );
}

/// The control: both say what the clocks that were set say.
async fn seen_by_both(bed: &mut Bed, clocks: &[crate::wall::WallClock; 2]) {
    let years = 50 * 365 * DAY;
    clocks.iter().for_each(|clock| clock.set(i64::try_from(years).unwrap()));
    let this_year: u32 = jiff::Timestamp::now().strftime("%Y").to_string().parse().unwrap();
    let later = [this_year + 49, this_year + 50].map(|year| year.to_string());
    let date = bed.mothership.date().await;
    assert!(later.iter().any(|year| date.contains(year)), "the control plane says {date}");
    let quick = bed.command(1, 100, 100, "0");
    let id = bed.queue(0, &quick).await;
    let daemon = bed.daemon.as_ref().expect("started");
    // Behind all that waits to be run.
    let line = daemon.wait_for_line(Output::Stderr, &id, 4 * SOON);
    assert!(later.iter().any(|year| line.contains(&format!("{year}-"))), "nexusd says {line}");
}
