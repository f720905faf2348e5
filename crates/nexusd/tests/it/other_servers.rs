//! A control plane that knows nothing but the protocol's core: no held calls, no claims, no recovery of tokens.

use std::time::Duration;

use conduits::LogStream;
use serde_json::json;
use testkit::stub::FaultKind;
use testkit::{Endpoint, Fault, StubOptions, require};

use crate::bed::{Bed, SOON};

#[tokio::test]
async fn work_is_done_for_a_server_without_the_additions() {
    require!(Bwrap);
    let bed = Bed::with(StubOptions::plain(), "heartbeat: {interval: 1s}\n");
    assert_eq!(bed.run(json!({"command": "echo plain"})).await.outcome(), ("succeeded", 0, "plain\n"));
    let id = bed.queue(json!({"command": "echo up; sleep 30"}));
    bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    bed.stub.cancel(&id);
    assert_eq!(bed.ended(id).await.report.status.as_str(), "canceled");
    assert_eq!(bed.stub.violations(), Vec::<String>::new());
}

/// A lease is counted from the poll that brought it: one that waits for work longer than that would only bring lost ones.
#[tokio::test]
async fn a_poll_is_not_held_longer_than_leases_live() {
    require!(Bwrap);
    let bed = Bed::with(StubOptions { lease_ttl_seconds: 4, ..StubOptions::full() }, "");
    assert_eq!(bed.run(json!({"command": "echo first"})).await.outcome(), ("succeeded", 0, "first\n"));
    // So long that the poll which follows has waited for more than a lease, if it waits on.
    tokio::time::sleep(Duration::from_millis(4500)).await;
    assert_eq!(bed.run(json!({"command": "echo late"})).await.outcome(), ("succeeded", 0, "late\n"));
}

/// "Again at once", said for ever, is no reason to ask thousands of times a second.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_always_says_at_once_is_asked_with_pauses() {
    require!(Bwrap);
    let mut options = StubOptions::plain();
    options.retry_after_seconds = Some(0);
    let bed = Bed::with(options, "");
    let asked_in_two_seconds = async |endpoint| {
        let before = bed.stub.count(endpoint);
        tokio::time::sleep(Duration::from_secs(2)).await;
        bed.stub.count(endpoint) - before
    };
    let polls = asked_in_two_seconds(Endpoint::Poll).await;
    assert!((5..=25).contains(&polls), "{polls} polls in 2 s");
    bed.stub.fail(Endpoint::Poll, Fault::always(FaultKind::Status(429, Some(0))));
    let polls = asked_in_two_seconds(Endpoint::Poll).await;
    assert!((1..=25).contains(&polls), "{polls} polls in 2 s that were refused");
    bed.stub.mend(Endpoint::Poll);
    bed.stub.fail(Endpoint::LogChunk, Fault::always(FaultKind::Status(429, Some(0))));
    let id = bed.queue(json!({"command": "echo up"}));
    bed.stub.requested(Endpoint::LogChunk, 1, SOON).await;
    let chunks = asked_in_two_seconds(Endpoint::LogChunk).await;
    assert!((1..=25).contains(&chunks), "{chunks} tries of one chunk in 2 s");
    bed.stub.mend(Endpoint::LogChunk);
    assert_eq!(bed.ended(id).await.outcome(), ("succeeded", 0, "up\n"));
}
