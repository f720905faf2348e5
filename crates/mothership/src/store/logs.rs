//! Log chunks: stored once each, cut at the directive's output limit, read in order of arrival or by stream.
//!
//! Once the limit is reached nothing more can be kept. The first chunk of each stream that comes then leaves an empty row, as
//! the mark of the cut; those after it are acknowledged and leave none, however many a command writes.

use conduits::{DirectiveState, LogStream, code};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde_json::{Map, Value};

use super::directives::DirectiveRow;
use super::{StoreError, Tx};
use crate::clock::Micros;
use crate::hub::Effect;
use crate::refusal::{Fault, Refusal};

/// A chunk as it comes.
#[derive(Debug)]
pub struct NewChunk {
    /// Its stream.
    pub stream: LogStream,
    /// Its place in the stream.
    pub seq: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether the territory says that something was cut here.
    pub truncated: bool,
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// It came before.
    pub duplicate: bool,
    /// It has a row now that it had not.
    pub stored: bool,
    /// Bytes kept of it.
    pub bytes: u64,
    /// Whether it is marked cut, by the territory or here.
    pub truncated: bool,
}

/// A stored chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Order over both streams, rising within a directive.
    pub arrival: i64,
    /// Its stream.
    pub stream: LogStream,
    /// Its place in the stream.
    pub seq: i64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether something was cut here.
    pub truncated: bool,
    /// When it came.
    pub received_at: Micros,
}

