//! Fetches the pinned root while the daemon is up already: other profiles work meanwhile, heartbeats and readiness say what
//! is missing, a service manager's time limit for the start does not count, and a signal ends it like everything else.
//!
//! A network that is missing is one error in the log, not a crash loop: it is tried again, less and less often.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::Daemon;
use crate::rootfs::{Progress, Wanted, ensure};

/// The pause after the first try that failed; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(2);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1800);

/// How often the log says how far it is.
const LOG_EVERY: Duration = Duration::from_secs(30);

/// Until the root is there, or `stop`, or only a person can help.
pub(super) async fn fetch(daemon: Arc<Daemon>, stop: CancellationToken) {
    let wanted = Wanted::of(&daemon.engine.config);
    info!(url = %wanted.url, cache_dir = %wanted.cache_dir.display(), "fetching the sandboxes' root; untrusted waits for it");
    let mut pause = FIRST_PAUSE;
    let mut said = String::new();
    loop {
        match attempt(&daemon, &wanted, &stop).await {
            Ok(()) => return,
            _ if stop.is_cancelled() => return,
            Err(failure) => {
                daemon.engine.root_awaited(format!("rootfs.auto: {}", failure.text)).await;
                // The same words again would say nothing new.
                if failure.text == said {
                    debug!(error = failure.text, "the sandboxes' root is still not there");
                } else {
                    let then =
                        if failure.may_pass { "it is tried again" } else { "it is not tried again before a restart" };
                    error!(
                        error = failure.text,
                        "the sandboxes' root is not there, so untrusted is not offered; {then}"
                    );
                }
                if !failure.may_pass {
                    return;
                }
                said = failure.text;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

struct Failure {
    text: String,
    may_pass: bool,
}

async fn attempt(daemon: &Daemon, wanted: &Wanted, stop: &CancellationToken) -> Result<(), Failure> {
    let (sender, receiver) = watch::channel(Progress::default());
    let (done, ()) = tokio::join!(ensure(wanted, sender, stop), follow(daemon, receiver));
    let root = done.map_err(|error| Failure { text: error.to_string(), may_pass: error.may_pass() })?;
    let place = root.display().to_string();
    // An operator's mistake about the sandboxes themselves: it would have ended the start, had the root been there.
    let taken = daemon.engine.root_arrived(root).await;
    taken.map_err(|error| Failure { text: error.to_string(), may_pass: false })?;
    info!(root = place, "the sandboxes' root is there");
    daemon.publish(daemon.engine.config.territory_heartbeat.interval);
    Ok(())
}

/// Tells the log and the driver's health how far it is, until it is over.
async fn follow(daemon: &Daemon, mut progress: watch::Receiver<Progress>) {
    let mut next_line = tokio::time::Instant::now() + LOG_EVERY;
    loop {
        let words = progress.borrow_and_update().stage.words();
        daemon.engine.root_awaited(format!("rootfs.auto: the root is not there yet: {words}")).await;
        if tokio::time::Instant::now() >= next_line {
            info!(progress = words, "the sandboxes' root is on its way");
            next_line += LOG_EVERY;
        }
        // Each second is often enough for a health check.
        let over = async {
            while progress.changed().await.is_ok() {
                progress.borrow_and_update();
            }
        };
        if tokio::time::timeout(Duration::from_secs(1), over).await.is_ok() {
            return;
        }
    }
}
