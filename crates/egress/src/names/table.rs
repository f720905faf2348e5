//! Which address stands for which name. An address is given once in a directive's life: a program that keeps one never
//! reaches another name by it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use conduits::DnsName;

use super::{NETWORK_V4, NETWORK_V6};

/// Most names of a directive. A wildcard covers any number of them.
pub(crate) const MAX_NAMES: usize = 1024;

/// How far behind the first address of a prefix those of names begin: 198.18.1.0.
const FIRST: u32 = 256;

/// The names that have an address.
#[derive(Debug, Default)]
pub(crate) struct Table {
    names: Vec<DnsName>,
    places: HashMap<DnsName, u32>,
}

impl Table {
    /// The addresses of a name, the same ones each time; `None` once the table is full.
    pub(crate) fn addresses(&mut self, name: &DnsName) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None if self.names.len() >= MAX_NAMES => return None,
            None => {
                let place = u32::try_from(self.names.len()).ok()?;
                self.names.push(name.clone());
                self.places.insert(name.clone(), place);
                place
            }
        };
        let four = Ipv4Addr::from_bits(first_v4() + FIRST + place);
        let six = Ipv6Addr::from_bits(first_v6() + u128::from(FIRST + place));
        Some((four, six))
    }

    /// The name that an address was given for.
    pub(crate) fn name(&self, address: IpAddr) -> Option<&DnsName> {
        let place = match address {
            IpAddr::V4(four) => four.to_bits().checked_sub(first_v4() + FIRST)?,
            IpAddr::V6(six) => u32::try_from(six.to_bits().checked_sub(first_v6() + u128::from(FIRST))?).ok()?,
        };
        self.names.get(usize::try_from(place).ok()?)
    }
}

/// The first address of the prefix: the sandbox's own is the next one.
const fn first_v4() -> u32 {
    NETWORK_V4.0.to_bits() - 1
}

const fn first_v6() -> u128 {
    NETWORK_V6.0.to_bits() - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> DnsName {
        DnsName::parse(text).unwrap()
    }

    #[test]
    fn addresses_lead_back_to_their_names() {
        let mut table = Table::default();
        let first = table.addresses(&name("a.example")).unwrap();
        assert_eq!(first, ("198.18.1.0".parse().unwrap(), "fd6e:6578:7573::100".parse().unwrap()));
        let second = table.addresses(&name("b.example")).unwrap();
        assert_eq!(second, ("198.18.1.1".parse().unwrap(), "fd6e:6578:7573::101".parse().unwrap()));
        assert_eq!(table.addresses(&name("a.example")).unwrap(), first);
        for (addresses, expected) in [(first, "a.example"), (second, "b.example")] {
            assert_eq!(table.name(addresses.0.into()), Some(&name(expected)));
            assert_eq!(table.name(addresses.1.into()), Some(&name(expected)));
        }
        for other in ["198.18.0.1", "198.18.1.2", "198.19.255.255", "127.0.0.1", "0.0.0.0", "255.255.255.255"] {
            assert_eq!(table.name(other.parse().unwrap()), None, "{other}");
        }
        for other in ["fd6e:6578:7573::1", "fd6e:6578:7573::102", "fd6e:6578:7573:0:1::100", "::1", "::", "ffff::"] {
            assert_eq!(table.name(other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn a_full_table_keeps_what_it_has_and_gives_no_more() {
        let mut table = Table::default();
        let named = |number: usize| name(&format!("n{number}.example"));
        let given: Vec<_> = (0..MAX_NAMES).map(|number| table.addresses(&named(number)).unwrap()).collect();
        assert_eq!(table.addresses(&named(MAX_NAMES)), None);
        for (number, addresses) in given.iter().enumerate() {
            assert_eq!(table.addresses(&named(number)), Some(*addresses));
            assert_eq!(table.name(addresses.0.into()), Some(&named(number)));
            let bits = addresses.0.to_bits();
            assert!((first_v4()..first_v4() + (1 << 17)).contains(&bits), "{}", addresses.0);
        }
    }
}
