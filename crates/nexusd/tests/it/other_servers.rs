//! A control plane that knows nothing but the protocol's core: no held calls, no claims, no recovery of tokens.

use std::time::Duration;

use conduits::LogStream;
use serde_json::json;
use testkit::{StubOptions, require};

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
