//! The writer's thread: takes jobs, groups those that wait, commits, publishes, answers.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{Hangup, StoreError, Tx};
use crate::clock::Clock;
use crate::hub::Hub;
use crate::refusal::Fault;

/// Jobs in one transaction at most: bounds how long the first of them waits for its answer.
const GROUP_BOUND: usize = 128;

/// Pages in the write-ahead log from which on it is written back, as SQLite does by itself: 4 MB.
const WRITE_BACK_PAGES: i32 = 1000;

/// A job with its answer's way back packed in.
///
/// It is run with the open transaction, or with none when that is lost already: then it only answers.
pub(super) type Job = Box<dyn FnOnce(Option<&Tx<'_>>) -> Done + Send>;

/// How a job is answered, given the transaction's fate.
type Answer = Box<dyn FnOnce(Result<(), &str>) + Send>;

/// A job that has run: whether its savepoint is kept, and how to answer once the transaction's fate is known.
pub(super) struct Done {
    keep: bool,
    answer: Answer,
}

/// Packs `work` and the way back of its answer into a job.
pub(super) fn job<T, F>(hangup: Hangup, work: F, answer: oneshot::Sender<Result<T, Fault>>) -> Job
where
    T: Send + 'static,
    F: FnOnce(&Tx<'_>) -> Result<T, Fault> + Send + 'static,
{
    Box::new(move |tx| {
        if hangup == Hangup::Skip && answer.is_closed() {
            return Done { keep: false, answer: Box::new(|_| ()) };
        }
        let result = match tx {
            Some(tx) => catch_unwind(AssertUnwindSafe(|| work(tx))).unwrap_or(Err(Fault::Store(StoreError::Panicked))),
            None => Err(Fault::Store(StoreError::Commit {
                detail: "the transaction was lost before this request's turn".to_owned(),
            })),
        };
        Done {
            keep: result.is_ok(),
            answer: Box::new(move |committed| {
                let result = match committed {
                    Ok(()) => result,
                    Err(detail) => result.and(Err(Fault::Store(StoreError::Commit { detail: detail.to_owned() }))),
                };
                // Nobody may be waiting any more: the change stands all the same.
                drop(answer.send(result));
            }),
        }
    })
}

/// The thread's life: ends when every sender is gone and the queue is empty.
pub(super) fn run(mut conn: Connection, mut queue: mpsc::Receiver<Job>, hub: &Hub, clock: Clock) {
    let log = WriteAheadLog::of(&mut conn);
    let mut group = Vec::with_capacity(GROUP_BOUND);
    while let Some(first) = queue.blocking_recv() {
        group.push(first);
        while group.len() < GROUP_BOUND {
            match queue.try_recv() {
                Ok(next) => group.push(next),
                Err(_) => break,
            }
        }
        commit(&conn, group.drain(..), hub, clock);
        log.write_back(&conn);
    }
    // Leaves a database of one file behind; a failure costs nothing, the next start reads the WAL.
    if let Err(error) = conn.pragma_update(None, "wal_checkpoint", "TRUNCATE") {
        tracing::debug!(%error, "the write-ahead log was left for the next start");
    }
}

/// Pages that are in the log and not yet in the database. SQLite would write them back within the commit that makes them too
/// many, and whoever waits for that commit would wait for three more syncs.
struct WriteAheadLog {
    pages: Arc<AtomicI32>,
}

impl WriteAheadLog {
    fn of(conn: &mut Connection) -> Self {
        let pages = Arc::new(AtomicI32::new(0));
        let seen = Arc::clone(&pages);
        let hooked = conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, in_log| {
            seen.store(in_log, Ordering::Relaxed);
            Ok(())
        }));
        if let Err(error) = hooked {
            tracing::warn!(%error, "SQLite writes its log back by itself");
        }
        Self { pages }
    }

    /// Between two groups: what was committed is answered. What a reader still needs stays for the next time.
    fn write_back(&self, conn: &Connection) {
        if self.pages.swap(0, Ordering::Relaxed) >= WRITE_BACK_PAGES
            && let Err(error) = conn.pragma_update(None, "wal_checkpoint", "PASSIVE")
        {
            tracing::warn!(%error, "the write-ahead log could not be written back; it grows until it can");
        }
    }
}

/// Runs a group in one transaction, then answers all of it.
fn commit(conn: &Connection, group: impl Iterator<Item = Job>, hub: &Hub, clock: Clock) {
    let mut effects = Vec::new();
    let mut answers = Vec::new();
    let mut fate = conn.execute_batch("BEGIN IMMEDIATE");
    for job in group {
        let tx = Tx { conn, now: clock.now(), effects: RefCell::new(Vec::new()) };
        if fate.is_ok() {
            fate = step(conn, "SAVEPOINT job");
        }
        let done = job(fate.is_ok().then_some(&tx));
        if fate.is_ok() {
            fate = if done.keep {
                effects.append(&mut tx.effects.borrow_mut());
                step(conn, "RELEASE job")
            } else {
                step(conn, "ROLLBACK TO job").and_then(|()| step(conn, "RELEASE job"))
            };
        }
        answers.push(done.answer);
    }
    let fate = fate.and_then(|()| step(conn, "COMMIT"));
    match fate {
        Ok(()) => {
            for effect in effects {
                hub.publish(&effect);
            }
            for answer in answers {
                answer(Ok(()));
            }
        }
        Err(error) => roll_back(conn, &error, answers),
    }
}

