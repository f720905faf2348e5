//! Reports that must arrive: `started` and `finished`, durable before they are sent.
//!
//! Promises: a report is on disk (written over a slot and synced; or written to a temporary file, synced, renamed, the
//! folder synced) before the first byte of it leaves; an end stays there until the mothership acknowledges it or refuses it for
//! good, a start stays until there is an end, with the lease's newest token and whether it was accepted: what it finds
//! after a crash tells the next process which directives ran; what a crash or power cut left is
//! sent again after the restart and goes on being sent through every outage. A damaged file is set aside as `<name>.corrupt`
//! with an error that names it, and never stops the others.
//!
//! Leaves to others: what the reports say (`directive`), the rhythm of asking again ([`client`](crate::client)).

pub mod entry;
mod lean;
mod slots;
mod store;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use conduits::{DirectiveId, FinishedAnswer, FinishedRequest, StartedAnswer, StartedRequest};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::client::{CallError, Deadline, DirectiveCalls};

pub use entry::{Entry, Report, ReportKind};
pub use store::OutboxError;

use store::Store;

/// Reports that may wait to be taken up.
const QUEUE: usize = 64;
/// Reports kept on disk at most; a daemon that has so many undelivered is refused more.
pub const MAX_ENTRIES: usize = 10_000;

/// What the mothership said to a report, in the end.
#[derive(Debug, Clone, PartialEq)]
pub enum Delivered {
    /// `started` was accepted.
    Started(StartedAnswer),
    /// `finished` was accepted.
    Finished(FinishedAnswer),
    /// Refused for good: the entry is gone and the reason logged.
    Refused(CallError),
    /// The outbox is closing; the entry stays on disk for the next start.
    Kept,
}

/// The outbox. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox {
    store: Arc<Store>,
    queue: mpsc::Sender<Delivery>,
    waiting: Arc<AtomicUsize>,
}

/// The task that delivers: to be spawned once, on the daemon's tracker, as [`OutboxTask::run`].
#[derive(Debug)]
pub struct OutboxTask {
    store: Arc<Store>,
    queue: mpsc::Receiver<Delivery>,
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Delivery {
    calls: DirectiveCalls,
    report: Report,
    reply: Option<oneshot::Sender<Delivered>>,
}

/// An outbox opened: its handle, its task, and what an earlier process left in it.
#[derive(Debug)]
pub struct Opened {
    /// To put reports in.
    pub outbox: Outbox,
    /// To be spawned.
    pub task: OutboxTask,
    /// What is not settled, oldest directive first, `started` before `finished`: for [`Outbox::deliver_again`].
    pub leftovers: Vec<Entry>,
    /// Damaged files that were set aside.
    pub set_aside: Vec<PathBuf>,
}

impl Outbox {
    /// Opens (or makes) the outbox folder `<work_dir>/.nexus/outbox`. Blocking; meant for the start.
    ///
    /// # Errors
    /// The folder cannot be made or listed.
    pub fn open(dir: PathBuf) -> Result<Opened, OutboxError> {
        let (store, found) = Store::open(dir)?;
        let store = Arc::new(store);
        let (queue, inbox) = mpsc::channel(QUEUE);
        let waiting = Arc::new(AtomicUsize::new(0));
        let outbox = Self { store: Arc::clone(&store), queue, waiting: Arc::clone(&waiting) };
        let task = OutboxTask { store, queue: inbox, waiting };
        Ok(Opened { outbox, task, leftovers: found.entries, set_aside: found.set_aside })
    }

    /// Reports that wait for their answer, for the metrics page.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Makes `report` durable, sends it (again and again, through every outage) and returns what the mothership said. The
    /// entry stays when the caller stops waiting; the task goes on delivering it.
    ///
    /// # Errors
    /// The report could not be made durable; it was not sent.
    pub async fn deliver(&self, calls: &DirectiveCalls, report: Report) -> Result<Delivered, OutboxError> {
        let kept = self.keep(calls, report).await?;
        Ok(self.send(calls, kept).await)
    }

    /// Makes `report` durable: the first half of [`Outbox::deliver`]. What comes back is what is to be sent, perhaps less than
    /// was given.
    ///
    /// # Errors
    /// It could not be made durable; nothing of it is on disk.
    pub async fn keep(&self, calls: &DirectiveCalls, report: Report) -> Result<Report, OutboxError> {
        if self.entries() >= MAX_ENTRIES {
            return Err(OutboxError::Full { entries: self.entries() });
        }
        let entry = Entry::new(calls.id().clone(), calls.current_token(), report);
        let store = Arc::clone(&self.store);
        let written = tokio::task::spawn_blocking(move || keep(&store, entry)).await;
        written.map_err(|error| OutboxError::Interrupted(error.to_string()))?
    }

