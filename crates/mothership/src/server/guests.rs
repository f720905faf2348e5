//! How many connections one address may have: a flood from one place must not keep everybody else out.
//!
//! An address has at most half of all connections, and a bounded number that have not shaken hands yet. Those of trusted
//! proxies, behind which everybody is, are not counted. IPv6 counts by /64, as in [`rate`](crate::rate).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::rate::network;

/// Connections of one address that have not shaken hands yet.
const UNFINISHED: usize = 256;

/// The connections by address.
#[derive(Debug)]
pub(super) struct Guests {
    exempt: Vec<IpNet>,
    most: usize,
    unfinished: usize,
    known: Mutex<HashMap<IpAddr, Count>>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    all: usize,
    unfinished: usize,
}

/// A connection that is counted until this is dropped; at first as one that has not shaken hands.
#[derive(Debug)]
pub(super) struct Guest {
    guests: Arc<Guests>,
    /// None of an exempt address.
    network: Option<IpAddr>,
    unfinished: bool,
}

impl Guests {
    /// Where there are `connections` in all, and `exempt` are not counted.
    pub(super) fn new(connections: usize, exempt: Vec<IpNet>) -> Arc<Self> {
        Arc::new(Self { exempt, most: connections / 2, unfinished: UNFINISHED, known: Mutex::default() })
    }

    /// Lets a connection of `address` in; none where it has too many.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        let canonical = address.to_canonical();
        if self.exempt.iter().any(|net| net.contains(&canonical)) {
            return Some(Guest { guests: Arc::clone(self), network: None, unfinished: false });
        }
        let network = network(address);
        let mut known = self.known();
        let count = known.get(&network).copied().unwrap_or_default();
        if count.all >= self.most || count.unfinished >= self.unfinished {
            return None;
        }
        known.insert(network, Count { all: count.all + 1, unfinished: count.unfinished + 1 });
        drop(known);
        Some(Guest { guests: Arc::clone(self), network: Some(network), unfinished: true })
    }

    fn change(&self, network: IpAddr, change: impl FnOnce(&mut Count)) {
        let mut known = self.known();
        if let Some(count) = known.get_mut(&network) {
            change(count);
            if count.all == 0 {
                known.remove(&network);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<IpAddr, Count>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// It has shaken hands.
    pub(super) fn is_in(&mut self) {
        if let Some(network) = self.network.filter(|_| self.unfinished) {
            self.guests.change(network, |count| count.unfinished -= 1);
        }
        self.unfinished = false;
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.is_in();
        if let Some(network) = self.network {
            self.guests.change(network, |count| count.all -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_has_its_share_and_no_more() {
        let guests = Guests::new(8, vec!["10.0.0.0/8".parse().unwrap()]);
        let one = address("192.0.2.1");
        let mut inside: Vec<Guest> = (0..4).map(|_| guests.admit(one).unwrap()).collect();
        assert!(guests.admit(one).is_none());
        assert!(guests.admit(address("192.0.2.2")).is_some());
        let exempt: Vec<_> = (0..20).map(|_| guests.admit(address("::ffff:10.0.0.1"))).collect();
        assert!(exempt.iter().all(Option::is_some));
        inside.pop();
        assert!(guests.admit(one).is_some());
        drop((inside, exempt));
        assert!(guests.known().is_empty());
    }

    #[test]
    fn who_does_not_shake_hands_is_few() {
        let guests = Arc::new(Guests { exempt: Vec::new(), most: 100, unfinished: 2, known: Mutex::default() });
        let one = address("2001:db8::1");
        let mut first = guests.admit(one).unwrap();
        let _second = guests.admit(address("2001:db8::2")).unwrap();
        assert!(guests.admit(one).is_none());
        first.is_in();
        first.is_in();
        let _third = guests.admit(one).unwrap();
        assert!(guests.admit(one).is_none());
        drop(first);
        assert_eq!(guests.known()[&network(one)], Count { all: 2, unfinished: 2 });
    }
}
