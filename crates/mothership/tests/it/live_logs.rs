//! Logs as they are read: each stream in its order, resuming, and an end that comes when all is there.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::bed::Bed;

/// An open event stream.
struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    async fn open(bed: &Bed, id: &str, after: Option<&str>) -> Self {
        let url = format!("{}/api/v1/directives/{id}/logs/stream", bed.url());
        let mut request = bed.client(None).get(url).bearer_auth(&bed.token);
        if let Some(after) = after {
            request = request.header("last-event-id", after);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event: its name, id and data. None when nothing comes for the time.
    async fn next(&mut self, within: Duration) -> Option<(String, String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    event
                        .lines()
                        .find_map(|line| line.strip_prefix(&format!("{name}: ")))
                        .unwrap_or_default()
                        .to_owned()
                };
                let found = (field("event"), field("id"), serde_json::from_str(&field("data")).unwrap_or(Value::Null));
                self.text = rest.to_owned();
                if found.0.is_empty() {
                    continue;
                }
                return Some(found);
            }
            let piece = timeout(within, self.response.chunk()).await.ok()?.unwrap()?;
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    /// The output until the next event that is none.
    async fn log(&mut self, count: usize) -> Vec<(String, Vec<u8>, String)> {
        let mut chunks = Vec::new();
        while chunks.len() < count {
            let (name, id, data) = self.next(Duration::from_secs(5)).await.unwrap();
            if name == "log" {
                let bytes = STANDARD.decode(data["bytes"].as_str().unwrap()).unwrap();
                chunks.push((data["stream"].as_str().unwrap().to_owned(), bytes, id));
            }
        }
        chunks
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_streams_come_as_they_arrive_and_resume_where_they_stopped() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    let id = bed.directive().await;
    let mut live = Stream::open(&bed, &id, None).await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    territory.chunk(&lease, "stdout", 0, b"one\xff").await;
    territory.chunk(&lease, "stderr", 0, b"two").await;
    territory.chunk(&lease, "stdout", 1, b"three").await;
    let seen = live.log(3).await;
    let order: Vec<(&str, &[u8])> = seen.iter().map(|(stream, bytes, _)| (stream.as_str(), bytes.as_slice())).collect();
    assert_eq!(order, [("stdout", &b"one\xff"[..]), ("stderr", b"two"), ("stdout", b"three")]);
    let mut resumed = Stream::open(&bed, &id, Some(&seen[1].2)).await;
    assert_eq!(resumed.log(1).await[0].1, b"three");
    let (_, page) = bed.get(&format!("/api/v1/directives/{id}/logs?stream=stdout&from_seq=1")).await;
    assert_eq!((page["chunks"].as_array().unwrap().len(), &page["next_seq"]), (1, &json!(2)));
    let (_, page) = bed.get(&format!("/api/v1/directives/{id}/logs")).await;
    assert_eq!(page["chunks"].as_array().unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_was_overtaken_is_given_in_its_place() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    let id = bed.directive().await;
    let mut live = Stream::open(&bed, &id, None).await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    for (stream, seq, bytes) in [("stdout", 0, b"a"), ("stdout", 2, b"c"), ("stderr", 0, b"x")] {
        territory.chunk(&lease, stream, seq, bytes).await;
    }
    let early = live.log(2).await;
    let order: Vec<(&str, &[u8])> =
        early.iter().map(|(stream, bytes, _)| (stream.as_str(), bytes.as_slice())).collect();
    assert_eq!(order, [("stdout", &b"a"[..]), ("stderr", b"x")]);
    let seqs = |page: &Value| -> Vec<u64> {
        page["chunks"].as_array().unwrap().iter().map(|chunk| chunk["seq"].as_u64().unwrap()).collect()
    };
    let (_, page) = bed.get(&format!("/api/v1/directives/{id}/logs?stream=stdout")).await;
    assert_eq!((seqs(&page), &page["next_seq"]), (vec![0], &json!(1)));
    let (_, both) = bed.get(&format!("/api/v1/directives/{id}/logs")).await;
    assert_eq!((seqs(&both), &both["next_after"]), (vec![0, 0], &json!("1-1")));
    let mut resumed = Stream::open(&bed, &id, Some(&early[1].2)).await;
    territory.chunk(&lease, "stdout", 1, b"b").await;
    for stream in [&mut live, &mut resumed] {
        let rest: Vec<Vec<u8>> = stream.log(2).await.into_iter().map(|(_, bytes, _)| bytes).collect();
        assert_eq!(rest, [b"b", b"c"]);
    }
    let (_, page) = bed.get(&format!("/api/v1/directives/{id}/logs?stream=stdout&from_seq=1")).await;
    assert_eq!((seqs(&page), &page["next_seq"]), (vec![1, 2], &json!(3)));
    let (_, both) = bed.get(&format!("/api/v1/directives/{id}/logs?after=1-1")).await;
    assert_eq!((seqs(&both), &both["next_after"], &both["whole"]), (vec![1, 2], &json!("3-1"), &json!(false)));
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_never_come_are_told_once_they_are_not_waited_for_any_more() {
    let bed = Bed::with(|config| {
        config.auth = mothership::serve::AuthMode::Dev;
        config.log_patience = Duration::from_secs(1);
    })
    .await;
    let territory = bed.territory().await;
    let id = bed.directive().await;
    let mut live = Stream::open(&bed, &id, None).await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    territory.chunk(&lease, "stdout", 2, b"c").await;
    let counts = json!({ "log": { "stdout": { "chunks": 3, "bytes": 3 }, "stderr": { "chunks": 1, "bytes": 1 } } });
    let body = json!({ "status": "succeeded", "exit_code": 0, "artifacts_manifest": counts });
    territory.report(&lease, "finished", body).await;
    let mut events = Vec::new();
    while let Some((name, id, data)) = live.next(Duration::from_secs(10)).await {
        if name != "state" {
            events.push((name, id, data["stream"].clone(), data["seq"].clone(), data["missing"].clone()));
        }
    }
    let log = |id: &str, stream: &str, seq: u64, missing: u64| {
        ("log".to_owned(), id.to_owned(), json!(stream), json!(seq), json!(missing))
    };
    let end = ("end".to_owned(), String::new(), Value::Null, Value::Null, Value::Null);
    assert_eq!(events, [log("2-0", "stdout", 0, 2), log("3-0", "stdout", 2, 0), log("3-1", "stderr", 0, 1), end]);
    let (_, page) = bed.get(&format!("/api/v1/directives/{id}/logs?after=3-0")).await;
    assert_eq!((&page["chunks"][0]["missing"], &page["next_after"]), (&json!(1), &json!("3-1")));
    let (_, page) = bed.get(&format!("/api/v1/directives/{id}/logs?after=3-1")).await;
    assert_eq!((&page["chunks"], &page["whole"]), (&json!([]), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_sort_is_refused_with_what_to_use() {
    let bed = Bed::dev().await;
    let id = bed.directive().await;
    let path = format!("/api/v1/directives/{id}/logs");
    for wrong in
        ["?after=17", "?stream=stdout&after=1-1", "?from_seq=1", "?stream=stdout&from_seq=-1", "/stream?after=17"]
    {
        let (status, refused) = bed.get(&format!("{path}{wrong}")).await;
        assert_eq!((status.as_u16(), &refused["error"]), (422, &json!("invalid_parameter")), "{wrong}");
    }
    let resumed = bed.client(None).get(format!("{}{path}/stream", bed.url())).bearer_auth(&bed.token);
    let (status, refused) = crate::bed::answer(resumed.header("last-event-id", "17")).await;
    assert_eq!(status.as_u16(), 422);
    let told = refused["detail"].as_str().unwrap();
    assert!(told.contains("\"17\"") && told.contains("such as 12-3") && told.contains("0 for the beginning"), "{told}");
    // Those that begin at the beginning begin there.
    assert_eq!(bed.get(&format!("{path}?after=0")).await.0.as_u16(), 200);
    Stream::open(&bed, &id, Some("")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_waits_for_every_counted_chunk() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    let id = bed.directive().await;
    let mut live = Stream::open(&bed, &id, None).await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    let counts = json!({ "log": { "stdout": { "chunks": 2, "bytes": 2 }, "stderr": { "chunks": 1, "bytes": 1 } } });
    let body = json!({ "status": "failed", "exit_code": 3, "artifacts_manifest": counts });
    territory.chunk(&lease, "stdout", 0, b"a").await;
    territory.report(&lease, "finished", body).await;
    territory.chunk(&lease, "stderr", 0, b"c").await;
    assert_eq!(live.log(2).await.len(), 2);
    let mut names = Vec::new();
    while let Some((name, _, _)) = live.next(Duration::from_millis(1500)).await {
        names.push(name);
    }
    assert!(!names.contains(&"end".to_owned()), "{names:?}");
    territory.chunk(&lease, "stdout", 1, b"b").await;
    assert_eq!(live.log(1).await[0].1, b"b");
    let (name, _, end) = live.next(Duration::from_secs(5)).await.unwrap();
    assert_eq!((name.as_str(), &end["state"], &end["exit_code"]), ("end", &json!("failed"), &json!(3)));
    assert!(live.next(Duration::from_secs(5)).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_ran_and_what_counts_nothing_end_too() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    let id = bed.directive().await;
    let mut live = Stream::open(&bed, &id, None).await;
    bed.cancel(&id).await;
    let mut last = String::new();
    while let Some((name, _, _)) = live.next(Duration::from_millis(700)).await {
        last = name;
    }
    assert_eq!(last, "end");
    let id = bed.directive().await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    territory.finished(&lease).await;
    let mut live = Stream::open(&bed, &id, None).await;
    territory.chunk(&lease, "stdout", 0, b"late").await;
    assert_eq!(live.log(1).await[0].1, b"late");
    assert_eq!(live.next(Duration::from_secs(5)).await.unwrap().0, "end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directive_that_is_deleted_ends_its_live_log() {
    let bed = Bed::dev().await;
    let facility = bed.facility().await;
    let id = bed.directive_in(&facility).await;
    let mut live = Stream::open(&bed, &id, None).await;
    assert_eq!(live.next(Duration::from_secs(5)).await.unwrap().0, "state");
    let path = format!("/api/v1/facilities/{facility}");
    assert_eq!(bed.user(reqwest::Method::DELETE, &path, None).await.0, reqwest::StatusCode::NO_CONTENT);
    let (name, _, data) = live.next(Duration::from_secs(5)).await.expect("the stream ends");
    assert_eq!((name.as_str(), &data["detail"]), ("deleted", &json!("the directive was deleted with its facility")));
    assert!(live.next(Duration::from_secs(5)).await.is_none());
}
