//! Deleted facilities: the territory that has one is told until it says that it has not, and nobody else is.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bed::{Bed, Territory};

/// What a heartbeat that says these are gone is told to remove.
async fn told(territory: &Territory, gone: &[&str]) -> Value {
    let (status, answer) = territory.heartbeat(json!({ "removed_facility_ids": gone })).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    answer["removed_facility_ids"].clone()
}

async fn delete(bed: &Bed, facility: &str) {
    let deleted = bed.user(Method::DELETE, &format!("/api/v1/facilities/{facility}"), None).await;
    assert_eq!(deleted.0, StatusCode::NO_CONTENT, "{}", deleted.1);
}

/// A facility in which a directive of `territory` has ended.
async fn used(bed: &Bed, territory: &Territory) -> String {
    let facility = bed.facility().await;
    bed.directive_in(&facility).await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    territory.finished(&lease).await;
    facility
}

#[tokio::test(flavor = "multi_thread")]
async fn the_territory_is_told_until_it_confirms() {
    let bed = Bed::dev().await;
    let (territory, other) = (bed.territory().await, bed.territory().await);
    let facility = used(&bed, &territory).await;
    // Nobody tells where there is nothing to tell, not even by an empty list.
    assert_eq!(told(&territory, &[]).await, Value::Null);
    delete(&bed, &facility).await;
    assert_eq!(told(&other, &[&facility]).await, Value::Null);
    // Another client's heartbeat, which knows nothing of it, is taken as before.
    assert_eq!(told(&territory, &[]).await, json!([facility]));
    assert_eq!(told(&territory, &["another", "../x"]).await, json!([facility]));
    assert_eq!(told(&territory, &[&facility]).await, Value::Null);
    assert_eq!(told(&territory, &[&facility]).await, Value::Null);
    // What was done to it stays in the audit, by whom too.
    let (_, page) = bed.get("/api/v1/audit-events").await;
    let events: Vec<(&str, bool)> = page["audit_events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["subject"] == facility.as_str())
        .map(|event| (event["action"].as_str().unwrap(), event["actor"] == format!("territory:{}", territory.id)))
        .collect();
    assert_eq!(events, [("facility.removed", true), ("facility.delete", false), ("facility.create", false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_territory_that_never_had_it_is_not_told() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    let unbound = bed.facility().await;
    let (_, bound) = bed.post("/api/v1/facilities", json!({ "territory_id": territory.id })).await;
    let bound = bound["id"].as_str().unwrap().to_owned();
    // A directive that nobody took leaves nothing anywhere.
    let queued = bed.directive_in(&bound).await;
    bed.cancel(&queued).await;
    for facility in [unbound, bound] {
        delete(&bed, &facility).await;
    }
    assert_eq!(told(&territory, &[]).await, Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_told_a_part_at_a_time_also_after_a_restart() {
    let mut bed = Bed::dev().await;
    let mut territory = bed.territory().await;
    let mut facilities = Vec::new();
    for _ in 0..70 {
        facilities.push(used(&bed, &territory).await);
    }
    for facility in &facilities {
        delete(&bed, facility).await;
    }
    bed.stop().await;
    bed.start_again().await;
    territory.url = bed.url();
    let first = told(&territory, &[]).await;
    assert_eq!(first, json!(facilities[..64]));
    let gone: Vec<&str> = facilities[..64].iter().map(String::as_str).collect();
    assert_eq!(told(&territory, &gone).await, json!(facilities[64..]));
}
