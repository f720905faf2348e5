//! `/api/v1/directives`: look, list, cancel, fetch the diff.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use conduits::{DirectiveState, code};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Page, actor};
use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::extract::{Path, Query, number};
use crate::refusal::{Fault, Refusal};
use crate::store::directives::{self, DirectiveView, Filter};
use crate::store::{audit, reports};

fn missing() -> Fault {
    Refusal::not_found("there is no such directive").into()
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Json<DirectiveView>> {
    let view = app
        .query(&headers, move |conn, user| directives::get(conn, &user.account_id, &id)?.ok_or_else(missing))
        .await?;
    Ok(Json(view))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Narrowed {
    state: Option<String>,
    facility_id: Option<String>,
    territory_id: Option<String>,
    #[serde(default, deserialize_with = "number")]
    limit: Option<u32>,
    cursor: Option<String>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(narrowed): Query<Narrowed>,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let page = Page { limit: narrowed.limit, cursor: narrowed.cursor };
    if let Some(state) = &narrowed.state {
        state
            .parse::<DirectiveState>()
            .map_err(|error| Refusal::invalid(code::INVALID_PARAMETER, format!("state: {error}")))?;
    }
    let limit = page.limit()?;
    let filter = Filter {
        state: narrowed.state,
        facility_id: narrowed.facility_id,
        territory_id: narrowed.territory_id,
        before: page.number()?,
    };
    let (items, more) =
        app.query(&headers, move |conn, user| Ok(directives::list(conn, &user.account_id, &filter, limit)?)).await?;
    let next = items.last().filter(|_| more).map(|(seq, _)| seq.to_string());
    let views: Vec<DirectiveView> = items.into_iter().map(|(_, view)| view).collect();
    Ok(Json(json!({ "directives": views, "next_cursor": next })))
}

pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Json<DirectiveView>> {
    let view = app
        .change(&headers, move |tx, user| {
            let directive = directives::find(tx.conn(), &id)?
                .filter(|directive| directive.account_id == user.account_id)
                .ok_or_else(missing)?;
            if !directive.state.is_terminal() {
                reports::cancel(tx, &directive)?;
                audit::record(
                    tx,
                    &user.account_id,
                    &actor(user),
                    "directive.cancel",
                    &id,
                    &json!({ "state": directive.state }),
                )?;
            }
            directives::get(tx.conn(), &user.account_id, &id)?.ok_or_else(missing)
        })
        .await?;
    Ok(Json(view))
}

pub(super) async fn diff(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let diff = app
        .query(&headers, move |conn, user| {
            directives::get(conn, &user.account_id, &id)?.ok_or_else(missing)?;
            reports::diff(conn, &user.account_id, &id)?
                .ok_or_else(|| Refusal::not_found("the directive has no diff").into())
        })
        .await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], diff).into_response())
}
