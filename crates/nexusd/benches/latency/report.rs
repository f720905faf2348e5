//! The table: what was measured, beside what it is held against.

use std::fmt::Write as _;
use std::time::Duration;

use crate::measure::{IDLE, Measured, QUEUED, Samples};

/// What each quantity may be at the median, beside plain bubblewrap where it is compared with that.
const UNTRUSTED_OVER_RAW: Duration = Duration::from_millis(6);
const ONE_SHOT_OVER_RAW: Duration = Duration::from_millis(8);
const HOST: Duration = Duration::from_millis(3);
const LEASING: Duration = Duration::from_millis(2);
const FIRST_BYTE: Duration = Duration::from_millis(5);
/// How much longer than plain podman a directive may take.
const TRUSTED_TO_PODMAN: f64 = 1.25;
/// Bytes.
const RESIDENT: u64 = 15_000_000;
/// Of one processor: what a look at the clock ticks of ten seconds could not tell from nothing.
const IDLE_SHARE: f64 = 0.001;

/// The whole table.
pub(crate) fn table(measured: &Measured) -> String {
    let raw = measured.raw.median();
    let mut table = Table::default();
    table.line("", "median", "p90", "goal", "");
    table.samples("plain bwrap … /bin/true", &measured.raw, None);
    table.samples("plain /bin/sh -c true", &measured.shell, None);
    table.samples("a write acknowledged by the control plane", &measured.acknowledged, None);
    table.samples("untrusted `true`, leased → finished", &measured.untrusted, Some(raw + UNTRUSTED_OVER_RAW));
    table.samples("host `true`, leased → finished", &measured.host, Some(HOST));
    table.samples("queued → leased", &measured.leasing, Some(LEASING));
    table.samples("first log byte, written → received", &measured.first_byte, Some(FIRST_BYTE));
    table.samples("nexusd run -- true", &measured.one_shot, Some(raw + ONE_SHOT_OVER_RAW));
    if measured.podman.is_empty() {
        table.line("trusted: not measured, for want of podman or of the tests' image", "", "", "", "");
    } else {
        table.samples("plain podman run --rm … true", &measured.podman, None);
        let goal = measured.podman.median().mul_f64(TRUSTED_TO_PODMAN);
        table.samples("trusted `true`, leased → finished", &measured.trusted, Some(goal));
    }
    table.rule();
    let per_second = |rate: f64| format!("{rate:.0}/s");
    table.line("plain bwrap, xargs -P5", &per_second(measured.raw_rate), "", "", "");
    let goal = measured.raw_rate / 2.0;
    table.value(
        &format!("{QUEUED} untrusted `true` queued, 5 at a time"),
        &per_second(measured.rate),
        &format!("≥ {}", per_second(goal)),
        measured.rate >= goal,
    );
    table.rule();
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let (first, last) = measured.resident;
    table.line("nexusd resident, after its first directives", &megabytes(first), "", "", "");
    table.value(
        "nexusd resident, idle after all of the above",
        &megabytes(last),
        &format!("< {}", megabytes(RESIDENT)),
        last < RESIDENT,
    );
    let share = measured.idle.as_secs_f64() / IDLE.as_secs_f64();
    table.value(
        &format!("nexusd processor time, idle for {} s", IDLE.as_secs()),
        &format!("{:.3} %", share * 100.0),
        &format!("< {:.1} %", IDLE_SHARE * 100.0),
        share < IDLE_SHARE,
    );
    format!(
        "{} rounds, interleaved; control plane, daemon and sandboxes on the same machine\n\n{}",
        measured.rounds, table.0
    )
}

#[derive(Default)]
struct Table(String);

impl Table {
    fn line(&mut self, what: &str, median: &str, p90: &str, goal: &str, verdict: &str) {
        let line = format!("  {what:<46}{median:>11}{p90:>11}{goal:>13}  {verdict}");
        writeln!(self.0, "{}", line.trim_end()).unwrap();
    }

    fn rule(&mut self) {
        self.0.push('\n');
    }

    fn value(&mut self, what: &str, value: &str, goal: &str, met: bool) {
        self.line(what, value, "", goal, if met { "PASS" } else { "MISS" });
    }

    fn samples(&mut self, what: &str, samples: &Samples, most: Option<Duration>) {
        let median = samples.median();
        let goal = most.map_or_else(String::new, |most| format!("≤ {}", milliseconds(most)));
        let verdict = most.map_or("", |most| if median <= most { "PASS" } else { "MISS" });
        self.line(what, &milliseconds(median), &milliseconds(samples.percentile(90)), &goal, verdict);
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}