/// Stores a chunk, cut to what the directive may still write.
///
/// # Errors
/// 409 before the directive runs, 422 for a `seq` out of range; the store fails.
pub fn append(tx: &Tx<'_>, directive: &DirectiveRow, chunk: &NewChunk) -> Result<Accepted, Fault> {
    if directive.state != DirectiveState::Running && !directive.state.is_terminal() {
        return Err(Refusal::conflict(
            code::STATE_CONFLICT,
            format!("the directive is {}; output is taken once it runs", directive.state.as_str()),
        )
        .into());
    }
    let seq = i64::try_from(chunk.seq)
        .map_err(|_| Refusal::invalid(code::INVALID_PARAMETER, format!("seq {} is too large", chunk.seq)))?;
    let stream = i64::from(chunk.stream == LogStream::Stderr);
    let known: Option<(i64, bool)> = tx
        .conn()
        .prepare_cached(
            "SELECT length(bytes), truncated FROM log_chunks
             WHERE directive_seq = ?1 AND stream = ?2 AND seq = ?3",
        )?
        .query_row(params![directive.seq, stream, seq], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((length, truncated)) = known {
        let bytes = u64::try_from(length).unwrap_or(0);
        return Ok(Accepted { duplicate: true, stored: false, bytes, truncated });
    }
    let room = usize::try_from(directive.max_output_bytes - directive.output_bytes).unwrap_or(0);
    if room == 0
        && let Some(dropped) = drop_chunk(tx, directive, chunk, seq)?
    {
        return Ok(dropped);
    }
    let kept = chunk.bytes.get(..room).unwrap_or(&chunk.bytes);
    let cut = kept.len() < chunk.bytes.len();
    tx.conn()
        .prepare_cached(
            "INSERT INTO log_chunks (directive_seq, stream, seq, bytes, truncated, received_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![directive.seq, stream, seq, kept, cut || chunk.truncated, tx.now().0])?;
    tx.conn()
        .prepare_cached(
            "UPDATE directives SET output_bytes = output_bytes + ?2,
                output_truncated = output_truncated OR ?3
             WHERE seq = ?1",
        )?
        .execute(params![directive.seq, i64::try_from(kept.len()).unwrap_or(i64::MAX), cut || chunk.truncated])?;
    tx.publish(Effect::Directive(directive.id.clone()));
    Ok(Accepted {
        duplicate: false,
        stored: true,
        bytes: u64::try_from(kept.len()).unwrap_or(u64::MAX),
        truncated: cut || chunk.truncated,
    })
}

/// Takes note of a chunk that has no room left; none for the first one of its stream, which is to leave the mark.
fn drop_chunk(
    tx: &Tx<'_>,
    directive: &DirectiveRow,
    chunk: &NewChunk,
    seq: i64,
) -> Result<Option<Accepted>, StoreError> {
    let (look, note) = match chunk.stream {
        LogStream::Stdout => (
            "SELECT dropped_stdout FROM directives WHERE seq = ?1",
            "UPDATE directives SET dropped_stdout = ?2, output_truncated = output_truncated OR ?3 WHERE seq = ?1",
        ),
        LogStream::Stderr => (
            "SELECT dropped_stderr FROM directives WHERE seq = ?1",
            "UPDATE directives SET dropped_stderr = ?2, output_truncated = output_truncated OR ?3 WHERE seq = ?1",
        ),
    };
    let truncated = chunk.truncated || !chunk.bytes.is_empty();
    let highest: Option<i64> = tx.conn().prepare_cached(look)?.query_row([directive.seq], |row| row.get(0))?;
    // Chunks of a stream come in order, so what is below the highest has come before. One that overtook another
    // hides it here, and nothing is lost by that: both are dropped.
    let duplicate = highest.is_some_and(|highest| seq <= highest);
    if !duplicate {
        tx.conn().prepare_cached(note)?.execute(params![directive.seq, seq, truncated])?;
    }
    Ok(highest.map(|_| Accepted { duplicate, stored: false, bytes: 0, truncated }))
}

fn chunk(row: &rusqlite::Row<'_>) -> rusqlite::Result<Chunk> {
    Ok(Chunk {
        arrival: row.get(0)?,
        stream: if row.get::<_, i64>(1)? == 0 { LogStream::Stdout } else { LogStream::Stderr },
        seq: row.get(2)?,
        bytes: row.get(3)?,
        truncated: row.get(4)?,
        received_at: Micros(row.get(5)?),
    })
}

/// The chunks of both streams that came after `arrival`, in that order, until `max_bytes` are gathered.
///
/// # Errors
/// The store fails.
pub fn arrived_after(
    conn: &Connection,
    directive_seq: i64,
    arrival: i64,
    max_bytes: usize,
) -> Result<Vec<Chunk>, StoreError> {
    let mut query = conn.prepare_cached(
        "SELECT arrival, stream, seq, bytes, truncated, received_at FROM log_chunks
         WHERE directive_seq = ?1 AND arrival > ?2 ORDER BY arrival",
    )?;
    let mut rows = query.query(params![directive_seq, arrival])?;
    let (mut chunks, mut bytes) = (Vec::new(), 0);
    while bytes < max_bytes
        && let Some(row) = rows.next()?
    {
        let chunk = chunk(row)?;
        bytes += chunk.bytes.len().max(64);
        chunks.push(chunk);
    }
    Ok(chunks)
}

/// The chunks of one stream from `seq` on.
///
/// # Errors
/// The store fails.
pub fn of_stream(
    conn: &Connection,
    directive_seq: i64,
    stream: LogStream,
    from: i64,
    limit: u32,
) -> Result<Vec<Chunk>, StoreError> {
    let mut query = conn.prepare_cached(
        "SELECT arrival, stream, seq, bytes, truncated, received_at FROM log_chunks
         WHERE directive_seq = ?1 AND stream = ?2 AND seq >= ?3 ORDER BY seq LIMIT ?4",
    )?;
    let stream = i64::from(stream == LogStream::Stderr);
    let rows = query.query_map(params![directive_seq, stream, from, limit], chunk)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Whether every chunk that the result's `artifacts_manifest.log` counts is stored, or what is missing could not be kept
/// any more. A report without counts (another client's) counts nothing.
///
/// # Errors
/// The store fails.
pub fn is_whole(
    conn: &Connection,
    directive_seq: i64,
    counted: Option<&Map<String, Value>>,
) -> Result<bool, StoreError> {
    let Some(counted) = counted else {
        return Ok(true);
    };
    let full = conn
        .prepare_cached("SELECT output_bytes >= max_output_bytes FROM directives WHERE seq = ?1")?
        .query_row([directive_seq], |row| row.get(0))?;
    if full {
        return Ok(true);
    }
    let mut query =
        conn.prepare_cached("SELECT count(*) FROM log_chunks WHERE directive_seq = ?1 AND stream = ?2 AND seq < ?3")?;
    for (stream, name) in [(0_i64, "stdout"), (1, "stderr")] {
        let expected = counted.get(name).and_then(|stream| stream.get("chunks")).and_then(Value::as_i64).unwrap_or(0);
        let stored: i64 = query.query_row(params![directive_seq, stream, expected], |row| row.get(0))?;
        if stored < expected {
            return Ok(false);
        }
    }
    Ok(true)
}
