#![allow(clippy::cast_possible_truncation, reason = "lengths of test data")]

use super::*;
use proptest::prelude::*;

fn domain(name: &[u8], port: u16) -> Vec<u8> {
    [&[5, 1, 0, 3, name.len() as u8][..], name, &port.to_be_bytes()].concat()
}

/// Every proper start asks for more; returns what the whole gives.
fn fed<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    parse: impl Fn(&[u8]) -> Result<Option<T>, SocksError>,
) -> Result<T, SocksError> {
    for cut in 0..bytes.len() {
        match parse(&bytes[..cut]) {
            Ok(None) => {}
            // An error may show before the end; then it stays.
            Err(early) => {
                assert_eq!(parse(bytes).unwrap_err(), early);
                return Err(early);
            }
            Ok(Some(early)) => panic!("whole after {cut} bytes: {early:?}"),
        }
    }
    parse(bytes).map(|whole| whole.expect("whole"))
}

#[test]
fn greetings() {
    let parse = |bytes: &[u8]| greeting(bytes).map(|found| found.map(|(methods, used)| (methods.to_vec(), used)));
    assert_eq!(fed(&[5, 1, 0], parse), Ok((vec![0], 3)));
    assert_eq!(fed(&[5, 3, 0, 1, 2], parse), Ok((vec![0, 1, 2], 5)));
    let all: Vec<u8> = [5, 255].into_iter().chain(0..255).collect();
    assert_eq!(fed(&all, parse).unwrap().1, 257);
    assert!(matches!(greeting(&[5, 0]), Err(SocksError::Malformed(_))));
    assert!(matches!(greeting(&[4, 1]), Err(SocksError::Malformed(_))));
    assert_eq!(greeting(&[5, 1, 0, 9, 9]).unwrap(), Some((&[0][..], 3)), "what follows is left");
}

#[test]
fn passwords() {
    let parse = |bytes: &[u8]| {
        password(bytes).map(|found| found.map(|(user, secret, used)| (user.to_vec(), secret.to_vec(), used)))
    };
    assert_eq!(fed(b"\x01\x04user\x02pw", parse), Ok((b"user".to_vec(), b"pw".to_vec(), 9)));
    assert_eq!(fed(&[1, 0, 0], parse), Ok((vec![], vec![], 3)));
    assert!(password(&[5, 0, 0]).is_err());
}

#[test]
fn requests() {
    let parse = |bytes: &[u8]| request(bytes).map(|found| found.map(|(to, used)| (to.to_string(), used)));
    assert_eq!(fed(&domain(b"Example.com", 443), parse), Ok(("example.com:443".into(), 18)));
    assert_eq!(fed(&domain("bücher.example".as_bytes(), 80), parse), Ok(("xn--bcher-kva.example:80".into(), 22)));
    assert_eq!(request(&[&domain(b"a.example", 1)[..], b"early"].concat()).unwrap().unwrap().1, 16);
}

#[test]
fn refused_requests_and_their_replies() {
    let literal4 = [&[5, 1, 0, 1, 127, 0, 0, 1][..], &[0, 80]].concat();
    let literal6 = [&[5, 1, 0, 4][..], &[0; 15], &[1, 0, 80]].concat();
    let with = |at: usize, byte: u8| {
        let mut bytes = domain(b"a.example", 80);
        bytes[at] = byte;
        bytes
    };
    for (what, bytes, want, asked) in [
        ("BIND", with(1, 2), Reply::CommandNotSupported, ""),
        ("UDP ASSOCIATE", with(1, 3), Reply::CommandNotSupported, ""),
        ("command 0", with(1, 0), Reply::CommandNotSupported, ""),
        ("reserved", with(2, 1), Reply::Failure, ""),
        ("version", with(0, 4), Reply::Failure, ""),
        ("address type", with(3, 9), Reply::AddressNotSupported, ""),
        ("IPv4", literal4, Reply::AddressNotSupported, "127.0.0.1:80"),
        ("IPv6", literal6, Reply::AddressNotSupported, "[::1]:80"),
        ("IPv4 as a name", domain(b"127.0.0.1", 80), Reply::AddressNotSupported, "127.0.0.1:80"),
        ("hexadecimal", domain(b"0x7f.1", 80), Reply::AddressNotSupported, "0x7f.1:80"),
        ("IPv6 as a name", domain(b"[::1]", 80), Reply::AddressNotSupported, "[::1]:80"),
        ("empty", domain(b"", 80), Reply::NotAllowed, ":80"),
        ("NUL", domain(b"a.example\0.b", 80), Reply::NotAllowed, "a.example\\x00.b:80"),
        ("userinfo", domain(b"u@a.example", 80), Reply::NotAllowed, "u@a.example:80"),
        ("percent", domain(b"a%2eexample", 80), Reply::NotAllowed, "a%2eexample:80"),
        ("port 0", domain(b"a.example", 0), Reply::NotAllowed, "a.example:0"),
        ("too long", domain(&[b'a'; 255], 80), Reply::NotAllowed, &format!("{}:80", "a".repeat(255))),
    ] {
        let error = fed(&bytes, request).expect_err(what);
        assert_eq!(reply_to(&error), want, "{what}");
        let shown = match &error {
            SocksError::AddressType { asked, .. } | SocksError::Destination { asked, .. } => asked.as_str(),
            _ => "",
        };
        assert_eq!(shown, asked, "{what}");
    }
}

#[test]
fn replies() {
    assert_eq!(Reply::NotAllowed.message(), [5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Reply::AddressNotSupported.message()[1], 8);
}

proptest! {
    #[test]
    fn never_panics_and_growing_never_unsays(bytes in proptest::collection::vec(prop_oneof![0u8..6, any::<u8>()], 0..300), more in 0usize..40) {
        let cut = bytes.len().saturating_sub(more);
        if let Ok(Some(found)) = request(&bytes[..cut]) {
            prop_assert_eq!(request(&bytes), Ok(Some(found)));
        }
        if let Ok(Some(found)) = greeting(&bytes[..cut]) {
            prop_assert_eq!(greeting(&bytes), Ok(Some(found)));
        }
        if let Ok(Some(found)) = password(&bytes[..cut]) {
            prop_assert_eq!(password(&bytes), Ok(Some(found)));
        }
    }
}
