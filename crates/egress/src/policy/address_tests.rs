use super::*;
use proptest::prelude::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn judge(text: &str) -> Result<(), AddressClass> {
    AddressRules::default().judge(SocketAddr::new(ip(text), 443)).map_err(|refusal| refusal.class)
}

/// First, last, one before, one after (`None` where there is no such address that passes), class.
type Border = (&'static str, &'static str, Option<&'static str>, Option<&'static str>, AddressClass);

const BORDERS_V4: &[Border] = &[
    ("0.0.0.0", "0.255.255.255", None, Some("1.0.0.0"), AddressClass::ThisNetwork),
    ("10.0.0.0", "10.255.255.255", Some("9.255.255.255"), Some("11.0.0.0"), AddressClass::Private),
    ("100.64.0.0", "100.127.255.255", Some("100.63.255.255"), Some("100.128.0.0"), AddressClass::CarrierNat),
    ("127.0.0.0", "127.255.255.255", Some("126.255.255.255"), Some("128.0.0.0"), AddressClass::Loopback),
    ("168.63.129.16", "168.63.129.16", Some("168.63.129.15"), Some("168.63.129.17"), AddressClass::CloudMetadata),
    ("169.254.0.0", "169.254.255.255", Some("169.253.255.255"), Some("169.255.0.0"), AddressClass::LinkLocal),
    ("172.16.0.0", "172.31.255.255", Some("172.15.255.255"), Some("172.32.0.0"), AddressClass::Private),
    ("192.0.0.0", "192.0.0.255", Some("191.255.255.255"), Some("192.0.1.0"), AddressClass::ProtocolAssignment),
    ("192.0.2.0", "192.0.2.255", Some("192.0.1.255"), Some("192.0.3.0"), AddressClass::Documentation),
    ("192.88.99.0", "192.88.99.255", Some("192.88.98.255"), Some("192.88.100.0"), AddressClass::ProtocolAssignment),
    ("192.168.0.0", "192.168.255.255", Some("192.167.255.255"), Some("192.169.0.0"), AddressClass::Private),
    ("198.18.0.0", "198.19.255.255", Some("198.17.255.255"), Some("198.20.0.0"), AddressClass::Benchmarking),
    ("198.51.100.0", "198.51.100.255", Some("198.51.99.255"), Some("198.51.101.0"), AddressClass::Documentation),
    ("203.0.113.0", "203.0.113.255", Some("203.0.112.255"), Some("203.0.114.0"), AddressClass::Documentation),
    ("224.0.0.0", "239.255.255.255", Some("223.255.255.255"), None, AddressClass::Multicast),
    ("240.0.0.0", "255.255.255.254", None, None, AddressClass::Reserved),
    ("255.255.255.255", "255.255.255.255", None, None, AddressClass::Broadcast),
];

