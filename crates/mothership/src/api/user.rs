//! `/api/v1`: what people and programs call, with a bearer token.

mod access;
mod create;
mod directives;
mod facilities;
mod fields;
mod live;
mod logs;
mod territories;
mod tokens;

use std::sync::Arc;

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware};
use conduits::code;
use rusqlite::Connection;
use serde::Deserialize;

use super::App;
use super::caller;
use super::error::ApiResult;
use super::extract::{Query, number};
use crate::clock::Micros;
use crate::refusal::{Fault, Refusal};
use crate::store::Tx;
use crate::store::api_tokens::{self, Scope, User};

/// The routes. Parameters that a call does not take are refused, as unknown fields are: one that is misspelt would narrow
/// nothing.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/facilities", get(facilities::list).merge(bare(post(facilities::create))))
        .route("/api/v1/facilities/{id}", bare(get(facilities::get).delete(facilities::delete)))
        .route("/api/v1/directives", get(directives::list).merge(bare(post(create::create))))
        .route("/api/v1/directives/{id}", bare(get(directives::get)))
        .route("/api/v1/directives/{id}/cancel", bare(post(directives::cancel)))
        .route("/api/v1/directives/{id}/diff", bare(get(directives::diff)))
        .route("/api/v1/directives/{id}/logs", get(logs::page))
        .route("/api/v1/directives/{id}/logs/stream", get(live::stream))
        .route("/api/v1/enrollment-tokens", get(tokens::list).merge(bare(post(tokens::create))))
        .route("/api/v1/enrollment-tokens/{id}", bare(axum::routing::delete(tokens::revoke)))
        .route("/api/v1/territories", get(territories::list))
        .route("/api/v1/territories/{id}", bare(get(territories::get)))
        .route("/api/v1/territories/{id}/disable", bare(post(territories::disable)))
        .route("/api/v1/territories/{id}/enable", bare(post(territories::enable)))
        .route("/api/v1/api-tokens", get(access::list).merge(bare(post(access::create))))
        .route("/api/v1/api-tokens/{id}", bare(axum::routing::delete(access::revoke)))
        .route("/api/v1/signing-keys/rotate", bare(post(access::rotate)))
        .route("/api/v1/audit-events", get(territories::audit_events))
}

/// Calls that take no parameters.
fn bare(calls: MethodRouter<Arc<App>>) -> MethodRouter<Arc<App>> {
    calls.route_layer(middleware::from_fn(async |_: Query<Nothing>, request: Request, next: Next| {
        next.run(request).await
    }))
}

/// No parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Items on a page where the caller does not say.
const PAGE: u32 = 50;
/// Items on a page at most.
const LONGEST_PAGE: u32 = 500;

/// `?limit=&cursor=` of the lists.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default, deserialize_with = "number")]
    limit: Option<u32>,
    cursor: Option<String>,
}

impl Page {
    /// The limit, checked.
    fn limit(&self) -> Result<u32, Refusal> {
        match self.limit {
            None => Ok(PAGE),
            Some(limit) if (1..=LONGEST_PAGE).contains(&limit) => Ok(limit),
            Some(limit) => {
                Err(Refusal::invalid(code::INVALID_PARAMETER, format!("limit is {limit}; use 1 to {LONGEST_PAGE}")))
            }
        }
    }

    /// The cursor of lists that are ordered by number.
    fn number(&self) -> Result<Option<i64>, Refusal> {
        self.cursor
            .as_deref()
            .map(|cursor| {
                cursor
                    .parse()
                    .map_err(|_| Refusal::invalid(code::INVALID_PARAMETER, "cursor is not one that a list gave"))
            })
            .transpose()
    }
}

/// The cursor of the next page: the last item's key of a full page, none of a shorter one.
fn next_cursor<T>(items: &[T], limit: u32, key: impl Fn(&T) -> String) -> Option<String> {
    let full = u32::try_from(items.len()).is_ok_and(|count| count >= limit);
    items.last().filter(|_| full).map(key)
}

/// Whom a request's token speaks for, where it may be used for `needed`.
fn user(conn: &Connection, token: &str, needed: Scope, now: Micros) -> Result<User, Fault> {
    let user = api_tokens::owner(conn, token, now)?
        .ok_or_else(|| Refusal::unauthenticated(code::UNAUTHORIZED, "the API token is unknown, expired or revoked"))?;
    if user.scope < needed {
        let (has, needed) = (user.scope.as_str(), needed.as_str());
        return Err(Refusal::forbidden(
            code::FORBIDDEN,
            format!("this API token's scope is {has}, and this call needs {needed}; use a token of that scope"),
        )
        .into());
    }
    Ok(user)
}

impl App {
    /// Looks at things of the account of the request's token.
    async fn query<T, F>(&self, headers: &HeaderMap, query: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &User) -> Result<T, Fault> + Send + 'static,
    {
        self.query_as(Scope::Read, headers, query).await
    }

    /// Looks at what only a token of the scope `needed` may see.
    async fn query_as<T, F>(&self, needed: Scope, headers: &HeaderMap, query: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &User) -> Result<T, Fault> + Send + 'static,
    {
        let token = caller::bearer(headers)?.to_owned();
        let now = self.store.clock().now();
        Ok(self.store.read(move |conn| query(conn, &user(conn, &token, needed, now)?)).await?)
    }

    /// Changes things of the account of the request's token.
    async fn change<T, F>(&self, headers: &HeaderMap, change: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>, &User) -> Result<T, Fault> + Send + 'static,
    {
        self.change_as(Scope::Run, headers, change).await
    }

    /// Decides who gets in, for the account of the request's token.
    async fn administer<T, F>(&self, headers: &HeaderMap, change: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>, &User) -> Result<T, Fault> + Send + 'static,
    {
        self.change_as(Scope::Admin, headers, change).await
    }

    async fn change_as<T, F>(&self, needed: Scope, headers: &HeaderMap, change: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>, &User) -> Result<T, Fault> + Send + 'static,
    {
        let token = caller::bearer(headers)?.to_owned();
        Ok(self.store.write(move |tx| change(tx, &user(tx.conn(), &token, needed, tx.now())?)).await?)
    }
}

/// Who is behind a change, for the audit.
fn actor(user: &User) -> String {
    format!("token:{}", user.token_name)
}
