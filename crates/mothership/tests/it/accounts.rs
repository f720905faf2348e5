//! Two accounts on one mothership: neither serves, sees or touches what is the other's.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::bed::{Bed, answer, refusal, refused};

/// An account of its own, and an administrator's token for it.
fn another_account(bed: &Bed) -> String {
    let token = mothership::secret::api_token();
    let database = rusqlite::Connection::open(bed.data().join("mothership.db")).unwrap();
    database.execute("INSERT INTO accounts VALUES ('other', 'other', 0)", []).unwrap();
    let digest = mothership::secret::sha256(token.as_bytes());
    let sql =
        "INSERT INTO api_tokens (id, account_id, name, token_sha256, created_at) VALUES ('t', 'other', 'x', ?1, 0)";
    database.execute(sql, [&digest[..]]).unwrap();
    token
}

#[tokio::test(flavor = "multi_thread")]
async fn a_territory_serves_its_own_account_s_directives_alone() {
    let bed = Bed::tls().await;
    let token = another_account(&bed);
    let other = async |method: Method, path: &str, body: Value| {
        let request = bed.client(None).request(method, format!("{}/api/v1{path}", bed.url()));
        answer(request.bearer_auth(&token).json(&body)).await
    };
    let ours = bed.territory().await;
    ours.may_run(5).await;
    let (_, facility) = other(Method::POST, "/facilities", json!({})).await;
    let body = json!({ "facility_id": facility["id"], "command": "true" });
    let (status, theirs) = other(Method::POST, "/directives", body).await;
    assert_eq!(status, StatusCode::CREATED, "{theirs}");
    let mine = bed.directive().await;
    let claimed: Vec<String> = ours.poll(5).await.into_iter().map(|lease| lease.id).collect();
    assert_eq!(claimed, std::slice::from_ref(&mine), "the other account's directive stays in its queue");
    // Neither sees what is the other's, nor that it is there.
    let territory = ours.id.clone();
    let (_, made) = bed.post("/api/v1/enrollment-tokens", json!({})).await;
    let enrolment = made["id"].as_str().unwrap();
    let missing = refused(404, "not_found");
    for (method, path) in [
        (Method::GET, format!("/directives/{mine}")),
        (Method::GET, format!("/directives/{mine}/logs")),
        (Method::GET, format!("/directives/{mine}/logs/stream")),
        (Method::GET, format!("/directives/{mine}/diff")),
        (Method::POST, format!("/directives/{mine}/cancel")),
        (Method::GET, format!("/territories/{territory}")),
        (Method::POST, format!("/territories/{territory}/disable")),
        (Method::DELETE, format!("/enrollment-tokens/{enrolment}")),
    ] {
        assert_eq!(refusal(other(method.clone(), &path, json!({})).await), missing, "{method} {path}");
    }
    for (path, key) in [("/territories", "territories"), ("/enrollment-tokens", "enrollment_tokens")] {
        assert_eq!(other(Method::GET, path, json!({})).await.1[key], json!([]), "{path}");
    }
    let (_, audit) = other(Method::GET, "/audit-events", json!({})).await;
    assert!(!audit.to_string().contains(&mine) && !audit.to_string().contains(&territory), "{audit}");
    // Nor can it put work on the other's territory.
    let (status, _) = other(Method::POST, "/facilities", json!({ "territory_id": territory })).await;
    assert!(status.is_client_error());
    assert_eq!(ours.heartbeat(json!({})).await.0, StatusCode::OK);
}
