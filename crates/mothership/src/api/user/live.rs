//! `GET /api/v1/directives/{id}/logs/stream`: the log as server-sent events while it grows.
//!
//! Events: `log` (a chunk; its id is the order of arrival over both streams, good for `Last-Event-ID`), `state` (the
//! directive's state changed) and, last, `end`. `end` comes when the directive has ended and every
//! chunk that its result counts was sent; a result without counts (another client's) is given a quiet
//! moment for late chunks instead. A directive that is deleted meanwhile has no end: the last event is `deleted` then.
//! Between events nothing is read: the hub wakes the stream.

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

use super::logs::{row, shown};
use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::extract::{Path, Query, number};
use crate::hub::DirectiveWatch;
use crate::refusal::{Fault, Refusal};
use crate::store::directives;
use crate::store::logs::{self, Chunk};

/// Events on their way to one reader.
const EVENTS: usize = 64;
/// Bytes of output read at once.
const BATCH_BYTES: usize = 256 * 1024;
/// How long a log without counts must be quiet after the end.
const QUIET: Duration = Duration::from_secs(1);
/// Between comments that keep proxies from closing an idle stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
pub(super) struct From {
    #[serde(default, deserialize_with = "number")]
    after: Option<i64>,
}

type Live = Sse<axum::response::sse::KeepAliveStream<ReceiverStream<Result<Event, Infallible>>>>;

pub(super) async fn stream(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(from): Query<From>,
    headers: HeaderMap,
) -> ApiResult<Live> {
    let resumed = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok());
    // Watched before the first look, so that nothing falls between.
    let changes = app.hub.watch(&id);
    let wanted = id.clone();
    let (account, seq) =
        app.query(&headers, move |conn, user| Ok((user.account_id.clone(), row(conn, user, &wanted)?.seq))).await?;
    let (events, receiver) = mpsc::channel(EVENTS);
    let feed = Feed {
        app: Arc::clone(&app),
        account,
        id,
        seq,
        after: resumed.or(from.after).unwrap_or(0),
        state: None,
        events,
    };
    app.tasks.spawn(feed.run(changes));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(keep_alive))
}

/// One reader's stream.
struct Feed {
    app: Arc<App>,
    account: String,
    id: String,
    seq: i64,
    after: i64,
    state: Option<DirectiveState>,
    events: mpsc::Sender<Result<Event, Infallible>>,
}

/// What one look at the store finds.
struct Look {
    chunks: Vec<Chunk>,
    state: DirectiveState,
    end: End,
}

/// Whether the log can still grow.
enum End {
    /// It can, or chunks that are counted are missing.
    Open,
    /// The directive has ended and its result counts nothing.
    Uncounted(Value),
    /// All is here.
    Whole(Value),
}

impl Feed {
    async fn run(mut self, mut changes: DirectiveWatch) {
        loop {
            let look = match self.look().await {
                Ok(look) => look,
                Err(Fault::Refused(refusal)) => {
                    return self.last("deleted", &json!({ "detail": refusal.detail })).await;
                }
                Err(fault) => {
                    tracing::debug!(?fault, "a live log ended early");
                    return;
                }
            };
            let more = !look.chunks.is_empty();
            if self.send(&look).await.is_err() {
                return;
            }
            match look.end {
                _ if more => {}
                End::Whole(end) => return self.last("end", &end).await,
                End::Uncounted(end) => {
                    tokio::select! {
                        () = self.app.shutdown.cancelled() => return,
                        () = self.events.closed() => return,
                        () = changes.changed() => {}
                        () = tokio::time::sleep(QUIET) => return self.last("end", &end).await,
                    }
                }
                End::Open => {
                    tokio::select! {
                        () = self.app.shutdown.cancelled() => return,
                        () = self.events.closed() => return,
                        () = changes.changed() => {}
                    }
                }
            }
        }
    }

    async fn look(&self) -> Result<Look, Fault> {
        let (account, id, seq, after) = (self.account.clone(), self.id.clone(), self.seq, self.after);
        self.app.store.read(move |conn| look(conn, &account, &id, seq, after)).await
    }

    /// Sends what is new; an error when the reader is gone.
    async fn send(&mut self, look: &Look) -> Result<(), ()> {
        if self.state != Some(look.state) {
            self.state = Some(look.state);
            self.event("state", None, &json!({ "state": look.state })).await?;
        }
        for chunk in &look.chunks {
            self.event("log", Some(chunk.arrival), &shown(chunk)).await?;
            self.after = chunk.arrival;
        }
        Ok(())
    }

    async fn last(&self, name: &str, data: &Value) {
        if self.event(name, None, data).await.is_err() {
            tracing::debug!("a live log's reader left before its end");
        }
    }

    async fn event(&self, name: &str, id: Option<i64>, data: &Value) -> Result<(), ()> {
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

fn look(conn: &Connection, account: &str, id: &str, seq: i64, after: i64) -> Result<Look, Fault> {
    // The state first: what is stored before the end is then surely among the chunks of this or a later look.
    let view = directives::get(conn, account, id)?
        .ok_or_else(|| Refusal::not_found("the directive was deleted with its facility"))?;
    let chunks = logs::arrived_after(conn, seq, after, BATCH_BYTES)?;
    let state: DirectiveState = view.state.parse().map_err(|error: conduits::UnknownName| {
        crate::store::StoreError::Corrupt { what: "directives.state", detail: error.to_string() }
    })?;
    let end = if state.is_terminal() {
        let report = json!({
            "state": view.state,
            "reason": view.reason,
            "exit_code": view.result.get("exit_code"),
            "finished_at": view.finished_at,
        });
        let counted = view.result.pointer("/artifacts_manifest/log").and_then(Value::as_object);
        match counted {
            // What never ran has no log to wait for.
            None if view.started_at.is_none() => End::Whole(report),
            None => End::Uncounted(report),
            Some(_) if logs::is_whole(conn, seq, counted)? => End::Whole(report),
            Some(_) => End::Open,
        }
    } else {
        End::Open
    };
    Ok(Look { chunks, state, end })
}
