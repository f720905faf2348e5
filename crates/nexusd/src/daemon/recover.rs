//! After a restart: what an earlier process left on disk is sent before anything new begins.
//!
//! Reports in the outbox go out again; output in spools is shipped with the token that its report carries. Output of
//! a directive without a report belongs to one that was running when the process died: the mothership learns from the
//! first territory heartbeat (a new instance that does not list it) that it is lost.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::Daemon;
use crate::directive::SHIP_WITHIN;
use crate::logs::{self, LogSettings, Logs};
use crate::outbox::Entry;

/// Sends what was left, in the background; returns once everything is under way.
pub(super) async fn recover(daemon: &Arc<Daemon>, reports: Vec<Entry>, set_aside: Vec<PathBuf>) {
    for path in set_aside {
        error!(path = %path.display(), "a damaged report was set aside and is not sent");
    }
    let spool_root = daemon.engine.config.state_dir().join("spool");
    let found = tokio::task::spawn_blocking({
        let spool_root = spool_root.clone();
        move || logs::recover(&spool_root)
    });
    let leftovers = match found.await {
        Ok(Ok(leftovers)) => leftovers,
        Ok(Err(error)) => {
            error!(spool = %spool_root.display(), %error, "the spool cannot be read: output of earlier runs stays there");
            Vec::new()
        }
        Err(error) => {
            error!(%error, "the spool could not be looked at");
            Vec::new()
        }
    };
    let tokens: BTreeMap<_, _> =
        reports.iter().map(|entry| (entry.directive_id.clone(), entry.token.clone())).collect();
    for leftover in leftovers {
        let id = leftover.directive_id.clone();
        let Some(token) = tokens.get(&id) else {
            warn!(directive = %id, bytes = leftover.bytes(), "output of a run that was cut off cannot be shipped without its lease: dropped");
            if let Err(error) = leftover.discard() {
                warn!(directive = %id, %error, "its spool stays behind");
            }
            continue;
        };
        info!(directive = %id, bytes = leftover.bytes(), "shipping output of an earlier run");
        let calls = daemon.mothership.directive(id.clone(), token.clone());
        let config = &daemon.engine.config;
        let settings = LogSettings {
            max_output_bytes: config.log.max_output_bytes,
            chunk_bytes: config.log.chunk_bytes,
            flush_interval: config.log.flush_interval,
            spool_root: spool_root.clone(),
            overflow: None,
            secrets: Vec::new(),
            counters: Arc::clone(&daemon.counters),
        };
        match Logs::recovered(leftover, calls, settings, &daemon.engine.tasks, daemon.give_up.clone()) {
            Ok(log) => {
                daemon.engine.tasks.spawn(async move {
                    log.shipped(SHIP_WITHIN).await;
                });
            }
            Err(error) => warn!(directive = %id, %error, "output of an earlier run cannot be shipped"),
        }
    }
    daemon.outbox.replay(&daemon.mothership, reports).await;
}
