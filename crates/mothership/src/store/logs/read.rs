//! Reading a log: each stream in its order, each chunk once, whatever the order in which chunks came.
//!
//! Chunks of one directive are uploaded several at a time, so a later one may be stored before an earlier one. A reader is
//! given what follows its [`Position`] without a gap; of the two streams' next chunks the one that came first. So
//! a position says exactly what a reader has, whenever it comes again. What stands behind a gap waits for the gap to close.
//! Once the directive has ended and nothing has come for a while, gaps are passed over, each with a line of its own that
//! says how much lacks.
//!
//! ```text
//!   stored   stdout 0 1 . 3 4    given at 0-0:  stdout 0, stderr 0, stdout 1   (next 2-1)
//!            stderr 0            once ended:    1 chunk of stdout lacks, stdout 3, stdout 4
//! ```

use std::time::Duration;

use conduits::LogStream;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _, Rows, params};
use serde_json::Value;

use super::super::StoreError;
use super::super::directives::DirectiveRow;
use super::number;
use super::position::Position;
use crate::clock::Micros;

/// How long a log without counts (another client's) must be quiet after the end.
const QUIET: Duration = Duration::from_secs(1);
/// What a chunk costs beside its bytes.
const CHUNK_COST: usize = 64;

/// A stored chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its stream.
    pub stream: LogStream,
    /// Its place in the stream.
    pub seq: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether something was cut here.
    pub truncated: bool,
    /// When it came.
    pub received_at: Micros,
}

/// What a reader is given next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A chunk.
    Chunk(Chunk),
    /// Chunks that never came, and are not waited for any more.
    Missing {
        /// Of this stream.
        stream: LogStream,
        /// The first of them.
        seq: u64,
        /// How many.
        chunks: u64,
    },
}

/// An item, and where the reader stands once it has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The item.
    pub item: Item,
    /// The position after it.
    pub after: Position,
}

/// What a reader wants.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// One stream, or both.
    pub stream: Option<LogStream>,
    /// Where the reader stands.
    pub from: Position,
    /// Bytes of output at most, about: a chunk is not divided.
    pub max_bytes: usize,
}

/// Whether more may follow what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It may: there is more already, or the directive has not ended.
    Open,
    /// The directive has ended; chunks that lack are waited for until this moment.
    Awaited(Micros),
    /// Nothing more.
    None,
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What follows the reader's position.
    pub steps: Vec<Step>,
    /// What may follow these.
    pub rest: Rest,
}

/// The part of `directive`'s log that follows `wanted.from`. What lacks after the end is waited for until nothing has come
/// for `patience`.
///
/// # Errors
/// The store fails.
pub fn read(
    conn: &Connection,
    directive: &DirectiveRow,
    wanted: Wanted,
    patience: Duration,
    now: Micros,
) -> Result<Part, StoreError> {
    let steps = follow(conn, directive.seq, wanted, Gaps::Hold)?;
    if !steps.is_empty() || !directive.state.is_terminal() {
        return Ok(Part { steps, rest: Rest::Open });
    }
    let end = ended(conn, directive.seq)?;
    if let Some(until) = end.awaited_until(patience).filter(|until| *until > now) {
        return Ok(Part { steps, rest: Rest::Awaited(until) });
    }
    let steps = follow(conn, directive.seq, wanted, Gaps::PassOver(end.expected()))?;
    let rest = if steps.is_empty() { Rest::None } else { Rest::Open };
    Ok(Part { steps, rest })
}

/// What is done about a chunk that is not there.
#[derive(Debug, Clone, Copy)]
enum Gaps {
    /// What is behind it is held.
    Hold,
    /// It is passed over, up to the end of both streams.
    PassOver(Position),
}

/// One stream's chunks from a position on.
struct Source<'s> {
    rows: Rows<'s>,
    next: Option<(i64, Chunk)>,
}

