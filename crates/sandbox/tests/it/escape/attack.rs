//! What an attack is: data.

use sandbox::Limits;

use super::scene::Scene;

/// What holds an attack. Those that can be left out come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Layer {
    /// The system-call filter.
    Seccomp,
    /// No user namespace within the sandbox's own.
    Userns,
    /// A synthetic `/etc` instead of the host's.
    Etc,
    /// What is masked and read-only in `/proc`.
    Proc,
    /// A network namespace of its own.
    Net,
    /// The limits of a cgroup.
    Cgroup,
    /// Another uid of the host than a root daemon's.
    Uid,
    /// Only what is named is mounted: read-only, without devices and setuid bits.
    Mounts,
    /// A PID namespace of its own, whose first process ends with the run.
    Pids,
    /// Landlock's rules, where the kernel has it: under them, nothing is mounted.
    Landlock,
    /// No capabilities.
    Capabilities,
    /// no-new-privs.
    NoNewPrivs,
    /// No memory of the helper, and no descriptor of the daemon, is in reach.
    Helper,
    /// Resource limits.
    Rlimits,
    /// Memory file systems have a size.
    Sizes,
    /// A session without a terminal.
    Session,
    /// The daemon opens what is in a facility beneath it, without following links out.
    Beneath,
    /// What ends a run ends it in time: SIGTERM, then SIGKILL to the whole namespace.
    Ladder,
}

impl Layer {
    /// Those that `KNOCKOUT=` takes.
    pub(crate) const KNOCKABLE: [Self; 7] =
        [Self::Seccomp, Self::Userns, Self::Etc, Self::Proc, Self::Net, Self::Cgroup, Self::Uid];

    /// What leaves it out, where something can.
    #[cfg(feature = "knockout")]
    pub(crate) fn knockout(self) -> Option<sandbox::Knockout> {
        Some(match self {
            Self::Seccomp => sandbox::Knockout::Seccomp,
            Self::Userns => sandbox::Knockout::Userns,
            Self::Etc => sandbox::Knockout::Etc,
            Self::Proc => sandbox::Knockout::Proc,
            Self::Net => sandbox::Knockout::Net,
            Self::Cgroup => sandbox::Knockout::Cgroup,
            Self::Uid => sandbox::Knockout::Uid,
            _ => return None,
        })
    }

    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::Userns => "userns",
            Self::Etc => "etc",
            Self::Proc => "proc",
            Self::Net => "net",
            Self::Cgroup => "cgroup",
            Self::Uid => "uid",
            Self::Mounts => "mounts",
            Self::Pids => "pidns",
            Self::Landlock => "landlock",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivs => "no-new-privs",
            Self::Helper => "helper",
            Self::Rlimits => "rlimits",
            Self::Sizes => "tmpfs sizes",
            Self::Session => "session",
            Self::Beneath => "beneath",
            Self::Ladder => "kill ladder",
        }
    }
}

/// What an attack is after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Secrets,
    Writing,
    Links,
    Devices,
    Mounts,
    Namespaces,
    Tracing,
    Signals,
    Settings,
    Keyrings,
    Kernel,
    Doors,
    Filters,
    Sockets,
    Local,
    Terminals,
    Setuid,
    Network,
    Loopback,
    Resources,
    Survivors,
}

impl Family {
    /// Its heading in the report.
    pub(crate) fn heading(self) -> &'static str {
        match self {
            Self::Secrets => "Reading the host's secrets",
            Self::Writing => "Writing outside",
            Self::Links => "Links planted in the facility",
            Self::Devices => "Devices",
            Self::Mounts => "Mounts and remounts",
            Self::Namespaces => "Nested namespaces",
            Self::Tracing => "Memory and descriptors of other processes",
            Self::Signals => "Signals to outside",
            Self::Settings => "Settings in `/proc` and `/sys`",
            Self::Keyrings => "Keyrings",
            Self::Kernel => "Deep parts of the kernel",
            Self::Doors => "Other doors for system calls",
            Self::Filters => "Filters of its own",
            Self::Sockets => "Families of sockets",
            Self::Local => "Unix sockets of the host",
            Self::Terminals => "Terminals",
            Self::Setuid => "Setuid programs",
            Self::Network => "The network, past the proxy",
            Self::Loopback => "Services on the host's loopback",
            Self::Resources => "Using up the host",
            Self::Survivors => "Outliving the run",
        }
    }

    /// Whether its attacks want a network outside of the sandbox.
    pub(crate) fn wants_network(self) -> bool {
        matches!(self, Self::Network | Self::Loopback)
    }
}

/// One attack.
pub(crate) struct Attack {
    /// The test's name.
    pub(crate) name: &'static str,
    pub(crate) family: Family,
    /// What it does, in a few words.
    pub(crate) what: &'static str,
    /// What holds it where the root is the host's `/usr` and the daemon is root: each of them alone would.
    pub(crate) held_by: &'static [Layer],
    /// What is different beneath a daemon of an ordinary user, who has no usable cgroups.
    pub(crate) user: ForUser,
    pub(crate) act: Act,
}

/// What an ordinary user's daemon, without usable cgroups, has against an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForUser {
    /// The same.
    Same,
    /// Something else, which holds it too.
    Otherwise(&'static str),
    /// Nothing, and why: it is not promised.
    Nothing(&'static str),
}

/// How it is made.
pub(crate) enum Act {
    /// By the attack program.
    Probe(Probe),
    /// By the test itself, with its control.
    Own(fn(&Scene) -> Verdict),
}

/// One call of the attack program.
pub(crate) struct Probe {
    /// The attack's name and arguments; `{…}` is filled in by the scene.
    pub(crate) words: &'static [&'static str],
    pub(crate) control: Control,
    /// Whether the effect is there, seen from outside.
    pub(crate) seen: Option<fn(&Scene) -> bool>,
    pub(crate) limits: fn() -> Limits,
}

/// Where the same code gets what it wants.
pub(crate) enum Control {
    /// Outside, as the daemon's user.
    Daemon,
    /// Outside, as the sandbox's user.
    User,
    /// Outside, as root: where the scene has it.
    Root,
    /// Outside, as root and at something else: where the scene has it.
    RootAt(&'static [&'static str]),
    /// Inside the sandbox, at something that it may do.
    Inside(&'static [&'static str]),
}

/// What came of an attack, and how that shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Held(String),
    Broken(String),
    /// The kernel has nothing of the kind.
    Absent(String),
}

impl Verdict {
    pub(crate) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken(_))
    }
}

/// A probe with nothing to see outside and no limits.
pub(crate) const fn probe(words: &'static [&'static str], control: Control) -> Probe {
    Probe { words, control, seen: None, limits: Limits::default }
}

impl Probe {
    /// With an effect to look for outside.
    pub(crate) const fn seen(self, seen: fn(&Scene) -> bool) -> Self {
        Self { seen: Some(seen), ..self }
    }

    pub(crate) const fn limits(self, limits: fn() -> Limits) -> Self {
        Self { limits, ..self }
    }

    pub(crate) const fn act(self) -> Act {
        Act::Probe(self)
    }
}
