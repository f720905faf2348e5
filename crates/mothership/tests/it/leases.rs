//! Leases: one holder, one directive a facility, taken back when nobody renews.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;
use tokio::task::JoinSet;

use crate::bed::{Bed, answer, leases, refusal, refused};

#[tokio::test(flavor = "multi_thread")]
async fn fifty_polls_one_directive_one_claim() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    territory.may_run(100).await;
    let body = json!({ "supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": 1 });
    let mut polls = JoinSet::new();
    for _ in 0..50 {
        let poll = territory.poll_request(Some(4), &body);
        polls.spawn(async move { leases(answer(poll).await).len() });
    }
    bed.until_waiting(50, 0).await;
    bed.directive().await;
    let claimed: usize = polls.join_all().await.into_iter().sum();
    assert_eq!(claimed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_facility_has_one_lease_and_one_territory() {
    let bed = Bed::dev().await;
    let (one, two) = (bed.territory().await, bed.territory().await);
    one.may_run(10).await;
    two.may_run(10).await;
    let facility = bed.facility().await;
    let (first, second) = (bed.directive_in(&facility).await, bed.directive_in(&facility).await);
    let lease = one.one().await;
    assert_eq!(lease.id, first);
    assert!(one.poll(5).await.is_empty());
    one.started(&lease).await;
    one.finished(&lease).await;
    // Bound by the first claim: nobody else gets it.
    assert!(two.poll(5).await.is_empty());
    assert_eq!(one.one().await.id, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_territory_runs_at_once_and_the_oldest_first() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    let mut queued = Vec::new();
    for _ in 0..5 {
        queued.push(bed.directive().await);
    }
    // One where it never said.
    let first = territory.poll(5).await;
    assert_eq!(first.iter().map(|lease| &lease.id).collect::<Vec<_>>(), [&queued[0]]);
    territory.may_run(3).await;
    let more = territory.poll(5).await;
    assert_eq!(more.iter().map(|lease| &lease.id).collect::<Vec<_>>(), [&queued[1], &queued[2]]);
    assert!(territory.poll(5).await.is_empty());
    let host = json!({ "supported_sandbox_profiles": ["host"], "max_directives_to_claim": 5 });
    territory.may_run(9).await;
    assert!(leases(territory.call("/polls", host).await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_asked_again_gets_the_same_leases() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    territory.may_run(10).await;
    for _ in 0..3 {
        bed.directive().await;
    }
    let body = json!({ "supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": 2, "claim_id": "c-1" });
    let ids = |answer| -> BTreeSet<String> { leases(answer).into_iter().map(|lease| lease.id).collect() };
    let first = ids(territory.call("/polls", body.clone()).await);
    assert_eq!(first.len(), 2);
    let again = territory.call("/polls", body).await;
    let lease = leases(again.clone()).remove(0);
    assert_eq!(ids(again), first);
    assert_eq!(territory.started(&lease).await.0, StatusCode::OK);
    assert_eq!(territory.poll(5).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_nobody_renews_is_taken_back() {
    let bed = Bed::with(|config| {
        config.auth = mothership::serve::AuthMode::Dev;
        config.lease_ttl = Duration::from_secs(1);
    })
    .await;
    let territory = bed.territory().await;
    territory.may_run(10).await;
    let (id, facility) = (bed.directive().await, bed.facility().await);
    let old = territory.one().await;
    bed.until_state(&id, "queued").await;
    assert_eq!(refusal(territory.started(&old).await), refused(409, "lease_lost"));
    // Leased again: the token of the older lease changes nothing.
    let new = territory.one().await;
    assert_eq!(new.id, id);
    for what in ["started", "heartbeat", "release", "token"] {
        assert_eq!(refusal(territory.report(&old, what, json!({})).await), refused(409, "lease_lost"));
    }
    assert_eq!(refusal(territory.finished(&old).await), refused(409, "lease_lost"));
    territory.started(&new).await;
    bed.until_state(&id, "failed").await;
    let (_, directive) = bed.get(&format!("/api/v1/directives/{id}")).await;
    assert_eq!(directive["reason"], "territory_lost");
    assert_eq!(refusal(territory.finished(&new).await), refused(409, "payload_conflict"));
    // Heartbeats keep one alive well past the lease's length.
    let kept = bed.directive_in(&facility).await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(territory.report(&lease, "heartbeat", json!({})).await.0, StatusCode::OK);
    }
    assert_eq!(bed.state(&kept).await, "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_instance_gives_up_what_the_old_one_left() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    let beat = |instance: &str, ids: &[&str]| json!({ "instance_id": instance, "capacity": { "max_concurrent": 10 }, "runtime_status": { "directive_ids": ids } });
    territory.heartbeat(beat("one", &[])).await;
    let (leased, running, listed) = (bed.directive().await, bed.directive().await, bed.directive().await);
    let found = territory.poll(3).await;
    for lease in &found[1..] {
        territory.started(lease).await;
    }
    // The same instance: nothing happens, listed or not.
    territory.heartbeat(beat("one", &[])).await;
    assert_eq!(bed.state(&leased).await, "leased");
    territory.heartbeat(beat("two", &[&listed])).await;
    assert_eq!(bed.state(&leased).await, "queued");
    assert_eq!(bed.state(&running).await, "failed");
    assert_eq!(bed.state(&listed).await, "running");
    territory.heartbeat(beat("three", &[])).await;
    assert_eq!(bed.state(&listed).await, "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn release_gives_the_directive_back_at_its_old_place() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    let (first, _second) = (bed.directive().await, bed.directive().await);
    let lease = territory.one().await;
    let (status, released) = territory.report(&lease, "release", json!({})).await;
    assert_eq!((status, &released["state"]), (StatusCode::OK, &json!("queued")));
    assert_eq!(refusal(territory.report(&lease, "release", json!({})).await), refused(409, "lease_lost"));
    assert_eq!(territory.one().await.id, first);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_reaches_every_state() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    let queued = bed.directive().await;
    assert_eq!(bed.cancel(&queued).await.1["state"], "canceled");
    assert!(territory.poll(1).await.is_empty());
    let id = bed.directive().await;
    let lease = territory.one().await;
    assert_eq!(bed.cancel(&id).await.1["state"], "leased");
    assert_eq!(territory.started(&lease).await.1["cancel_requested"], true);
    let body = json!({ "status": "canceled" });
    assert_eq!(territory.report(&lease, "finished", body).await.1["final_state"], "canceled");
    assert_eq!(bed.cancel(&id).await.1["state"], "canceled");
    // A held heartbeat brings a cancel at once.
    let id = bed.directive().await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    let beat = territory
        .request(&format!("/directives/{}/heartbeat", lease.id))
        .bearer_auth(&lease.token)
        .header("prefer", "wait=20")
        .json(&json!({}));
    let beat = tokio::spawn(answer(beat));
    bed.until_waiting(0, 1).await;
    assert!(!beat.is_finished());
    let asked = Instant::now();
    bed.cancel(&id).await;
    assert_eq!(beat.await.unwrap().1["cancel_requested"], true);
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    // A leased one that comes back canceled does not run.
    territory.finished(&lease).await;
    let id = bed.directive().await;
    let lease = territory.one().await;
    bed.cancel(&id).await;
    assert_eq!(territory.report(&lease, "release", json!({})).await.1["state"], "canceled");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_of_the_offered_profiles_comes_first_whatever_waits_before_it() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    territory.may_run(20).await;
    let queue = async |facility: &str, profile: &str| {
        let body = json!({ "facility_id": facility, "command": "true", "sandbox_profile": profile });
        bed.post("/api/v1/directives", body).await.1["id"].as_str().unwrap().to_owned()
    };
    let poll = async |profiles: &[&str], max: u8| -> Vec<String> {
        let body = json!({ "supported_sandbox_profiles": profiles, "max_directives_to_claim": max });
        leases(territory.call("/polls", body).await).into_iter().map(|lease| lease.id).collect()
    };
    // Bound to the territory and bound to none, mixed, and heads that nobody offers to run.
    let bound = async || {
        let body = json!({ "territory_id": territory.id });
        bed.post("/api/v1/facilities", body).await.1["id"].as_str().unwrap().to_owned()
    };
    let (a, b, c, d) = (bed.facility().await, bound().await, bed.facility().await, bound().await);
    queue(&a, "host").await;
    queue(&b, "trusted").await;
    let first = queue(&c, "untrusted").await;
    let second = queue(&d, "untrusted").await;
    let third = queue(&b, "untrusted").await;
    let fourth = queue(&a, "untrusted").await;
    let younger = queue(&d, "untrusted").await;
    assert_eq!(poll(&["untrusted"], 1).await, [first]);
    assert_eq!(poll(&["untrusted"], 2).await, [second, third]);
    assert_eq!(poll(&["untrusted", "host"], 5).await.len(), 1, "one directive a facility");
    assert!(poll(&["untrusted"], 5).await.is_empty());
    assert_eq!((bed.state(&fourth).await, bed.state(&younger).await), ("queued".to_owned(), "queued".to_owned()));
}

fn poll_body(claim: &str) -> serde_json::Value {
    json!({ "supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": 1, "claim_id": claim })
}

/// The end of a held poll's connection may never be seen here (a proxy, a network that vanished).
#[tokio::test(flavor = "multi_thread")]
async fn a_poll_whose_claim_was_asked_again_takes_nothing_any_more() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    territory.may_run(10).await;
    let held = tokio::spawn(answer(territory.poll_request(Some(3), &poll_body("c-1"))));
    bed.until_waiting(1, 0).await;
    // A daemon that shuts down: what it is told now is all that it will ever work on.
    assert!(leases(answer(territory.poll_request(None, &poll_body("c-1"))).await).is_empty());
    let id = bed.directive().await;
    assert!(leases(held.await.unwrap()).is_empty(), "taken for nobody");
    assert_eq!(bed.state(&id).await, "queued");
    // One that arrives late gets the answer that the claim has.
    assert!(leases(answer(territory.poll_request(Some(3), &poll_body("c-1"))).await).is_empty());
    // The control: another claim gets it, and gets it again.
    for _ in 0..2 {
        let found = leases(answer(territory.poll_request(Some(3), &poll_body("c-2"))).await);
        assert_eq!(found.iter().map(|lease| &lease.id).collect::<Vec<_>>(), [&id]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poll_of_a_daemon_that_was_replaced_takes_nothing_any_more() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    let beat = |instance: &str| json!({ "instance_id": instance, "capacity": { "max_concurrent": 10 } });
    territory.heartbeat(beat("one")).await;
    let held = tokio::spawn(answer(territory.poll_request(Some(3), &poll_body("c-1"))));
    bed.until_waiting(1, 0).await;
    territory.heartbeat(beat("two")).await;
    let id = bed.directive().await;
    assert!(leases(held.await.unwrap()).is_empty(), "taken for a daemon that is gone");
    assert_eq!(territory.one().await.id, id);
}

/// Territories could not renew their leases while the mothership was away, and may have an end to tell.
#[tokio::test(flavor = "multi_thread")]
async fn leases_outlive_the_mothership_s_own_absence() {
    let mut bed = Bed::with(|config| {
        config.auth = mothership::serve::AuthMode::Dev;
        config.lease_ttl = Duration::from_secs(2);
    })
    .await;
    let mut territory = bed.territory().await;
    territory.may_run(10).await;
    let (id, left) = (bed.directive().await, bed.directive().await);
    let lease = territory.one().await;
    territory.started(&lease).await;
    territory.started(&territory.one().await).await;
    bed.stop().await;
    tokio::time::sleep(Duration::from_millis(2300)).await;
    bed.start_again().await;
    territory.url = bed.url();
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(territory.finished(&lease).await.0, StatusCode::OK);
    assert_eq!(bed.state(&id).await, "succeeded");
    bed.until_state(&left, "failed").await;
}

/// A clock that is set back while the mothership is away does not make a dead lease live on.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_the_future_lives_no_longer_than_a_new_one() {
    let mut bed = Bed::with(|config| {
        config.auth = mothership::serve::AuthMode::Dev;
        config.lease_ttl = Duration::from_secs(1);
    })
    .await;
    let territory = bed.territory().await;
    let id = bed.directive().await;
    territory.started(&territory.one().await).await;
    bed.stop().await;
    // As if the lease had been given an hour from now.
    let database = rusqlite::Connection::open(bed.data().join("mothership.db")).unwrap();
    database.execute("UPDATE directives SET lease_expires_at = lease_expires_at + 3600000000", []).unwrap();
    drop(database);
    bed.start_again().await;
    bed.until_state(&id, "failed").await;
}