fn roll_back(conn: &Connection, error: &rusqlite::Error, answers: Vec<Answer>) {
    tracing::error!(%error, "a transaction was not committed");
    if !conn.is_autocommit()
        && let Err(error) = step(conn, "ROLLBACK")
    {
        tracing::error!(%error, "a transaction could not be rolled back");
    }
    let detail = error.to_string();
    for answer in answers {
        answer(Err(&detail));
    }
}

fn step(conn: &Connection, sql: &str) -> rusqlite::Result<()> {
    conn.prepare_cached(sql)?.execute([]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Effect;
    use crate::refusal::Refusal;
    use std::sync::Arc;

    fn store(dir: &std::path::Path, hub: &Arc<Hub>) -> super::super::Store {
        super::super::Store::open(&dir.join("db"), Arc::clone(hub), Clock::start()).unwrap()
    }

    fn insert(tx: &Tx<'_>, id: &str) {
        tx.conn().execute("INSERT INTO accounts (id, name, created_at) VALUES (?1, 'n', 0)", [id]).unwrap();
    }

    fn count(conn: &Connection) -> i64 {
        conn.query_row("SELECT count(*) FROM accounts", [], |row| row.get(0)).unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn one_refused_job_does_not_touch_the_others_of_its_group() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(store(dir.path(), &Arc::new(Hub::default())));
        let mut jobs = tokio::task::JoinSet::new();
        for n in 0..60 {
            let store = Arc::clone(&store);
            jobs.spawn(async move {
                store
                    .write(move |tx| {
                        insert(tx, &format!("a{n}"));
                        match n % 3 {
                            0 => Ok(()),
                            1 => Err(Refusal::not_found("no").into()),
                            _ => panic!("a bug"),
                        }
                    })
                    .await
                    .is_ok()
            });
        }
        let kept = jobs.join_all().await.into_iter().filter(|ok| *ok).count();
        assert_eq!(kept, 20);
        assert_eq!(store.read(|conn| Ok(count(conn))).await.unwrap(), 20);
        store.close().await;
        assert!(store.write(|_| Ok(())).await.is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_log_is_written_back_when_it_has_grown_and_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), &Arc::new(Hub::default()));
        let bytes = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().len();
        let full = u64::try_from(WRITE_BACK_PAGES).unwrap() * 4096;
        for n in 0..40 {
            let name = "x".repeat(200_000);
            store
                .write(move |tx| {
                    let row = [format!("a{n}"), name];
                    tx.conn().execute("INSERT INTO accounts (id, name, created_at) VALUES (?1, ?2, 0)", row).unwrap();
                    Ok(())
                })
                .await
                .unwrap();
        }
        // The writer takes the next job after it has written back.
        store.write(|_| Ok(())).await.unwrap();
        assert!(bytes("db") > full, "{}", bytes("db"));
        assert!((full..full * 3 / 2).contains(&bytes("db-wal")), "{}", bytes("db-wal"));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn effects_of_a_refused_job_are_not_published() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Arc::new(Hub::default());
        let store = store(dir.path(), &hub);
        let mut watch = hub.watch("d");
        let refused = store
            .write(|tx| -> Result<(), Fault> {
                tx.publish(Effect::Directive("d".to_owned()));
                Err(Refusal::not_found("no").into())
            })
            .await;
        assert!(refused.is_err());
        let soon = std::time::Duration::from_millis(30);
        assert!(tokio::time::timeout(soon, watch.changed()).await.is_err());
        store
            .write(|tx| {
                tx.publish(Effect::Directive("d".to_owned()));
                Ok(())
            })
            .await
            .unwrap();
        assert!(tokio::time::timeout(soon, watch.changed()).await.is_ok());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_claim_that_nobody_waits_for_is_skipped_but_a_change_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), &Arc::new(Hub::default()));
        for (hangup, id) in [(Hangup::Skip, "skipped"), (Hangup::Finish, "finished")] {
            let (answer, gone) = oneshot::channel();
            drop(gone);
            let sender = store.jobs.lock().unwrap().clone().unwrap();
            let work = job(
                hangup,
                move |tx: &Tx<'_>| {
                    insert(tx, id);
                    Ok(())
                },
                answer,
            );
            sender.send(work).await.ok().unwrap();
        }
        store.write(|_| Ok(())).await.unwrap();
        assert_eq!(store.read(|conn| Ok(count(conn))).await.unwrap(), 1);
    }
}
