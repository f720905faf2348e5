use super::*;
use proptest::prelude::*;

fn host(text: &[u8]) -> Result<String, DestinationError> {
    parse_host(text).map(|name| name.to_string())
}

#[test]
fn names_come_to_one_form() {
    for (sent, judged) in [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("example.com.", "example.com"),
        ("localhost", "localhost"),
        ("a-b.example.com", "a-b.example.com"),
        ("1.example.com", "1.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("ｅｘａｍｐｌｅ.com", "example.com"),
        ("example。com", "example.com"),
        ("exam\u{ad}ple.com", "example.com"),
        ("faß.example", "xn--fa-hia.example"),
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
    ] {
        assert_eq!(host(sent.as_bytes()).as_deref(), Ok(judged), "{sent}");
    }
}

#[test]
fn addresses_are_refused_in_every_spelling() {
    for literal in [
        "1.2.3.4",
        "1.2.3.4.",
        "127.0.0.1",
        "127.1",
        "0",
        "0.0.0.0",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0X7F.0.0.1",
        "017700000001",
        "0177.0.0.1",
        "127.0.0.0x1",
        "1.2.3",
        "256.1.1.1",
        "999999999999",
        "1.2.3.4.5",
        "example.1",
        "example.0x1",
        "example.0x",
        "a.b.123.",
        "::1",
        "[::1]",
        "[::ffff:1.2.3.4]",
        "[::]",
        "fe80::1%eth0",
        "[fe80::1%25eth0]",
        "[1.2.3.4]",
        "[example.com]",
        "[]",
        "]",
        "１２７.0.0.1",
        "127。0。0。1",
        "１２７．０．０．１",
        "①②⑦.0.0.1",
        "０x7f.1",
    ] {
        assert_eq!(host(literal.as_bytes()), Err(DestinationError::IpLiteral), "{literal}");
    }
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    let byte = |byte| Err(DestinationError::Byte(byte));
    for (sent, want) in [
        (&b""[..], Err(DestinationError::Length)),
        (&[b'a'; 1025], Err(DestinationError::Length)),
        (b"example.com\0", byte(0)),
        (b"example.com\0.evil.org", byte(0)),
        (b"exam\tple.com", byte(b'\t')),
        (b" example.com", byte(b' ')),
        (b"example.com ", byte(b' ')),
        (b"example.com\r", byte(b'\r')),
        (b"example.com\n", byte(b'\n')),
        (b"example.com\x7f", byte(0x7f)),
        (b"example%2ecom", byte(b'%')),
        (b"%65xample.com", byte(b'%')),
        (b"example.com/", byte(b'/')),
        (b"example.com\\", byte(b'\\')),
        (b"example.com#a", byte(b'#')),
        (b"example.com?a", byte(b'?')),
        (b"exa_mple.com", byte(b'_')),
        (b"*.example.com", byte(b'*')),
        (b"example.com,evil.org", byte(b',')),
        (b"user@example.com", Err(DestinationError::Userinfo)),
        (b"user:pass@example.com", Err(DestinationError::Userinfo)),
        (b"\xff\xfe.com", Err(DestinationError::International)),
        ("a\u{0}ü.com".as_bytes(), byte(0)),
        ("example.com\u{2028}".as_bytes(), Err(DestinationError::International)),
        ("example\u{ff0f}.com".as_bytes(), Err(DestinationError::International)),
        ("user\u{ff20}example.com".as_bytes(), Err(DestinationError::International)),
        ("example\u{2100}.com".as_bytes(), Err(DestinationError::International)),
        (b"xn--zzzzzzzzzzzzz99999999.com", Err(DestinationError::International)),
        (b"xn--example-.com", Err(DestinationError::International)),
    ] {
        assert_eq!(host(sent), want, "{}", sent.escape_ascii());
    }
    for sent in [
        "example",
        "a..b",
        ".example.com",
        "example.com..",
        ".",
        "-a.com",
        "a-.com",
        &format!("{}.com", "a".repeat(64)),
        &"ab.".repeat(100),
    ] {
        assert!(matches!(host(sent.as_bytes()), Err(DestinationError::Name(_))), "{sent}: {:?}", host(sent.as_bytes()));
    }
}

#[test]
fn ports_and_authorities() {
    for (sent, want) in [
        ("1", Some(1)),
        ("443", Some(443)),
        ("65535", Some(65535)),
        ("0", None),
        ("", None),
        ("00443", None),
        ("0443", None),
        ("+443", None),
        ("-1", None),
        ("65536", None),
        ("443 ", None),
        (" 443", None),
        ("0x1bb", None),
        ("99999999999999999999", None),
        ("4４3", None),
        ("443\0", None),
    ] {
        assert_eq!(parse_port(sent.as_bytes()).ok(), want, "{sent:?}");
    }
    let authority = |text: &str, default| parse_authority(text.as_bytes(), default).map(|to| to.to_string());
    assert_eq!(authority("Example.com:443", None).as_deref(), Ok("example.com:443"));
    assert_eq!(authority("example.com", Some(80)).as_deref(), Ok("example.com:80"));
    assert_eq!(authority("example.com", None), Err(DestinationError::Port));
    assert_eq!(authority("example.com:", Some(80)), Err(DestinationError::Port));
    assert_eq!(authority("example.com:443:443", None), Err(DestinationError::IpLiteral));
    assert_eq!(authority("[::1]:443", None), Err(DestinationError::IpLiteral));
    assert_eq!(authority("[::]", None), Err(DestinationError::IpLiteral));
    assert_eq!(authority("::1:443", None), Err(DestinationError::IpLiteral));
    assert_eq!(authority("1.2.3.4", None), Err(DestinationError::IpLiteral));
    assert_eq!(authority(":443", None), Err(DestinationError::Length));
    assert_eq!(authority("a@example.com:443", None), Err(DestinationError::Userinfo));
    assert_eq!(authority("example.com:80@evil.org:443", None), Err(DestinationError::Userinfo));
}

#[test]
fn hostile_bytes_become_one_printable_line() {
    assert_eq!(printable(b"a\r\n\x1b[31m\xff\"b"), r#"a\r\n\x1b[31m\xff\"b"#);
    assert_eq!(printable(&[b'a'; 255]).len(), 255);
    assert!(printable(&[0; 9999]).len() <= 255);
}

proptest! {
    #[test]
    fn never_panics_and_what_passes_is_stable(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(name) = parse_host(&bytes) {
            prop_assert_eq!(parse_host(name.as_str().as_bytes()), Ok(name.clone()));
            prop_assert!(name.as_str().bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')));
        }
    }

    #[test]
    fn unicode_never_panics_and_what_passes_is_stable(text in "\\PC{0,20}") {
        if let Ok(name) = parse_host(text.as_bytes()) {
            prop_assert_eq!(parse_host(name.as_str().as_bytes()), Ok(name.clone()));
            prop_assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
        }
    }

    #[test]
    fn no_ipv4_address_passes(bits: u32, radix in 0..3) {
        let text = match radix { 0 => format!("{bits}"), 1 => format!("{bits:#x}"), _ => format!("0{bits:o}") };
        prop_assert_eq!(host(text.as_bytes()), Err(DestinationError::IpLiteral));
        prop_assert_eq!(host(std::net::Ipv4Addr::from_bits(bits).to_string().as_bytes()), Err(DestinationError::IpLiteral));
    }
}
