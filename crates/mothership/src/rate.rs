//! Failures counted by address, so that nobody guesses enrolment tokens at speed.
//!
//! A sliding window: the address may fail so many times an hour, then it is refused until its oldest failure is an hour old.
//! A try is counted before it is made and given back if it was none: tries that run side by side get no further than
//! those that follow each other, and a client that hangs up has failed. A try that is only kept out by others that are not
//! decided yet waits for them. IPv6 counts by /64, since one host has as many addresses in it as it likes. The table is
//! bounded: when it is full, the address that failed longest ago is forgotten.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// The window in which failures are counted.
const WINDOW: Duration = Duration::from_secs(60 * 60);
/// Addresses remembered at most.
const ADDRESSES: usize = 10_000;
/// How long a try waits for those before it to be decided; each is one transaction.
const DECIDED: Duration = Duration::from_secs(5);
/// When to come again where that was not enough.
const BUSY: Duration = Duration::from_secs(1);

/// The counter.
#[derive(Debug)]
pub struct FailureLimit {
    allowed: usize,
    addresses: Mutex<HashMap<IpAddr, Tries>>,
    decided: Notify,
}

/// What is known of an address.
#[derive(Debug, Default)]
struct Tries {
    /// When it failed, oldest first.
    failures: VecDeque<Instant>,
    /// Tries that are not decided yet.
    open: usize,
}

/// Leave to try once. Dropped, it counts as a failure.
#[derive(Debug)]
pub struct Try<'l> {
    limit: &'l FailureLimit,
    address: IpAddr,
    failed: bool,
}

/// Why there is no leave to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// Too many failures: for this long.
    Out(Duration),
    /// Too many tries that may still fail.
    Waiting,
}

impl FailureLimit {
    /// Allows `allowed` failures an hour and address, at least one.
    #[must_use]
    pub fn new(allowed: usize) -> Self {
        Self { allowed: allowed.max(1), addresses: Mutex::new(HashMap::new()), decided: Notify::new() }
    }

    /// Leave for `address` to try once, or how long it must wait first.
    ///
    /// # Errors
    /// The wait.
    pub async fn begin(&self, address: IpAddr) -> Result<Try<'_>, Duration> {
        self.begin_within(address, DECIDED).await
    }

    async fn begin_within(&self, address: IpAddr, patience: Duration) -> Result<Try<'_>, Duration> {
        let address = network(address);
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            // Registered before the look, so that a decision in between wakes it.
            let mut decided = std::pin::pin!(self.decided.notified());
            decided.as_mut().enable();
            match self.reserve(address, Instant::now()) {
                Ok(()) => return Ok(Try { limit: self, address, failed: true }),
                Err(Kept::Out(wait)) => return Err(wait),
                Err(Kept::Waiting) => {
                    tokio::time::timeout_at(deadline, decided).await.map_err(|_| BUSY)?;
                }
            }
        }
    }

    /// How long `address` is kept out, as of now; none when it is not. For a look before a body is read.
    #[must_use]
    pub fn kept_out(&self, address: IpAddr) -> Option<Duration> {
        self.addresses().get_mut(&network(address)).and_then(|tries| tries.kept_out(self.allowed, Instant::now()))
    }

    /// Counts a try of `address` before it is made.
    fn reserve(&self, address: IpAddr, now: Instant) -> Result<(), Kept> {
        let mut addresses = self.addresses();
        if !addresses.contains_key(&address) {
            make_room(&mut addresses);
        }
        let tries = addresses.entry(address).or_default();
        if let Some(wait) = tries.kept_out(self.allowed, now) {
            return Err(Kept::Out(wait));
        }
        if tries.failures.len() + tries.open >= self.allowed {
            return Err(Kept::Waiting);
        }
        tries.open += 1;
        Ok(())
    }

    /// What became of a try.
    fn decide(&self, address: IpAddr, failed: bool, now: Instant) {
        let mut addresses = self.addresses();
        if failed {
            // Forgotten meanwhile, it is remembered anew.
            let tries = addresses.entry(address).or_default();
            tries.open = tries.open.saturating_sub(1);
            tries.failures.push_back(now);
        } else if let Some(tries) = addresses.get_mut(&address) {
            tries.open = tries.open.saturating_sub(1);
            if tries.open == 0 && tries.failures.is_empty() {
                addresses.remove(&address);
            }
        }
        drop(addresses);
        self.decided.notify_waiters();
    }

    fn addresses(&self) -> MutexGuard<'_, HashMap<IpAddr, Tries>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tries {
    fn kept_out(&mut self, allowed: usize, now: Instant) -> Option<Duration> {
        self.failures.retain(|at| now.duration_since(*at) < WINDOW);
        // As many as are over the limit must grow old.
        let over = self.failures.len().checked_sub(allowed)?;
        self.failures.get(over).map(|at| WINDOW - now.duration_since(*at))
    }
}

