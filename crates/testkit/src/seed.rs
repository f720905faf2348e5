//! Chance that can be had again: every test that throws dice prints the seed, and throws the same ones when it is given
//! that seed (`NEXUS_TEST_SEED`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A stream of numbers from a seed (`SplitMix64`). Not for secrets.
#[derive(Debug, Clone)]
pub struct Dice {
    state: u64,
}

impl Dice {
    /// From `NEXUS_TEST_SEED` where that is given, else from the clock; says which.
    ///
    /// # Panics
    /// `NEXUS_TEST_SEED` is no number.
    #[must_use]
    pub fn announced(what: &str) -> Self {
        let given = std::env::var("NEXUS_TEST_SEED").ok().filter(|text| !text.is_empty());
        let seed = match given {
            Some(text) => text.parse().unwrap_or_else(|_| panic!("NEXUS_TEST_SEED={text} is no number")),
            None => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::from(now.subsec_nanos()) ^ (now.as_secs() << 20)
            }
        };
        eprintln!("{what}: seed {seed} (again: NEXUS_TEST_SEED={seed})");
        Self::new(seed)
    }

    /// From this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// True in `percent` of a hundred cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A time below this one.
    pub fn time(&mut self, below: Duration) -> Duration {
        Duration::from_micros(self.below(u64::try_from(below.as_micros()).unwrap_or(u64::MAX).max(1)))
    }

    /// One of these.
    ///
    /// # Panics
    /// There are none.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        let at = self.below(choices.len() as u64);
        choices[usize::try_from(at).expect("an index")]
    }

    /// Dice of their own, for another thread.
    pub fn split(&mut self) -> Self {
        Self::new(self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_dice_and_another_one_does_not() {
        let throw = |seed| {
            let mut dice = Dice::new(seed);
            (0..8).map(|_| dice.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(throw(7), throw(7));
        assert_ne!(throw(7), throw(8));
        let mut dice = Dice::new(1);
        let hits = (0..10_000).filter(|_| dice.percent(10)).count();
        assert!((900..1100).contains(&hits), "{hits}");
    }
}
