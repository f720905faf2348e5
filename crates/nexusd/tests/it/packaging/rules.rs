//! What the daemon's unit must not say, and what it must: data, one entry a setting, with what breaks otherwise.
//!
//! What breaks was seen, not guessed, where the entry does not speak of something to come: each setting alone, with systemd
//! 252 and 254 on Linux 6.1 in a virtual machine, as an ordinary user and as root. Sandboxes inherit everything here, so
//! what counts is what commands in them can no longer do.

/// What a setting must be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// Absent, or switched off.
    Off,
    /// Absent.
    Absent,
    /// None of its paths is beneath this one.
    NotWithin(&'static str),
    /// Absent, or not below zero.
    NotNegative,
    /// There, with this value.
    Exactly(&'static str),
    /// Absent, or with all of these words.
    Words(&'static [&'static str]),
    /// Absent, or a list of what is taken away, with none but these words.
    TakesAwayOnly(&'static [&'static str]),
}

/// One rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule {
    pub(super) setting: &'static str,
    pub(super) wanted: Wanted,
    /// What breaks otherwise.
    pub(super) why: &'static str,
}

use Wanted::{Absent, Exactly, NotNegative, NotWithin, Off, TakesAwayOnly, Words};

const fn rule(setting: &'static str, wanted: Wanted, why: &'static str) -> Rule {
    Rule { setting, wanted, why }
}

/// Hardening that suits other services.
pub(super) const FORBIDDEN: &[Rule] = &[
    rule(
        "MemoryDenyWriteExecute",
        Off,
        "just-in-time compilers in sandboxes get EPERM: Java, Node, .NET, PCRE, LuaJIT",
    ),
    rule("RestrictNamespaces", Off, "bubblewrap cannot make the sandbox: 'No permissions to create new namespace'"),
    rule("ProtectControlGroups", Off, "the cgroup tree is read-only: no limit of a directive can be enforced"),
    rule(
        "ProtectKernelTunables",
        Off,
        "bubblewrap cannot open /proc/sys/user/max_user_namespaces, by which it forbids further namespaces inside",
    ),
    rule("ProcSubset", Absent, "the daemon reads /proc/meminfo, bubblewrap /proc/sys"),
    rule(
        "ProtectKernelLogs",
        Off,
        "it covers /proc/kmsg: no user namespace may mount a /proc then (with systemd 254; 252 leaves another beneath)",
    ),
    rule("ProtectHostname", Off, "bubblewrap cannot set the sandbox's hostname"),
    rule("RestrictSUIDSGID", Off, "openat2 answers ENOSYS: the daemon opens every path of a facility with it"),
    rule("DynamicUser", Off, "it implies RestrictSUIDSGID, and facilities must keep their owner"),
    rule(
        "LockPersonality",
        Off,
        "debuggers in sandboxes cannot switch address randomisation off, nor can ThreadSanitizer",
    ),
    rule(
        "SystemCallFilter",
        TakesAwayOnly(&["@clock", "@module", "@obsolete", "@raw-io", "@reboot", "@swap"]),
        "sandboxes inherit it, and tools use an open-ended set of calls: what may be taken away is what the sandboxes' own \
         filter takes away too, and what the kernel refuses to any ordinary user",
    ),
    rule("PrivateNetwork", Off, "no mothership, and no way out for the egress proxy"),
    rule("PrivateUsers", Off, "a root daemon can neither mount nor become the sandboxes' user"),
    rule("PrivateDevices", Off, "no /dev/kvm for microVMs, no /dev/fuse and /dev/net/tun for containers"),
    rule("DevicePolicy", Absent, "no /dev/kvm for microVMs, no /dev/fuse and /dev/net/tun for containers"),
    rule("ProtectClock", Off, "it implies a device policy without /dev/kvm"),
    rule(
        "InaccessiblePaths",
        NotWithin("/proc"),
        "a user namespace may not mount a /proc where a part of it is covered",
    ),
    rule(
        "ReadOnlyPaths",
        NotWithin("/proc"),
        "bubblewrap writes /proc/sys/user/max_user_namespaces of its own namespace",
    ),
    rule(
        "OOMScoreAdjust",
        NotNegative,
        "sandboxes inherit the value as the least that they may set for themselves: other services would be killed first",
    ),
];

/// What the daemon leans on.
pub(super) const REQUIRED: &[Rule] = &[
    rule("Type", Exactly("notify"), "the service is up once the mothership was told, not once the program is loaded"),
    rule("WatchdogSec", Exactly("60s"), "a daemon that hangs holds leases that nobody works on"),
    rule("Delegate", Exactly("yes"), "without a cgroup subtree of its own the daemon can enforce no limit"),
    rule("OOMPolicy", Exactly("continue"), "one directive out of memory would stop the daemon and with it all others"),
    rule(
        "KillMode",
        Exactly("mixed"),
        "SIGTERM to everything would end directives before the daemon can let them finish",
    ),
    rule(
        "TasksMax",
        Exactly("infinity"),
        "all directives together would share one limit far below the sum of their own",
    ),
    rule(
        "RestrictAddressFamilies",
        Words(&["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]),
        "bubblewrap brings loopback up by netlink (Firecracker's vsock ends in a Unix socket on this side)",
    ),
    rule("StateDirectoryMode", Exactly("0700"), "facilities and the daemon's spool are nobody else's"),
    rule("LimitCORE", Exactly("0"), "a core dump would hold the private key"),
    rule("RestartPreventExitStatus", Exactly("2"), "a wrong configuration does not become right by starting again"),
];
