//! The user API: what people see, and how mistakes are told.

use mothership::api::openapi;
use reqwest::{Method, StatusCode};
use rusqlite::types::ValueRef;
use serde_json::{Value, json};

use crate::bed::{Answer, Bed, answer, refusal, refused};

#[tokio::test(flavor = "multi_thread")]
async fn every_route_wants_a_token() {
    let bed = Bed::dev().await;
    for (method, path) in openapi::routes().filter(|(_, path)| path.starts_with("/api/")) {
        let url = format!("{}{}", bed.url(), path.replace("{id}", "x"));
        let method: Method = method.parse().unwrap();
        for token in [None, Some("nxa1.guess")] {
            let mut request = bed.client(None).request(method.clone(), &url);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            if method == Method::POST {
                request = request.json(&json!({}));
            }
            assert_eq!(refusal(answer(request).await), refused(401, "unauthorized"), "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_names_every_route_and_the_server_has_them() {
    let bed = Bed::dev().await;
    let (status, document) = answer(bed.client(None).get(format!("{}/openapi.json", bed.url()))).await;
    assert_eq!((status, &document["openapi"]), (StatusCode::OK, &json!("3.1.0")));
    for (method, path) in openapi::routes() {
        assert!(document["paths"][path][method.to_lowercase()].is_object(), "{method} {path}");
        let url = format!("{}{}", bed.url(), path.replace("{id}", "x"));
        let request = bed.client(None).request(method.parse().unwrap(), url);
        let (status, body) = answer(request).await;
        assert_ne!(body["detail"], "there is no such route", "{method} {path}");
        assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn facilities_are_made_listed_and_deleted() {
    let bed = Bed::dev().await;
    let territory = bed.territory().await;
    let body = json!({ "name": "web", "repo_url": "https://example.com/a.git", "territory_id": territory.id });
    let (status, made) = bed.post("/api/v1/facilities", body.clone()).await;
    assert_eq!((status, &made["territory_id"]), (StatusCode::CREATED, &json!(territory.id)));
    assert_eq!(refusal(bed.post("/api/v1/facilities", body).await), refused(409, "state_conflict"));
    for wrong in [
        json!({ "repo_url": "ext::sh -c id" }),
        json!({ "territory_id": "nobody" }),
        json!({ "name": "" }),
        json!({ "name": "01890A5D-AC96-774B-BCCE-B302099A8057" }),
        json!({ "name": "01890a5dac96774bbcceb302099a8057" }),
        json!({ "nmae": "typo" }),
        json!([]),
    ] {
        assert_eq!(
            refusal(bed.post("/api/v1/facilities", wrong.clone()).await),
            refused(422, "invalid_parameter"),
            "{wrong}"
        );
    }
    let (_, found) = bed.get("/api/v1/facilities?name=web").await;
    assert_eq!(found["facilities"][0]["id"], made["id"]);
    let path = format!("/api/v1/facilities/{}", made["id"].as_str().unwrap());
    assert_eq!(bed.get(&path).await.0, StatusCode::OK);
    bed.directive_in(made["id"].as_str().unwrap()).await;
    let lease = territory.one().await;
    assert_eq!(lease.spec["facility"]["repo_url"], "https://example.com/a.git");
    assert_eq!(refusal(bed.user(Method::DELETE, &path, None).await), refused(409, "state_conflict"));
    territory.finished(&lease).await;
    assert_eq!(bed.user(Method::DELETE, &path, None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(refusal(bed.get(&path).await), refused(404, "not_found"));
    assert_eq!(refusal(bed.get(&format!("/api/v1/directives/{}", lease.id)).await), refused(404, "not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directive_that_cannot_be_is_refused_in_one_line() {
    let bed = Bed::dev().await;
    let facility = bed.facility().await;
    let with = |field: &str, value: Value| {
        let mut body = json!({ "facility_id": facility, "command": "true" });
        body[field] = value;
        body
    };
    for (body, word) in [
        (with("facility_id", json!("../x")), "facility"),
        (json!({ "facility_id": facility }), "command"),
        (with("command", json!("a\u{0}b")), "command"),
        (with("sandbox_profile", json!("root")), "sandbox_profile"),
        (with("shell", json!("sh")), "shell"),
        (with("env", json!({ "LD_PRELOAD": "x" })), "LD_PRELOAD"),
        (with("capabilities", json!({ "net": { "mode": "allowlist" } })), "allow"),
        (with("capabilities", json!({ "net": { "mode": "allowlist", "allow": ["1.2.3.4:443"] } })), "1.2.3.4"),
        (with("timeout", json!(5)), "timeout"),
        (with("limits", json!({ "max_diff_bytes": 99_000_000 })), "max_diff_bytes"),
        (with("limits", json!({ "memory_mb": -1 })), "limits.memory_mb"),
        (with("limits", json!({ "memory_mb": 1e30 })), "limits.memory_mb"),
        (with("limits", json!({ "memroy_mb": 512 })), "did you mean limits.memory_mb?"),
        (with("artifacts", json!({ "colect": ["*.log"] })), "did you mean artifacts.collect?"),
        (with("capabilities", json!({ "fss": { "write": [] } })), "did you mean capabilities.fs?"),
        (with("capabilities", json!({ "net": { "mode": "none", "alow": [] } })), "alow"),
        (with("comand", json!("true")), "did you mean command?"),
        (json!({ "facility": { "id": facility, "mont": "/workspace" }, "command": "true" }), "facility.mount"),
        (
            json!({ "facility": { "id": facility, "repo_url": "https://example.com/a.git" }, "command": "true" }),
            "facility.repo_url",
        ),
    ] {
        let (status, refused) = bed.post("/api/v1/directives", body.clone()).await;
        let detail = refused["detail"].as_str().unwrap_or_default();
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body} {refused}");
        assert!(detail.contains(word) && !detail.contains('\n'), "{body}: {detail}");
    }
    // Every field that there is, and the spec of one directive as the request for the next.
    let full = json!({
        "facility": { "id": facility, "mount": "/workspace", "repo_url": null },
        "sandbox_profile": "untrusted", "command": "true", "shell": "/bin/sh", "cwd": "a", "timeout_seconds": 1,
        "limits": { "cpu": 1, "memory_mb": 1, "disk_mb": 1, "max_output_bytes": 1, "max_diff_bytes": 1 },
        "capabilities": { "net": { "mode": "none" }, "fs": { "write": ["workspace:**"] } },
        "artifacts": { "collect": ["a"], "always_diff": true },
        "env": { "A": "b" },
    });
    let (status, created) = bed.post("/api/v1/directives", full).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    // How large a machine is only its territory knows; it refuses what is larger.
    let (status, huge) = bed.post("/api/v1/directives", with("limits", json!({ "memory_mb": u64::MAX }))).await;
    assert_eq!((status, &huge["spec"]["limits"]["memory_mb"]), (StatusCode::CREATED, &json!(u64::MAX)));
    let mut again = created["spec"].clone();
    again.as_object_mut().unwrap().remove("directive_id");
    assert_eq!(bed.post("/api/v1/directives", again).await.0, StatusCode::CREATED);
}

/// A create with an Idempotency-Key.
async fn keyed(bed: &Bed, what: &str, key: &str, body: &Value) -> Answer {
    let request = bed.client(None).post(format!("{}/api/v1/{what}", bed.url())).bearer_auth(&bed.token);
    answer(request.header("idempotency-key", key).json(body)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_neither_remembered_nor_made_again() {
    let bed = Bed::dev().await;
    let facility = json!({ "name": "workshop" });
    let (_, made) = keyed(&bed, "facilities", "f", &facility).await;
    let directive = json!({ "facility_id": made["id"], "command": "true", "env": { "A": "hunter2" } });
    let (status, _) = keyed(&bed, "directives", "d", &directive).await;
    assert_eq!(status, StatusCode::CREATED);
    assert!(bytes_of_the_database(&bed).contains("hunter2"), "the look finds what is there");
    let path = format!("/api/v1/facilities/{}", made["id"].as_str().unwrap());
    assert_eq!(bed.user(Method::DELETE, &path, None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(refusal(keyed(&bed, "directives", "d", &directive).await), refused(409, "idempotency_conflict"));
    assert_eq!(refusal(keyed(&bed, "facilities", "f", &facility).await), refused(409, "idempotency_conflict"));
    assert!(!bytes_of_the_database(&bed).contains("hunter2"));
    let (_, list) = bed.get("/api/v1/facilities").await;
    assert_eq!(list["facilities"], json!([]));
    assert_eq!(keyed(&bed, "facilities", "f2", &facility).await.0, StatusCode::CREATED);
}

/// Every text that the database still says, in all of its tables.
fn bytes_of_the_database(bed: &Bed) -> String {
    let database = rusqlite::Connection::open(bed.data().join("mothership.db")).unwrap();
    let mut said = String::new();
    let mut tables = database.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'").unwrap();
    for table in tables.query_map([], |row| row.get::<_, String>(0)).unwrap() {
        let mut rows = database.prepare(&format!("SELECT * FROM {}", table.unwrap())).unwrap();
        let columns = rows.column_count();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = row.get_ref(column).unwrap() {
                    said.push_str(&String::from_utf8_lossy(bytes));
                    said.push('\n');
                }
            }
        }
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_sent_again_is_one_create() {
    let bed = Bed::dev().await;
    let body = json!({ "facility_id": bed.facility().await, "command": "true" });
    let create = async |body: Value| keyed(&bed, "directives", "k1", &body).await;
    let first = create(body.clone()).await;
    assert_eq!(create(body.clone()).await, first);
    let mut other = body;
    other["command"] = json!("false");
    assert_eq!(refusal(create(other).await), refused(409, "idempotency_conflict"));
    let (_, list) = bed.get("/api/v1/directives").await;
    assert_eq!(list["directives"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_and_narrow() {
    let bed = Bed::dev().await;
    let facility = bed.facility().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(bed.directive_in(&facility).await);
    }
    made.reverse();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, page) = bed.get(&format!("/api/v1/directives?limit=2{cursor}")).await;
        for directive in page["directives"].as_array().unwrap() {
            seen.push(directive["id"].as_str().unwrap().to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, made);
    bed.cancel(&made[0]).await;
    let (_, page) = bed.get("/api/v1/directives?state=canceled").await;
    assert_eq!(page["directives"].as_array().unwrap().len(), 1);
    for wrong in ["state=odd", "limit=0", "limit=501", "cursor=x"] {
        let answer = bed.get(&format!("/api/v1/directives?{wrong}")).await;
        assert_eq!(refusal(answer), refused(422, "invalid_parameter"), "{wrong}");
    }
    let (_, events) = bed.get("/api/v1/audit-events?limit=3").await;
    assert_eq!(events["audit_events"][0]["action"], "directive.cancel");
    for missing in [
        "facilities/x",
        "directives/x",
        "directives/x/logs",
        "directives/x/logs/stream",
        "directives/x/diff",
        "territories/x",
    ] {
        assert_eq!(refusal(bed.get(&format!("/api/v1/{missing}")).await), refused(404, "not_found"), "{missing}");
    }
    assert_eq!(refusal(bed.cancel("x").await), refused(404, "not_found"));
    let token = bed.user(Method::DELETE, "/api/v1/enrollment-tokens/x", None).await;
    assert_eq!(refusal(token), refused(404, "not_found"));
    assert_eq!(refusal(bed.post("/api/v1/territories/x/disable", json!({})).await), refused(404, "not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_or_path_that_does_not_read_is_refused_like_any_parameter() {
    let bed = Bed::dev().await;
    let id = bed.directive().await;
    for (path, word) in [
        ("facilities?limit=abc", "\"abc\""),
        ("facilities?limit=-1", "\"-1\""),
        ("facilities?limit=", "limit"),
        ("directives?limit=4294967296", "4294967296"),
        ("directives?limit=1&limit=2", "limit"),
        ("directives?state=queued&state=failed", "state"),
        ("territories?limit=1.5", "1.5"),
        ("enrollment-tokens?limit=%ff", "limit"),
        ("audit-events?limit=0x1", "0x1"),
        (&format!("directives/{id}/logs?after=x"), "after"),
        (&format!("directives/{id}/logs?from_seq=x"), "from_seq"),
        (&format!("directives/{id}/logs/stream?after=x"), "after"),
        ("directives?stat=queued", "`stat`"),
        ("facilities?limit=1&nobody=knows", "`nobody`"),
        ("territories?state=x", "`state`"),
        ("audit-events?since=1", "`since`"),
        (&format!("directives/{id}?verbose=1"), "`verbose`"),
        (&format!("directives/{id}/logs?form_seq=1"), "`form_seq`"),
        (&format!("directives/{id}/logs/stream?from_seq=1"), "`from_seq`"),
        ("directives/%ff", "path"),
        ("facilities/%ff", "path"),
        ("territories/%ff", "path"),
    ] {
        let (status, refused) = bed.get(&format!("/api/v1/{path}")).await;
        let detail = refused["detail"].as_str().unwrap_or_default();
        assert_eq!((status.as_u16(), &refused["error"]), (422, &json!("invalid_parameter")), "{path}: {refused}");
        assert!(detail.contains(word) && !detail.contains('\n'), "{path}: {detail}");
    }
    let (_, page) = bed.get("/api/v1/directives?limit=1&state=queued").await;
    assert_eq!(page["directives"][0]["id"], json!(id));
    let cancel = format!("/api/v1/directives/{id}/cancel");
    assert_eq!(refusal(bed.post(&format!("{cancel}?force"), json!({})).await), refused(422, "invalid_parameter"));
    assert_eq!(bed.state(&id).await, "queued");
    let territory = bed.territory().await;
    let odd = territory.call("/directives/%ff/started", json!({})).await;
    assert_eq!(refusal(odd), refused(422, "invalid_parameter"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_there_twice_is_refused_by_name() {
    let bed = Bed::dev().await;
    let facility = bed.facility().await;
    let mut twice = Vec::new();
    for (path, body, key) in [
        ("directives", format!(r#"{{"facility_id":"{facility}","command":"true","command":"id"}}"#), "command"),
        ("directives", format!(r#"{{"facility_id":"{facility}","command":"true","env":{{"A":"1","A":"2"}}}}"#), "A"),
        ("facilities", r#"{"name":"a","name":"b"}"#.to_owned(), "name"),
        ("enrollment-tokens", r#"{"labels":{"site":"a","site":"b"}}"#.to_owned(), "site"),
    ] {
        let request = bed.client(None).post(format!("{}/api/v1/{path}", bed.url())).bearer_auth(&bed.token);
        let (status, refused) = answer(request.header("content-type", "application/json").body(body.clone())).await;
        let detail = refused["detail"].as_str().unwrap_or_default().to_owned();
        if status != StatusCode::UNPROCESSABLE_ENTITY || !detail.contains(key) {
            twice.push((body, status, refused));
        }
    }
    assert_eq!(twice, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_token_is_made_once_for_a_key_and_its_secret_is_not_kept() {
    let bed = Bed::dev().await;
    let body = json!({ "ttl_seconds": 60 });
    let (status, made) = keyed(&bed, "enrollment-tokens", "t", &body).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, again) = keyed(&bed, "enrollment-tokens", "t", &body).await;
    let detail = again["detail"].as_str().unwrap();
    assert_eq!((status, &again["error"]), (StatusCode::CONFLICT, &json!("idempotency_conflict")));
    assert!(detail.contains(made["id"].as_str().unwrap()) && detail.contains("shown once"), "{detail}");
    let other = keyed(&bed, "enrollment-tokens", "t", &json!({})).await;
    assert_eq!(refusal(other), refused(409, "idempotency_conflict"));
    let (_, list) = bed.get("/api/v1/enrollment-tokens").await;
    assert_eq!(list["enrollment_tokens"].as_array().unwrap().len(), 1);
    let secret = made["token"].as_str().unwrap().split('.').nth(1).unwrap();
    assert!(!bytes_of_the_database(&bed).contains(secret));
    assert_eq!(keyed(&bed, "enrollment-tokens", "t2", &body).await.0, StatusCode::CREATED);
    // A request that was refused has not used its key.
    assert_eq!(refusal(keyed(&bed, "enrollment-tokens", "t3", &json!({ "ttl_seconds": 0 })).await).0, 422);
    assert_eq!(keyed(&bed, "enrollment-tokens", "t3", &body).await.0, StatusCode::CREATED);
}
