//! `GET /api/v1/directives/{id}/logs`: stored chunks, by stream or in order of arrival.

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
use crate::store::accounts::User;
use crate::store::directives::{self, DirectiveRow};
use crate::store::logs::{self, Chunk};

/// Chunks on a page of one stream.
const PAGE: u32 = 100;
/// Bytes of output on a page in order of arrival, about.
const PAGE_BYTES: usize = 1024 * 1024;

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    stream: Option<String>,
    #[serde(default, deserialize_with = "number")]
    from_seq: Option<i64>,
    #[serde(default, deserialize_with = "number")]
    after: Option<i64>,
}

/// The directive's row, for its account only.
pub(super) fn row(conn: &Connection, user: &User, id: &str) -> Result<DirectiveRow, Fault> {
    directives::find(conn, id)?
        .filter(|directive| directive.account_id == user.account_id)
        .ok_or_else(|| Refusal::not_found("there is no such directive").into())
}

/// A chunk as both the pages and the live stream show it. Output is bytes, so it is base64.
pub(super) fn shown(chunk: &Chunk) -> Value {
    json!({
        "id": chunk.arrival,
        "stream": chunk.stream,
        "seq": chunk.seq,
        "bytes": STANDARD.encode(&chunk.bytes),
        "truncated": chunk.truncated,
        "received_at": chunk.received_at.rfc3339(),
    })
}

pub(super) async fn page(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> ApiResult<Json<Value>> {
    let stream: Option<LogStream> = wanted
        .stream
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(|error| Refusal::invalid(code::INVALID_PARAMETER, format!("stream: {error}")))?;
    let page = app
        .query(&headers, move |conn, user| {
            let directive = row(conn, user, &id)?;
            let chunks = match stream {
                Some(stream) => {
                    let from = wanted.from_seq.unwrap_or(0);
                    logs::of_stream(conn, directive.seq, stream, from, PAGE)?
                }
                None => {
                    let after = wanted.after.unwrap_or(0);
                    logs::arrived_after(conn, directive.seq, after, PAGE_BYTES)?
                }
            };
            let last = chunks.last();
            Ok(json!({
                "chunks": chunks.iter().map(shown).collect::<Vec<_>>(),
                "next_seq": last.filter(|_| stream.is_some()).map(|chunk| chunk.seq + 1),
                "next_after": last.map(|chunk| chunk.arrival),
                "state": directive.state,
            }))
        })
        .await?;
    Ok(Json(page))
}
