//! The addresses of the mothership where the configuration names it by a name: no directive reaches them by another name,
//! not even where the operator opened their range.
//!
//! Promises: looked up at the start and again and again; an answer that fails changes nothing; what a name had within the
//! last hour still counts, for names with many addresses give some of them at a time.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use conduits::DnsName;
use egress::{NamedListeners, Resolver};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The pause between two look-ups.
const EVERY: Duration = Duration::from_secs(60);

/// The pause after one that found nothing.
const AGAIN: Duration = Duration::from_secs(5);

/// How long an address counts after it was last found.
const KEEP: Duration = Duration::from_secs(3600);

/// The longest that the first look-up holds a directive's network back.
const FIRST_WITHIN: Duration = Duration::from_secs(3);

/// Addresses kept at most, the newest ones.
const MOST: usize = 256;

/// What is looked up, and where it goes.
#[derive(Debug)]
pub(super) struct Follower {
    /// Looks up.
    pub(super) resolver: Resolver,
    /// Host and port.
    pub(super) names: Vec<(DnsName, u16)>,
    /// Shared with the policies of all directives.
    pub(super) listeners: NamedListeners,
    /// Turns true after the first look-up, whatever came of it.
    pub(super) asked: watch::Sender<bool>,
}

impl Follower {
    /// Until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut seen = Seen::default();
        loop {
            let mut found_all = true;
            for (name, port) in &self.names {
                let looked_up = tokio::time::timeout(FIRST_WITHIN, self.resolver.addresses(name));
                let addresses = tokio::select! {
                    () = stop.cancelled() => return,
                    addresses = looked_up => addresses.unwrap_or_default(),
                };
                found_all &= !addresses.is_empty();
                seen.found(&addresses, *port, Instant::now());
            }
            self.listeners.set(seen.at(Instant::now()));
            self.asked.send_replace(true);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(if found_all { EVERY } else { AGAIN }) => {}
            }
        }
    }
}

/// Addresses, and when each was last found.
#[derive(Debug, Default)]
struct Seen(HashMap<SocketAddr, Instant>);

impl Seen {
    fn found(&mut self, addresses: &[IpAddr], port: u16, now: Instant) {
        self.0.extend(addresses.iter().map(|address| (SocketAddr::new(*address, port), now)));
    }

    /// Those that count now, the newest first.
    fn at(&mut self, now: Instant) -> Vec<SocketAddr> {
        let mut known: Vec<_> = self.0.drain().filter(|(_, found)| now.duration_since(*found) < KEEP).collect();
        known.sort_by_key(|(address, found)| (std::cmp::Reverse(*found), *address));
        known.truncate(MOST);
        let addresses = known.iter().map(|(address, _)| *address).collect();
        self.0.extend(known);
        addresses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_for_an_hour_after_it_was_last_found() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (begin, minute) = (Instant::now(), Duration::from_secs(60));
        let mut seen = Seen::default();
        seen.found(&[ip("10.0.0.1"), ip("10.0.0.2")], 443, begin);
        seen.found(&[ip("10.0.0.2"), ip("::1")], 443, begin + minute);
        assert_eq!(seen.at(begin + minute), [at("10.0.0.2:443"), at("[::1]:443"), at("10.0.0.1:443")]);
        // Nobody could be asked: what was known stays.
        seen.found(&[], 443, begin + minute * 2);
        assert_eq!(seen.at(begin + minute * 60), [at("10.0.0.2:443"), at("[::1]:443")]);
        assert_eq!(seen.at(begin + minute * 61), []);
        let many: Vec<IpAddr> = (0..500_u32).map(|n| std::net::Ipv4Addr::from_bits(n).into()).collect();
        seen.found(&many, 1, begin);
        assert_eq!(seen.at(begin).len(), MOST);
    }
}
