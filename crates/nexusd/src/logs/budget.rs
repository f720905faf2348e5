//! What of a directive's output is shipped: the first half of the limit as it comes, the last half at the end. Pure.
//!
//! Promises: head, tail, markers and notices of both streams together never exceed the limit; a quarter of each half is kept
//! for either stream, so that a chatty stdout cannot silence stderr; output that fits is shipped whole; the bytes left out are
//! counted exactly.

use conduits::LogStream;

/// What notices may use, at most.
const MAX_NOTICE_BYTES: u64 = 32 * 1024;
/// Kept at the end for notices that come after the output (why a directive failed).
const LATE_NOTICE_BYTES: u64 = 2048;

/// The account of one directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    max: u64,
    /// Shipped as it came, by stream.
    head: [u64; 2],
    /// True once a stream went beyond its head: all that follows is held.
    holding: [bool; 2],
    notices: u64,
    /// Shipped at the end, markers included; set once.
    tail: Option<u64>,
}

/// How the end of one stream is shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tail {
    /// Bytes between head and tail that are left out; 0: everything is shipped and there is no marker.
    pub left_out: u64,
    /// Whether the marker line fits.
    pub marker: bool,
    /// Bytes of the held output's end that are shipped.
    pub bytes: u64,
}

impl Budget {
    /// An account with this limit, in bytes.
    #[must_use]
    pub fn new(max: u64) -> Self {
        Self { max, head: [0; 2], holding: [false; 2], notices: 0, tail: None }
    }

    /// The account of a directive that an earlier process served: what it shipped as head (with notices, which it did not
    /// count apart), and whether it held back more.
    #[must_use]
    pub fn resumed(max: u64, head: [u64; 2], holding: [bool; 2]) -> Self {
        Self { max, head, holding, notices: 0, tail: None }
    }

    /// How many of the next `len` bytes of a stream go out as head. The rest, and all that follows, is held.
    pub fn head(&mut self, stream: LogStream, len: usize) -> usize {
        let half = self.max / 2;
        let [stdout, stderr] = self.head;
        let own = if stream == LogStream::Stdout { stdout } else { stderr };
        let room = (half - half / 4).saturating_sub(own).min(half.saturating_sub(stdout + stderr));
        if *pick(&mut self.holding, stream) {
            return 0;
        }
        let taken = usize::try_from(room).unwrap_or(usize::MAX).min(len);
        *pick(&mut self.head, stream) += taken as u64;
        if taken < len {
            *pick(&mut self.holding, stream) = true;
        }
        taken
    }

    /// True once output of this stream is held back.
    #[must_use]
    pub fn is_holding(&self, stream: LogStream) -> bool {
        let [stdout, stderr] = self.holding;
        if stream == LogStream::Stdout { stdout } else { stderr }
    }

    /// The most that could ever be shipped of what a stream holds back.
    #[must_use]
    pub fn most_tail(&self, stream: LogStream) -> u64 {
        let [stdout, stderr] = self.head;
        self.max.saturating_sub(if stream == LogStream::Stdout { stdout } else { stderr })
    }

    /// Whether a notice of `len` bytes may go out; then it is counted.
    pub fn notice(&mut self, len: usize) -> bool {
        let after = self.notices + len as u64;
        let used = self.head.iter().sum::<u64>() + self.tail.unwrap_or(0) + after;
        // Before the end notices must leave the output its quarter; after it they take what is left.
        let share = if self.tail.is_some() { MAX_NOTICE_BYTES } else { MAX_NOTICE_BYTES.min(self.max / 8) };
        if after > share || used > self.max {
            return false;
        }
        self.notices = after;
        true
    }

    /// Divides what is left of the limit between the held bytes of both streams. Called once, at the end of the output.
    pub fn tails(&mut self, held: [u64; 2]) -> [Tail; 2] {
        let used = self.head.iter().sum::<u64>() + self.notices;
        let left = self.max.saturating_sub(used);
        let [out, err] = held;
        if out + err <= left {
            self.tail = Some(out + err);
            return [Tail { bytes: out, ..Tail::default() }, Tail { bytes: err, ..Tail::default() }];
        }
        let left = left.saturating_sub(LATE_NOTICE_BYTES.min(left / 8));
        // Each gets at least a quarter (or all it has, if less), and what the other does not need.
        let err_share = err.min((left / 4).max(left.saturating_sub(out)));
        let out_share = out.min(left - err_share);
        let tails = [cut(out, out_share), cut(err, err_share)];
        self.tail = Some(tails.iter().map(|tail| tail.bytes + tail.marker_len()).sum());
        tails
    }
}

impl Tail {
    /// The line between head and tail.
    #[must_use]
    pub fn marker_text(&self) -> String {
        format!("\n[... {} bytes truncated ...]\n", self.left_out)
    }