/// Forgets an address where the table is full: the one that failed longest ago, one without a failure first.
fn make_room(addresses: &mut HashMap<IpAddr, Tries>) {
    if addresses.len() < ADDRESSES {
        return;
    }
    let oldest = addresses.iter().min_by_key(|(_, tries)| tries.failures.back().copied()).map(|(address, _)| *address);
    if let Some(oldest) = oldest {
        addresses.remove(&oldest);
    }
}

impl Try<'_> {
    /// It was no failure: gives it back.
    pub fn give_back(mut self) {
        self.failed = false;
    }
}

impl Drop for Try<'_> {
    fn drop(&mut self) {
        self.limit.decide(self.address, self.failed, Instant::now());
    }
}

/// What one host is counted as.
pub(crate) fn network(address: IpAddr) -> IpAddr {
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
        network(text.parse().unwrap())
    }

    impl FailureLimit {
        fn fail(&self, address: IpAddr, now: Instant) {
            self.reserve(address, now).unwrap();
            self.decide(address, true, now);
        }
    }

    #[test]
    fn the_window_slides() {
        let limit = FailureLimit::new(2);
        let (one, start) = (address("192.0.2.1"), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        limit.fail(one, at(0));
        limit.fail(one, at(600));
        assert_eq!(limit.reserve(one, at(600)), Err(Kept::Out(Duration::from_secs(3000))));
        assert_eq!(limit.reserve(address("192.0.2.2"), at(600)), Ok(()));
        assert_eq!(limit.reserve(one, at(3600)), Ok(()));
    }

    #[test]
    fn open_tries_count_and_are_given_back() {
        let limit = FailureLimit::new(2);
        let (one, now) = (address("192.0.2.1"), Instant::now());
        assert_eq!((limit.reserve(one, now), limit.reserve(one, now)), (Ok(()), Ok(())));
        assert_eq!(limit.reserve(one, now), Err(Kept::Waiting));
        limit.decide(one, false, now);
        assert_eq!(limit.reserve(one, now), Ok(()));
        limit.decide(one, true, now);
        limit.decide(one, true, now);
        assert_eq!(limit.reserve(one, now), Err(Kept::Out(WINDOW)));
    }

    #[tokio::test]
    async fn a_try_waits_for_those_before_it_and_one_that_is_dropped_has_failed() {
        let limit = FailureLimit::new(1);
        let one = address("192.0.2.1");
        let first = limit.begin(one).await.unwrap();
        let (second, ()) = tokio::join!(limit.begin(one), async { first.give_back() });
        drop(second.unwrap());
        assert!(limit.begin(one).await.is_err_and(|wait| wait > WINDOW / 2));
        assert!(limit.kept_out(one).is_some());
    }

    #[tokio::test]
    async fn no_try_waits_for_ever() {
        let limit = FailureLimit::new(1);
        let one = address("192.0.2.1");
        let _open = limit.begin(one).await.unwrap();
        assert_eq!(limit.begin_within(one, Duration::from_millis(20)).await.err(), Some(BUSY));
    }

    #[test]
    fn an_ipv6_host_is_its_network_and_a_mapped_address_is_ipv4() {
        assert_eq!(address("2001:db8::1"), address("2001:db8::ffff:1"));
        assert_ne!(address("2001:db8::1"), address("2001:db8:0:1::1"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    }

    #[test]
    fn the_table_is_bounded() {
        let limit = FailureLimit::new(1);
        let (first, start) = (address("10.0.0.0"), Instant::now());
        limit.fail(first, start);
        for n in 1..=u32::try_from(ADDRESSES).unwrap() {
            let later = start + Duration::from_millis(u64::from(n));
            limit.fail(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), later);
        }
        assert_eq!(limit.addresses().len(), ADDRESSES);
        assert_eq!(limit.reserve(first, start), Ok(()));
    }
}