    /// Sends a report that is on disk: the second half of [`Outbox::deliver`].
    pub async fn send(&self, calls: &DirectiveCalls, report: Report) -> Delivered {
        let (reply, answer) = oneshot::channel();
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if self.queue.send(Delivery { calls: calls.clone(), report, reply: Some(reply) }).await.is_err() {
            return Delivered::Kept;
        }
        answer.await.unwrap_or(Delivered::Kept)
    }

    /// Sends a report that an earlier process left on disk.
    pub async fn deliver_again(&self, calls: &DirectiveCalls, report: Report) -> Delivered {
        tracing::info!(directive_id = %calls.id(), report = report.kind().as_str(), "sending a report of an earlier run");
        self.send(calls, report).await
    }

    /// Takes note of the lease's newest token beside the start of a directive that runs.
    pub async fn renewed(&self, calls: &DirectiveCalls, started: &StartedRequest) {
        let store = Arc::clone(&self.store);
        let (id, token) = (calls.id().clone(), calls.current_token());
        let entry = Entry { accepted: true, ..Entry::new(id, token, Report::Started(started.clone())) };
        on_disk(calls.id(), "a renewed token is not on disk", move || store.note(&entry)).await;
    }

    /// Takes off the disk what there is of a directive of which nothing more will be told: its lease is lost, or was given back.
    pub async fn forget(&self, id: &DirectiveId) {
        let (store, of) = (Arc::clone(&self.store), id.clone());
        on_disk(id, "a report that is over stays in the outbox", move || {
            store.remove(&of, ReportKind::Finished)?;
            store.remove(&of, ReportKind::Started)
        })
        .await;
    }
}

/// Makes a report durable; an end that does not fit the disk, without what makes it large. With an end the start has done
/// its service. Blocking.
fn keep(store: &Store, mut entry: Entry) -> Result<Report, OutboxError> {
    match store.put(&entry) {
        Ok(()) => {}
        Err(error) => {
            let why = format!("the whole report could not be kept: {error}");
            let lean = match &entry.report {
                Report::Finished(request) => lean::without_bulk(request, &why),
                Report::Started(_) => None,
            };
            let Some(lean) = lean else { return Err(error) };
            entry.report = Report::Finished(Box::new(lean));
            store.put(&entry).map_err(|_| error)?;
            tracing::warn!(directive_id = %entry.directive_id, why, "the end of a directive is told without its diff and lists");
        }
    }
    if entry.report.kind() == ReportKind::Finished
        && let Err(error) = store.remove(&entry.directive_id, ReportKind::Started)
    {
        tracing::warn!(directive_id = %entry.directive_id, %error, "the start of a directive that has ended stays in the outbox");
    }
    Ok(entry.report)
}

/// Does what may fail without harm to the report itself.
async fn on_disk(id: &DirectiveId, otherwise: &str, work: impl FnOnce() -> Result<(), OutboxError> + Send + 'static) {
    let failed = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(directive_id = %id, error = failed, "{otherwise}");
}

impl OutboxTask {
    /// Delivers until `cancel`; what is not delivered by then stays on disk.
    pub async fn run(mut self, cancel: CancellationToken) {
        let mut lines = Lines::default();
        loop {
            let next = tokio::select! {
                () = cancel.cancelled() => break,
                delivery = self.queue.recv() => match delivery {
                    Some(delivery) => lines.take(delivery),
                    // The last handle is gone: end when what is under way is delivered.
                    None if lines.under_way.is_empty() => break,
                    None => match lines.under_way.join_next_with_id().await {
                        Some(done) => self.settled(done, &mut lines),
                        None => None,
                    },
                },
                Some(done) = lines.under_way.join_next_with_id() => self.settled(done, &mut lines),
            };
            if let Some(delivery) = next {
                lines.begin(delivery.calls.id().clone(), deliver(Arc::clone(&self.store), delivery));
            }
        }
        lines.under_way.shutdown().await;
    }

    fn settled(&self, done: Result<(Id, ()), JoinError>, lines: &mut Lines) -> Option<Delivery> {
        self.waiting
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some(n.saturating_sub(1)))
            .unwrap_or_default();
        if let Err(error) = &done {
            tracing::error!(%error, "delivering a report broke off; it stays in the outbox");
        }
        lines.settled(done.map_or_else(|error| error.id(), |(task, ())| task))
    }
}

