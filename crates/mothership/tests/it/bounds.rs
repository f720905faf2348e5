//! What large requests and large results meet: a bound, and the answer of the protocol.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use axum::body::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use reqwest::{StatusCode, Version};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use crate::bed::{Bed, refusal, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_report_larger_than_a_body_may_be_is_an_invalid_parameter() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    bed.directive().await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    // The limit of the body is a little below what these are in base64.
    let chunk = territory.chunk(&lease, "stdout", 0, &vec![0; 800_000]).await;
    assert_eq!(refusal(chunk), refused(422, "chunk_too_large"));
    let body = json!({ "status": "succeeded", "diff_base64": "A".repeat(12 * 1024 * 1024 + 4) });
    assert_eq!(refusal(territory.report(&lease, "finished", body).await), refused(422, "diff_too_large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_is_refused_before_anything_is_read() {
    let bed = Bed::dev().await;
    let mut stranger = TcpStream::connect(bed.running.as_ref().unwrap().address()).await.unwrap();
    let head = "POST /api/v1/directives HTTP/1.1\r\nhost: x\r\nauthorization: Bearer nxa1.guess\r\n\
                content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 9000000\r\n\r\n";
    stranger.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    let read = timeout(Duration::from_secs(20), stranger.read_exact(&mut first)).await;
    read.expect("it is answered").unwrap();
    assert_eq!(&first, b"HTTP/1.1 401");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_large_results_is_short_and_goes_on() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(bed.directive().await);
        let lease = territory.one().await;
        territory.started(&lease).await;
        let body = json!({ "status": "succeeded", "artifacts_manifest": { "free": "x".repeat(3 * 1024 * 1024) } });
        assert_eq!(territory.report(&lease, "finished", body).await.0, StatusCode::OK);
    }
    made.reverse();
    let ids = |page: &Value| -> Vec<String> {
        let all = page["directives"].as_array().unwrap().iter();
        all.map(|directive| directive["id"].as_str().unwrap().to_owned()).collect()
    };
    let (_, first) = bed.get("/api/v1/directives?limit=500").await;
    assert_eq!(ids(&first), made[..2]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let (_, second) = bed.get(&format!("/api/v1/directives?limit=500&cursor={cursor}")).await;
    assert_eq!((ids(&second), &second["next_cursor"]), (made[2..].to_vec(), &Value::Null));
    // A page that is exactly full is the last one where nothing follows.
    let (_, exact) = bed.get(&format!("/api/v1/directives?limit=1&cursor={cursor}")).await;
    assert_eq!(exact["next_cursor"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_read_a_bounded_number_at_a_time() {
    let bed = Bed::dev().await;
    let head =
        "POST /conduits/v1/territories/enroll HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    let mut strangers = JoinSet::new();
    for number in 0..129_u8 {
        let mut stranger = connect_from(&bed, 1 + number / 26).await;
        stranger.write_all(head.as_bytes()).await.unwrap();
        // Whose turn it is is asked for the body.
        strangers.spawn(async move {
            let mut first = [0; 12];
            stranger.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"HTTP/1.1 100");
            stranger
        });
    }
    let mut next = async |within| timeout(Duration::from_millis(within), strangers.join_next()).await;
    let mut read = Vec::new();
    for _ in 0..128 {
        read.push(next(9_000).await.expect("there are as many turns").unwrap().unwrap());
    }
    assert!(next(300).await.is_err());
    drop(read);
    next(9_000).await.expect("its turn has come").unwrap().unwrap();
}

async fn connect_from(bed: &Bed, host: u8) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::new(127, 0, 2, host), 0).into()).unwrap();
    socket.connect(bed.running.as_ref().unwrap().address()).await.unwrap()
}

