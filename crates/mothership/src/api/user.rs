//! `/api/v1`: what people and programs call, with a bearer token.

mod create;
mod directives;
mod facilities;
mod fields;
mod live;
mod logs;
mod territories;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use conduits::code;
use rusqlite::Connection;
use serde::Deserialize;

use super::App;
use super::caller;
use super::error::ApiResult;
use super::extract::number;
use crate::clock::Micros;
use crate::refusal::{Fault, Refusal};
use crate::store::Tx;
use crate::store::accounts::{self, User};

/// The routes.
pub fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/api/v1/facilities", get(facilities::list).post(facilities::create))
        .route("/api/v1/facilities/{id}", get(facilities::get).delete(facilities::delete))
        .route("/api/v1/directives", get(directives::list).post(create::create))
        .route("/api/v1/directives/{id}", get(directives::get))
        .route("/api/v1/directives/{id}/cancel", post(directives::cancel))
        .route("/api/v1/directives/{id}/diff", get(directives::diff))
        .route("/api/v1/directives/{id}/logs", get(logs::page))
        .route("/api/v1/directives/{id}/logs/stream", get(live::stream))
        .route("/api/v1/enrollment-tokens", get(tokens::list).post(tokens::create))
        .route("/api/v1/enrollment-tokens/{id}", axum::routing::delete(tokens::revoke))
        .route("/api/v1/territories", get(territories::list))
        .route("/api/v1/territories/{id}", get(territories::get))
        .route("/api/v1/territories/{id}/disable", post(territories::disable))
        .route("/api/v1/territories/{id}/enable", post(territories::enable))
        .route("/api/v1/audit-events", get(territories::audit_events))
}

/// Items on a page where the caller does not say.
const PAGE: u32 = 50;
/// Items on a page at most.
const LONGEST_PAGE: u32 = 500;

/// `?limit=&cursor=` of the lists.
#[derive(Debug, Deserialize)]
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

/// Whom a request's token speaks for.
fn user(conn: &Connection, token: &str, now: Micros) -> Result<User, Fault> {
    accounts::by_token(conn, token, now)?.ok_or_else(|| {
        Refusal::unauthenticated(code::UNAUTHORIZED, "the API token is unknown, expired or revoked").into()
    })
}

impl App {
    /// Runs `query` for the account of the request's token.
    async fn query<T, F>(&self, headers: &HeaderMap, query: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connection, &User) -> Result<T, Fault> + Send + 'static,
    {
        let token = caller::bearer(headers)?.to_owned();
        let now = self.store.clock().now();
        Ok(self.store.read(move |conn| query(conn, &user(conn, &token, now)?)).await?)
    }

    /// Runs `change` for the account of the request's token.
    async fn change<T, F>(&self, headers: &HeaderMap, change: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>, &User) -> Result<T, Fault> + Send + 'static,
    {
        let token = caller::bearer(headers)?.to_owned();
        Ok(self.store.write(move |tx| change(tx, &user(tx.conn(), &token, tx.now())?)).await?)
    }
}

/// Who is behind a change, for the audit.
fn actor(user: &User) -> String {
    format!("token:{}", user.token_name)
}
