//! The NAT64 prefixes of this network (RFC 7050), asked for at the start and again and again: machines move.
//!
//! Promises: an answer that fails changes nothing. The IPv6 addresses of destinations wait for the first one (a moment:
//! the policy bounds it), nothing else does.

use std::time::Duration;

use egress::{Nat64Prefixes, Resolver};
use tokio_util::sync::CancellationToken;

/// The pause between two questions.
const EVERY: Duration = Duration::from_secs(300);

/// The pause after one that nobody answered.
const AGAIN: Duration = Duration::from_secs(15);

/// What is asked, and where it goes.
#[derive(Debug)]
pub(super) struct Follower {
    /// Asks.
    pub(super) resolver: Resolver,
    /// Shared with the policies of all directives.
    pub(super) prefixes: Nat64Prefixes,
}

impl Follower {
    /// Until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut has_asked = false;
        loop {
            let found = tokio::select! {
                () = stop.cancelled() => return,
                found = self.resolver.nat64_prefixes() => found,
            };
            let pause = if found.is_some() { EVERY } else { AGAIN };
            match found {
                Some(prefixes) => self.prefixes.set(prefixes),
                // Where no name server answers there is none that would make such addresses.
                None if !has_asked => self.prefixes.set(Vec::new()),
                None => {}
            }
            has_asked = true;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
