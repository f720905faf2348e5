use super::*;
use proptest::prelude::*;

fn forward(text: &str) -> Forward {
    match parse(text.as_bytes()) {
        Ok(Request::Forward(forward)) => *forward,
        other => panic!("{text:?}: {other:?}"),
    }
}

fn error(text: &str) -> RequestError {
    parse(text.as_bytes()).expect_err(text)
}

#[test]
fn connect() {
    for (target, want) in [
        ("example.com:443", "example.com:443"),
        ("EXAMPLE.com.:8443", "example.com:8443"),
        ("bücher.example:443", "xn--bcher-kva.example:443"),
    ] {
        let request = parse(format!("CONNECT {target} HTTP/1.1\r\nHost: other.example\r\n\r\n").as_bytes()).unwrap();
        let Request::Connect { to, credential: None } = request else { panic!("{request:?}") };
        assert_eq!(to.to_string(), want);
    }
    let request =
        parse(b"CONNECT a.example:1 HTTP/1.0\r\nContent-Length: 0\r\nProxy-Authorization: Basic eA==\r\n\r\n").unwrap();
    let Request::Connect { credential, .. } = request else { panic!("{request:?}") };
    assert_eq!(credential.as_deref(), Some(&b"Basic eA=="[..]));
    for target in [
        "example.com",
        "example.com:",
        "example.com:0",
        "example.com:443/",
        "http://example.com:443",
        "/",
        "*",
        "[::]:80",
        "[::1]:443",
        "1.2.3.4:443",
        "0x7f.1:80",
        "user@example.com:443",
        "example.com:443#",
        "example.com%00:443",
        "example.com:4 43",
    ] {
        assert!(parse(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).is_err(), "{target}");
    }
    for header in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let text = format!("CONNECT example.com:443 HTTP/1.1\r\n{header}\r\n\r\n");
        assert_eq!(error(&text), RequestError::Framing("a CONNECT request with a body"));
    }
}

#[test]
fn a_request_is_written_anew() {
    let sent = "POST http://Example.com:8080/a/b?c=d HTTP/1.1\r\nHost: evil.org\r\nUser-Agent: x\r\nConnection: keep-alive, X-Secret\r\n\
                X-Secret: 1\r\nX-Kept: 2\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: trailers\r\n\
                Upgrade: h2c\r\nHTTP2-Settings: AAA\r\nTrailer: X-Sum\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n";
    let request = forward(sent);
    assert_eq!(
        String::from_utf8(request.head.clone()).unwrap(),
        "POST /a/b?c=d HTTP/1.1\r\nHost: example.com:8080\r\nUser-Agent: x\r\nX-Kept: 2\r\nTrailer: X-Sum\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        (
            request.to.to_string().as_str(),
            request.body,
            request.is_idempotent,
            request.keep_alive,
            request.credential.as_deref()
        ),
        ("example.com:8080", BodyLength::Chunked, false, true, Some(&b"Basic eA=="[..]))
    );
}

#[test]
fn targets() {
    for (target, host, line) in [
        ("http://a.example", "a.example", "GET / HTTP/1.1\r\nHost: a.example\r\n"),
        ("HTTP://A.example/", "a.example", "GET / HTTP/1.1\r\nHost: a.example\r\n"),
        ("http://a.example?q", "a.example", "GET /?q HTTP/1.1\r\nHost: a.example\r\n"),
        ("http://a.example:80/x", "a.example", "GET /x HTTP/1.1\r\nHost: a.example\r\n"),
        ("http://a.example:81/x?y@z", "a.example", "GET /x?y@z HTTP/1.1\r\nHost: a.example:81\r\n"),
        ("http://a.example//b", "a.example", "GET //b HTTP/1.1\r\nHost: a.example\r\n"),
        ("http://a.example/http://b.example/", "a.example", "GET /http://b.example/ HTTP/1.1\r\nHost: a.example\r\n"),
    ] {
        let request = forward(&format!("GET {target} HTTP/1.1\r\n\r\n"));
        assert_eq!(request.to.host.as_str(), host, "{target}");
        assert_eq!(String::from_utf8(request.head).unwrap(), format!("{line}\r\n"), "{target}");
    }
    for (target, want) in [
        ("/", RequestError::NotAProxyRequest),
        ("/http://a.example/", RequestError::NotAProxyRequest),
        ("*", RequestError::NotAProxyRequest),
        ("a.example:80", RequestError::NotAProxyRequest),
        ("https://a.example/", RequestError::Scheme("https".into())),
        ("ftp://a.example/", RequestError::Scheme("ftp".into())),
        ("http://a.example/#x", RequestError::Syntax("a fragment in the request target")),
    ] {
        assert_eq!(error(&format!("GET {target} HTTP/1.1\r\n\r\n")), want, "{target}");
    }
    for (authority, want) in [
        ("u:p@a.example", DestinationError::Userinfo),
        ("a.example@evil.org", DestinationError::Userinfo),
        ("a.example\\@evil.org", DestinationError::Userinfo),
        ("a.example\\.evil.org", DestinationError::Byte(b'\\')),
        ("127.0.0.1", DestinationError::IpLiteral),
        ("[::ffff:127.0.0.1]:80", DestinationError::IpLiteral),
        ("2130706433", DestinationError::IpLiteral),
        ("", DestinationError::Length),
        (":80", DestinationError::Length),
        ("a.example:", DestinationError::Port),
        ("a.example:0", DestinationError::Port),
        ("a%2eexample", DestinationError::Byte(b'%')),
    ] {
        let text = format!("GET http://{authority}/ HTTP/1.1\r\n\r\n");
        let RequestError::Destination { error, asked } = error(&text) else { panic!("{authority}") };
        assert_eq!((error, asked), (want, super::super::host::printable(authority.as_bytes())), "{authority}");
    }
}

