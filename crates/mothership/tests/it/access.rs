//! API tokens and the keys of directive tokens: who may do what, until when.

use mothership::api::openapi;
use mothership::store::api_tokens::Scope;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::StreamReader;

use crate::bed::{Answer, Bed, Lease, answer, refusal, refused};
use crate::process::{ended, mothership};

async fn token(bed: &Bed, scope: &str, ttl: u64) -> Value {
    let body = json!({ "name": format!("a {scope} token"), "scope": scope, "ttl_seconds": ttl });
    let (status, made) = bed.post("/api/v1/api-tokens", body).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    made
}

async fn call(bed: &Bed, token: &Value, method: Method, path: &str) -> Answer {
    let token = token["token"].as_str().unwrap();
    let request = bed.client(None).request(method, format!("{}{path}", bed.url())).bearer_auth(token);
    answer(request.json(&json!({}))).await
}

/// Every operation there is, with a token of each scope: those that need more are 403, no other is.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_do_what_its_scope_says_and_nothing_else() {
    let bed = Bed::tls().await;
    for (word, has) in [("read", Scope::Read), ("run", Scope::Run), ("admin", Scope::Admin)] {
        let token = token(&bed, word, 60).await;
        for (method, path, needs) in openapi::scopes() {
            let path = path.replace("{id}", "none");
            let (status, body) = call(&bed, &token, method.parse().unwrap(), &path).await;
            let is_refused = status == StatusCode::FORBIDDEN;
            assert_eq!(is_refused, has < needs, "{word} {method} {path}: {status} {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_shown_once_listed_without_its_secret_and_ends() {
    let bed = Bed::tls().await;
    let (made, short) = (token(&bed, "run", 3600).await, token(&bed, "read", 1).await);
    assert_eq!(call(&bed, &made, Method::GET, "/api/v1/facilities").await.0, StatusCode::OK);
    let mut states = Vec::new();
    for _ in 0..100 {
        let (_, list) = bed.get("/api/v1/api-tokens").await;
        assert!(!list.to_string().contains(made["token"].as_str().unwrap()));
        let all = list["api_tokens"].as_array().unwrap();
        states = all.iter().map(|token| (token["name"].clone(), token["state"].clone())).collect();
        if states.iter().any(|(_, state)| state == "expired") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let row = |name: &str, state: &str| (json!(name), json!(state));
    assert_eq!(states, [row("admin", "usable"), row("a run token", "usable"), row("a read token", "expired")]);
    let out = refused(401, "unauthorized");
    assert_eq!(refusal(call(&bed, &short, Method::GET, "/api/v1/facilities").await), out);
    let path = format!("/api/v1/api-tokens/{}", made["id"].as_str().unwrap());
    assert_eq!(bed.user(Method::DELETE, &path, None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(refusal(call(&bed, &made, Method::GET, "/api/v1/facilities").await), out);
    assert_eq!(refusal(bed.user(Method::DELETE, &path, None).await), refused(404, "not_found"));
    // The database has neither secret.
    let database = std::fs::read(bed.data().join("mothership.db")).unwrap();
    let log = std::fs::read(bed.data().join("mothership.db-wal")).unwrap_or_default();
    for secret in [&made["token"], &short["token"], &json!(bed.token)] {
        let secret = secret.as_str().unwrap().as_bytes();
        let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|part| part == secret);
        assert!(!holds(&database) && !holds(&log));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_locks_himself_out() {
    let bed = Bed::tls().await;
    let (_, list) = bed.get("/api/v1/api-tokens").await;
    let own = format!("/api/v1/api-tokens/{}", list["api_tokens"][0]["id"].as_str().unwrap());
    // Another that ends is no administrator to stay.
    token(&bed, "admin", 3600).await;
    assert_eq!(refusal(bed.user(Method::DELETE, &own, None).await), refused(409, "state_conflict"));
    for body in [
        json!({ "name": "x", "scope": "root" }),
        json!({ "name": " ", "scope": "run" }),
        json!({ "name": "x\u{7}", "scope": "run" }),
        json!({ "name": "x", "scope": "run", "ttl_seconds": 0 }),
        json!({ "name": "x", "scope": "run", "ttl_seconds": 400 * 86_400 }),
        json!({ "name": "x", "scope": "run", "for_ever": true }),
    ] {
        assert_eq!(bed.post("/api/v1/api-tokens", body.clone()).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    }
}

/// A live log is one request that lasts: it ends with the token, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_log_ends_with_its_token() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    bed.directive().await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    let reader = token(&bed, "read", 3600).await;
    let url = format!("{}/api/v1/directives/{}/logs/stream", bed.url(), lease.id);
    let live = bed.client(None).get(url).bearer_auth(reader["token"].as_str().unwrap()).send().await.unwrap();
    let mut live = StreamReader::new(tokio_stream::StreamExt::map(live.bytes_stream(), |part| {
        part.map_err(std::io::Error::other)
    }));
    territory.chunk(&lease, "stdout", 0, b"before").await;
    let mut seen = String::new();
    while !seen.contains("YmVmb3Jl") {
        let mut part = [0; 4096];
        let read = live.read(&mut part).await.unwrap();
        assert_ne!(read, 0, "{seen}");
        seen.push_str(std::str::from_utf8(&part[..read]).unwrap());
    }
    let path = format!("/api/v1/api-tokens/{}", reader["id"].as_str().unwrap());
    assert_eq!(bed.user(Method::DELETE, &path, None).await.0, StatusCode::NO_CONTENT);
    territory.chunk(&lease, "stdout", 1, b"after").await;
    let mut rest = String::new();
    let end = tokio::time::timeout(std::time::Duration::from_secs(10), live.read_to_string(&mut rest)).await;
    end.expect("it ends").ok();
    assert!(!rest.contains("YWZ0ZXI="), "{rest}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_directive_tokens_change_with_an_overlap_or_at_once() {
    let mut bed = Bed::tls().await;
    let mut territory = bed.territory().await;
    bed.directive().await;
    let lease = territory.one().await;
    let (_, first) = bed.post("/api/v1/signing-keys/rotate", json!({})).await;
    assert_eq!(first, json!({ "signs": "2", "verify": ["2", "1"] }));
    // A token of the older key is as good as before, and brings one of the newer.
    let (status, _) = territory.started(&lease).await;
    assert_eq!(status, StatusCode::OK);
    let (_, beat) = territory.report(&lease, "heartbeat", json!({})).await;
    let fresh = Lease { token: beat["directive_token"].as_str().unwrap().to_owned(), ..lease.clone() };
    let kid = |lease: &Lease| {
        use base64::Engine as _;
        let head = lease.token.split('.').next().unwrap();
        let head = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(head).unwrap();
        serde_json::from_slice::<Value>(&head).unwrap()["kid"].clone()
    };
    assert_eq!((kid(&lease), kid(&fresh)), (json!("1"), json!("2")));
    // Kept over a restart.
    bed.stop().await;
    bed.start_again().await;
    territory.url = bed.url();
    assert_eq!(territory.report(&fresh, "heartbeat", json!({})).await.0, StatusCode::OK);
    assert_eq!(territory.report(&lease, "heartbeat", json!({})).await.0, StatusCode::OK);
    // Somebody else may have the keys: none of their tokens is good, not even to get another.
    let output = ended(mothership(&bed, &["signing-key", "rotate", "--drop-older"])).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "3\n");
    for old in [&lease, &fresh] {
        for what in ["heartbeat", "token"] {
            assert_eq!(refusal(territory.report(old, what, json!({})).await), refused(401, "token_invalid"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_grow_old_by_themselves() {
    let mut bed = Bed::tls().await;
    bed.stop().await;
    let database = rusqlite::Connection::open(bed.data().join("mothership.db")).unwrap();
    let ids = || -> Vec<i64> {
        let mut query = database.prepare("SELECT id FROM signing_keys ORDER BY id").unwrap();
        let ids = query.query_map([], |row| row.get(0)).unwrap();
        ids.map(Result::unwrap).collect()
    };
    let age = |id: i64, days: i64| {
        let sql = "UPDATE signing_keys SET created_at = created_at - ?2 * 86400000000 WHERE id = ?1";
        database.execute(sql, [id, days]).unwrap();
    };
    assert_eq!(ids(), [1]);
    age(1, 31);
    bed.start_again().await;
    bed.stop().await;
    assert_eq!(ids(), [1, 2], "the older one still verifies");
    age(2, 8);
    bed.start_again().await;
    bed.stop().await;
    assert_eq!(ids(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_lists_and_revokes() {
    let bed = Bed::tls().await;
    let made = ended(mothership(&bed, &["api-token", "create", "ci", "--scope", "read", "--ttl", "7d"])).await;
    let secret = String::from_utf8(made.stdout).unwrap();
    let file = bed.dir.path().join("token");
    std::fs::write(&file, &secret).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(ended(mothership(&bed, &["--token-file", file, "ls"])).await.status.code(), Some(0));
    let refused = ended(mothership(&bed, &["--token-file", file, "facility", "create"])).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("scope is read"), "{refused:?}");
    let list = ended(mothership(&bed, &["api-token", "list", "--json"])).await;
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let id = list.as_array().unwrap().iter().find(|token| token["name"] == "ci").unwrap()["id"].as_str().unwrap();
    assert_eq!(ended(mothership(&bed, &["api-token", "revoke", id])).await.status.code(), Some(0));
    assert_eq!(ended(mothership(&bed, &["--token-file", file, "ls"])).await.status.code(), Some(1));
    let territory = bed.territory().await;
    assert_eq!(ended(mothership(&bed, &["territory", "disable", &territory.id])).await.status.code(), Some(0));
    assert_eq!(territory.heartbeat(json!({})).await.0, StatusCode::FORBIDDEN);
    assert_eq!(ended(mothership(&bed, &["territory", "enable", &territory.id])).await.status.code(), Some(0));
    assert_eq!(territory.heartbeat(json!({})).await.0, StatusCode::OK);
}