impl<'s> Source<'s> {
    fn open(
        statement: &'s mut CachedStatement<'_>,
        directive_seq: i64,
        stream: LogStream,
        wanted: Wanted,
    ) -> Result<Self, StoreError> {
        // A reader of one stream has all of the other.
        let skipped = wanted.stream.is_some_and(|only| only != stream);
        let from = if skipped { i64::MAX } else { i64::try_from(wanted.from.of(stream)).unwrap_or(i64::MAX) };
        let mut source = Self { rows: statement.query(params![directive_seq, number(stream), from])?, next: None };
        source.advance(stream)?;
        source.next = source.next.filter(|_| !skipped);
        Ok(source)
    }

    fn advance(&mut self, stream: LogStream) -> Result<(), StoreError> {
        self.next = match self.rows.next()? {
            None => None,
            Some(row) => {
                let seq = u64::try_from(row.get::<_, i64>(1)?)
                    .map_err(|error| StoreError::Corrupt { what: "log_chunks.seq", detail: error.to_string() })?;
                let chunk =
                    Chunk { stream, seq, bytes: row.get(2)?, truncated: row.get(3)?, received_at: Micros(row.get(4)?) };
                Some((row.get(0)?, chunk))
            }
        };
        Ok(())
    }

    /// When the next chunk came, if it may be given to a reader at `at`.
    fn arrival(&self, at: Position, gaps: Gaps) -> Option<i64> {
        let (arrival, chunk) = self.next.as_ref()?;
        (matches!(gaps, Gaps::PassOver(_)) || chunk.seq <= at.of(chunk.stream)).then_some(*arrival)
    }
}

const OF_STREAM: &str = "SELECT arrival, seq, bytes, truncated, received_at FROM log_chunks
     WHERE directive_seq = ?1 AND stream = ?2 AND seq >= ?3 ORDER BY seq";

fn follow(conn: &Connection, directive_seq: i64, wanted: Wanted, gaps: Gaps) -> Result<Vec<Step>, StoreError> {
    let mut statements = (conn.prepare_cached(OF_STREAM)?, conn.prepare_cached(OF_STREAM)?);
    let mut stdout = Source::open(&mut statements.0, directive_seq, LogStream::Stdout, wanted)?;
    let mut stderr = Source::open(&mut statements.1, directive_seq, LogStream::Stderr, wanted)?;
    let (mut steps, mut bytes, mut at) = (Vec::new(), 0, wanted.from);
    while bytes < wanted.max_bytes {
        let (source, stream) = match (stdout.arrival(at, gaps), stderr.arrival(at, gaps)) {
            (Some(out), Some(err)) if err < out => (&mut stderr, LogStream::Stderr),
            (Some(_), _) => (&mut stdout, LogStream::Stdout),
            (None, Some(_)) => (&mut stderr, LogStream::Stderr),
            (None, None) => {
                if let Gaps::PassOver(expected) = gaps {
                    pass_over_the_end(&mut steps, wanted.stream, at, expected);
                }
                break;
            }
        };
        let Some((_, chunk)) = source.next.take() else { break };
        source.advance(stream)?;
        at = pass_over(&mut steps, stream, at, chunk.seq).with(stream, chunk.seq.saturating_add(1));
        bytes += chunk.bytes.len().max(CHUNK_COST);
        steps.push(Step { item: Item::Chunk(chunk), after: at });
    }
    Ok(steps)
}

/// Says how many chunks lack before `seq`, where some do.
fn pass_over(steps: &mut Vec<Step>, stream: LogStream, at: Position, seq: u64) -> Position {
    let next = at.of(stream);
    if seq <= next {
        return at;
    }
    let after = at.with(stream, seq);
    steps.push(Step { item: Item::Missing { stream, seq: next, chunks: seq - next }, after });
    after
}

