//! `/conduits/v1`: what territories call.

mod directives;
mod polls;
mod territories;

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::post;
use conduits::{DirectiveId, TerritoryId, code, paths};
use rusqlite::Connection;

use super::App;
use super::caller;
use super::error::{ApiError, ApiResult};
use crate::clock::Micros;
use crate::refusal::{Fault, Refusal};
use crate::server::Peer;
use crate::store::directives::DirectiveRow;
use crate::store::territories::{Caller, authenticate};
use crate::store::{Tx, reports};
use crate::token::Expiry;

/// The routes.
pub fn routes() -> Router<Arc<App>> {
    use paths::route;
    Router::new()
        .route(paths::ENROLL, post(territories::enroll))
        .route(paths::RENEW, post(territories::renew))
        .route(paths::TERRITORY_HEARTBEAT, post(territories::heartbeat))
        .route(paths::POLLS, post(polls::poll))
        .route(route::STARTED, post(directives::started))
        .route(route::HEARTBEAT, post(directives::heartbeat))
        .route(route::LOG_CHUNKS, post(directives::log_chunk))
        .route(route::FINISHED, post(directives::finished))
        .route(route::TOKEN, post(directives::token))
        .route(route::RELEASE, post(directives::release))
}

impl App {
    fn caller(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Refusal> {
        caller::territory(self.auth, &self.trusted_proxies, peer, headers)
    }

    fn mint(&self, directive: &str, territory: &str, lid: i64) -> ApiResult<(DirectiveId, conduits::DirectiveToken)> {
        let ours = |error: String| ApiError::Internal(format!("a stored id is invalid: {error}"));
        let directive: DirectiveId = directive.parse().map_err(|error: conduits::IdError| ours(error.to_string()))?;
        let territory: TerritoryId = territory.parse().map_err(|error: conduits::IdError| ours(error.to_string()))?;
        let token = self
            .keys
            .now()
            .mint(&directive, &territory, lid, self.store.clock().now())
            .map_err(|error| ApiError::Internal(error.to_string()))?;
        Ok((directive, token))
    }
}

/// What a directive-scoped call proved before the store is asked: an identity, and a token's claims.
#[derive(Debug, Clone)]
struct Proof {
    caller: Caller,
    directive: DirectiveId,
    territory: TerritoryId,
    lid: Option<i64>,
}

impl Proof {
    fn of(app: &App, peer: &Peer, headers: &HeaderMap, directive: &str, expiry: Expiry) -> Result<Self, Refusal> {
        let caller = app.caller(peer, headers)?;
        let directive: DirectiveId = directive.parse().map_err(|_| Refusal::not_found("there is no such directive"))?;
        let claims = app.keys.now().verify(caller::bearer(headers)?, &directive, expiry, app.store.clock().now())?;
        Ok(Self {
            caller,
            directive,
            territory: claims.tid,
            // A token of ours always has one; a number that is no lease's matches none.
            lid: Some(claims.lid.and_then(|lid| i64::try_from(lid).ok()).unwrap_or(-1)),
        })
    }

    /// The rest of the proof, in the transaction of the call itself: the territory is enrolled and enabled, the token is
    /// its own, and the lease is the newest.
    fn held(&self, tx: &Tx<'_>) -> Result<DirectiveRow, Fault> {
        self.held_at(tx.conn(), tx.now())
    }

    fn held_at(&self, conn: &Connection, now: Micros) -> Result<DirectiveRow, Fault> {
        let territory = authenticate(conn, &self.caller, now)?;
        if territory.id != self.territory.as_str() {
            return Err(Refusal::forbidden(code::FORBIDDEN, "the directive token is another territory's").into());
        }
        reports::held(conn, &territory, self.directive.as_str(), self.lid)
    }
}