const BORDERS_V6: &[Border] = &[
    ("100::", "100::ffff:ffff:ffff:ffff", None, None, AddressClass::Discard),
    ("0:1::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, Some("2000::"), AddressClass::Reserved),
    ("2001:2::", "2001:2:0:ffff:ffff:ffff:ffff:ffff", None, None, AddressClass::Benchmarking),
    ("2001:10::", "2001:1f:ffff:ffff:ffff:ffff:ffff:ffff", None, None, AddressClass::Orchid),
    ("2001:20::", "2001:2f:ffff:ffff:ffff:ffff:ffff:ffff", None, None, AddressClass::Orchid),
    ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", None, Some("2001:200::"), AddressClass::ProtocolAssignment),
    (
        "2001:db8::",
        "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        Some("2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"),
        Some("2001:db9::"),
        AddressClass::Documentation,
    ),
    (
        "3fff::",
        "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
        Some("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        Some("3fff:1000::"),
        AddressClass::Documentation,
    ),
    (
        "4000::",
        "7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        Some("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        None,
        AddressClass::Reserved,
    ),
    ("8000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None, AddressClass::Reserved),
    ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None, AddressClass::Private),
    ("fe00::", "fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None, AddressClass::Reserved),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None, AddressClass::LinkLocal),
    ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None, AddressClass::SiteLocal),
    ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, None, AddressClass::Multicast),
];

#[test]
fn every_range_is_refused_to_its_borders_and_not_beyond() {
    for (first, last, before, after, class) in BORDERS_V4.iter().chain(BORDERS_V6) {
        assert_eq!(judge(first), Err(*class), "first {first}");
        assert_eq!(judge(last), Err(*class), "last {last}");
        for beside in [before, after].into_iter().flatten() {
            assert_eq!(judge(beside), Ok(()), "beside {beside}");
        }
    }
}

#[test]
fn every_range_of_the_tables_has_its_borders_tested() {
    for (range, class) in V4_RANGES {
        let first = range.network().to_string();
        assert!(BORDERS_V4.iter().any(|row| row.0 == first && row.4 == *class), "{range}");
    }
    for (range, class) in V6_RANGES {
        let tested =
            BORDERS_V6.iter().any(|row| range.contains(&row.0.parse::<Ipv6Addr>().unwrap()) && row.4 == *class);
        // :: and ::1 are read as embedded forms before the table is looked at.
        assert!(tested || range.prefix_len() == 128, "{range}");
    }
}

#[test]
fn ordinary_public_addresses_pass() {
    for public in [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.216.34",
        "151.101.1.69",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450:4001:81c::200e",
        "2001:4860:4860::8888",
        "2620:fe::fe",
        "2000::1",
    ] {
        assert_eq!(judge(public), Ok(()), "{public}");
    }
}

/// Each embedding form, with a place for the IPv4 address.
fn embeddings(four: Ipv4Addr) -> Vec<(&'static str, Ipv6Addr)> {
    let [a, b, c, d] = four.octets();
    let (hi, lo) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    vec![
        ("mapped", Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, hi, lo)),
        ("compatible", Ipv6Addr::new(0, 0, 0, 0, 0, 0, hi, lo)),
        ("translated", Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, hi, lo)),
        ("nat64 well-known", Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, hi, lo)),
        ("nat64 local /96", Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, hi, lo)),
        ("nat64 local /48", Ipv6Addr::new(0x64, 0xff9b, 1, hi, u16::from(c), u16::from(d) << 8, 0, 0)),
        ("nat64 local /56", Ipv6Addr::new(0x64, 0xff9b, 1, u16::from(a), u16::from(b), lo, 0, 0)),
        (
            "nat64 local /64",
            Ipv6Addr::new(0x64, 0xff9b, 1, 0, u16::from(a), u16::from_be_bytes([b, c]), u16::from(d) << 8, 0),
        ),
        ("6to4", Ipv6Addr::new(0x2002, hi, lo, 0, 0, 0, 0, 1)),
        ("teredo client", Ipv6Addr::new(0x2001, 0, 0x4136, 0xe378, 0x8000, 63, !hi, !lo)),
        ("teredo server", Ipv6Addr::new(0x2001, 0, hi, lo, 0x8000, 63, 0xfefe, 0xfefe)),
        ("isatap", Ipv6Addr::new(0x2a00, 1, 2, 3, 0, 0x5efe, hi, lo)),
        ("isatap global", Ipv6Addr::new(0x2a00, 1, 2, 3, 0x200, 0x5efe, hi, lo)),
    ]
}

#[test]
fn every_embedding_of_a_forbidden_address_is_refused() {
    for forbidden in ["0.0.0.0", "127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.1.1", "100.64.0.1", "224.0.0.1"] {
        let four: Ipv4Addr = forbidden.parse().unwrap();
        for (form, address) in embeddings(four) {
            assert!(judge(&address.to_string()).is_err(), "{form} of {forbidden}: {address}");
        }
    }
}

#[test]
fn embeddings_of_a_public_address_are_judged_as_public() {
    for (form, address) in embeddings(Ipv4Addr::new(93, 184, 216, 34)) {
        assert_eq!(judge(&address.to_string()), Ok(()), "{form}: {address}");
    }
}