#[test]
fn framing() {
    for (fields, want) in [
        ("", BodyLength::None),
        ("Content-Length: 0\r\n", BodyLength::Exact(0)),
        ("content-length: 12\r\n", BodyLength::Exact(12)),
        ("Content-Length:   7  \r\n", BodyLength::Exact(7)),
        ("Transfer-Encoding: chunked\r\n", BodyLength::Chunked),
        ("transfer-encoding: CHUNKED\r\n", BodyLength::Chunked),
    ] {
        assert_eq!(forward(&format!("POST http://a.example/ HTTP/1.1\r\n{fields}\r\n")).body, want, "{fields:?}");
    }
    for fields in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5\r\nContent-Length: 5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding:\r\n",
        "Host: a.example\r\nHost: b.example\r\n",
        "Host: a.example\r\nhost: a.example\r\n",
    ] {
        let error = error(&format!("POST http://a.example/ HTTP/1.1\r\n{fields}\r\n"));
        assert!(matches!(error, RequestError::Framing(_) | RequestError::Syntax(_)), "{fields:?}: {error:?}");
    }
    let old = "POST http://a.example/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(error(old), RequestError::Framing("Transfer-Encoding in HTTP/1.0"));
}

#[test]
fn syntax() {
    let many = format!("GET http://a.example/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(129));
    for text in [
        "PRI * HTTP/2.0\r\n\r\n",
        "GET http://a.example/ HTTP/2.0\r\n\r\n",
        "GET http://a.example/ HTTP/0.9\r\n\r\n",
        "GET http://a.example/\r\n\r\n",
        "GET  http://a.example/ HTTP/1.1\r\n\r\n",
        "GET http://a.example/ a HTTP/1.1\r\n\r\n",
        "GET\thttp://a.example/\tHTTP/1.1\r\n\r\n",
        " GET http://a.example/ HTTP/1.1\r\n\r\n",
        "G@T http://a.example/ HTTP/1.1\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\nA b\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\nA : b\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\n: b\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\nA\x01: b\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\nA: b\x01\r\n\r\n",
        "\r\n",
        &many,
    ] {
        assert!(matches!(error(text), RequestError::Syntax(_)), "{text:?}");
    }
}

#[test]
fn keep_alive() {
    for (version, fields, want) in [
        ("1.1", "", true),
        ("1.1", "Connection: close\r\n", false),
        ("1.1", "Proxy-Connection: Close\r\n", false),
        ("1.1", "Connection: a, close\r\n", false),
        ("1.0", "", false),
        ("1.0", "Connection: keep-alive\r\n", false),
    ] {
        assert_eq!(
            forward(&format!("GET http://a.example/ HTTP/{version}\r\n{fields}\r\n")).keep_alive,
            want,
            "{version} {fields}"
        );
    }
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        parse(&bytes).ok();
    }

    /// What goes to the origin is itself one well-formed block with one Host and at most one framing field.
    #[test]
    fn what_is_written_anew_is_unambiguous(
        path in "[!-~]{0,20}",
        names in proptest::collection::vec("(X-[a-z]{1,3}|Connection|Content-Length|Transfer-Encoding|Host|Upgrade|Trailer)", 0..6),
        value in "(chunked|[0-9]{1,3}|[ -~]{0,10})",
    ) {
        let fields: String = names.iter().map(|name| format!("{name}: {value}\r\n")).collect();
        let text = format!("POST http://a.example/{path} HTTP/1.1\r\n{fields}\r\n");
        if let Ok(Request::Forward(request)) = parse(text.as_bytes()) {
            let whole = super::super::head::HeadScanner::default().scan(&request.head);
            prop_assert_eq!(whole, Ok(Some(request.head.len())));
            let text = String::from_utf8(request.head).unwrap().to_ascii_lowercase();
            prop_assert_eq!(text.matches("\r\nhost: a.example\r\n").count(), 1);
            prop_assert_eq!(text.matches("\r\nhost:").count(), 1);
            prop_assert!(text.matches("\r\ncontent-length:").count() + text.matches("\r\ntransfer-encoding:").count() <= 1);
        }
    }
}
