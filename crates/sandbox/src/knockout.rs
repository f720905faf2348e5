//! Layers of the bwrap driver that a test may leave out, to see what each of them holds.
//!
//! Only with the feature `knockout`, which no crate enables: without it there is nothing to set, and every question is
//! answered with no.

use crate::DriverSettings;

/// A layer that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "knockout"), expect(unreachable_pub, reason = "public with the feature"))]
pub enum Knockout {
    /// The system-call filter.
    Seccomp,
    /// No user namespace within the sandbox's own.
    Userns,
    /// The synthetic `/etc`: the host's is mounted over it.
    Etc,
    /// What is masked and read-only in `/proc`.
    Proc,
    /// The network namespace.
    Net,
    /// Memory, processor and pids of the cgroup.
    Cgroup,
    /// The change to an unprivileged uid.
    Uid,
}

/// The layers that are left out.
#[derive(Clone, Debug, Default)]
pub(crate) struct Knockouts {
    #[cfg(feature = "knockout")]
    layers: Vec<Knockout>,
}

#[cfg(feature = "knockout")]
impl Knockouts {
    pub(crate) fn of(settings: &DriverSettings) -> Self {
        Self { layers: settings.knockouts.clone() }
    }

    /// Whether this layer is left out.
    pub(crate) fn has(&self, layer: Knockout) -> bool {
        self.layers.contains(&layer)
    }
}

#[cfg(not(feature = "knockout"))]
impl Knockouts {
    pub(crate) fn of(_: &DriverSettings) -> Self {
        Self {}
    }

    /// Whether this layer is left out: never.
    #[expect(clippy::unused_self, reason = "with the feature it is asked")]
    pub(crate) fn has(&self, _: Knockout) -> bool {
        false
    }
}
