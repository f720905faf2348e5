//! Facilities that were deleted at the mothership: its heartbeats' answers name them, the next heartbeat says which are gone.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use conduits::FacilityId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Daemon;
use crate::facility::{FacilityError, Removal};

/// What is to be removed, and what the mothership has yet to be told.
#[derive(Debug, Default)]
pub(super) struct Removals {
    asked: watch::Sender<Vec<FacilityId>>,
    gone: Mutex<BTreeSet<FacilityId>>,
}

impl Removals {
    /// What the next heartbeat says is gone.
    pub(super) fn gone(&self) -> Vec<FacilityId> {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// What the mothership asks for now. What it asks for no longer, it has heard.
    pub(super) fn ask(&self, ids: Vec<FacilityId>) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).retain(|id| ids.contains(id));
        if !ids.is_empty() {
            self.asked.send_replace(ids);
        }
    }

    fn open(&self, ids: Vec<FacilityId>) -> Vec<FacilityId> {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        ids.into_iter().filter(|id| !gone.contains(id)).collect()
    }
}

/// Removes what is asked for, and what an earlier start left, until `stop`.
pub(super) async fn run(daemon: Arc<Daemon>, stop: CancellationToken) {
    let mut asked = daemon.removals.asked.subscribe();
    let mut refused = BTreeSet::new();
    loop {
        let (files, until) = (Arc::clone(&daemon), stop.clone());
        match tokio::task::spawn_blocking(move || files.engine.facilities.empty_removed(&until)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "deleted facilities are not removed whole"),
            Err(error) => warn!(%error, "removing deleted facilities ended badly"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = asked.changed() => if changed.is_err() { return },
        }
        let ids = asked.borrow_and_update().clone();
        for id in daemon.removals.open(ids) {
            let (wanted, facility) = (Arc::clone(&daemon), id.clone());
            let removed = tokio::task::spawn_blocking(move || wanted.engine.facilities.remove(&facility)).await;
            match removed {
                Ok(Ok(Removal::Gone)) => {
                    info!(facility = %id, "a facility that was deleted at the mothership is gone from here");
                    daemon.removals.gone.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
                }
                Ok(Ok(Removal::Busy)) => debug!(facility = %id, "a deleted facility is in use; removed later"),
                Ok(Err(error)) => refuse(&mut refused, id, &error),
                Err(error) => warn!(facility = %id, %error, "removing a deleted facility ended badly"),
            }
        }
    }
}

/// Says it once: the mothership asks again with each heartbeat.
fn refuse(refused: &mut BTreeSet<FacilityId>, id: FacilityId, error: &FacilityError) {
    if refused.insert(id) {
        warn!(%error, "a deleted facility cannot be removed");
    }
}
