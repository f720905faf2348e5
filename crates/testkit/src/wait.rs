//! Waiting for a condition with a deadline, for plain and for asynchronous tests.
//!
//! Every wait of the testkit is given for a machine of usual speed. On a slow one (`make test-vm` runs in an emulated
//! machine) `NEXUS_TEST_PATIENCE` is the factor by which all of them are longer.

use std::fmt::Debug;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Between two looks at a condition that nothing signals.
const STEP: Duration = Duration::from_millis(5);

/// A wait for a machine of usual speed, as long as it is on this one.
///
/// # Panics
/// `NEXUS_TEST_PATIENCE` is no number from 1 to 100.
#[must_use]
pub fn patient(within: Duration) -> Duration {
    within * factor(std::env::var("NEXUS_TEST_PATIENCE").ok().as_deref())
}

fn factor(text: Option<&str>) -> u32 {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return 1 };
    let factor = text.parse().ok().filter(|factor| (1..=100).contains(factor));
    factor.unwrap_or_else(|| panic!("NEXUS_TEST_PATIENCE={text} is no number from 1 to 100"))
}

/// Looks until the condition gives a value, and panics at the deadline with what was waited for.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let within = patient(within);
    let end = Instant::now() + within;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < end, "waited {within:?} in vain for {what}");
        std::thread::sleep(STEP);
    }
}

/// Looks after each change that `changes` tells of, until the condition gives a value; at the deadline `Err` with
/// the debug form of what was seen last.
pub async fn until_changed<T, S: Debug>(
    changes: &mut watch::Receiver<u64>,
    within: Duration,
    mut look: impl FnMut() -> Result<T, S>,
) -> Result<T, String> {
    let within = patient(within);
    let end = tokio::time::Instant::now() + within;
    loop {
        changes.borrow_and_update();
        let seen = match look() {
            Ok(value) => return Ok(value),
            Err(seen) => seen,
        };
        match tokio::time::timeout_at(end, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(format!("the server has ended; seen: {seen:?}")),
            Err(_) => return Err(format!("nothing within {within:?}; seen: {seen:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_is_seen() {
        let start = Instant::now();
        let value =
            until("20 ms", Duration::from_secs(5), || (start.elapsed() > Duration::from_millis(20)).then_some(7));
        assert_eq!(value, 7);
    }

    #[test]
    fn patience_is_a_small_whole_number() {
        assert_eq!([None, Some(""), Some("1"), Some("4"), Some("100")].map(factor), [1, 1, 1, 4, 100]);
        for wrong in ["0", "101", "-1", "2.5", "x"] {
            assert!(std::panic::catch_unwind(|| factor(Some(wrong))).is_err(), "{wrong}");
        }
    }

    #[test]
    #[should_panic(expected = "in vain for the impossible")]
    fn a_condition_that_does_not_panics_at_the_deadline() {
        until::<()>("the impossible", Duration::from_millis(20), || None);
    }

    #[tokio::test]
    async fn changes_wake_the_look() {
        let (send, mut changes) = watch::channel(0);
        let shorter = until_changed(&mut changes, Duration::from_millis(20), || Err::<(), _>("nothing")).await;
        assert!(shorter.unwrap_err().contains("nothing within 20ms; seen: \"nothing\""));
        let thread = std::thread::spawn(move || {
            send.send_modify(|n| *n += 1);
            send.send_modify(|n| *n += 1);
            send
        });
        let mut look = changes.clone();
        let seen = until_changed(&mut changes, Duration::from_secs(5), || {
            let n = *look.borrow_and_update();
            if n == 2 { Ok(n) } else { Err(n) }
        });
        assert_eq!(seen.await, Ok(2));
        drop(thread.join());
    }
}
