//! Which facilities have had their time (`retention.*`): those that nothing used for long, and the least recently used of
//! those that take more than all may together.
//!
//! When one was last used is the time of its lock file, which whoever held it touches. What is decided is pure; removing is
//! [`Facilities::remove`], which takes none that a directive has.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, SystemTime};

use conduits::FacilityId;
use sys::usage::{self, UsageError};

use super::Facilities;
use crate::config::RetentionSettings;

/// Why a facility goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nothing used it for `retention.facility_ttl`.
    Unused,
    /// All together took more than `retention.max_total_bytes`.
    TooMuch,
}

/// One facility, as far as retention goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    id: FacilityId,
    last_used: SystemTime,
    /// What it takes of the disk, in bytes; 0 where that is not looked at, or cannot be told.
    bytes: u64,
}

/// Has those removed that have had their time, the least recently used first; `remove` says whether one is gone, for one
/// that is in use makes no room, and the next has to. One whose last use lies in the future, by a clock that was set back,
/// stays.
pub fn sweep(
    mut all: Vec<Kept>,
    now: SystemTime,
    settings: &RetentionSettings,
    mut remove: impl FnMut(&FacilityId, Why) -> bool,
) {
    all.sort_by(|a, b| (a.last_used, &a.id).cmp(&(b.last_used, &b.id)));
    let mut total: u64 = all.iter().fold(0, |sum, kept| sum.saturating_add(kept.bytes));
    let unused = |kept: &Kept| {
        let since = now.duration_since(kept.last_used).unwrap_or(Duration::ZERO);
        settings.facility_ttl.is_some_and(|ttl| since >= ttl)
    };
    for kept in all {
        let why = if unused(&kept) {
            Why::Unused
        } else if kept.bytes > 0 && settings.max_total_bytes.is_some_and(|most| total > most) {
            Why::TooMuch
        } else {
            continue;
        };
        if remove(&kept.id, why) {
            total = total.saturating_sub(kept.bytes);
        }
    }
}

impl Facilities {
    /// All that are here. Blocks: where bytes count, every facility is walked through.
    ///
    /// # Errors
    /// The daemon's own folders cannot be read.
    pub fn kept(&self, settings: &RetentionSettings) -> io::Result<Vec<Kept>> {
        let state = self.work_dir.join(".nexus");
        let marks = match std::fs::read_dir(state.join("trust")) {
            Ok(marks) => marks,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for mark in marks {
            let Some(id) = mark?.file_name().to_str().and_then(|name| name.parse::<FacilityId>().ok()) else {
                continue;
            };
            // Without a lock file nobody ever held it, or it is being removed.
            let Ok(lock) = std::fs::symlink_metadata(state.join("locks").join(id.as_str())) else { continue };
            let bytes = if settings.max_total_bytes.is_some() { self.bytes_of(&id) } else { 0 };
            all.push(Kept { id, last_used: lock.modified()?, bytes });
        }
        Ok(all)
    }

    fn bytes_of(&self, id: &FacilityId) -> u64 {
        use rustix::fs::{CWD, Mode, OFlags, openat};
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = openat(CWD, self.work_dir.join(id.as_str()), flags, Mode::empty());
        let measured = folder.map_err(|errno| UsageError::Io(errno.into()));
        match measured.and_then(|folder| usage::beneath(folder.as_fd())) {
            Ok(usage) => usage.bytes,
            Err(UsageError::Io(error)) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => {
                tracing::warn!(facility = %id, %error, "does not count for retention.max_total_bytes");
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// What goes at second 1000, where one is in use.
    fn swept(all: Vec<Kept>, settings: &RetentionSettings, in_use: &str) -> Vec<(&'static str, Why)> {
        let names = ["a", "b", "c", "d", "e"];
        let mut gone = Vec::new();
        sweep(all, at(1000), settings, |id, why| {
            let goes = id.as_str() != in_use;
            gone.extend(names.into_iter().find(|name| goes && *name == id.as_str()).map(|name| (name, why)));
            goes
        });
        gone
    }

    #[test]
    fn the_longest_unused_go_until_the_rest_fits() {
        // id, last used at second, bytes; it is second 1000.
        let all = [("a", 100, 50), ("b", 900, 60), ("c", 500, 30), ("d", 1100, 40), ("e", 500, 0)];
        type Case<'a> = (Option<u64>, Option<u64>, &'a [(&'a str, Why)]);
        let cases: &[Case<'_>] = &[
            (None, None, &[]),
            (Some(900), None, &[("a", Why::Unused)]),
            (Some(901), None, &[]),
            (Some(500), None, &[("a", Why::Unused), ("c", Why::Unused), ("e", Why::Unused)]),
            // 180 bytes in all.
            (None, Some(180), &[]),
            (None, Some(179), &[("a", Why::TooMuch)]),
            (None, Some(130), &[("a", Why::TooMuch)]),
            // What takes nothing is no help.
            (None, Some(99), &[("a", Why::TooMuch), ("c", Why::TooMuch), ("b", Why::TooMuch)]),
            // What goes by its time makes room first.
            (Some(900), Some(130), &[("a", Why::Unused)]),
            (Some(900), Some(129), &[("a", Why::Unused), ("c", Why::TooMuch)]),
            // A last use in the future is none long ago.
            (
                Some(1),
                Some(1),
                &[("a", Why::Unused), ("c", Why::Unused), ("e", Why::Unused), ("b", Why::Unused), ("d", Why::TooMuch)],
            ),
        ];
        for (ttl, most, expected) in cases {
            let settings = RetentionSettings { facility_ttl: ttl.map(Duration::from_secs), max_total_bytes: *most };
            let kept =
                all.map(|(id, last_used, bytes)| Kept { id: id.parse().unwrap(), last_used: at(last_used), bytes });
            assert_eq!(swept(kept.to_vec(), &settings, "none"), *expected, "{ttl:?} {most:?}");
        }
        // What is in use takes room, and makes none.
        let settings = RetentionSettings { facility_ttl: None, max_total_bytes: Some(130) };
        let kept = all.map(|(id, last_used, bytes)| Kept { id: id.parse().unwrap(), last_used: at(last_used), bytes });
        let gone = swept(kept.to_vec(), &settings, "a");
        assert_eq!(
            gone,
            [("c", Why::TooMuch), ("b", Why::TooMuch)],
            "30 and 60, for the 50 of the longest unused stay"
        );
    }
}
