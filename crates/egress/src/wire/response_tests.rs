use super::*;
use proptest::prelude::*;

const GET: Asked = Asked { is_head: false, is_http11: true, keep_alive: true };

fn answer(text: &str, asked: Asked) -> Response {
    parse(text.as_bytes(), asked).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

fn head(response: &Response) -> &str {
    std::str::from_utf8(&response.head).unwrap()
}

#[test]
fn an_answer_is_written_anew() {
    let response = answer(
        "HTTP/1.1 200 Fine\r\nServer: x\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 3\r\n\r\n",
        GET,
    );
    assert_eq!(
        head(&response),
        "HTTP/1.1 200 Fine\r\nServer: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 3\r\n\r\n"
    );
    assert_eq!((response.body, response.client_stays, response.origin_stays), (BodyLength::Exact(3), true, true));
}

#[test]
fn body_lengths() {
    let head_asked = Asked { is_head: true, ..GET };
    let old = Asked { is_head: false, is_http11: false, keep_alive: false };
    use BodyLength::{Chunked, Exact, None, UntilClose};
    // status, fields, asked -> body, in chunks to the client, client stays, origin stays, framing field to the client
    for (status, fields, asked, body, chunked, client, origin, framing) in [
        (200, "Content-Length: 3\r\n", GET, Exact(3), false, true, true, "Content-Length: 3\r\n"),
        (200, "Content-Length: 3\r\nContent-Length: 3\r\n", GET, Exact(3), false, true, true, "Content-Length: 3\r\n"),
        (200, "Content-Length: 3\r\nConnection: close\r\n", GET, Exact(3), false, true, false, "Content-Length: 3\r\n"),
        (200, "Transfer-Encoding: Chunked\r\n", GET, Chunked, true, true, true, "Transfer-Encoding: chunked\r\n"),
        (200, "", GET, UntilClose, true, true, false, "Transfer-Encoding: chunked\r\n"),
        (200, "Transfer-Encoding: chunked\r\n", old, Chunked, false, false, true, "Connection: close\r\n"),
        (200, "", old, UntilClose, false, false, false, "Connection: close\r\n"),
        (200, "Content-Length: 3\r\n", head_asked, None, false, true, true, "Content-Length: 3\r\n"),
        (200, "Transfer-Encoding: chunked\r\n", head_asked, None, false, true, true, ""),
        (204, "", GET, None, false, true, true, ""),
        (204, "Content-Length: 3\r\n", GET, None, false, true, true, ""),
        (304, "Content-Length: 3\r\n", GET, None, false, true, true, "Content-Length: 3\r\n"),
        (404, "Content-Length: 0\r\n", GET, Exact(0), false, true, true, "Content-Length: 0\r\n"),
    ] {
        let response = answer(&format!("HTTP/1.1 {status} X\r\n{fields}\r\n"), asked);
        assert_eq!(
            (response.body, response.to_client_chunked, response.client_stays, response.origin_stays, head(&response)),
            (body, chunked, client, origin, format!("HTTP/1.1 {status} X\r\n{framing}\r\n").as_str()),
            "{status} {fields:?} {asked:?}"
        );
    }
    let response = answer("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", GET);
    assert_eq!((response.body, response.client_stays, response.origin_stays), (Exact(3), true, false));
}

#[test]
fn interim_answers() {
    let response = answer("HTTP/1.1 100 Continue\r\n\r\n", GET);
    assert_eq!((response.status, head(&response)), (100, "HTTP/1.1 100 Continue\r\n\r\n"));
    let response = answer("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nConnection: y\r\n\r\n", GET);
    assert_eq!(head(&response), "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
    let old = Asked { is_http11: false, ..GET };
    assert_eq!(head(&answer("HTTP/1.1 100 Continue\r\n\r\n", old)), "");
    assert_eq!(parse(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n", GET), Err(ResponseError::Upgrade));
}

#[test]
fn what_cannot_be_passed_on() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 204 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad\r\n\r\n",
        "\r\n",
    ] {
        assert!(parse(text.as_bytes(), GET).is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), is_head: bool, is_http11: bool, keep_alive: bool) {
        parse(&bytes, Asked { is_head, is_http11, keep_alive }).ok();
    }
}
