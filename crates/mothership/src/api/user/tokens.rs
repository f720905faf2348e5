//! `/api/v1/enrollment-tokens`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use conduits::{EnrollToken, code};
use serde::Deserialize;
use serde_json::{Value, json};

use super::create::{digest, idempotency_key};
use super::{Page, actor, next_cursor};
use crate::api::App;
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::{Path, Query};
use crate::api::request;
use crate::refusal::{Fault, Refusal};
use crate::secret;
use crate::store::api_tokens::{Scope, User};
use crate::store::enrollment::EnrollmentToken;
use crate::store::{Tx, audit, enrollment, idempotency};

/// How long a token is good where the caller does not say, in seconds.
const TTL_SECONDS: u64 = 3600;
/// How long it may be good: a forgotten token is a door.
const LONGEST_TTL_SECONDS: u64 = 30 * 24 * 3600;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    ttl_seconds: Option<u64>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// A token, whose secret is shown here once and never again. An Idempotency-Key keeps a request that is sent again from
/// making a second token, but cannot give the first answer again: remembering that would be keeping the secret.
pub(super) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<(StatusCode, Json<Value>)> {
    app.query_as(Scope::Admin, &headers, |_, _| Ok(())).await?;
    let bytes = request::bytes(body, request::SMALL).await?;
    let once = idempotency_key(&headers)?.map(|key| (key, digest("enrollment_token", &bytes)));
    let wanted: Wanted = request::fields(&bytes)?;
    let ttl = wanted.ttl_seconds.unwrap_or(TTL_SECONDS);
    if !(1..=LONGEST_TTL_SECONDS).contains(&ttl) {
        return Err(Refusal::invalid(
            code::INVALID_PARAMETER,
            format!("ttl_seconds is {ttl}; use 1 to {LONGEST_TTL_SECONDS}"),
        )
        .into());
    }
    let token = EnrollToken::pinned(&secret::random_text(), app.authority.key_sha256())
        .map_err(|error| ApiError::Internal(error.to_string()))?;
    let id = uuid::Uuid::now_v7().to_string();
    let (recorded, key) = (token.clone(), id.clone());
    let expires_at = app
        .administer(&headers, move |tx, user| {
            if let Some((once, request)) = &once {
                refuse_again(tx, user, once, request)?;
                idempotency::remember(tx, &user.account_id, once, request, &json!({ "id": key }), None)?;
            }
            let expires_at = tx.now().plus(Duration::from_secs(ttl));
            let labels = json!(wanted.labels);
            enrollment::create(tx, &user.account_id, &key, recorded.secret(), &labels, expires_at)?;
            audit::record(
                tx,
                &user.account_id,
                &actor(user),
                "enrollment_token.create",
                &key,
                &json!({ "ttl_seconds": ttl, "labels": labels }),
            )?;
            Ok(expires_at)
        })
        .await?;
    let created = json!({ "id": id, "token": token.expose(), "expires_at": expires_at.rfc3339() });
    Ok((StatusCode::CREATED, Json(created)))
}

/// An error where a token was made with this Idempotency-Key already.
pub(super) fn refuse_again(tx: &Tx<'_>, user: &User, key: &str, request: &[u8; 32]) -> Result<(), Fault> {
    let Some(made) = idempotency::recall(tx, &user.account_id, key, request)? else {
        return Ok(());
    };
    let id = made["id"].as_str().unwrap_or_default();
    Err(Refusal::conflict(
        code::IDEMPOTENCY_CONFLICT,
        format!(
            "this Idempotency-Key made token {id} already, and a token's secret is shown once; use a fresh key, and revoke {id} if its secret was lost"
        ),
    )
    .into())
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(page): Query<Page>,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let limit = page.limit()?;
    let now = app.store.clock().now();
    let items = app
        .query_as(Scope::Admin, &headers, move |conn, user| {
            Ok(enrollment::list(conn, &user.account_id, page.cursor.as_deref(), limit, now)?)
        })
        .await?;
    let next = next_cursor(&items, limit, |item: &EnrollmentToken| item.id.clone());
    Ok(Json(json!({ "enrollment_tokens": items, "next_cursor": next })))
}

pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    app.administer(&headers, move |tx, user| {
        if !enrollment::revoke(tx, &user.account_id, &id)? {
            return Err(Refusal::not_found("there is no such token that could still be used").into());
        }
        audit::record(tx, &user.account_id, &actor(user), "enrollment_token.revoke", &id, &json!({}))?;
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
