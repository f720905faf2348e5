//! The store: SQLite in the data directory, one writer, a few readers.
//!
//! Promises: a job's changes are durable before its answer is given (WAL with `synchronous=FULL`), a job is all or
//! nothing, and jobs run one after the other. Writes that wait at the same moment share one transaction and so one
//! `fdatasync`: each runs in a savepoint of its own, and what one refuses does not touch the others.
//! What a committed job changed for those who wait is published before the answer goes out, also when
//! the caller is gone by then: a client that hangs up never leaves half of a change behind.
//!
//! The SQL lives in the modules below and nowhere else; each function takes the open transaction, so
//! that one request is one job.

pub mod accounts;
pub mod api_tokens;
pub mod audit;
pub mod authorities;
pub mod claims;
pub mod directives;
pub mod enrollment;
pub mod facilities;
pub mod idempotency;
pub mod logs;
pub mod reports;
mod schema;
pub mod signing_keys;
pub mod territories;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::clock::{Clock, Micros};
use crate::hub::{Effect, Hub};
use crate::refusal::Fault;
use crate::serve::directory;
use writer::Job;

/// Jobs that may wait for the writer before callers are made to wait.
const QUEUE_BOUND: usize = 1024;
/// Read connections; reads are short, more would only fight over two cores.
const READERS: usize = 4;
/// Prepared statements kept for each connection; more than there are in the source.
const STATEMENTS: usize = 256;

/// Why the store could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused or failed.
    #[error("database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The transaction that held the job could not be committed; nothing of it is kept.
    #[error(
        "database: the transaction was not committed: {detail}; free disk space or look at the disk, then try again"
    )]
    Commit {
        /// SQLite's own words.
        detail: String,
    },
    /// The file cannot be made, or closed to others.
    #[error("{path}: {source}; the mothership's user must own the database and its directory")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file holds no database, or a damaged one.
    #[error(
        "{path} is damaged, or no database of a mothership: {detail}; restore a backup of it, or move it away with its -wal and -shm beside it to begin with an empty one (territories and directives are lost then)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// SQLite's own words.
        detail: String,
    },
    /// The database was written by a newer program.
    #[error(
        "database: schema version {found} is newer than this program's {known}; run the newer mothership, or restore the backup from before the upgrade"
    )]
    Newer {
        /// The version in the file.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// A stored value is not what was written.
    #[error("database: {what} is not valid: {detail}; restore a backup")]
    Corrupt {
        /// Which value.
        what: &'static str,
        /// Why it is not valid.
        detail: String,
    },
    /// A job ran into a bug; its changes were rolled back.
    #[error("database: a job panicked and was rolled back")]
    Panicked,
    /// The store is shut down.
    #[error("database: the store is shut down")]
    Stopped,
    /// The writer's thread could not be started.
    #[error("database: cannot start the writer's thread: {0}")]
    Thread(std::io::Error),
}

/// An open transaction as a job sees it.
#[derive(Debug)]
pub struct Tx<'c> {
    conn: &'c Connection,
    now: Micros,
    effects: std::cell::RefCell<Vec<Effect>>,
}

impl<'c> Tx<'c> {
    /// The moment at which this transaction happens: one for all of its rows.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.now
    }

    /// The connection, for the modules of SQL.
    pub(crate) fn conn(&self) -> &'c Connection {
        self.conn
    }

    /// Has `effect` published once this transaction is on disk.
    pub fn publish(&self, effect: Effect) {
        self.effects.borrow_mut().push(effect);
    }
}

/// What happens to a job whose caller is gone before its turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// It runs: the caller asked for a change and may only have lost the connection.
    Finish,
    /// It is dropped: a claim that nobody can receive would only be stranded.
    Skip,
}

/// The store; shared by an `Arc`.
#[derive(Debug)]
pub struct Store {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    readers: Arc<Readers>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    clock: Clock,
}

#[derive(Debug)]
struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    turns: Semaphore,
}