    fn marker_len(&self) -> u64 {
        if self.marker { self.marker_text().len() as u64 } else { 0 }
    }
}

/// `held` bytes into a share of `share`, marker included where anything is left out.
fn cut(held: u64, share: u64) -> Tail {
    if held <= share {
        return Tail { bytes: held, ..Tail::default() };
    }
    // The marker's length depends on the number in it, which depends on the marker's length: take the longest it can be,
    // and give what that was too much back.
    let longest = Tail { left_out: held, marker: true, bytes: 0 }.marker_len();
    let Some(bytes) = share.checked_sub(longest) else {
        return Tail { left_out: held, marker: false, bytes: 0 };
    };
    Tail { left_out: held - bytes, marker: true, bytes }
}

fn pick<T>(pair: &mut [T; 2], stream: LogStream) -> &mut T {
    let [stdout, stderr] = pair;
    if stream == LogStream::Stdout { stdout } else { stderr }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OUT: LogStream = LogStream::Stdout;
    const ERR: LogStream = LogStream::Stderr;

    #[test]
    fn output_within_the_limit_is_shipped_whole() {
        let mut budget = Budget::new(1000);
        assert_eq!(budget.head(OUT, 300), 300);
        assert_eq!(budget.head(OUT, 300), 75, "three quarters of the first half");
        assert_eq!(budget.head(OUT, 1), 0, "once held, always held");
        assert!(budget.is_holding(OUT));
        assert_eq!(budget.tails([625, 0])[0], Tail { bytes: 625, ..Tail::default() });
    }

    #[test]
    fn beyond_it_the_end_is_shipped_behind_a_marker() {
        let mut budget = Budget::new(1000);
        budget.head(OUT, 10_000);
        let [out, err] = budget.tails([10_000 - 375, 0]);
        assert_eq!(err, Tail::default());
        assert!(out.marker);
        assert_eq!(out.left_out + out.bytes + 375, 10_000);
        assert_eq!(out.marker_text(), format!("\n[... {} bytes truncated ...]\n", out.left_out));
        assert!(375 + out.bytes + out.marker_len() <= 1000);
        assert!(out.bytes > 450, "most of the rest is used: {out:?}");
    }

    #[test]
    fn stderr_keeps_its_quarter() {
        let mut budget = Budget::new(8000);
        assert_eq!(budget.head(OUT, 1_000_000), 3000);
        assert_eq!(budget.head(ERR, 1_000_000), 1000);
        let [out, err] = budget.tails([997_000, 999_000]);
        assert!(1000 + err.bytes + err.marker_len() >= 1800, "{err:?}");
        assert!(out.bytes > 2 * err.bytes, "{out:?} {err:?}");
    }

    #[derive(Debug, Clone)]
    enum Event {
        Output(bool, usize),
        Notice(usize),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            5 => (any::<bool>(), 0usize..3000).prop_map(|(err, len)| Event::Output(err, len)),
            1 => (1usize..400).prop_map(Event::Notice),
        ];
        proptest::collection::vec(event, 0..40)
    }

    proptest! {
        #[test]
        fn everything_shipped_fits_and_is_counted(max in 0u64..20_000, before in events(), after in events()) {
            let mut budget = Budget::new(max);
            let (mut shipped, mut seen, mut heads, mut held) = (0u64, [0u64; 2], [0u64; 2], [0u64; 2]);
            for event in before {
                match event {
                    Event::Output(err, len) => {
                        let (stream, at) = if err { (ERR, 1) } else { (OUT, 0) };
                        let head = budget.head(stream, len);
                        prop_assert!(head == 0 || held[at] == 0, "no head after held bytes");
                        seen[at] += len as u64;
                        heads[at] += head as u64;
                        held[at] += (len - head) as u64;
                        prop_assert_eq!(budget.is_holding(stream), held[at] > 0);
                        prop_assert!(held[at] == 0 || budget.most_tail(stream) + heads[at] == max);
                    }
                    Event::Notice(len) => if budget.notice(len) { shipped += len as u64 },
                }
            }
            shipped += heads[0] + heads[1];
            prop_assert!(shipped <= max);
            let fits = shipped + held[0] + held[1] <= max;
            let tails = budget.tails(held);
            for at in 0..2 {
                prop_assert_eq!(heads[at] + tails[at].left_out + tails[at].bytes, seen[at]);
                prop_assert!(!fits || tails[at].left_out == 0);
                prop_assert!(heads[at] + tails[at].bytes <= max);
                shipped += tails[at].bytes + tails[at].marker_len();
            }
            for event in after {
                if let Event::Notice(len) = event && budget.notice(len) { shipped += len as u64 }
            }
            prop_assert!(shipped <= max, "{} > {}", shipped, max);
        }
    }
}
