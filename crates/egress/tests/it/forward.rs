//! Absolute-form requests.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bed::{Origin, Setup, read_head, refusal};

fn get(to: &str) -> String {
    format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")
}

#[tokio::test]
async fn get_sends_what_was_understood_and_brings_the_answer() {
    let origin = Origin::mirror().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let answer = bed
        .talk(format!(
            "GET http://{to}/x?y HTTP/1.1\r\nHost: evil.example\r\nAccept: */*\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nProxy-Authorization: Basic eA==\r\nProxy-Connection: close\r\n\r\n"
        ))
        .await;
    let head = format!("GET /x?y HTTP/1.1\r\nHost: {to}\r\nAccept: */*\r\n\r\n");
    assert_eq!(answer, format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{head}", head.len()));
    let left = bed.end().await;
    assert_eq!(left.lines(), [format!("HTTP {to} allow OK")]);
    assert_eq!(left.audit[0]["bytes_up"], head.len());
}

#[tokio::test]
async fn bodies_of_both_kinds_arrive() {
    for (fields, body, want) in [
        ("Content-Length: 5\r\n", "hello", "Content-Length: 5\r\n\r\nhello"),
        (
            "Transfer-Encoding: chunked\r\n",
            "3;ext=1\r\nabc\r\n0002\r\nde\r\n0\r\nX-Sum: 1\r\nHost: evil\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n",
        ),
    ] {
        let (origin, seen) = Origin::recording().await;
        let to = format!("a.test:{}", origin.port);
        let bed = Setup::allowing(&[&to]).start().await;
        let answer = bed.talk(format!("POST http://{to}/ HTTP/1.1\r\n{fields}Connection: close\r\n\r\n{body}")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
        let seen = String::from_utf8(seen.lock().unwrap().clone()).unwrap();
        assert!(seen.starts_with(&format!("POST / HTTP/1.1\r\nHost: {to}\r\n{want}")), "{seen}");
        if fields.starts_with('T') {
            // The sizes may be cut as the pieces came; the content, the end and the one harmless trailer stay.
            let content = seen.split("\r\n\r\n").nth(1).unwrap();
            assert!(!content.contains("ext") && seen.ends_with("\r\n0\r\nX-Sum: 1\r\n\r\n"), "{seen}");
            assert!(content.contains("abc") && content.contains("de"), "{seen}");
        }
    }
}

#[tokio::test]
async fn one_client_connection_serves_several_hosts() {
    let (one, two) = (Origin::mirror().await, Origin::mirror().await);
    let (a, b) = (format!("a.test:{}", one.port), format!("b.test:{}", two.port));
    let bed = Setup::allowing(&[&a, &b]).start().await;
    let mut client = bed.client().await;
    for to in [&a, &b, &a, &a] {
        client.send(format!("GET http://{to}/ HTTP/1.1\r\n\r\n")).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.contains("close"), "{head}");
        client.expect(&format!("GET / HTTP/1.1\r\nHost: {to}\r\n\r\n")).await;
    }
    // The next host is judged like the first: a connection that is allowed does not carry one that is not.
    client.send("GET http://c.test/ HTTP/1.1\r\n\r\n").await;
    let answer = client.rest_text().await;
    assert_eq!(refusal(&answer).0, 403);
    let left = bed.end().await;
    assert_eq!((left.summary.allowed, left.summary.denied), (4, 1));
}

#[tokio::test]
async fn requests_sent_ahead_are_answered_in_order() {
    let origin = Origin::mirror().await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let request = |path| format!("GET http://{to}/{path} HTTP/1.1\r\n\r\n");
    let answer = bed.talk(format!("{}{}\r\n{}{}", request(1), request(2), request(3), get(&to))).await;
    let paths: Vec<&str> = answer.split("GET /").skip(1).map(|rest| rest.split(' ').next().unwrap()).collect();
    assert_eq!(paths, ["1", "2", "3", ""]);
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it_before_it_sends() {
    let origin = Origin::start(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("Expect: 100-continue\r\n"));
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\n")
            .await
            .unwrap();
        stream.write_all(&body).await.unwrap();
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.send(format!("PUT http://{to}/ HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")).await;
    client.expect("HTTP/1.1 100 Continue\r\n\r\n").await;
    client.send("body").await;
    client
        .expect("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nbody")
        .await;
}

#[tokio::test]
async fn an_answer_before_the_body_is_whole_arrives_and_ends_the_connection() {
    let origin = Origin::start(|mut stream| async move {
        read_head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig").await.unwrap();
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.send(format!("POST http://{to}/ HTTP/1.1\r\nContent-Length: 1000000\r\n\r\nonly the start")).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    client.expect("big").await;
    assert_eq!(client.rest().await, b"");
}

#[tokio::test]
async fn answers_of_every_framing() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (what, answer, version, want) in [
        (
            "chunked",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
            "1.1",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
                .to_owned(),
        ),
        (
            "chunked to an old client",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "1.0",
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc".into(),
        ),
        (
            "hop-by-hop",
            "HTTP/1.1 200 OK\r\nConnection: X-A\r\nX-A: 1\r\nKeep-Alive: 1\r\nContent-Length: 1\r\n\r\nx",
            "1.1",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx".into(),
        ),
        ("no body", "HTTP/1.1 204 No\r\n\r\n", "1.1", "HTTP/1.1 204 No\r\nConnection: close\r\n\r\n".into()),
        (
            "not modified",
            "HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n",
            "1.1",
            "HTTP/1.1 304 No\r\nContent-Length: 9\r\nConnection: close\r\n\r\n".into(),
        ),
    ] {
        let origin = Origin::answering(answer).await;
        let to = format!("a.test:{}", origin.port);
        let bed = Setup::allowing(&[&to]).start().await;
        let got = bed.talk(format!("GET http://{to}/ HTTP/{version}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!(got, want, "{what}");
    }
    // Until the origin closes: in chunks to a client that knows them, so that it sees the end.
    let origin = Origin::start(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nabc").await.unwrap();
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.send(format!("GET http://{to}/ HTTP/1.1\r\n\r\n")).await;
    client.expect(&format!("{chunked}3\r\nabc\r\n0\r\n\r\n")).await;
}

#[tokio::test]
async fn head_has_no_body_whatever_its_fields_say() {
    let origin = Origin::answering("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    for _ in 0..2 {
        client.send(format!("HEAD http://{to}/ HTTP/1.1\r\n\r\n")).await;
        client.expect("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
    }
}

#[tokio::test]
async fn a_truncated_answer_is_not_made_whole() {
    for (answer, want) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        ),
    ] {
        let origin = Origin::start(move |mut stream| async move {
            read_head(&mut stream).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let to = format!("a.test:{}", origin.port);
        let bed = Setup::allowing(&[&to]).start().await;
        assert_eq!(bed.talk(format!("GET http://{to}/ HTTP/1.1\r\n\r\n")).await, want);
    }
}

#[tokio::test]
async fn answers_that_cannot_be_read_alike_are_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 1\n\na",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        "SSH-2.0-x\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
    ] {
        let origin = Origin::answering(answer).await;
        let to = format!("a.test:{}", origin.port);
        let bed = Setup::allowing(&[&to]).start().await;
        let got = bed.talk(get(&to)).await;
        assert_eq!((refusal(&got).0, refusal(&got).1), (502, "OTHER"), "{answer:?}: {got}");
    }
}

#[tokio::test]
async fn bytes_after_an_answer_do_not_answer_the_next_request() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
    )
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    for _ in 0..2 {
        client.send(format!("GET http://{to}/ HTTP/1.1\r\n\r\n")).await;
        client.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    }
}

#[tokio::test]
async fn a_redirect_is_passed_on_and_not_followed() {
    let origin =
        Origin::answering("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n").await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    assert!(bed.talk(get(&to)).await.starts_with("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n"));
    assert_eq!(bed.end().await.summary.attempts, 1);
}

#[tokio::test]
async fn an_origin_that_closes_between_requests_is_dialled_again() {
    let origin = Origin::start(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    for _ in 0..5 {
        client.send(format!("GET http://{to}/ HTTP/1.1\r\n\r\n")).await;
        client.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    }
}

#[tokio::test]
async fn a_large_body_streams_without_being_held() {
    let origin = Origin::start(|mut stream| async move {
        read_head(&mut stream).await;
        let mut left = 8_000_000;
        let mut buffer = vec![0; 65536];
        while left > 0 {
            left -= stream.read(&mut buffer).await.unwrap();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n").await.unwrap();
        stream.write_all(&vec![b'x'; 8_000_000]).await.unwrap();
    })
    .await;
    let to = format!("a.test:{}", origin.port);
    let bed = Setup::allowing(&[&to]).start().await;
    let mut client = bed.client().await;
    client.send(format!("POST http://{to}/ HTTP/1.1\r\nContent-Length: 8000000\r\n\r\n")).await;
    client.send(vec![b'y'; 8_000_000]).await;
    client.head().await;
    assert!(client.read_exactly(8_000_000).await.iter().all(|byte| *byte == b'x'));
}
