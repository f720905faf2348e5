use super::*;
use proptest::prelude::*;

#[test]
fn good_entries_have_one_canonical_form() {
    let long = format!("{}.com:443", "a".repeat(63));
    let cases = [
        ("example.com:443", "example.com:443"),
        ("EXAMPLE.Com:443", "example.com:443"),
        ("example.com.:443", "example.com:443"),
        ("*.Example.com.:8443", "*.example.com:8443"),
        ("localhost:1", "localhost:1"),
        ("LOCALHOST.:65535", "localhost:65535"),
        ("a.localhost:80", "a.localhost:80"),
        ("xn--bcher-kva.example:443", "xn--bcher-kva.example:443"),
        ("1.2.3.4.example:443", "1.2.3.4.example:443"),
        ("0x7f.example:443", "0x7f.example:443"),
        ("a.0xg:443", "a.0xg:443"),
        ("a.1a:443", "a.1a:443"),
        (long.as_str(), long.as_str()),
    ];
    for (text, shown) in cases {
        let entry: AllowEntry = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(entry.to_string(), shown);
    }
}

#[test]
fn no_address_in_any_spelling() {
    let hosts = [
        "1.2.3.4",
        "1.2.3.4.",
        "01.02.03.04",
        "127.1",
        "127.0.1",
        "0x7f.1",
        "0X7F.1",
        "0x7f.0x0.0x0.0x1",
        "1.2.3.0x4",
        "1.2.3.0x",
        "2130706433",
        "2130706433.",
        "0x7f000001",
        "017700000001",
        "0177.0.0.1",
        "0",
        "0.0.0.0",
        "256.256.256.256",
        "999999999999",
        "[::1]",
        "[::ffff:1.2.3.4]",
        "::1",
        "fe80::1%25eth0",
        "[1.2.3.4]",
        "example.1",
        "example.0x1f",
        "*.1.2.3.4",
        "*.0x7f.1",
        "a.b.123.",
    ];
    for host in hosts {
        let error = format!("{host}:443").parse::<AllowEntry>().unwrap_err();
        assert!(matches!(&error, EntryError::Host { source: NameError::IpLiteral(_), .. }), "{host}: {error:?}");
    }
    // Without a port the message still says what matters: an address, where `:1` alone would read as a port.
    assert!(matches!("1.2.3.4".parse::<AllowEntry>().unwrap_err(), EntryError::Host { .. }));
    assert!("::1".parse::<AllowEntry>().is_err());
    // Full-width digits and dots become an address after UTS 46 mapping; here they are no LDH characters.
    for host in ["１２７.0.0.1", "127。0。0。1", "①.example.com"] {
        assert!(format!("{host}:443").parse::<AllowEntry>().is_err(), "{host}");
    }
}

#[test]
fn everything_else_that_is_not_an_entry() {
    let long_label = format!("{}.com:443", "a".repeat(64));
    let long_name = format!("{}com:443", "a.".repeat(126));
    let cases: Vec<&str> = vec![
        "",
        ":",
        ":443",
        "example.com",
        "example.com:",
        "example.com:0",
        "example.com:00443",
        "example.com:0443",
        "example.com:65536",
        "example.com:+443",
        "example.com:-1",
        "example.com: 443",
        "example.com:443 ",
        " example.com:443",
        "example.com:443:443",
        "example.com:https",
        "example.com:４４３",
        "http://example.com:443",
        "example.com/path:443",
        "user@example.com:443",
        "example:443",
        "com.:443",
        ".:443",
        "..:443",
        ".com:443",
        "a..b:443",
        "example.com..:443",
        "-a.example.com:443",
        "a-.example.com:443",
        "a_b.example.com:443",
        "bücher.example:443",
        "exa\0mple.com:443",
        "example.com\n:443",
        "*:443",
        "*.:443",
        "*.com:443",
        "*.localhost:443",
        "*.*.example.com:443",
        "a.*.example.com:443",
        "a*.example.com:443",
        "*example.com:443",
        "**.example.com:443",
        &long_label,
        &long_name,
    ];
    for text in cases {
        let error = text.parse::<AllowEntry>().expect_err(text).to_string();
        assert!(!error.contains('\n'), "{error}");
    }
    let longest = format!("{}aa:443", "a.".repeat(125) + "a");
    assert_eq!(longest.len() - 4, 253);
    assert!(longest.parse::<AllowEntry>().is_ok(), "a name of 253 characters is a name");
}

