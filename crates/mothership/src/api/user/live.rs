//! `GET /api/v1/directives/{id}/logs/stream`: the log as server-sent events while it grows.
//!
//! Events: `log` (a chunk, or how many never came; its id is the place in both streams after it, good for
//! `Last-Event-ID`), `state` (the directive's state changed) and, last, `end`. `end` comes when the directive has ended and
//! every chunk that its result counts was sent, or is not waited for any more; a result without counts (another
//! client's) is given a quiet moment for late chunks instead. A directive that is deleted meanwhile has no end: the last
//! event is `deleted` then. Between events nothing is read: the hub wakes the stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use conduits::DirectiveState;
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::logs::{position, row, shown};
use super::user;
use crate::api::App;
use crate::api::caller;
use crate::api::error::ApiResult;
use crate::api::extract::{Path, Query};
use crate::clock::Micros;
use crate::hub::DirectiveWatch;
use crate::refusal::{Fault, Refusal, RefusalKind};
use crate::store::api_tokens::Scope;
use crate::store::directives;
use crate::store::logs::Position;
use crate::store::logs::read::{self, Rest, Step};

/// Events on their way to one reader; a chunk of the largest size is 350 KiB of them.
const EVENTS: usize = 8;
/// Bytes of output read at once.
const BATCH_BYTES: usize = 256 * 1024;
/// Between comments that keep proxies from closing an idle stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    after: Option<String>,
}

type Live = Sse<axum::response::sse::KeepAliveStream<ReceiverStream<Result<Event, Infallible>>>>;

pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(from): Query<From>,
    headers: HeaderMap,
) -> ApiResult<Live> {
    let at = begin(&headers, &from)?;
    // Watched before the first look, so that nothing falls between.
    let changes = app.hub.watch(&id);
    let wanted = id.clone();
    app.query(&headers, move |conn, user| row(conn, &user.account_id, &wanted).map(drop)).await?;
    let token = caller::bearer(&headers)?.to_owned();
    let (events, receiver) = mpsc::channel(EVENTS);
    let feed = Feed { app: Arc::clone(&app), token, id, at, state: None, events };
    app.tasks.spawn(feed.run(changes));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(keep_alive))
}

/// Where the reader stands: what it had last, else what it asks for, else nowhere yet.
fn begin(headers: &HeaderMap, from: &From) -> Result<Position, Refusal> {
    match headers.get("last-event-id") {
        // A browser's stream that has seen no id yet resumes with an empty one.
        Some(value) if !value.is_empty() => position("Last-Event-ID", &String::from_utf8_lossy(value.as_bytes())),
        _ => from.after.as_deref().map(|text| position("after", text)).transpose().map(Option::unwrap_or_default),
    }
}

/// One reader's stream.
struct Feed {
    app: Arc<App>,
    /// Asked about at each look: a token that is revoked shows nothing more.
    token: String,
    id: String,
    at: Position,
    state: Option<DirectiveState>,
    events: mpsc::Sender<Result<Event, Infallible>>,
}

/// What one look at the store finds.
struct Look {
    state: DirectiveState,
    steps: Vec<Step>,
    next: Next,
}

/// What to do once it is sent.
enum Next {
    /// Look again at once: there may be more already.
    Look,
    /// Wait for a change, or until this moment.
    Wait(Option<Micros>),
    /// Send this end.
    End(Value),
}

impl Feed {
    async fn run(mut self, mut changes: DirectiveWatch) {
        loop {
            let look = match self.look().await {
                Ok(look) => look,
                Err(Fault::Refused(refusal)) if refusal.kind == RefusalKind::NotFound => {
                    let detail = "the directive was deleted with its facility";
                    return self.last("deleted", &json!({ "detail": detail })).await;
                }
                Err(fault) => {
                    tracing::debug!(?fault, "a live log ended early");
                    return;
                }
            };
            if self.send(&look).await.is_err() {
                return;
            }
            match look.next {
                Next::Look => {}
                Next::End(end) => return self.last("end", &end).await,
                Next::Wait(until) => {
                    tokio::select! {
                        () = self.app.shutdown.cancelled() => return,
                        () = self.events.closed() => return,
                        () = changes.changed() => {}
                        () = self.reached(until) => {}
                    }
                }
            }
        }
    }

    /// Sleeps until the store's clock shows `moment`; for ever where there is none.
    async fn reached(&self, moment: Option<Micros>) {
        match moment {
            None => std::future::pending().await,
            Some(moment) => tokio::time::sleep(self.app.store.clock().until(moment)).await,
        }
    }

    async fn look(&self) -> Result<Look, Fault> {
        let (token, id, at) = (self.token.clone(), self.id.clone(), self.at);
        let (patience, now) = (self.app.log_patience, self.app.store.clock().now());
        let read = move |conn: &Connection| {
            let account = user(conn, &token, Scope::Read, now)?.account_id;
            look(conn, &account, &id, at, patience, now)
        };
        self.app.store.read(read).await
    }

    /// Sends what is new; an error when the reader is gone.
    async fn send(&mut self, look: &Look) -> Result<(), ()> {
        if self.state != Some(look.state) {
            self.state = Some(look.state);
            self.event("state", None, &json!({ "state": look.state })).await?;
        }
        for step in &look.steps {
            self.event("log", Some(step.after), &shown(step, None)).await?;
            self.at = step.after;
        }
        Ok(())
    }

    async fn last(&self, name: &str, data: &Value) {
        if self.event(name, None, data).await.is_err() {
            tracing::debug!("a live log's reader left before its end");
        }
    }

    async fn event(&self, name: &str, id: Option<Position>, data: &Value) -> Result<(), ()> {
        let mut event = Event::default().event(name).data(data.to_string());
        if let Some(id) = id {
            event = event.id(id.to_string());
        }
        tokio::select! {
            () = self.app.shutdown.cancelled() => Err(()),
            sent = self.events.send(Ok(event)) => sent.map_err(|_| ()),
        }
    }
}

fn look(
    conn: &Connection,
    account: &str,
    id: &str,
    at: Position,
    patience: Duration,
    now: Micros,
) -> Result<Look, Fault> {
    // The state first: what is stored before the end is then surely among the chunks of this or a later look.
    let directive = row(conn, account, id)?;
    let wanted = read::Wanted { stream: None, from: at, max_bytes: BATCH_BYTES };
    let part = read::read(conn, &directive, wanted, patience, now)?;
    let next = match part.rest {
        Rest::Open if part.steps.is_empty() => Next::Wait(None),
        Rest::Open => Next::Look,
        Rest::Awaited(until) => Next::Wait(Some(until)),
        Rest::None => Next::End(end(conn, account, id)?),
    };
    Ok(Look { state: directive.state, steps: part.steps, next })
}

/// What the end says.
fn end(conn: &Connection, account: &str, id: &str) -> Result<Value, Fault> {
    let view = directives::get(conn, account, id)?.ok_or_else(|| Refusal::not_found("there is no such directive"))?;
    let manifest = &view.result["artifacts_manifest"];
    Ok(json!({
        "state": view.state,
        "reason": view.reason,
        "exit_code": view.result.get("exit_code"),
        "log": manifest["log"],
        "ended_by": manifest["ended_by"],
        "finished_at": view.finished_at,
    }))
}