/// Bodies that do not come hold turns of their own address, and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_to_enrol_keeps_nobody_else_from_it() {
    let bed = Bed::dev().await;
    let head =
        "POST /conduits/v1/territories/enroll HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n";
    let mut slow = JoinSet::new();
    for _ in 0..140 {
        let mut stranger = connect_from(&bed, 1).await;
        stranger.write_all(head.as_bytes()).await.unwrap();
        slow.spawn(async move {
            let mut first = [0; 12];
            stranger.read_exact(&mut first).await.unwrap();
            assert_eq!(&first, b"HTTP/1.1 100");
            stranger
        });
    }
    let mut held = Vec::new();
    for _ in 0..32 {
        held.push(timeout(Duration::from_secs(9), slow.join_next()).await.unwrap().unwrap().unwrap());
    }
    assert!(timeout(Duration::from_secs(5), bed.territory()).await.is_ok(), "another address enrols at once");
    drop(held);
    timeout(Duration::from_secs(9), slow.join_next()).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_whose_body_is_too_large_is_a_failure() {
    let bed = Bed::dev().await;
    let url = format!("{}/conduits/v1/territories/enroll", bed.url());
    for _ in 0..10 {
        // Whether the answer is read before the connection ends is not what matters here.
        bed.client(None).post(&url).body("x".repeat(300_000)).send().await.ok();
    }
    let again = bed.client(None).post(&url).body("{}").send().await.unwrap();
    assert_eq!(again.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_territory_has_so_many_polls_held_and_no_more() {
    let bed = Bed::dev().await;
    let (territory, other) = (bed.territory().await, bed.territory().await);
    let body = json!({ "supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": 1 });
    let mut held = JoinSet::new();
    for _ in 0..64 {
        let poll = territory.poll_request(Some(60), &body);
        held.spawn(async move { poll.send().await.unwrap().status() });
    }
    bed.until_waiting(64, 0).await;
    let one_more = territory.poll_request(Some(60), &body).send().await.unwrap();
    assert!(!one_more.headers().contains_key("preference-applied"));
    assert_eq!(one_more.json::<Value>().await.unwrap()["retry_after_seconds"], 2);
    let others = other.poll_request(Some(1), &body).send().await.unwrap();
    assert!(others.headers().contains_key("preference-applied"));
    held.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_2_a_small_body_is_read_before_a_refusal_is_answered() {
    let bed = Bed::tls().await;
    let send = |body| {
        let request = bed.client(None).post(format!("{}/conduits/v1/polls", bed.url())).body(body);
        Box::pin(async { request.send().await.unwrap() })
    };
    // It comes late, and is waited for.
    let (piece, body) = body_of_pieces();
    let mut refused = send(body);
    assert!(timeout(Duration::from_millis(300), &mut refused).await.is_err(), "answered before its body was read");
    piece.send(Ok(Frame::data("{}".into()))).await.unwrap();
    drop(piece);
    let answered = timeout(Duration::from_millis(9_000), refused).await.expect("it is answered");
    assert_eq!((answered.version(), answered.status()), (Version::HTTP_2, StatusCode::UNAUTHORIZED));
    // One that does not come, and one that is too large, are not waited for.
    let (never, body) = body_of_pieces();
    let answered = timeout(Duration::from_millis(9_000), send(body)).await.expect("it is answered");
    assert_eq!(answered.status(), StatusCode::UNAUTHORIZED);
    let (large, body) = body_of_pieces();
    large.send(Ok(Frame::data(vec![b'x'; 65 * 1024].into()))).await.unwrap();
    let answered = timeout(Duration::from_millis(9_000), send(body)).await.expect("it is answered");
    assert_eq!(answered.status(), StatusCode::UNAUTHORIZED);
    drop((never, large));
}

type Pieces = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

/// A request's body, and what sends it.
fn body_of_pieces() -> (Pieces, reqwest::Body) {
    let (pieces, receiver) = mpsc::channel(1);
    (pieces, reqwest::Body::wrap(StreamBody::new(ReceiverStream::new(receiver))))
}
