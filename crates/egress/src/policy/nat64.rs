//! The NAT64 prefixes of this network (RFC 7050): under such a prefix every IPv4 address has an IPv6 one, the private ones
//! and the metadata service too, and a name server that does DNS64 gives them out.
//!
//! Reading an answer is pure. What was found is shared by the policies of all directives, for it changes with the network.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::Ipv6Net;
use tokio::sync::watch;

use super::embedded;

/// The name whose only addresses are IPv4 ones (RFC 7050, section 8.2): an IPv6 address of it is one that NAT64 made.
pub const ASKED_NAME: &str = "ipv4only.arpa";

/// Those addresses.
const WELL_KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];

/// The most prefixes that are kept; a network has one or two.
pub const MAX_PREFIXES: usize = 8;

/// Prefixes beside the well-known ones, as they were last found; cheap to clone.
#[derive(Debug, Clone)]
pub struct Nat64Prefixes(Arc<watch::Sender<Option<Vec<Ipv6Net>>>>);

impl Default for Nat64Prefixes {
    /// It is known that there are none.
    fn default() -> Self {
        Vec::new().into()
    }
}

impl From<Vec<Ipv6Net>> for Nat64Prefixes {
    fn from(prefixes: Vec<Ipv6Net>) -> Self {
        Self(Arc::new(watch::Sender::new(Some(prefixes))))
    }
}

impl Nat64Prefixes {
    /// Nobody has asked yet.
    #[must_use]
    pub fn not_yet_known() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Takes the place of what was known, for connections from now on.
    pub fn set(&self, mut prefixes: Vec<Ipv6Net>) {
        prefixes.truncate(MAX_PREFIXES);
        self.0.send_replace(Some(prefixes));
    }

    /// Resolves once [`set`](Self::set) was called at all.
    pub(crate) async fn known(&self) {
        // The sender lives in `self`: waiting cannot fail.
        drop(self.0.subscribe().wait_for(Option::is_some).await);
    }

    pub(super) fn read<R>(&self, use_them: impl FnOnce(&[Ipv6Net]) -> R) -> R {
        use_them(self.0.borrow().as_deref().unwrap_or_default())
    }
}

/// The prefixes that the addresses of [`ASKED_NAME`] show (RFC 7050, section 3). Where a well-known address can be read at
/// several prefix lengths, each of them counts.
#[must_use]
pub fn prefixes(answers: &[Ipv6Addr]) -> Vec<Ipv6Net> {
    let mut found: Vec<Ipv6Net> = Vec::new();
    for answer in answers {
        for length in embedded::NAT64_LENGTHS {
            let is_made = WELL_KNOWN.contains(&embedded::rfc6052(&answer.octets(), length));
            if is_made && let Ok(prefix) = Ipv6Net::new(*answer, length).map(|net| net.trunc()) {
                let is_new = !found.contains(&prefix);
                if is_new && found.len() < MAX_PREFIXES {
                    found.push(prefix);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_of_rfc_6052_is_found() {
        let cases: &[(&[&str], &[&str])] = &[
            (&[], &[]),
            (&["2001:db8::1"], &[]),
            (&["64:ff9b::c000:aa", "64:ff9b::c000:ab"], &["64:ff9b::/96"]),
            (&["2a01:db9:1::c000:aa"], &["2a01:db9:1::/96"]),
            (&["2a01:db9:1:1:c0:0:aa00:0"], &["2a01:db9:1:1::/64"]),
            (&["2a01:db9:1:1c0:0:ab::"], &["2a01:db9:1:100::/56"]),
            (&["2a01:db9:1:c000:0:aa00::"], &["2a01:db9:1::/48"]),
            (&["2a01:db9:1c0:0:aa::"], &["2a01:db9:100::/40"]),
            (&["2a01:db9:c000:aa::"], &["2a01:db9::/32"]),
            (&["2a01:1::c000:aa", "2a01:2::c000:ab"], &["2a01:1::/96", "2a01:2::/96"]),
        ];
        for (answers, want) in cases {
            let answers: Vec<Ipv6Addr> = answers.iter().map(|text| text.parse().unwrap()).collect();
            let want: Vec<Ipv6Net> = want.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(prefixes(&answers), want, "{answers:?}");
        }
        let many: Vec<Ipv6Addr> = (0..100).map(|n| format!("2a01:{n:x}::c000:aa").parse().unwrap()).collect();
        assert_eq!(prefixes(&many).len(), MAX_PREFIXES);
    }

    /// What discovery finds is what the ladder reads: the address that showed the prefix is read back as it was made.
    #[tokio::test]
    async fn what_is_found_is_read() {
        let found = Nat64Prefixes::not_yet_known();
        assert!(found.read(<[Ipv6Net]>::is_empty));
        let made: Ipv6Addr = "2a01:db9:1:1:c0:0:aa00:0".parse().unwrap();
        let shared = found.clone();
        let waiting = async move { shared.known().await };
        let ((), ()) = tokio::join!(waiting, async { found.set(prefixes(&[made])) });
        let carried = found.read(|prefixes| embedded::read(made, prefixes));
        assert_eq!(carried.addresses().collect::<Vec<_>>(), [WELL_KNOWN[0]]);
    }
}
