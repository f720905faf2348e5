//! `retention.*`: facilities that have had their time go.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use conduits::FacilityId;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::Daemon;
use crate::config::RetentionSettings;
use crate::facility::retention::{self, Why};
use crate::facility::{Facilities, Removal};

/// How often it is looked, at the most and at the least.
const SELDOM: Duration = Duration::from_secs(600);
const OFTEN: Duration = Duration::from_secs(1);

/// Looks at the start and from time to time, until `stop`.
pub(super) async fn run(daemon: Arc<Daemon>, stop: CancellationToken) {
    let settings = &daemon.engine.config.retention;
    let Some(every) = every(settings) else { return };
    loop {
        let (looking, until) = (Arc::clone(&daemon), stop.clone());
        if let Err(error) = tokio::task::spawn_blocking(move || remove_what_is_over(&looking, &until)).await {
            warn!(%error, "looking for facilities that have had their time ended badly");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// A sixtieth of a facility's time, so that none stays much longer.
fn every(settings: &RetentionSettings) -> Option<Duration> {
    match (settings.facility_ttl, settings.max_total_bytes) {
        (None, None) => None,
        (None, Some(_)) => Some(SELDOM),
        (Some(ttl), _) => Some((ttl / 60).clamp(OFTEN, SELDOM)),
    }
}

fn remove_what_is_over(daemon: &Daemon, stop: &CancellationToken) {
    let (facilities, settings) = (&daemon.engine.facilities, &daemon.engine.config.retention);
    let kept = match facilities.kept(settings) {
        Ok(kept) => kept,
        Err(error) => return warn!(%error, "facilities that have had their time cannot be looked for"),
    };
    let mut gone = false;
    retention::sweep(kept, SystemTime::now(), settings, |id, why| {
        let removed = !stop.is_cancelled() && remove(facilities, id, why);
        gone |= removed;
        removed
    });
    if gone && let Err(error) = facilities.empty_removed(stop) {
        warn!(%error, "facilities that have had their time are not removed whole");
    }
}

/// Whether it is gone.
fn remove(facilities: &Facilities, id: &FacilityId, why: Why) -> bool {
    let why = match why {
        Why::Unused => "retention.facility_ttl",
        Why::TooMuch => "retention.max_total_bytes",
    };
    match facilities.remove(id) {
        Ok(Removal::Gone) => {
            info!(facility = %id, why, "a facility has had its time and is removed");
            return true;
        }
        Ok(Removal::Busy) => debug!(facility = %id, why, "a facility has had its time, and is in use"),
        Err(error) => warn!(%error, why, "a facility that has had its time cannot be removed"),
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_looked_as_often_as_a_facility_s_time_asks_for() {
        let seconds = Duration::from_secs;
        let cases = [
            (None, None, None),
            (None, Some(1), Some(seconds(600))),
            (Some(seconds(60)), None, Some(seconds(1))),
            (Some(seconds(3600)), Some(1), Some(seconds(60))),
            (Some(seconds(86_400)), None, Some(seconds(600))),
        ];
        for (facility_ttl, max_total_bytes, expected) in cases {
            assert_eq!(every(&RetentionSettings { facility_ttl, max_total_bytes }), expected);
        }
    }
}
