//! Failures counted by address, so that nobody guesses enrolment tokens at speed.
//!
//! A sliding window: the address may fail so many times an hour, then it is refused until its oldest failure is an hour old.
//! IPv6 counts by /64, since one host has as many addresses in it as it likes. The table is bounded:
//! when it is full, the address that failed longest ago is forgotten.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The window in which failures are counted.
const WINDOW: Duration = Duration::from_secs(60 * 60);
/// Addresses remembered at most.
const ADDRESSES: usize = 10_000;

/// The counter.
#[derive(Debug)]
pub struct FailureLimit {
    allowed: usize,
    failures: Mutex<HashMap<IpAddr, VecDeque<Instant>>>,
}

impl FailureLimit {
    /// Allows `allowed` failures an hour and address.
    #[must_use]
    pub fn new(allowed: usize) -> Self {
        Self { allowed, failures: Mutex::new(HashMap::new()) }
    }

    /// How long `address` must wait before it may try, as of `now`; none when it may at once.
    #[must_use]
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let known = failures.get_mut(&network(address))?;
        known.retain(|at| now.duration_since(*at) < WINDOW);
        if known.len() < self.allowed {
            return None;
        }
        // As many as are over the limit must grow old; the window's length where none are left to count.
        let oldest = known.get(known.len() - self.allowed.max(1));
        Some(oldest.map_or(WINDOW, |at| WINDOW - now.duration_since(*at)))
    }

    /// Counts a failure of `address` at `now`.
    pub fn failed(&self, address: IpAddr, now: Instant) {
        let address = network(address);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES && !failures.contains_key(&address) {
            let oldest = failures.iter().min_by_key(|(_, times)| times.back().copied()).map(|(address, _)| *address);
            if let Some(oldest) = oldest {
                failures.remove(&oldest);
            }
        }
        let known = failures.entry(address).or_default();
        known.push_back(now);
        while known.len() > self.allowed.max(1) {
            known.pop_front();
        }
    }
}

/// What one host is counted as.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_window_slides() {
        let limit = FailureLimit::new(2);
        let (one, start) = (address("192.0.2.1"), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        limit.failed(one, at(0));
        assert_eq!(limit.wait(one, at(1)), None);
        limit.failed(one, at(600));
        assert_eq!(limit.wait(one, at(600)), Some(Duration::from_secs(3000)));
        assert_eq!(limit.wait(address("192.0.2.2"), at(600)), None);
        assert_eq!(limit.wait(one, at(3600)), None);
    }

    #[test]
    fn an_ipv6_host_is_its_network_and_a_mapped_address_is_ipv4() {
        let limit = FailureLimit::new(1);
        let now = Instant::now();
        limit.failed(address("2001:db8::1"), now);
        assert!(limit.wait(address("2001:db8::ffff:1"), now).is_some());
        assert!(limit.wait(address("2001:db8:0:1::1"), now).is_none());
        limit.failed(address("::ffff:192.0.2.1"), now);
        assert!(limit.wait(address("192.0.2.1"), now).is_some());
    }

    #[test]
    fn the_table_is_bounded() {
        let limit = FailureLimit::new(1);
        let (first, start) = (address("10.0.0.0"), Instant::now());
        limit.failed(first, start);
        for n in 1..=u32::try_from(ADDRESSES).unwrap() {
            let later = start + Duration::from_millis(u64::from(n));
            limit.failed(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), later);
        }
        assert_eq!(limit.failures.lock().unwrap().len(), ADDRESSES);
        assert_eq!(limit.wait(first, start), None);
    }
}
