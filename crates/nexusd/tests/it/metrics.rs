//! The metrics page of a daemon at work.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use conduits::DirectiveState;
use serde_json::json;
use testkit::stub::FaultKind;
use testkit::{Endpoint, Fault, Output, StubOptions, free_port, require};

use crate::bed::{Bed, SOON};

/// A daemon whose page is served on loopback.
struct Page {
    bed: Bed,
    port: u16,
}

impl Page {
    fn new() -> Self {
        let port = free_port();
        let keys = format!("observability: {{enabled: true, listen_addr: \"127.0.0.1:{port}\"}}\n");
        let keys = format!("supported_sandbox_profiles: [untrusted, host]\n{keys}");
        Self { bed: Bed::with(StubOptions::full(), &keys), port }
    }

    fn text(&self) -> String {
        self.get("/metrics")
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        page
    }

    #[track_caller]
    fn value(&self, name: &str) -> u64 {
        let page = self.text();
        let found = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("{name} is missing from\n{page}")).parse().unwrap()
    }

    /// The readiness page, once it has this status.
    async fn until_ready(&self, status: &str) -> String {
        self.ready_within(SOON, status).await
    }

    async fn ready_within(&self, bound: Duration, status: &str) -> String {
        let began = Instant::now();
        loop {
            let page = self.get("/readyz");
            if page.starts_with(&format!("HTTP/1.1 {status}")) {
                return page;
            }
            assert!(began.elapsed() < bound, "not {status}: {page}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn until(&self, name: &str, expected: u64) {
        let began = Instant::now();
        while self.value(name) != expected {
            assert!(began.elapsed() < SOON, "{name} is {} and not {expected}", self.value(name));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_reports_and_retries_are_on_the_page() {
    require!(Bwrap);
    let page = Page::new();
    for name in ["nexusd_log_in_bytes_total", "nexusd_log_shipped_bytes_total", "nexusd_retries_total"] {
        assert_eq!(page.value(name), 0, "{name}");
    }
    let lacking = FaultKind::Status(503, None);
    page.bed.stub.fail(Endpoint::LogChunk, Fault::once(lacking.clone()));
    page.bed.stub.fail(Endpoint::Finished, Fault::always(lacking));
    let id = page.bed.queue(json!({"command": "seq 1 100", "limits": {"max_output_bytes": 100_000}}));
    page.bed.stub.in_state(&id, DirectiveState::Running, SOON).await;
    // The end is kept for as long as it is refused, beside no other report.
    let began = Instant::now();
    while page.bed.stub.count(Endpoint::Finished) == 0 {
        assert!(began.elapsed() < SOON, "no end was sent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    page.until("nexusd_outbox_entries", 1).await;
    page.bed.stub.mend(Endpoint::Finished);
    let ended = page.bed.ended(id).await;
    assert_eq!(ended.outcome().0, "succeeded", "{}", ended.stderr);
    page.until("nexusd_outbox_entries", 0).await;
    let written = u64::try_from(ended.stdout.len()).unwrap();
    assert_eq!(written, 292);
    assert_eq!(page.value("nexusd_log_in_bytes_total"), written);
    assert_eq!(page.value("nexusd_log_shipped_bytes_total"), written);
    assert_eq!(page.value("nexusd_log_truncated_bytes_total"), 0);
    assert!(page.value("nexusd_retries_total") >= 2);
    page.until("nexusd_spool_bytes", 0).await;
    assert!(!page.text().contains("nexusd_client_cert_expiry_seconds"), "there is no certificate");

    let ended = page.bed.run(json!({"command": "seq 1 20000", "limits": {"max_output_bytes": 10_000}})).await;
    assert!(ended.report.stdout_truncated, "{:?}", ended.report);
    let left_out = ended.report.artifacts_manifest["log"]["stdout"]["left_out"].as_u64().unwrap();
    assert!(left_out > 0);
    assert_eq!(page.value("nexusd_log_truncated_bytes_total"), left_out);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_cannot_be_read_are_counted_and_said_once() {
    let page = Page::new();
    for endpoint in [Endpoint::Started, Endpoint::LogChunk, Endpoint::Finished] {
        page.bed.stub.fail(endpoint, Fault::times(2, FaultKind::Html));
    }
    let ended = page.bed.run(json!({"command": "echo told", "sandbox_profile": "host"})).await;
    assert_eq!(ended.outcome(), ("succeeded", 0, "told\n"));
    page.until("nexusd_unreadable_answers_total", 6).await;
    let said = page.bed.daemon.text(Output::Stderr);
    let lines: Vec<_> = said.lines().filter(|line| line.contains("answer cannot be read")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(lines[0].contains("/started") && lines[0].contains("no JSON object"), "{}", lines[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_territory_that_is_not_known_polls_seldom_and_is_not_ready() {
    let page = Page::new();
    page.until_ready("200 OK").await;
    page.bed.stub.fail(Endpoint::Poll, Fault::always(FaultKind::Status(401, None)));
    // Ends the poll that is held, where one is.
    let id = page.bed.queue(json!({"sandbox_profile": "host"}));
    let refused = page.until_ready("503 Service Unavailable").await;
    assert!(refused.contains("the mothership refuses this territory: 401"), "{refused}");
    let said = page.bed.daemon.text(Output::Stderr);
    assert_eq!(said.matches("does not know this territory").count(), 1, "{said}");
    // From 50 ms on, doubled each time.
    assert!(page.value("nexusd_poll_errors_total") < 12, "{}", page.text());
    page.bed.stub.mend(Endpoint::Poll);
    // On a busy machine it may be at its longest pause by now, 30 s.
    page.ready_within(Duration::from_secs(40), "200 OK").await;
    assert_eq!(page.bed.ended(id).await.outcome().0, "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_for_want_of_memory_is_on_the_page() {
    // Version 2 kills the whole group.
    require!(Root, Bwrap, CgroupV1);
    let page = Page::new();
    assert_eq!(page.value("nexusd_oom_kills_total"), 0);
    let hog = "head -c 300M /dev/zero | tail -c 290M | wc -c";
    let ended = page.bed.run(json!({"command": hog, "limits": {"memory_mb": 64}})).await;
    let kills = ended.report.artifacts_manifest["usage"]["oom_kills"].as_u64().unwrap();
    assert!(kills > 0, "{:?}", ended.report);
    assert_eq!(page.value("nexusd_oom_kills_total"), kills);
}
