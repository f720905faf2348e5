//! The address ladder: which resolved address a directive may be connected to.
//!
//! Pure: the host's own addresses and listeners come in as values. Promises that an address is
//! judged by every IPv4 address it carries in any transition form, that no operator setting opens
//! the daemon's own listeners or an address that means "this host" or "everybody", and that what
//! is not global unicast is refused without having to be listed by name.
//! Leaves to others: resolving names, and dialling exactly the address judged here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::embedded;
use super::nat64::Nat64Prefixes;

/// What kind of forbidden address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressClass {
    /// `0.0.0.0/8`, `::`: connecting there reaches the host itself.
    ThisNetwork,
    /// Loopback.
    Loopback,
    /// RFC 1918 and IPv6 unique local.
    Private,
    /// Shared address space of carrier-grade NAT (RFC 6598).
    CarrierNat,
    /// Link-local, and with it the metadata services of clouds.
    LinkLocal,
    /// A cloud's metadata or control service on a public address.
    CloudMetadata,
    /// Protocol assignments (RFC 6890) and deprecated relay anycast.
    ProtocolAssignment,
    /// Documentation examples.
    Documentation,
    /// Benchmarking (RFC 2544, RFC 5180).
    Benchmarking,
    /// Multicast.
    Multicast,
    /// Reserved, or not allocated as global unicast.
    Reserved,
    /// The limited broadcast address.
    Broadcast,
    /// Site-local (RFC 3879).
    SiteLocal,
    /// Discard prefix (RFC 6666).
    Discard,
    /// ORCHID, both generations: identifiers, not locators.
    Orchid,
    /// One of the host's own interface addresses, an address that is routed to it, or a gateway.
    OwnAddress,
    /// A listener of the daemon, or the mothership's.
    OwnListener,
}

impl AddressClass {
    /// A few words for a refusal's text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ThisNetwork => "unspecified or this-network",
            Self::Loopback => "loopback",
            Self::Private => "private",
            Self::CarrierNat => "carrier-grade NAT",
            Self::LinkLocal => "link-local",
            Self::CloudMetadata => "a cloud metadata service",
            Self::ProtocolAssignment => "a protocol assignment",
            Self::Documentation => "documentation",
            Self::Benchmarking => "benchmarking",
            Self::Multicast => "multicast",
            Self::Reserved => "reserved",
            Self::Broadcast => "broadcast",
            Self::SiteLocal => "site-local",
            Self::Discard => "a discard prefix",
            Self::Orchid => "ORCHID",
            Self::OwnAddress => "the host's own",
            Self::OwnListener => "a listener of the daemon or the mothership",
        }
    }

    /// Whether `egress.allow_private` may open addresses of this class. Not those that stand for
    /// the host itself or for many hosts at once: nothing legitimate is reached through them.
    #[must_use]
    pub const fn can_be_opened(self) -> bool {
        !matches!(self, Self::ThisNetwork | Self::Multicast | Self::Broadcast | Self::OwnListener)
    }
}

impl fmt::Display for AddressClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(first: u16, second: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0), prefix)
}

