//! Facilities that were deleted at the mothership are removed here, and the mothership is told.

use std::path::Path;
use std::time::Duration;

use conduits::FacilityId;
use serde_json::{Value, json};
use testkit::{Endpoint, StubOptions};

use crate::bed::{Bed, SOON};

const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Waits until a heartbeat after the first `seen` says that exactly these are gone.
async fn told(bed: &Bed, seen: usize, gone: &[&str]) {
    let said = async {
        loop {
            let beats = bed.stub.requests_of(Endpoint::TerritoryHeartbeat);
            if beats.iter().skip(seen).any(|beat| beat.body["removed_facility_ids"] == json!(gone)) {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(SOON, said).await.expect("the mothership is told");
}

/// Waits until nothing stands there any more.
async fn gone(path: &Path) {
    let gone = async {
        while path.exists() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(SOON, gone).await.expect("it is removed");
}

#[tokio::test]
async fn a_deleted_facility_goes_once_its_directive_has_ended() {
    let ids: Vec<FacilityId> = ["busy", "never-was", "foreign"].iter().map(|id| id.parse().unwrap()).collect();
    let options = StubOptions { removed_facility_ids: ids, ..StubOptions::full() };
    let bed = Bed::with(options, "supported_sandbox_profiles: [host]\nterritory_heartbeat: {interval: 1s}\n");
    std::fs::create_dir(bed.dir.join("w/foreign")).unwrap();
    let directive = bed.queue(json!({
        "facility": { "id": "busy" },
        "sandbox_profile": "host",
        "command": "echo kept > file; ln -s / root; until test -e ../go; do sleep 0.05; done; cat file",
    }));
    // The others are gone at once; what a directive works in stays.
    told(&bed, 0, &["foreign", "never-was"]).await;
    assert!(bed.dir.join("w/busy").exists());
    bed.dir.write("w/go", "");
    assert_eq!(bed.ended(directive).await.outcome(), ("succeeded", 0, "kept\n"));
    gone(&bed.dir.join("w/busy")).await;
    told(&bed, bed.stub.count(Endpoint::TerritoryHeartbeat), &["busy", "foreign", "never-was"]).await;
    assert!(bed.dir.join("w/foreign").exists());
    assert!(
        bed.stub.requests_of(Endpoint::TerritoryHeartbeat).first().unwrap().body["removed_facility_ids"] == Value::Null
    );
    assert_eq!(bed.stub.violations(), [""; 0]);
}
