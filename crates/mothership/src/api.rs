//! Both HTTP APIs: the router, and what all handlers share.
//!
//! A handler finds out who calls, reads the body, and hands one job to the store; the rules are in `store` and
//! `transition`. Mutating handlers need no task of their own to survive a client that hangs up: a job that
//! the store took is finished and its effects are published, whether or not somebody waits for the answer.

pub mod caller;
pub mod conduits_v1;
pub mod error;
pub mod extract;
pub mod keys;
pub mod openapi;
pub mod request;
pub mod turns;
pub mod user;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::IntoResponse as _;
use axum::routing::get;
use conduits::code;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ca::Authority;
use crate::hub::Hub;
use crate::presence::Presence;
use crate::rate::FailureLimit;
use crate::refusal::{Refusal, RefusalKind};
use crate::serve::AuthMode;
use crate::store::Store;
use crate::tickets::Tickets;
use crate::token::Keyring;
use turns::Turns;

/// What handlers work with.
#[derive(Debug)]
pub struct App {
    /// The store.
    pub store: Arc<Store>,
    /// Who waits for what.
    pub hub: Arc<Hub>,
    /// Who polls.
    pub presence: Arc<Presence>,
    /// Which polls may claim.
    pub tickets: Arc<Tickets>,
    /// Signs client certificates.
    pub authority: Arc<Authority>,
    /// Sign and verify directive tokens.
    pub keys: Arc<Keyring>,
    /// How territories prove who they are.
    pub auth: AuthMode,
    /// Whence identity headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// How long a lease lives without a heartbeat.
    pub lease_ttl: Duration,
    /// How long chunks that an ended directive's log lacks are waited for, from the last one that came.
    pub log_patience: Duration,
    /// How long a territory's certificate is good.
    pub client_lifetime: Duration,
    /// Turns to read an enrolment, which comes from anybody.
    pub enroll_bodies: Turns,
    /// Failed enrolments by address.
    pub enroll_failures: FailureLimit,
    /// Ends held requests.
    pub shutdown: CancellationToken,
    /// Owns the tasks behind live streams.
    pub tasks: TaskTracker,
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    Router::new()
        .merge(conduits_v1::routes())
        .merge(user::routes())
        .route("/openapi.json", get(openapi::document))
        .route("/healthz", get(async || "ok"))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .with_state(app)
}

async fn no_such_route() -> axum::response::Response {
    error::ApiError::from(Refusal::not_found("there is no such route")).into_response()
}

async fn no_such_method() -> axum::response::Response {
    error::ApiError::from(Refusal::of(
        RefusalKind::MethodNotAllowed,
        code::METHOD_NOT_ALLOWED,
        "this route does not take this method",
    ))
    .into_response()
}