fn pass_over_the_end(steps: &mut Vec<Step>, only: Option<LogStream>, mut at: Position, expected: Position) {
    for stream in [LogStream::Stdout, LogStream::Stderr] {
        if only.is_none_or(|only| only == stream) {
            at = pass_over(steps, stream, at, expected.of(stream));
        }
    }
}

/// What is known of the log of a directive that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ended {
    /// It ran: what never ran has no log to wait for.
    ran: bool,
    /// Its output limit was reached: what is not stored by then could not be kept.
    full: bool,
    /// How many chunks each stream has, as its result says.
    counted: Option<Position>,
    /// Chunks stored, without gaps before them.
    whole: Position,
    /// Where the stored chunks end.
    stored: Position,
    /// When it ended, or its last chunk came.
    quiet_since: Micros,
}

impl Ended {
    /// Until when chunks that lack are waited for; none where none lacks.
    fn awaited_until(&self, patience: Duration) -> Option<Micros> {
        let lacks = |expected: Position| {
            [LogStream::Stdout, LogStream::Stderr].iter().any(|stream| self.whole.of(*stream) < expected.of(*stream))
        };
        match self.counted {
            None if !self.ran => None,
            None => Some(self.quiet_since.plus(QUIET)),
            Some(_) if lacks(self.stored) => Some(self.quiet_since.plus(patience)),
            Some(counted) if !self.full && lacks(counted) => Some(self.quiet_since.plus(patience)),
            Some(_) => None,
        }
    }

    /// Where both streams end; nothing is known of chunks that were not counted or could not be kept.
    fn expected(&self) -> Position {
        self.counted.filter(|_| !self.full).unwrap_or(Position::START)
    }
}

fn ended(conn: &Connection, directive_seq: i64) -> Result<Ended, StoreError> {
    let last: Option<i64> = conn
        .prepare_cached("SELECT received_at FROM log_chunks WHERE directive_seq = ?1 ORDER BY arrival DESC LIMIT 1")?
        .query_row([directive_seq], |row| row.get(0))
        .optional()?;
    let (ran, full, finished, counts) = conn
        .prepare_cached(
            "SELECT d.started_at IS NOT NULL, d.output_bytes >= d.max_output_bytes, coalesce(d.finished_at, 0),
                json_extract(r.report, '$.artifacts_manifest.log')
             FROM directives d LEFT JOIN results r ON r.directive_seq = d.seq WHERE d.seq = ?1",
        )?
        .query_row([directive_seq], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?, row.get::<_, rusqlite::types::Value>(3)?))
        })?;
    let (mut whole, mut stored) = (Position::START, Position::START);
    for stream in [LogStream::Stdout, LogStream::Stderr] {
        let (count, last) = conn
            .prepare_cached(
                "SELECT count(*), coalesce(max(seq), -1) FROM log_chunks WHERE directive_seq = ?1 AND stream = ?2",
            )?
            .query_row(params![directive_seq, number(stream)], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })?;
        whole = whole.with(stream, u64::try_from(count).unwrap_or(0));
        stored = stored.with(stream, u64::try_from(last).map_or(0, |last| last.saturating_add(1)));
    }
    let quiet_since = Micros(finished.max(last.unwrap_or(0)));
    Ok(Ended { ran, full, counted: counted(&counts), whole, stored, quiet_since })
}

/// `artifacts_manifest.log`, where it is an object: the chunks of each stream, none where it does not say.
fn counted(counts: &rusqlite::types::Value) -> Option<Position> {
    let rusqlite::types::Value::Text(text) = counts else { return None };
    let Ok(Value::Object(log)) = serde_json::from_str(text) else { return None };
    let chunks =
        |name: &str| log.get(name).and_then(|stream| stream.get("chunks")).and_then(Value::as_u64).unwrap_or(0);
    Some(Position::START.with(LogStream::Stdout, chunks("stdout")).with(LogStream::Stderr, chunks("stderr")))
}

#[cfg(test)]
mod tests;