#[test]
fn a_network_specific_nat64_prefix_is_read_at_its_length() {
    for (prefix, inside) in [
        ("2a01:db9::/32", "2a01:db9:a00:1::"),
        ("2a01:db9::/96", "2a01:db9::a00:1"),
        ("2a01:db9:1:1::/64", "2a01:db9:1:1:a:0:100:0"),
    ] {
        let address = SocketAddr::new(ip(inside), 443);
        assert_eq!(AddressRules::default().judge(address), Ok(()), "{prefix}: control without the prefix");
        let rules = AddressRules { nat64_prefixes: vec![prefix.parse().unwrap()].into(), ..AddressRules::default() };
        assert_eq!(
            rules.judge(address).map_err(|r| (r.address, r.class)),
            Err((ip("10.0.0.1"), AddressClass::Private)),
            "{prefix}"
        );
    }
}

#[test]
fn the_operator_opens_a_range_and_nothing_beside_it() {
    let rules = AddressRules { allow_private: vec!["10.1.0.0/16".parse().unwrap()], ..AddressRules::default() };
    let judge = |text: &str| rules.judge(SocketAddr::new(ip(text), 80)).is_ok();
    assert!(judge("10.1.0.0") && judge("10.1.255.255") && judge("::ffff:10.1.2.3"));
    assert!(!judge("10.0.255.255") && !judge("10.2.0.0") && !judge("127.0.0.1"));
}

#[test]
fn what_means_this_host_or_everybody_cannot_be_opened() {
    let all = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    let rules = AddressRules { allow_private: all, ..AddressRules::default() };
    for opened in ["127.0.0.1", "::1", "10.0.0.1", "fe80::1", "169.254.169.254"] {
        assert_eq!(rules.judge(SocketAddr::new(ip(opened), 80)), Ok(()), "{opened}");
    }
    for closed in ["0.0.0.0", "0.1.2.3", "::", "::2", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"] {
        assert!(rules.judge(SocketAddr::new(ip(closed), 80)).is_err(), "{closed}");
    }
}