/// Who is under way, and who waits behind whom: reports of one directive go one after the other, for `finished` must not
/// overtake `started`.
#[derive(Debug, Default)]
struct Lines {
    under_way: JoinSet<()>,
    /// Also of one that broke off: whoever waits behind it goes on.
    whose: HashMap<Id, DirectiveId>,
    behind: BTreeMap<DirectiveId, VecDeque<Delivery>>,
}

impl Lines {
    /// A delivery that may begin now, or none: it waits for another of its directive.
    fn take(&mut self, delivery: Delivery) -> Option<Delivery> {
        match self.behind.get_mut(delivery.calls.id()) {
            Some(line) => {
                line.push_back(delivery);
                None
            }
            None => Some(delivery),
        }
    }

    fn begin(&mut self, id: DirectiveId, delivering: impl Future<Output = ()> + Send + 'static) {
        let task = self.under_way.spawn(delivering).id();
        self.behind.entry(id.clone()).or_default();
        self.whose.insert(task, id);
    }

    /// The next of the directive whose delivery is over, however it ended.
    fn settled(&mut self, task: Id) -> Option<Delivery> {
        let id = self.whose.remove(&task)?;
        let next = self.behind.get_mut(&id).and_then(VecDeque::pop_front);
        if next.is_none() {
            self.behind.remove(&id);
        }
        next
    }
}

/// Sends the end; where it is refused for its size, once more without what makes it large.
async fn finish(
    store: &Arc<Store>,
    calls: &DirectiveCalls,
    request: &FinishedRequest,
) -> Result<FinishedAnswer, CallError> {
    let send = |request| calls.mothership().with_retry(Deadline::Never, move || calls.finished(request));
    let refusal = match send(request).await {
        Err(refusal) => refusal,
        accepted => return accepted,
    };
    let Some(lean) = lean::lean(request, &refusal) else { return Err(refusal) };
    tracing::warn!(directive_id = %calls.id(), %refusal, "the end of a directive was refused: sent again without its diff and lists");
    let report = Report::Finished(Box::new(lean.clone()));
    let entry = Entry::new(calls.id().clone(), calls.current_token(), report);
    let store = Arc::clone(store);
    // In the place of the larger one. Where the disk takes it no more, the larger one is what the next start begins with.
    match tokio::task::spawn_blocking(move || store.replace(&entry)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(directive_id = %calls.id(), %error, "the smaller report is not on disk"),
        Err(error) => tracing::warn!(directive_id = %calls.id(), %error, "the smaller report is not on disk"),
    }
    send(&lean).await
}

/// Sends one report until it is settled. A start that was accepted stays on disk, and says so before anybody is told.
async fn deliver(store: Arc<Store>, delivery: Delivery) {
    let Delivery { calls, report, reply } = delivery;
    let outcome = match &report {
        Report::Started(request) => {
            let answer = calls.mothership().with_retry(Deadline::Never, || calls.started(request)).await;
            answer.map(Delivered::Started)
        }
        Report::Finished(request) => finish(&store, &calls, request).await.map(Delivered::Finished),
    };
    let delivered = outcome.unwrap_or_else(|error| {
        tracing::error!(
            directive_id = %calls.id(),
            report = report.kind().as_str(),
            %error,
            "the mothership refused a report for good"
        );
        Delivered::Refused(error)
    });
    let (id, kind) = (calls.id().clone(), report.kind());
    if matches!(delivered, Delivered::Started(_)) {
        let entry = Entry { accepted: true, ..Entry::new(id.clone(), calls.current_token(), report) };
        let store = Arc::clone(&store);
        on_disk(&id, "an accepted start is not marked on disk", move || store.note(&entry)).await;
    }
    let stays = matches!(delivered, Delivered::Started(_));
    if let Some(reply) = reply
        && let Err(unheard) = reply.send(delivered)
    {
        tracing::debug!(directive_id = %calls.id(), ?unheard, "nobody waits for this report any more");
    }
    if !stays {
        let of = id.clone();
        let otherwise = "a settled report stays in the outbox and will be sent again";
        on_disk(&id, otherwise, move || {
            // Of an earlier process, perhaps. Before the end: a start that is left alone says that there was none.
            store.remove(&of, ReportKind::Started)?;
            store.remove(&of, kind)
        })
        .await;
    }
}

#[cfg(test)]
mod tests;
