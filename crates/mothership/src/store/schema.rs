//! The tables, and how an older database becomes a newer one.
//!
//! `PRAGMA user_version` counts the migrations applied. Each runs in a transaction of its own with the
//! count, so that a kill in the middle leaves the older version whole. A database newer than the program
//! is refused: an older program would write rows that the newer one's rules do not know.

use rusqlite::Connection;

use super::StoreError;

/// The migrations in order; the number of a migration is its place plus one. Never edit one that was released:
/// append.
const MIGRATIONS: &[&str] = &[INITIAL, FORGETTABLE, DROPPED, REMOVED, SCOPED, AUTHORITIES, SIGNS];

/// The first schema.
///
/// Times are microseconds since 1970 UTC. `directives.seq` is the order of creation, kept when a
/// directive goes back to the queue; `facilities.head_seq` is the `seq` of the facility's oldest queued
/// directive, so that a claim finds the next piece of work by an index however long the queues are.
/// `log_chunks.arrival` orders both streams of a directive as they came, and numbers the events of a
/// live stream.
const INITIAL: &str = "
CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE api_tokens (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts(id),
    name TEXT NOT NULL,
    token_sha256 BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT;

CREATE TABLE signing_keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    secret BLOB NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE territories (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts(id),
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    platform TEXT,
    display_name TEXT,
    labels TEXT NOT NULL,
    metadata TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    disabled_at INTEGER,
    last_seen_at INTEGER,
    instance_id TEXT,
    max_concurrent INTEGER NOT NULL DEFAULT 1,
    nexus_version TEXT,
    last_heartbeat TEXT
) STRICT;
CREATE INDEX territories_by_account ON territories(account_id, id);

CREATE TABLE certificates (
    fingerprint TEXT PRIMARY KEY,
    territory_id TEXT NOT NULL REFERENCES territories(id) ON DELETE CASCADE,
    issued_at INTEGER NOT NULL,
    not_after INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX certificates_by_territory ON certificates(territory_id);

CREATE TABLE enrollment_tokens (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts(id),
    secret_sha256 BLOB NOT NULL UNIQUE,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER,
    used_by TEXT,
    revoked_at INTEGER
) STRICT;
CREATE INDEX enrollment_tokens_by_account ON enrollment_tokens(account_id, id);

CREATE TABLE facilities (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES accounts(id),
    name TEXT NOT NULL,
    repo_url TEXT,
    territory_id TEXT REFERENCES territories(id),
    locked_by TEXT,
    head_seq INTEGER,
    created_at INTEGER NOT NULL,
    UNIQUE (account_id, name)
) STRICT;
CREATE INDEX facilities_by_account ON facilities(account_id, id);
CREATE INDEX facilities_ready ON facilities(account_id, territory_id, head_seq)
    WHERE locked_by IS NULL AND head_seq IS NOT NULL;

CREATE TABLE directives (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    account_id TEXT NOT NULL REFERENCES accounts(id),
    facility_id TEXT NOT NULL REFERENCES facilities(id) ON DELETE CASCADE,
    state TEXT NOT NULL,
    profile TEXT NOT NULL,
    spec TEXT NOT NULL,
    max_output_bytes INTEGER NOT NULL,
    max_diff_bytes INTEGER NOT NULL,
    territory_id TEXT,
    instance_id TEXT,
    claim_id TEXT,
    lease_number INTEGER NOT NULL DEFAULT 0,
    lease_expires_at INTEGER,
    cancel_requested_at INTEGER,
    reason TEXT,
    queued_at INTEGER NOT NULL,
    leased_at INTEGER,
    started_at INTEGER,
    finished_at INTEGER,
    nexus_version TEXT,
    sandbox_version TEXT,
    started_report TEXT,
    output_bytes INTEGER NOT NULL DEFAULT 0,
    output_truncated INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX directives_by_account ON directives(account_id, seq);
CREATE INDEX directives_by_facility ON directives(facility_id, seq);
CREATE INDEX directives_queued ON directives(facility_id, seq) WHERE state = 'queued';
CREATE INDEX directives_held ON directives(territory_id, seq) WHERE state IN ('leased', 'running');
CREATE INDEX directives_leases ON directives(lease_expires_at) WHERE state IN ('leased', 'running');
CREATE INDEX directives_by_claim ON directives(territory_id, claim_id) WHERE claim_id IS NOT NULL;

CREATE TABLE results (
    directive_seq INTEGER PRIMARY KEY REFERENCES directives(seq) ON DELETE CASCADE,
    digest BLOB NOT NULL,
    exit_code INTEGER,
    report TEXT NOT NULL,
    diff BLOB
) STRICT;

CREATE TABLE log_chunks (
    arrival INTEGER PRIMARY KEY AUTOINCREMENT,
    directive_seq INTEGER NOT NULL REFERENCES directives(seq) ON DELETE CASCADE,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    truncated INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    UNIQUE (directive_seq, stream, seq)
) STRICT;
CREATE INDEX log_chunks_by_arrival ON log_chunks(directive_seq, arrival);

CREATE TABLE idempotency_keys (
    account_id TEXT NOT NULL,
    key TEXT NOT NULL,
    request_sha256 BLOB NOT NULL,
    answer TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (account_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys(created_at);

CREATE TABLE audit_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account_id TEXT NOT NULL,
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    details TEXT NOT NULL
) STRICT;
CREATE INDEX audit_events_by_account ON audit_events(account_id, id);
";

/// What a key's answer shows is the facility's, so it goes with the facility: `facility_id` finds it, and an empty answer
/// says that what was made is gone. Answers about facilities that are gone already are emptied here.
const FORGETTABLE: &str = "
ALTER TABLE idempotency_keys ADD COLUMN facility_id TEXT;
UPDATE idempotency_keys
    SET facility_id = coalesce(json_extract(answer, '$.facility_id'), json_extract(answer, '$.id'));
UPDATE idempotency_keys SET answer = '' WHERE facility_id NOT IN (SELECT id FROM facilities);
CREATE INDEX idempotency_keys_by_facility ON idempotency_keys(facility_id) WHERE facility_id IS NOT NULL;
";

/// The highest `seq` of each stream that came when the output limit was reached already: such chunks leave no row but
/// the first one's, so this alone tells which have come.
const DROPPED: &str = "
ALTER TABLE directives ADD COLUMN dropped_stdout INTEGER;
ALTER TABLE directives ADD COLUMN dropped_stderr INTEGER;
";

/// Deleted facilities whose folders a territory may still have: forgotten once it says that it has not.
const REMOVED: &str = "
CREATE TABLE removed_facilities (
    facility_id TEXT PRIMARY KEY,
    territory_id TEXT NOT NULL REFERENCES territories(id) ON DELETE CASCADE,
    removed_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX removed_facilities_by_territory ON removed_facilities(territory_id, removed_at);
";

/// What an API token may be used for. Those that there were could do everything.
const SCOPED: &str = "
ALTER TABLE api_tokens ADD COLUMN scope TEXT NOT NULL DEFAULT 'admin';
CREATE INDEX api_tokens_by_account ON api_tokens(account_id, id);
";

/// Since when each authority is handed out: whoever got a certificate later knows it.
const AUTHORITIES: &str = "
CREATE TABLE authorities (
    key_sha256 BLOB PRIMARY KEY,
    handed_out_since INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
";

/// Since when an authority signs: certificates from before that are its predecessor's. Where it is not known yet, the next
/// start says that it is from then on.
const SIGNS: &str = "
ALTER TABLE authorities ADD COLUMN signs_since INTEGER;
";

/// Brings the database to this program's version.
///
/// # Errors
/// The database is newer than the program, or SQLite fails.
pub(super) fn migrate(conn: &mut Connection) -> Result<(), StoreError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let found: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if found > known || found < 0 {
        return Err(StoreError::Newer { found, known });
    }
    let done = usize::try_from(found).unwrap_or(0);
    for (migration, version) in MIGRATIONS.iter().zip(1_i64..).skip(done) {
        let tx = conn.transaction()?;
        tx.execute_batch(migration)?;
        tx.pragma_update(None, "user_version", version)?;
        tx.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_brought_up_once_and_a_newer_one_refused() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn).unwrap();
        migrate(&mut conn).unwrap();
        conn.pragma_update(None, "user_version", 99).unwrap();
        let refused = migrate(&mut conn).unwrap_err();
        assert!(refused.to_string().contains("version 99"), "{refused}");
    }
    #[test]
    fn keys_of_an_older_database_are_found_by_their_facility() {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(INITIAL).unwrap();
        conn.execute_batch(
            r#"INSERT INTO accounts VALUES ('a', 'a', 0);
            INSERT INTO facilities (id, account_id, name, created_at) VALUES ('f', 'a', 'f', 0);
            INSERT INTO idempotency_keys VALUES ('a', '1', x'00', '{"id":"f","name":"f"}', 0),
                ('a', '2', x'00', '{"id":"d","facility_id":"f"}', 0),
                ('a', '3', x'00', '{"id":"e","facility_id":"gone"}', 0);
            PRAGMA user_version = 1;"#,
        )
        .unwrap();
        migrate(&mut conn).unwrap();
        let mut query =
            conn.prepare("SELECT key, facility_id, answer = '' FROM idempotency_keys ORDER BY key").unwrap();
        let rows: Vec<(String, String, bool)> = query
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let row = |key: &str, facility: &str, emptied| (key.to_owned(), facility.to_owned(), emptied);
        assert_eq!(rows, [row("1", "f", false), row("2", "f", false), row("3", "gone", true)]);
    }
}
