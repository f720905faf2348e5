//! `/api/v1/facilities`.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use conduits::{FacilityId, RepoUrl, code};
use serde::Deserialize;
use serde_json::{Value, json};

use super::create::{idempotency_key, once};
use super::{Page, actor, next_cursor};
use crate::api::App;
use crate::api::caller;
use crate::api::error::ApiResult;
use crate::api::extract::{Path, Query, number};
use crate::api::request;
use crate::refusal::{Fault, Refusal};
use crate::store::api_tokens::User;
use crate::store::facilities::{self, Facility, NewFacility};
use crate::store::{StoreError, Tx, audit, territories};

/// Characters of a facility's name.
const NAME_CHARS: usize = 128;

fn missing() -> Fault {
    Refusal::not_found("there is no such facility").into()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    name: Option<String>,
    repo_url: Option<String>,
    territory_id: Option<String>,
}

pub(super) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<(StatusCode, Json<Value>)> {
    caller::bearer(&headers)?;
    let bytes = request::bytes(body, request::SMALL).await?;
    let key = idempotency_key(&headers)?;
    let wanted: Wanted = request::fields(&bytes)?;
    check(&wanted)?;
    let created = app
        .change(&headers, move |tx, user| {
            once(tx, user, key.as_deref(), "facility", &bytes, || create_one(tx, user, &wanted))
        })
        .await?;
    Ok((StatusCode::CREATED, Json(created)))
}

fn check(wanted: &Wanted) -> Result<(), Refusal> {
    let invalid = |detail: String| Refusal::invalid(code::INVALID_PARAMETER, detail);
    if let Some(name) = &wanted.name {
        let length = name.chars().count();
        if !(1..=NAME_CHARS).contains(&length) || name.chars().any(char::is_control) {
            return Err(invalid(format!("name: must be 1 to {NAME_CHARS} printable characters")));
        }
        // A facility is found by its id or its name, and one's name must not be taken for another's id.
        if uuid::Uuid::try_parse(name).is_ok() {
            return Err(invalid(format!("name: {name:?} has the form of an id; choose another")));
        }
    }
    if let Some(url) = &wanted.repo_url {
        url.parse::<RepoUrl>().map_err(|error| invalid(format!("repo_url: {error}")))?;
    }
    Ok(())
}

fn create_one(tx: &Tx<'_>, user: &User, wanted: &Wanted) -> Result<Value, Fault> {
    if let Some(territory) = &wanted.territory_id
        && !territories::exists(tx.conn(), &user.account_id, territory)?
    {
        return Err(Refusal::invalid(
            code::INVALID_PARAMETER,
            format!("territory_id: there is no {territory:?}; see GET /api/v1/territories"),
        )
        .into());
    }
    let id = FacilityId::generate();
    let facility = facilities::create(
        tx,
        &user.account_id,
        &NewFacility {
            id: id.as_str(),
            name: wanted.name.as_deref().unwrap_or(id.as_str()),
            repo_url: wanted.repo_url.as_deref(),
            territory_id: wanted.territory_id.as_deref(),
        },
    )?;
    audit::record(
        tx,
        &user.account_id,
        &actor(user),
        "facility.create",
        id.as_str(),
        &json!({ "name": facility.name }),
    )?;
    Ok(serde_json::to_value(facility)
        .map_err(|error| StoreError::Corrupt { what: "the new facility", detail: error.to_string() })?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    name: Option<String>,
    #[serde(default, deserialize_with = "number")]
    limit: Option<u32>,
    cursor: Option<String>,
}

pub(super) async fn list(
    State(app): State<Arc<App>>,
    Query(named): Query<Named>,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let page = Page { limit: named.limit, cursor: named.cursor };
    let limit = page.limit()?;
    let items = app
        .query(&headers, move |conn, user| {
            Ok(facilities::list(conn, &user.account_id, named.name.as_deref(), page.cursor.as_deref(), limit)?)
        })
        .await?;
    let next = next_cursor(&items, limit, |item: &Facility| item.id.clone());
    Ok(Json(json!({ "facilities": items, "next_cursor": next })))
}

pub(super) async fn get(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<Json<Facility>> {
    let facility = app
        .query(&headers, move |conn, user| facilities::get(conn, &user.account_id, &id)?.ok_or_else(missing))
        .await?;
    Ok(Json(facility))
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> ApiResult<StatusCode> {
    app.change(&headers, move |tx, user| {
        if !facilities::delete(tx, &user.account_id, &id)? {
            return Err(missing());
        }
        audit::record(tx, &user.account_id, &actor(user), "facility.delete", &id, &json!({}))?;
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
