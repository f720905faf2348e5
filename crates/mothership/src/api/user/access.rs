//! `/api/v1/api-tokens` and `/api/v1/signing-keys`: who may use this API, for what and for how long; and the keys of directive
//! tokens.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use conduits::code;
use serde::Deserialize;
use serde_json::{Value, json};

use super::create::{digest, idempotency_key};
use super::{Page, actor, next_cursor};
use crate::api::App;
use crate::api::error::{ApiError, ApiResult};
use crate::api::extract::{Path, Query};
use crate::api::request;
use crate::refusal::Refusal;
use crate::secret;
use crate::store::api_tokens::{self, ApiToken, NewToken, Scope};
use crate::store::signing_keys::{self, Older};
use crate::store::{audit, idempotency};
use crate::token::TokenKeys;

/// How long a token is good where the caller does not say, in seconds.
const TTL_SECONDS: u64 = 90 * 24 * 3600;
/// How long it may be good. Only the administrator's token of the data directory has no end.
const LONGEST_TTL_SECONDS: u64 = 366 * 24 * 3600;
/// Characters of a token's name.
const NAME_CHARS: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: String,
    scope: String,
    ttl_seconds: Option<u64>,
}

/// A token, whose secret is shown here once and never again; an Idempotency-Key keeps a request that is sent again from
/// making a second one.
pub(super) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<(StatusCode, Json<Value>)> {
    // Before anything is read of it.
    app.query_as(Scope::Admin, &headers, |_, _| Ok(())).await?;
    let bytes = request::bytes(body, request::SMALL).await?;
    let once = idempotency_key(&headers)?.map(|key| (key, digest("api_token", &bytes)));
    let wanted: Wanted = request::fields(&bytes)?;
    let invalid = |detail: String| Refusal::invalid(code::INVALID_PARAMETER, detail);
    let ttl = wanted.ttl_seconds.unwrap_or(TTL_SECONDS);
    if !(1..=LONGEST_TTL_SECONDS).contains(&ttl) {
        return Err(invalid(format!("ttl_seconds is {ttl}; use 1 to {LONGEST_TTL_SECONDS}")).into());
    }
    let scope: Scope = wanted.scope.parse().map_err(|error| invalid(format!("scope: {error}")))?;
    let name = wanted.name.trim().to_owned();
    if name.is_empty() || name.chars().count() > NAME_CHARS || name.chars().any(char::is_control) {
        return Err(invalid(format!("name must be 1 to {NAME_CHARS} printable characters")).into());
    }
    let token = secret::api_token();
    let id = uuid::Uuid::now_v7().to_string();
    let (fresh, key, called) = (token.clone(), id.clone(), name.clone());
    let expires_at = app
        .administer(&headers, move |tx, user| {
            if let Some((once, request)) = &once {
                super::tokens::refuse_again(tx, user, once, request)?;
                idempotency::remember(tx, &user.account_id, once, request, &json!({ "id": key }), None)?;
            }
            let expires_at = tx.now().plus(Duration::from_secs(ttl));
            let new = NewToken { id: &key, name: &called, secret: &fresh, scope, expires_at: Some(expires_at) };
            api_tokens::add(tx, &user.account_id, &new)?;
            let details = json!({ "name": called, "scope": scope, "ttl_seconds": ttl });
            audit::record(tx, &user.account_id, &actor(user), "api_token.create", &key, &details)?;
            Ok(expires_at)
        })
        .await?;
    let created = json!({ "id": id, "name": name, "scope": scope, "token": token, "expires_at": expires_at.rfc3339() });
    Ok((StatusCode::CREATED, Json(created)))
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
            Ok(api_tokens::list(conn, &user.account_id, page.cursor.as_deref(), limit, now)?)
        })
        .await?;
    let next = next_cursor(&items, limit, |item: &ApiToken| item.id.clone());
    Ok(Json(json!({ "api_tokens": items, "next_cursor": next })))
}

/// Revokes a token, at once. The last administrator stays: without one, nobody could make another.
pub(super) async fn revoke(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    app.administer(&headers, move |tx, user| {
        if api_tokens::other_administrators(tx, &user.account_id, &id)? == 0 {
            return Err(Refusal::conflict(
                code::STATE_CONFLICT,
                "this is the last token that may administrate without an end; to replace it, remove admin-token from the data directory and restart the mothership",
            )
            .into());
        }
        if !api_tokens::revoke(tx, &user.account_id, &id)? {
            return Err(Refusal::not_found("there is no such token that could still be used").into());
        }
        audit::record(tx, &user.account_id, &actor(user), "api_token.revoke", &id, &json!({}))?;
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Rotation {
    drop_older: bool,
}

/// Makes a new key for directive tokens, which signs from now on.
pub(super) async fn rotate(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> ApiResult<Json<Value>> {
    app.query_as(Scope::Admin, &headers, |_, _| Ok(())).await?;
    let bytes = request::bytes(body, request::SMALL).await?;
    let wanted: Rotation = if bytes.is_empty() { Rotation::default() } else { request::fields(&bytes)? };
    let older = if wanted.drop_older { Older::Drop } else { Older::Verify };
    let keys = app
        .administer(&headers, move |tx, user| {
            let keys = signing_keys::rotate(tx, older)?;
            let newest = keys.first().map(|key| key.id.to_string()).unwrap_or_default();
            let details = json!({ "drop_older": older == Older::Drop });
            audit::record(tx, &user.account_id, &actor(user), "signing_key.rotate", &newest, &details)?;
            Ok(keys)
        })
        .await?;
    let ids: Vec<String> = keys.iter().map(|key| key.id.to_string()).collect();
    let fresh = TokenKeys::new(&keys).ok_or_else(|| ApiError::Internal("a new signing key was not kept".to_owned()))?;
    app.keys.take(fresh);
    Ok(Json(json!({ "signs": ids.first(), "verify": ids })))
}