#[test]
fn own_addresses_and_listeners() {
    let rules = AddressRules {
        allow_private: vec!["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()],
        own_addresses: vec![ip("51.15.1.2"), ip("2a00:1::5"), ip("10.9.9.9")].into(),
        own_listeners: vec![
            "0.0.0.0:9090".parse().unwrap(),
            "10.0.0.5:7443".parse().unwrap(),
            "[::ffff:8.8.4.4]:8443".parse().unwrap(),
        ],
        ..AddressRules::default()
    };
    let class = |text: &str| rules.judge(text.parse().unwrap()).map_err(|refusal| refusal.class);
    assert_eq!(class("51.15.1.2:22"), Err(AddressClass::OwnAddress));
    assert_eq!(class("51.15.1.3:22"), Ok(()));
    assert_eq!(class("[2a00:1::5]:22"), Err(AddressClass::OwnAddress));
    assert_eq!(class("[::ffff:51.15.1.2]:22"), Err(AddressClass::OwnAddress));
    assert_eq!(class("10.9.9.9:22"), Ok(()), "opened by the operator");
    for listener in [
        "127.0.0.1:9090",
        "10.9.9.9:9090",
        "51.15.1.2:9090",
        "10.0.0.5:7443",
        "[::ffff:10.0.0.5]:7443",
        "[64:ff9b::a00:5]:7443",
        "8.8.4.4:8443",
    ] {
        assert_eq!(class(listener), Err(AddressClass::OwnListener), "{listener}");
    }
    for beside in ["127.0.0.1:9091", "10.0.0.5:7444", "10.0.0.6:7443"] {
        assert_eq!(class(beside), Ok(()), "{beside}");
    }
}

/// Whoever listens on one address of this host may listen on all of them, and which it is nobody is told.
#[test]
fn a_listener_on_this_host_is_refused_on_each_of_its_addresses() {
    let ports = |listeners: &[&str]| listeners.iter().map(|listener| listener.parse().unwrap()).collect::<Vec<_>>();
    let named = NamedListeners::default();
    named.set(ports(&["10.9.9.9:7002"]));
    let rules = AddressRules {
        allow_private: ["127.0.0.0/8", "::1/128", "10.0.0.0/8"].map(|range| range.parse().unwrap()).to_vec(),
        own_addresses: vec![ip("127.0.0.1"), ip("::1"), ip("10.9.9.9")].into(),
        own_listeners: ports(&["127.0.0.1:7001", "[::ffff:127.0.0.1]:7003", "10.0.0.6:7004"]),
        named_listeners: named,
        ..AddressRules::default()
    };
    let class =
        |host: &str, port: u16| rules.judge(format!("{host}:{port}").parse().unwrap()).map_err(|refusal| refusal.class);
    for host in ["127.0.0.1", "127.0.0.2", "[::1]", "10.9.9.9", "[::ffff:10.9.9.9]"] {
        for port in [7001, 7002, 7003] {
            assert_eq!(class(host, port), Err(AddressClass::OwnListener), "{host}:{port}");
        }
        assert_eq!(class(host, 7004), Ok(()), "{host}: that listener is another host's");
        assert_eq!(class(host, 7005), Ok(()), "{host}");
    }
    assert_eq!(class("10.0.0.7", 7001), Ok(()), "another host");
}

/// So is an address that the host was given while a directive runs.
#[test]
fn own_addresses_are_judged_as_they_are_now() {
    let own = OwnAddresses::default();
    let rules = AddressRules { own_addresses: own.clone(), ..AddressRules::default() };
    let judge = || rules.judge("[2a00:1::5]:22".parse().unwrap()).map_err(|refusal| refusal.class);
    assert_eq!(judge(), Ok(()));
    own.set(vec![ip("2a00:1::5").into()]);
    assert_eq!(judge(), Err(AddressClass::OwnAddress));
    own.set(vec!["2a00:1::/64".parse().unwrap()]);
    assert_eq!(judge(), Err(AddressClass::OwnAddress));
    own.set(Vec::new());
    assert_eq!(judge(), Ok(()));
}

/// A name that moves is followed by policies that are compiled already.
#[test]
fn named_listeners_are_judged_as_they_are_now() {
    let named = NamedListeners::default();
    let allow_private = vec!["10.0.0.0/8".parse().unwrap()];
    let rules = AddressRules { allow_private, named_listeners: named.clone(), ..AddressRules::default() };
    let class = |text: &str| rules.judge(text.parse().unwrap()).map_err(|refusal| refusal.class);
    assert_eq!(class("10.0.0.5:7443"), Ok(()));
    named.set(vec!["10.0.0.5:7443".parse().unwrap(), "[::ffff:8.8.4.4]:8443".parse().unwrap()]);
    for refused in ["10.0.0.5:7443", "[::ffff:10.0.0.5]:7443", "[64:ff9b::a00:5]:7443", "8.8.4.4:8443"] {
        assert_eq!(class(refused), Err(AddressClass::OwnListener), "{refused}");
    }
    assert_eq!(class("10.0.0.5:7444"), Ok(()));
    named.set(Vec::new());
    assert_eq!(class("10.0.0.5:7443"), Ok(()));
}

proptest! {
    /// An independent statement of the IPv4 rule by arithmetic.
    #[test]
    fn v4_agrees_with_arithmetic(bits: u32) {
        let [a, b, c, d] = bits.to_be_bytes();
        let forbidden = matches!(a, 0 | 10 | 127 | 224..)
            || (a == 100 && (64..128).contains(&b))
            || (a == 169 && b == 254)
            || (a == 172 && (16..32).contains(&b))
            || (a == 192 && (b == 168 || (b == 0 && (c == 0 || c == 2)) || (b == 88 && c == 99)))
            || (a == 198 && ((18..20).contains(&b) || (b == 51 && c == 100)))
            || (a == 203 && b == 0 && c == 113)
            || (a, b, c, d) == (168, 63, 129, 16);
        prop_assert_eq!(judge(&Ipv4Addr::from_bits(bits).to_string()).is_err(), forbidden);
    }

    #[test]
    fn an_embedding_is_never_wider_than_what_it_carries(bits: u32) {
        let four = Ipv4Addr::from_bits(bits);
        if judge(&four.to_string()).is_err() {
            for (form, address) in embeddings(four) {
                prop_assert!(judge(&address.to_string()).is_err(), "{} {}", form, address);
            }
        }
    }

    #[test]
    fn outside_global_unicast_only_embedded_forms_pass(bits: u128) {
        let six = Ipv6Addr::from_bits(bits);
        let inside = six.segments()[0] >> 13 == 1;
        let carries = embedded::read(six, &[]).addresses().next().is_some();
        if !inside && !carries {
            prop_assert!(judge(&six.to_string()).is_err());
        }
    }
}
