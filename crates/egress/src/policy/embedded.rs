//! IPv4 addresses carried inside IPv6 ones.
//!
//! A tunnel, a translator or the kernel turns such an address back into the IPv4 one, so a
//! forbidden IPv4 address must not come in by any of these doors. Where a form can be read in
//! several ways (a NAT64 prefix whose length is the network's choice), every reading counts.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;

/// The most readings one address can have: as many as this network has NAT64 prefixes, and one as ISATAP.
const MAX_READINGS: usize = 12;
const _: () = assert!(MAX_READINGS > super::nat64::MAX_PREFIXES);

/// What an IPv6 address carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carried {
    addresses: [Ipv4Addr; MAX_READINGS],
    count: usize,
    itself: bool,
}

impl Carried {
    const NONE: Self = Self { addresses: [Ipv4Addr::UNSPECIFIED; MAX_READINGS], count: 0, itself: true };

    /// Every IPv4 address it may stand for.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.addresses.iter().copied().take(self.count)
    }

    /// Whether it is also an address in its own right, to be judged by the IPv6 ranges.
    pub(super) const fn stands_for_itself(&self) -> bool {
        self.itself
    }

    fn push(&mut self, address: Ipv4Addr) {
        if let Some(slot) = self.addresses.get_mut(self.count) {
            *slot = address;
            self.count += 1;
        }
    }

    fn only(mut self, address: Ipv4Addr) -> Self {
        self.itself = false;
        self.push(address);
        self
    }
}

/// Prefix lengths at which RFC 6052 places an IPv4 address.
pub(super) const NAT64_LENGTHS: [u8; 6] = [32, 40, 48, 56, 64, 96];

/// Reads `ip` in every form that carries an IPv4 address; `nat64` are this network's own
/// prefixes beside the well-known ones.
pub(super) fn read(ip: Ipv6Addr, nat64: &[Ipv6Net]) -> Carried {
    let groups = ip.segments();
    let octets = ip.octets();
    let last = quad(&octets, 12);
    match groups {
        // Loopback has a rule of its own, by which an operator can open it.
        [0, 0, 0, 0, 0, 0, 0, 1] => Carried::NONE,
        // Compatible ::/96 (deprecated) with ::, which reads as 0.0.0.0;
        // mapped ::ffff:0:0/96, which the kernel itself turns into IPv4;
        // translated ::ffff:0:0:0/96 (RFC 2765); and the well-known NAT64 prefix (RFC 6052).
        [0, 0, 0, 0, 0, 0, _, _]
        | [0, 0, 0, 0, 0, 0xffff, _, _]
        | [0, 0, 0, 0, 0xffff, 0, _, _]
        | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => Carried::NONE.only(last),
        // Local-use NAT64 (RFC 8215): the network picks a prefix of any length in here.
        [0x64, 0xff9b, 1, ..] => {
            let mut carried = Carried::NONE;
            carried.itself = false;
            for length in NAT64_LENGTHS.into_iter().filter(|length| *length >= 48) {
                push_plausible(&mut carried, &octets, length);
            }
            if carried.count == 0 {
                carried.push(Ipv4Addr::UNSPECIFIED);
            }
            carried
        }
        // 6to4 (RFC 3056): the site's router.
        [0x2002, ..] => Carried::NONE.only(quad(&octets, 2)),
        // Teredo (RFC 4380): the server, and the client with its bits turned over.
        [0x2001, 0, ..] => {
            let mut carried = Carried::NONE.only(quad(&octets, 4));
            carried.push(Ipv4Addr::from_bits(!last.to_bits()));
            carried
        }
        _ => read_in_unicast(&octets, last, nat64),
    }
}

fn read_in_unicast(octets: &[u8; 16], last: Ipv4Addr, nat64: &[Ipv6Net]) -> Carried {
    let mut carried = Carried::NONE;
    // ISATAP (RFC 5214): interface identifiers ::0:5efe:a.b.c.d and ::200:5efe:a.b.c.d under any prefix.
    if matches!(octets[8..12], [0 | 2, 0, 0x5e, 0xfe]) {
        carried.push(last);
    }
    let ip = Ipv6Addr::from(*octets);
    for prefix in nat64.iter().filter(|prefix| prefix.contains(&ip)).take(super::nat64::MAX_PREFIXES) {
        carried.push(rfc6052(octets, prefix.prefix_len()));
    }
    carried
}

/// Adds the reading at a prefix length unless it is plainly the unused bits of another length: all
/// zeroes, or in 0.0.0.0/8 with bits set after it that RFC 6052 wants to be zero. Bits after an
/// address that could be one do not excuse it: a translator may ignore them.
fn push_plausible(carried: &mut Carried, octets: &[u8; 16], length: u8) {
    let address = rfc6052(octets, length);
    let after = usize::from(length.min(64) - 48) / 8 + 11;
    let has_suffix = length < 96 && octets[after..].iter().any(|octet| *octet != 0);
    let is_unused = address.is_unspecified() || (address.octets()[0] == 0 && has_suffix);
    if !is_unused {
        carried.push(address);
    }
}

/// The IPv4 address behind a NAT64 prefix of this length (RFC 6052, section 2.2); octet 8 is
/// skipped. Lengths the RFC does not know read as 96.
pub(super) fn rfc6052(octets: &[u8; 16], length: u8) -> Ipv4Addr {
    let places: [usize; 4] = match length {
        32 => [4, 5, 6, 7],
        40 => [5, 6, 7, 9],
        48 => [6, 7, 9, 10],
        56 => [7, 9, 10, 11],
        64 => [9, 10, 11, 12],
        _ => [12, 13, 14, 15],
    };
    Ipv4Addr::from(places.map(|place| octets[place]))
}

fn quad(octets: &[u8; 16], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3])
}