/// Forbidden IPv4 ranges; the first that contains the address names its class.
pub(super) const V4_RANGES: &[(Ipv4Net, AddressClass)] = &[
    (v4(0, 0, 0, 0, 8), AddressClass::ThisNetwork), // RFC 1122; Linux connects 0.0.0.0 to loopback
    (v4(10, 0, 0, 0, 8), AddressClass::Private),    // RFC 1918
    (v4(100, 64, 0, 0, 10), AddressClass::CarrierNat), // RFC 6598; also Alibaba's metadata service
    (v4(127, 0, 0, 0, 8), AddressClass::Loopback),  // RFC 1122
    (v4(168, 63, 129, 16, 32), AddressClass::CloudMetadata), // Azure WireServer: a public address with host secrets
    (v4(169, 254, 0, 0, 16), AddressClass::LinkLocal), // RFC 3927; 169.254.169.254 and kin
    (v4(172, 16, 0, 0, 12), AddressClass::Private), // RFC 1918
    (v4(192, 0, 0, 0, 24), AddressClass::ProtocolAssignment), // RFC 6890; DS-Lite, NAT64 discovery, Oracle's metadata
    (v4(192, 0, 2, 0, 24), AddressClass::Documentation), // TEST-NET-1, RFC 5737
    (v4(192, 88, 99, 0, 24), AddressClass::ProtocolAssignment), // 6to4 relay anycast, RFC 7526
    (v4(192, 168, 0, 0, 16), AddressClass::Private), // RFC 1918
    (v4(198, 18, 0, 0, 15), AddressClass::Benchmarking), // RFC 2544; also synthetic answers of sandboxes
    (v4(198, 51, 100, 0, 24), AddressClass::Documentation), // TEST-NET-2
    (v4(203, 0, 113, 0, 24), AddressClass::Documentation), // TEST-NET-3
    (v4(224, 0, 0, 0, 4), AddressClass::Multicast), // RFC 5771
    (v4(255, 255, 255, 255, 32), AddressClass::Broadcast), // RFC 919; before the range that holds it
    (v4(240, 0, 0, 0, 4), AddressClass::Reserved),  // RFC 1112
];

/// Forbidden IPv6 ranges, for addresses that do not merely carry an IPv4 one.
/// Only 2000::/3 is global unicast, so everything around it is listed too: ranges given out later
/// start as refused.
pub(super) const V6_RANGES: &[(Ipv6Net, AddressClass)] = &[
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), AddressClass::ThisNetwork), // RFC 4291
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), AddressClass::Loopback),      // RFC 4291
    (v6(0x0100, 0, 64), AddressClass::Discard),                                   // RFC 6666
    (v6(0x0000, 0, 3), AddressClass::Reserved), // below global unicast (embedded forms are read first)
    (v6(0x2001, 0x0002, 48), AddressClass::Benchmarking), // RFC 5180
    (v6(0x2001, 0x0010, 28), AddressClass::Orchid), // RFC 4843
    (v6(0x2001, 0x0020, 28), AddressClass::Orchid), // RFC 7343
    (v6(0x2001, 0x0db8, 32), AddressClass::Documentation), // RFC 3849
    (v6(0x2001, 0x0000, 23), AddressClass::ProtocolAssignment), // RFC 2928: anycast of PCP and TURN, drone ids
    (v6(0x3fff, 0x0000, 20), AddressClass::Documentation), // RFC 9637
    (v6(0xfc00, 0, 7), AddressClass::Private),  // RFC 4193; fd00:ec2::254 is a metadata service
    (v6(0xfe80, 0, 10), AddressClass::LinkLocal), // RFC 4291
    (v6(0xfec0, 0, 10), AddressClass::SiteLocal), // RFC 3879
    (v6(0xff00, 0, 8), AddressClass::Multicast), // RFC 4291
    (v6(0x4000, 0, 2), AddressClass::Reserved), // 4000::/3 and 6000::/3, not allocated
    (v6(0x8000, 0, 1), AddressClass::Reserved), // the rest above, not allocated
];

/// Why an address is refused: which address was meant, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRefusal {
    /// The address judged: the resolved one, or the IPv4 one it carries.
    pub address: IpAddr,
    /// What it is.
    pub class: AddressClass,
}

impl fmt::Display for AddressRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.address, self.class)
    }
}

/// Listeners that are known by name: their addresses move, so all policies share what was last found. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct NamedListeners(Arc<RwLock<Vec<SocketAddr>>>);

impl NamedListeners {
    /// Takes the place of what was known, for connections from now on.
    pub fn set(&self, addresses: Vec<SocketAddr>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    fn any(&self, is_it: impl Fn(&SocketAddr) -> bool) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().any(is_it)
    }
}

/// Addresses of the host's interfaces, ranges that are routed to it, and its gateways. They come and go while a directive
/// runs (a temporary IPv6 address lives for a day), so all policies share what was last read. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct OwnAddresses(Arc<RwLock<Vec<IpNet>>>);

impl From<Vec<IpNet>> for OwnAddresses {
    fn from(ranges: Vec<IpNet>) -> Self {
        Self(Arc::new(RwLock::new(ranges)))
    }
}

