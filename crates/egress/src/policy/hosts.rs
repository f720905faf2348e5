//! Allowlist entries compiled for matching: the cost of a look-up grows with the number of labels
//! of the host asked for, not with the number of entries.

use std::collections::{BTreeSet, HashMap};

use conduits::{AllowEntry, DnsName, HostPattern};

/// What a look-up found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// An entry names the host and the port.
    Match,
    /// An entry names the host, none the port.
    OtherPort,
    /// No entry names the host.
    Nothing,
}

/// A compiled list of entries.
#[derive(Debug, Clone, Default)]
pub(super) struct HostTable {
    exact: HashMap<Box<str>, Vec<u16>>,
    /// Keyed by what follows `*.`.
    beneath: HashMap<Box<str>, Vec<u16>>,
}

impl HostTable {
    pub(super) fn compile(entries: &[AllowEntry]) -> Self {
        let mut table = Self::default();
        for entry in entries {
            let (map, name) = match &entry.host {
                HostPattern::Exact(name) => (&mut table.exact, name),
                HostPattern::Wildcard(suffix) => (&mut table.beneath, suffix),
            };
            let ports = map.entry(name.as_str().into()).or_default();
            // Kept sorted, so that a host with thousands of ports stays a binary search.
            if let Err(place) = ports.binary_search(&entry.port) {
                ports.insert(place, entry.port);
            }
        }
        table
    }

    /// Every port that an entry names.
    pub(super) fn ports(&self) -> BTreeSet<u16> {
        self.exact.values().chain(self.beneath.values()).flatten().copied().collect()
    }

    pub(super) fn find(&self, host: &DnsName, port: u16) -> Found {
        let named = self.exact.get(host.as_str());
        let covering = host.ancestors().filter_map(|suffix| self.beneath.get(suffix));
        let mut found = Found::Nothing;
        for ports in named.into_iter().chain(covering) {
            if ports.binary_search(&port).is_ok() {
                return Found::Match;
            }
            found = Found::OtherPort;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(entries: &[&str]) -> HostTable {
        HostTable::compile(&entries.iter().map(|entry| entry.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn exact_wildcard_and_port() {
        let table = table(&["example.com:443", "*.example.org:443", "*.a.example.org:8443", "localhost:80"]);
        let cases = [
            ("example.com", 443, Found::Match),
            ("example.com", 80, Found::OtherPort),
            ("www.example.com", 443, Found::Nothing),
            ("notexample.com", 443, Found::Nothing),
            ("example.org", 443, Found::Nothing),
            ("a.example.org", 443, Found::Match),
            ("b.a.example.org", 443, Found::Match),
            ("b.a.example.org", 8443, Found::Match),
            ("a.example.org", 8443, Found::OtherPort),
            ("evilexample.org", 443, Found::Nothing),
            ("example.com.evil.net", 443, Found::Nothing),
            ("localhost", 80, Found::Match),
        ];
        for (host, port, want) in cases {
            assert_eq!(table.find(&DnsName::parse(host).unwrap(), port), want, "{host}:{port}");
        }
    }

    fn name() -> impl Strategy<Value = String> {
        proptest::collection::vec("[ab]{1,2}", 2..5).prop_map(|labels| labels.join("."))
    }

    proptest! {
        /// The compiled table and the entries asked one after the other agree.
        #[test]
        fn agrees_with_the_plain_statement(
            entries in proptest::collection::vec((any::<bool>(), name(), 1u16..4), 0..12),
            host in name(), port in 1u16..4,
        ) {
            let entries: Vec<AllowEntry> = entries.into_iter()
                .map(|(wild, name, port)| format!("{}{name}:{port}", if wild { "*." } else { "" }).parse().unwrap())
                .collect();
            let host = DnsName::parse(&host).unwrap();
            let want = if entries.iter().any(|entry| entry.matches(&host, port)) {
                Found::Match
            } else if entries.iter().any(|entry| entry.host.matches(&host)) {
                Found::OtherPort
            } else {
                Found::Nothing
            };
            prop_assert_eq!(HostTable::compile(&entries).find(&host, port), want);
        }
    }
}