impl Store {
    /// Opens or creates the database at `path` and starts the writer.
    ///
    /// # Errors
    /// The file cannot be opened, is no database, or is newer than this program.
    pub fn open(path: &Path, hub: Arc<Hub>, clock: Clock) -> Result<Self, StoreError> {
        directory::close_database(path).map_err(|source| StoreError::File { path: path.to_owned(), source })?;
        let conn = connect(path).map_err(|error| damage(path, error))?;
        let (jobs, queue) = mpsc::channel(QUEUE_BOUND);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer::run(conn, queue, &hub, clock))
            .map_err(StoreError::Thread)?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            readers: Arc::new(Readers {
                path: path.to_owned(),
                idle: Mutex::new(Vec::new()),
                turns: Semaphore::new(READERS),
            }),
            thread: Mutex::new(Some(thread)),
            clock,
        })
    }

    /// The store's clock.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Runs `job` in a transaction and answers once it is on disk.
    ///
    /// # Errors
    /// The job's refusal, or the store's failure; nothing is changed then.
    pub async fn write<T, F>(&self, job: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, Fault> + Send + 'static,
    {
        self.submit(Hangup::Finish, job).await
    }

    /// As [`Store::write`], with a say in what happens when the caller is gone.
    ///
    /// # Errors
    /// As [`Store::write`].
    pub async fn submit<T, F>(&self, hangup: Hangup, job: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T, Fault> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let sender = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Stopped)?;
        sender.send(writer::job(hangup, job, answer)).await.map_err(|_| StoreError::Stopped)?;
        result.await.map_err(|_| StoreError::Stopped)?
    }

    /// Runs `query` on a read connection: a consistent view of all that was answered before.
    ///
    /// # Errors
    /// The query's refusal, or the store's failure.
    pub async fn read<T, F>(&self, query: F) -> Result<T, Fault>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let readers = Arc::clone(&self.readers);
        let turn = self.readers.turns.acquire().await.map_err(|_| StoreError::Stopped)?;
        let result = tokio::task::spawn_blocking(move || {
            let conn = readers.take()?;
            let result = query(&conn);
            readers.give_back(conn);
            result
        })
        .await
        .map_err(|_| StoreError::Panicked)?;
        drop(turn);
        result
    }

    /// Finishes the jobs that were taken, writes the WAL back and ends the writer. Later calls fail.
    pub async fn close(&self) {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the store's writer ended by a panic");
            }
        }
        self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A connection that only reads, for a look beside a mothership that may be serving; none where there is no database yet.
///
/// # Errors
/// The file is there and cannot be opened.
pub fn look_beside(path: &Path) -> Result<Option<Connection>, StoreError> {
    if !path.exists() {
        return Ok(None);
    }
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.pragma_update(None, "query_only", "ON")?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(Some(conn))
}

/// The writer's connection, to tables of this program's version.
fn connect(path: &Path) -> Result<Connection, StoreError> {
    let mut conn = Connection::open(path)?;
    keep_statements(&conn)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", "ON")?;
    conn.pragma_update(None, "cache_size", -16_000)?;
    conn.busy_timeout(std::time::Duration::from_secs(5))?;
    schema::migrate(&mut conn)?;
    Ok(conn)
}

/// The error as it is told at the start: which file is damaged, and what to do.
fn damage(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Sqlite(error)
            if matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)) =>
        {
            StoreError::Damaged { path: path.to_owned(), detail: error.to_string() }
        }
        error => error,
    }
}

/// Statements are compiled once. Without the planner's promise not to look at what is bound to them, SQLite compiles one
/// anew whenever its values change, which took more time than all else that the writer did.
fn keep_statements(conn: &Connection) -> Result<(), rusqlite::Error> {
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

impl Readers {
    fn take(&self) -> Result<Connection, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(conn) = idle {
            return Ok(conn);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(&self.path, flags)?;
        keep_statements(&conn)?;
        conn.pragma_update(None, "query_only", "ON")?;
        conn.busy_timeout(std::time::Duration::from_secs(5))?;
        Ok(conn)
    }

    fn give_back(&self, conn: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
    }
}
