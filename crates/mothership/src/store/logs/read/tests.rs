use std::cell::RefCell;

use proptest::prelude::*;

use super::super::super::{Tx, directives, schema};
use super::super::{NewChunk, append};
use super::*;
use LogStream::{Stderr, Stdout};

const PATIENCE: Duration = Duration::from_secs(75);

/// A directive's log in a database of its own.
struct Log {
    conn: Connection,
    now: Micros,
}

impl Log {
    fn new(max_output_bytes: u64) -> Self {
        let mut conn = Connection::open_in_memory().unwrap();
        schema::migrate(&mut conn).unwrap();
        conn.execute_batch(&format!(
            "INSERT INTO accounts VALUES ('a', 'a', 0);
             INSERT INTO facilities (id, account_id, name, created_at) VALUES ('f', 'a', 'f', 0);
             INSERT INTO directives (id, account_id, facility_id, state, profile, spec, max_output_bytes, max_diff_bytes,
                queued_at, started_at) VALUES ('d', 'a', 'f', 'running', 'untrusted', '{{}}', {max_output_bytes}, 1, 0, 0);"
        ))
        .unwrap();
        Self { conn, now: Micros(1_000_000) }
    }

    fn row(&self) -> DirectiveRow {
        directives::find(&self.conn, "d").unwrap().unwrap()
    }

    /// Stores a chunk a millisecond after the last one; whether it was taken for new.
    fn chunk(&mut self, stream: LogStream, seq: u64, bytes: &str) -> bool {
        self.now = self.now.plus(Duration::from_millis(1));
        let tx = Tx { conn: &self.conn, now: self.now, effects: RefCell::default() };
        let chunk = NewChunk { stream, seq, bytes: bytes.into(), truncated: false };
        !append(&tx, &self.row(), &chunk).unwrap().duplicate
    }

    /// Ends the directive, with a result that counts these chunks.
    fn end(&mut self, counted: Option<(u64, u64)>) {
        self.conn.execute("UPDATE directives SET state = 'succeeded', finished_at = ?1", [self.now.0]).unwrap();
        let manifest = counted.map_or(
            Value::Null,
            |(stdout, stderr)| serde_json::json!({ "stdout": { "chunks": stdout }, "stderr": { "chunks": stderr } }),
        );
        let report = serde_json::json!({ "artifacts_manifest": { "log": manifest } }).to_string();
        self.conn.execute("INSERT INTO results (directive_seq, digest, report) VALUES (1, x'', ?1)", [report]).unwrap();
    }

    fn read(&self, from: Position, max_bytes: usize) -> Part {
        let wanted = Wanted { stream: None, from, max_bytes };
        read(&self.conn, &self.row(), wanted, PATIENCE, self.now).unwrap()
    }

    /// All that may be read from `from` on, in short, and what may follow.
    fn told(&self, from: Position) -> (String, Rest) {
        let (mut reader, mut text) = (Reader { at: from, ..Reader::default() }, String::new());
        let rest = loop {
            let part = self.read(reader.at, 1);
            if part.steps.is_empty() {
                break part.rest;
            }
            reader.take(&part, &mut text);
        };
        (text.trim_end().to_owned(), rest)
    }
}

/// A reader that remembers what it was given.
#[derive(Default)]
struct Reader {
    at: Position,
    given: Vec<(LogStream, u64, Option<Vec<u8>>)>,
}

impl Reader {
    fn take(&mut self, part: &Part, text: &mut String) {
        for step in &part.steps {
            match &step.item {
                Item::Chunk(chunk) => {
                    self.given.push((chunk.stream, chunk.seq, Some(chunk.bytes.clone())));
                    text.push_str(&format!("{} {}, ", chunk.stream, chunk.seq));
                }
                Item::Missing { stream, seq, chunks } => {
                    self.given.extend((*seq..seq + chunks).map(|seq| (*stream, seq, None)));
                    text.push_str(&format!("{chunks} of {stream} lack, "));
                }
            }
            self.at = step.after;
        }
    }

    fn of(&self, stream: LogStream) -> Vec<(u64, Option<Vec<u8>>)> {
        let own = self.given.iter().filter(|(of, ..)| *of == stream);
        own.map(|(_, seq, bytes)| (*seq, bytes.clone())).collect()
    }
}

fn at(text: &str) -> Position {
    text.parse().unwrap()
}

#[test]
fn a_late_chunk_is_given_before_those_that_overtook_it() {
    let mut log = Log::new(1000);
    log.chunk(Stdout, 0, "a");
    log.chunk(Stdout, 2, "c");
    log.chunk(Stderr, 0, "x");
    assert_eq!(log.told(Position::START), ("stdout 0, stderr 0,".to_owned(), Rest::Open));
    assert_eq!(log.told(at("1-1")), (String::new(), Rest::Open));
    log.chunk(Stdout, 1, "b");
    assert_eq!(log.told(at("1-1")).0, "stdout 1, stdout 2,");
    // Of what may be given, first what came first.
    assert_eq!(log.told(Position::START).0, "stdout 0, stderr 0, stdout 1, stdout 2,");
}

