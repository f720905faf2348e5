//! `GET /api/v1/directives/{id}/logs`: stored output, of one stream or of both; without gaps, as `store::logs::read` says.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use conduits::{LogStream, code};
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::extract::{Path, Query, number};
use crate::refusal::{Fault, Refusal};
use crate::store::api_tokens::User;
use crate::store::directives::{self, DirectiveRow};
use crate::store::logs::Position;
use crate::store::logs::read::{self, Item, Rest, Step};

/// Bytes of output on a page, about.
const PAGE_BYTES: usize = 1024 * 1024;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    stream: Option<String>,
    #[serde(default, deserialize_with = "number")]
    from_seq: Option<u64>,
    after: Option<String>,
}

impl Wanted {
    /// As the store takes it.
    fn read(&self) -> Result<read::Wanted, Refusal> {
        let invalid = |detail: String| Refusal::invalid(code::INVALID_PARAMETER, detail);
        let stream: Option<LogStream> =
            self.stream.as_deref().map(str::parse).transpose().map_err(|error| invalid(format!("stream: {error}")))?;
        let from = match (stream, self.from_seq, &self.after) {
            (Some(stream), from_seq, None) => Position::START.with(stream, from_seq.unwrap_or(0)),
            (None, None, after) => {
                after.as_deref().map(|text| position("after", text)).transpose()?.unwrap_or_default()
            }
            (Some(_), _, Some(_)) => {
                return Err(invalid("after: is for both streams; with stream give from_seq".to_owned()));
            }
            (None, Some(_), _) => return Err(invalid("from_seq: is for one stream; give stream, or after".to_owned())),
        };
        Ok(read::Wanted { stream, from, max_bytes: PAGE_BYTES })
    }
}

/// A place in both streams.
pub(super) fn position(parameter: &str, text: &str) -> Result<Position, Refusal> {
    text.parse().map_err(|error| Refusal::invalid(code::INVALID_PARAMETER, format!("{parameter}: {error}")))
}

/// The directive's row, for its account only.
pub(super) fn row(conn: &Connection, account: &str, id: &str) -> Result<DirectiveRow, Fault> {
    directives::find(conn, id)?
        .filter(|directive| directive.account_id == account)
        .ok_or_else(|| Refusal::not_found("there is no such directive").into())
}

/// A step as both the pages and the live stream show it. Output is bytes, so it is base64. What never came is a chunk of
/// no bytes with a number of missing ones.
pub(super) fn shown(step: &Step, stream: Option<LogStream>) -> Value {
    let mut shown = match &step.item {
        Item::Chunk(chunk) => json!({
            "stream": chunk.stream,
            "seq": chunk.seq,
            "bytes": STANDARD.encode(&chunk.bytes),
            "truncated": chunk.truncated,
            "missing": 0,
            "received_at": chunk.received_at.rfc3339(),
        }),
        Item::Missing { stream, seq, chunks } => json!({
            "stream": stream,
            "seq": seq,
            "bytes": "",
            "truncated": true,
            "missing": chunks,
            "received_at": null,
        }),
    };
    // The place in both streams, which a reader of one does not have.
    shown["id"] = stream.is_none().then(|| step.after.to_string()).into();
    shown
}

pub(super) async fn page(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let wanted = wanted.read()?;
    let (patience, now) = (app.log_patience, app.store.clock().now());
    let page = app
        .query(&headers, move |conn, user: &User| {
            let directive = row(conn, &user.account_id, &id)?;
            let part = read::read(conn, &directive, wanted, patience, now)?;
            let last = part.steps.last().map(|step| step.after);
            Ok(json!({
                "chunks": part.steps.iter().map(|step| shown(step, wanted.stream)).collect::<Vec<_>>(),
                "next_seq": wanted.stream.and_then(|stream| last.map(|at| at.of(stream))),
                "next_after": last.filter(|_| wanted.stream.is_none()).map(|at| at.to_string()),
                "state": directive.state,
                "whole": part.rest == Rest::None,
            }))
        })
        .await?;
    Ok(Json(page))
}
