//! `/api/v1/territories` and `/api/v1/audit-events`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};

use super::{Page, actor, next_cursor};
use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::extract::{Path, Query};
use crate::refusal::{Fault, Refusal};
use crate::store::api_tokens::Scope;
use crate::store::audit::{self, AuditEvent};
use crate::store::territories::{self, TerritoryView};

fn missing() -> Fault {
    Refusal::not_found("there is no such territory").into()
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(page): Query<Page>,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let limit = page.limit()?;
    let mut items = app
        .query(&headers, move |conn, user| {
            Ok(territories::list(conn, &user.account_id, page.cursor.as_deref(), limit)?)
        })
        .await?;
    for view in &mut items {
        app.presence.complete(view);
    }
    let next = next_cursor(&items, limit, |item: &TerritoryView| item.id.clone());
    Ok(Json(json!({ "territories": items, "next_cursor": next })))
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Json<TerritoryView>> {
    let mut view = app
        .query(&headers, move |conn, user| territories::get(conn, &user.account_id, &id)?.ok_or_else(missing))
        .await?;
    app.presence.complete(&mut view);
    Ok(Json(view))
}

/// Shuts a territory out, at once and on every connection that it has.
pub(super) async fn disable(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Json<TerritoryView>> {
    set_disabled(&app, &headers, id, true).await
}

pub(super) async fn enable(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Json<TerritoryView>> {
    set_disabled(&app, &headers, id, false).await
}

async fn set_disabled(app: &App, headers: &HeaderMap, id: String, disabled: bool) -> ApiResult<Json<TerritoryView>> {
    let mut view = app
        .administer(headers, move |tx, user| {
            if !territories::set_disabled(tx, &user.account_id, &id, disabled)? {
                return Err(missing());
            }
            let action = if disabled { "territory.disable" } else { "territory.enable" };
            audit::record(tx, &user.account_id, &actor(user), action, &id, &json!({}))?;
            territories::get(tx.conn(), &user.account_id, &id)?.ok_or_else(missing)
        })
        .await?;
    app.presence.complete(&mut view);
    Ok(Json(view))
}

pub(super) async fn audit_events(
    State(app): State<Arc<App>>,
    Query(page): Query<Page>,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let (limit, before) = (page.limit()?, page.number()?);
    let items = app
        .query_as(Scope::Admin, &headers, move |conn, user| Ok(audit::list(conn, &user.account_id, before, limit)?))
        .await?;
    let next = next_cursor(&items, limit, |item: &AuditEvent| item.id.to_string());
    Ok(Json(json!({ "audit_events": items, "next_cursor": next })))
}