#[test]
fn messages_say_what_to_write() {
    let cases = [
        ("example.com", "\"example.com\" has no port; write host:port, such as example.com:443"),
        ("example.com:0", "\"example.com:0\" has no valid port; use 1 to 65535 in plain digits"),
        ("*.com:1", "\"*.com:1\": '*' may only stand as one leading \"*.\" before a domain of at least two labels"),
        ("intranet:80", "\"intranet:80\": \"intranet\" has only one label; write the full domain name"),
        (
            "bücher.de:80",
            "\"bücher.de:80\": \"bücher.de\" contains 'ü'; use letters, digits, '-' and '.' (an international name as punycode)",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(text.parse::<AllowEntry>().unwrap_err().to_string(), message);
    }
}

#[test]
fn what_an_entry_covers() {
    let cases = [
        ("example.com:443", "example.com", 443, true),
        ("example.com:443", "example.com", 444, false),
        ("example.com:443", "a.example.com", 443, false),
        ("example.com:443", "notexample.com", 443, false),
        ("*.example.com:443", "a.example.com", 443, true),
        ("*.example.com:443", "b.a.example.com", 443, true),
        ("*.example.com:443", "example.com", 443, false),
        ("*.example.com:443", "notexample.com", 443, false),
        ("*.example.com:443", "example.com.evil.org", 443, false),
        ("localhost:80", "a.localhost", 80, false),
    ];
    for (entry, host, port, want) in cases {
        let entry: AllowEntry = entry.parse().unwrap();
        assert_eq!(entry.matches(&DnsName::parse(host).unwrap(), port), want, "{entry} and {host}:{port}");
    }
    let host = DnsName::parse("a.b.example.com").unwrap();
    assert_eq!(host.ancestors().collect::<Vec<_>>(), ["b.example.com", "example.com", "com"]);
}

proptest! {
    #[test]
    fn what_is_shown_parses_back(
        wild in any::<bool>(),
        labels in prop::collection::vec("[A-Za-z0-9]([A-Za-z0-9-]{0,20}[A-Za-z0-9])?", 1..6),
        last in "[A-Za-z]{2,12}",
        dot in any::<bool>(),
        port in 1u16..,
    ) {
        let text = format!(
            "{}{}.{last}{}:{port}", if wild { "*." } else { "" }, labels.join("."), if dot { "." } else { "" }
        );
        let entry: AllowEntry = text.parse().unwrap();
        let shown = entry.to_string();
        prop_assert_eq!(&shown, &text.to_ascii_lowercase().replace(".:", ":"));
        prop_assert_eq!(shown.parse::<AllowEntry>().unwrap(), entry);
    }

    #[test]
    fn any_text_parses_or_gives_one_line(text in any::<String>()) {
        if let Err(error) = text.parse::<AllowEntry>() {
            prop_assert!(!error.to_string().contains(['\n', '\r', '\0']));
        }
    }

    #[test]
    fn what_std_reads_as_an_address_is_never_a_name(a in any::<[u8; 4]>(), b in any::<[u16; 8]>()) {
        let v4 = std::net::Ipv4Addr::from(a);
        let v6 = std::net::Ipv6Addr::from(b);
        for host in [v4.to_string(), u32::from(v4).to_string(), format!("{:#x}", u32::from(v4)), v6.to_string(), format!("[{v6}]")] {
            prop_assert!(DnsName::parse(&host).is_err(), "{}", host);
        }
    }
}