#[test]
fn what_never_came_is_waited_for_and_then_told() {
    let mut log = Log::new(1000);
    log.chunk(Stdout, 0, "a");
    log.chunk(Stdout, 2, "c");
    log.end(Some((5, 1)));
    let until = log.now.plus(PATIENCE);
    assert_eq!(log.told(Position::START), ("stdout 0,".to_owned(), Rest::Awaited(until)));
    // What comes meanwhile is waited for anew.
    log.chunk(Stdout, 3, "d");
    let until = log.now.plus(PATIENCE);
    assert_eq!(log.told(at("1-0")).1, Rest::Awaited(until));
    log.now = until;
    let whole = "stdout 0, 1 of stdout lack, stdout 2, stdout 3, 1 of stdout lack, 1 of stderr lack,";
    assert_eq!(log.told(Position::START), (whole.to_owned(), Rest::None));
    assert_eq!(log.told(at("3-0")).0, "stdout 3, 1 of stdout lack, 1 of stderr lack,");
    assert_eq!(log.told(at("99-99")), (String::new(), Rest::None));
    let wanted = Wanted { stream: Some(Stderr), from: Position::START, max_bytes: 1000 };
    let part = read(&log.conn, &log.row(), wanted, PATIENCE, log.now).unwrap();
    assert_eq!(part.steps, [Step { item: Item::Missing { stream: Stderr, seq: 0, chunks: 1 }, after: at("0-1") }]);
}

#[test]
fn a_log_without_counts_has_a_quiet_moment_for_late_chunks() {
    let mut log = Log::new(1000);
    log.chunk(Stderr, 1, "b");
    log.end(None);
    assert_eq!(log.told(Position::START), (String::new(), Rest::Awaited(log.now.plus(QUIET))));
    log.now = log.now.plus(QUIET);
    assert_eq!(log.told(Position::START), ("1 of stderr lack, stderr 1,".to_owned(), Rest::None));
}

#[test]
fn what_the_limit_cut_is_not_missing_and_holds_nobody_up() {
    let mut log = Log::new(4);
    log.chunk(Stdout, 0, "ab");
    log.chunk(Stdout, 2, "cdef");
    log.chunk(Stdout, 4, "h");
    log.chunk(Stdout, 5, "i");
    assert_eq!(log.told(Position::START).0, "stdout 0,");
    // Both were overtaken by a stored one.
    assert!(log.chunk(Stdout, 1, "zz") && log.chunk(Stdout, 3, "g"));
    assert!(!log.chunk(Stdout, 3, "g"));
    log.end(Some((7, 0)));
    let all = "stdout 0, stdout 1, stdout 2, stdout 3, stdout 4,";
    assert_eq!(log.told(Position::START), (all.to_owned(), Rest::None));
}

#[test]
fn a_number_far_beyond_what_may_be_written_leaves_no_row() {
    let mut log = Log::new(10);
    let far = NewChunk { stream: Stdout, seq: 10 + 4097, bytes: b"x".to_vec(), truncated: false };
    let tx = Tx { conn: &log.conn, now: log.now, effects: RefCell::default() };
    assert!(matches!(append(&tx, &log.row(), &far), Err(crate::refusal::Fault::Refused(_))));
    drop(tx);
    log.chunk(Stdout, 0, "0123456789");
    // Full by now: acknowledged like whatever else cannot be kept, but not a mark that others could be before.
    for seq in [1 << 40, 1 << 41, 7] {
        log.chunk(Stdout, seq, "x");
    }
    let rows: i64 = log.conn.query_row("SELECT count(*) FROM log_chunks", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1);
}

proptest! {
    /// Whatever the order of arrival, whenever a reader looks, however little it takes at once, and whichever are lost.
    #[test]
    fn each_stream_is_given_in_its_order_and_each_chunk_once(
        arrivals in Just((0..5).map(|seq| (Stdout, seq)).chain((0..4).map(|seq| (Stderr, seq))).collect::<Vec<_>>())
            .prop_shuffle(),
        lost in proptest::collection::vec(prop::bool::weighted(0.2), 9),
        looks in proptest::collection::vec(any::<bool>(), 9),
        max_bytes in 1_usize..300,
    ) {
        let mut log = Log::new(1000);
        let (mut reader, mut text) = (Reader::default(), String::new());
        for (((stream, seq), lost), look) in arrivals.iter().zip(&lost).zip(&looks) {
            if !lost {
                let bytes = format!("{stream}{seq}");
                prop_assert!(log.chunk(*stream, *seq, &bytes));
            }
            if *look {
                reader.take(&log.read(reader.at, max_bytes), &mut text);
            }
        }
        // Before the end nothing is passed over.
        prop_assert!(reader.given.iter().all(|(.., bytes)| bytes.is_some()));
        log.end(Some((5, 4)));
        log.now = log.now.plus(PATIENCE);
        loop {
            let part = log.read(reader.at, max_bytes);
            reader.take(&part, &mut text);
            if part.rest == Rest::None {
                break;
            }
            prop_assert!(!part.steps.is_empty(), "it stands still at {}", reader.at);
        }
        let is_lost = |chunk| arrivals.iter().zip(&lost).any(|(other, lost)| *lost && *other == chunk);
        for (stream, length) in [(Stdout, 5), (Stderr, 4)] {
            let expected: Vec<_> = (0..length)
                .map(|seq| (seq, (!is_lost((stream, seq))).then(|| format!("{stream}{seq}").into_bytes())))
                .collect();
            prop_assert_eq!(reader.of(stream), expected);
        }
        // Another one that comes after all, from any place, is given the same from there on.
        let late = log.told(Position::START).0;
        prop_assert_eq!(late.matches(',').count(), text.matches(',').count());
    }
}
