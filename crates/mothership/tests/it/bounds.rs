//! What large requests and large results meet: a bound, and the answer of the protocol.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

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
    let read = tokio::time::timeout(Duration::from_secs(20), stranger.read_exact(&mut first)).await;
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
