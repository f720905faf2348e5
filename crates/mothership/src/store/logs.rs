//! Log chunks: stored once each, cut at the directive's output limit, in whatever order they come; [`read`] gives them out.
//!
//! Once the limit is reached nothing more can be kept. The first chunk of each stream that comes then leaves an empty row, as
//! the mark of the cut, and so does one that was overtaken by a stored one: readers would wait for it. The others are
//! acknowledged and leave none, however many a command writes.

mod position;
pub mod read;

use conduits::{DirectiveState, LogStream, code};
use rusqlite::{OptionalExtension as _, params};

use super::directives::DirectiveRow;
use super::{StoreError, Tx};
use crate::hub::Effect;
use crate::refusal::{Fault, Refusal};
pub use position::{Position, PositionError};

/// Chunks that a stream may have beyond one for each byte that the directive may write: marks and empty ones.
const EMPTY_CHUNKS: u64 = 4096;

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
    let too_large = || Refusal::invalid(code::INVALID_PARAMETER, format!("seq {} is too large", chunk.seq));
    let seq = i64::try_from(chunk.seq).map_err(|_| too_large())?;
    let stream = number(chunk.stream);
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
    // Rows are bounded by what may be written, however small a client cuts it.
    let beyond = chunk.seq > directive.max_output_bytes.unsigned_abs().saturating_add(EMPTY_CHUNKS);
    if room == 0 {
        if !is_overtaken(tx, directive, stream, seq)?
            && let Some(dropped) = drop_chunk(tx, directive, chunk, seq)?.or_else(|| beyond.then(|| dropped(chunk)))
        {
            return Ok(dropped);
        }
    } else if beyond {
        return Err(too_large().into());
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

/// How a stream stands in the rows.
fn number(stream: LogStream) -> i64 {
    i64::from(stream == LogStream::Stderr)
}

/// Whether a later chunk of its stream is stored already.
fn is_overtaken(tx: &Tx<'_>, directive: &DirectiveRow, stream: i64, seq: i64) -> Result<bool, StoreError> {
    Ok(tx
        .conn()
        .prepare_cached("SELECT 1 FROM log_chunks WHERE directive_seq = ?1 AND stream = ?2 AND seq > ?3 LIMIT 1")?
        .exists(params![directive.seq, stream, seq])?)
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
    let dropped = dropped(chunk);
    let highest: Option<i64> = tx.conn().prepare_cached(look)?.query_row([directive.seq], |row| row.get(0))?;
    // Chunks of a stream come in order, so what is below the highest has come before. One that overtook another
    // hides it here, and nothing is lost by that: both are dropped.
    let duplicate = highest.is_some_and(|highest| seq <= highest);
    if !duplicate {
        tx.conn().prepare_cached(note)?.execute(params![directive.seq, seq, dropped.truncated])?;
    }
    Ok(highest.map(|_| Accepted { duplicate, ..dropped }))
}

/// What is answered to a chunk that comes for the first time and leaves no row.
fn dropped(chunk: &NewChunk) -> Accepted {
    Accepted { duplicate: false, stored: false, bytes: 0, truncated: chunk.truncated || !chunk.bytes.is_empty() }
}