impl From<Vec<IpAddr>> for OwnAddresses {
    fn from(addresses: Vec<IpAddr>) -> Self {
        addresses.into_iter().map(IpNet::from).collect::<Vec<_>>().into()
    }
}

impl OwnAddresses {
    /// Takes the place of what was known, for connections from now on.
    pub fn set(&self, ranges: Vec<IpNet>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = ranges;
    }

    fn contains(&self, ip: &IpAddr) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().any(|range| range.contains(ip))
    }
}

/// What the ladder has to know about this host and from its operator.
#[derive(Debug, Clone, Default)]
pub struct AddressRules {
    /// Ranges opened by the operator (`egress.allow_private`).
    pub allow_private: Vec<IpNet>,
    /// Addresses of the host's interfaces, ranges that are routed to it, and its gateways.
    pub own_addresses: OwnAddresses,
    /// Where the daemon and the mothership listen; an address of this host, or an unspecified one, stands
    /// for every address of the host.
    pub own_listeners: Vec<SocketAddr>,
    /// The same where only a name is known.
    pub named_listeners: NamedListeners,
    /// NAT64 prefixes of this network beside the well-known ones (RFC 6052, RFC 7050).
    pub nat64_prefixes: Nat64Prefixes,
}

impl AddressRules {
    /// Judges one address that a connection could be made to.
    ///
    /// # Errors
    /// The first rung that refuses it, by the address itself or by an IPv4 address it carries.
    pub fn judge(&self, address: SocketAddr) -> Result<(), AddressRefusal> {
        let port = address.port();
        let ip = address.ip();
        self.judge_listener(ip, port)?;
        let IpAddr::V6(six) = ip else { return self.judge_range(ip) };
        let carried = self.nat64_prefixes.read(|prefixes| embedded::read(six, prefixes));
        for four in carried.addresses() {
            self.judge_listener(IpAddr::V4(four), port)?;
            self.judge_range(IpAddr::V4(four))?;
        }
        if carried.stands_for_itself() {
            return self.judge_range(ip);
        }
        // Judged by what it carries; all the same it may be an address of this very host.
        if self.own_addresses.contains(&ip) && !self.is_opened(ip) {
            return Err(AddressRefusal { address: ip, class: AddressClass::OwnAddress });
        }
        Ok(())
    }

    fn judge_listener(&self, ip: IpAddr, port: u16) -> Result<(), AddressRefusal> {
        // What is known by one address of this host may listen on all of them.
        let own = |listener: &SocketAddr| {
            let at = listener.ip().to_canonical();
            listener.port() == port && (at == ip || (self.is_this_host(at) && self.is_this_host(ip)))
        };
        if self.own_listeners.iter().any(own) || self.named_listeners.any(own) {
            return Err(AddressRefusal { address: ip, class: AddressClass::OwnListener });
        }
        Ok(())
    }

    fn judge_range(&self, ip: IpAddr) -> Result<(), AddressRefusal> {
        let own = self.own_addresses.contains(&ip).then_some(AddressClass::OwnAddress);
        let Some(class) = classify(ip).or(own) else { return Ok(()) };
        if class.can_be_opened() && self.is_opened(ip) {
            return Ok(());
        }
        Err(AddressRefusal { address: ip, class })
    }

    fn is_opened(&self, ip: IpAddr) -> bool {
        self.allow_private.iter().any(|range| range.contains(&ip))
    }

    fn is_this_host(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip.is_unspecified() || self.own_addresses.contains(&ip)
    }
}

/// The forbidden range an address lies in, `None` for global unicast. Knows nothing of embedded
/// forms: [`AddressRules::judge`] reads those first.
#[must_use]
pub fn classify(ip: IpAddr) -> Option<AddressClass> {
    match ip {
        IpAddr::V4(ip) => V4_RANGES.iter().find(|(range, _)| range.contains(&ip)).map(|(_, class)| *class),
        IpAddr::V6(ip) => V6_RANGES.iter().find(|(range, _)| range.contains(&ip)).map(|(_, class)| *class),
    }
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
