//! What is tried, and what each profile promises of it. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;

use conduits::SandboxProfile;

use crate::config::ContainerNetwork;

/// A promise of the sandbox's, and a row of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    HostFiles,
    HostProcesses,
    HostSockets,
    KernelSettings,
    Namespaces,
    Loopback,
    DirectNetwork,
    Metadata,
    ThroughProxy,
    Survivors,
    Memory,
    Processes,
}

impl Class {
    pub(super) const ALL: [Self; 12] = [
        Self::HostFiles,
        Self::HostProcesses,
        Self::HostSockets,
        Self::KernelSettings,
        Self::Namespaces,
        Self::Loopback,
        Self::DirectNetwork,
        Self::Metadata,
        Self::ThroughProxy,
        Self::Survivors,
        Self::Memory,
        Self::Processes,
    ];

    /// Whether it is one of those that a single run tries, one after the other.
    pub(super) const fn is_attempt(self) -> bool {
        !matches!(self, Self::Survivors | Self::Memory | Self::Processes)
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::HostFiles => "host files",
            Self::HostProcesses => "host processes",
            Self::HostSockets => "host sockets",
            Self::KernelSettings => "kernel settings",
            Self::Namespaces => "nested namespaces",
            Self::Loopback => "host loopback",
            Self::DirectNetwork => "direct network",
            Self::Metadata => "metadata address",
            Self::ThroughProxy => "through the proxy",
            Self::Survivors => "survivors",
            Self::Memory => "memory limit",
            Self::Processes => "process limit",
        }
    }
}

/// What a profile says of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
    /// It holds, or it is a leak.
    Held,
    /// A setting of the operator's or the engine's leaves it open.
    LeftOpen(&'static str),
    /// The profile never said so.
    None,
}

const ENGINES_FILTER: &str = "the container engine's own system-call filter allows them";
const SHARED_NETWORK: &str = "container.network: host shares the host's network; isolated does not";

/// What the profile promises; `network` is that of containers.
pub(super) const fn promise(profile: SandboxProfile, network: ContainerNetwork, class: Class) -> Promise {
    match (profile, class) {
        (_, Class::Survivors | Class::Memory | Class::Processes)
            if !matches!(profile, SandboxProfile::DarwinAutomation) =>
        {
            Promise::Held
        }
        (SandboxProfile::Host | SandboxProfile::DarwinAutomation, _) => Promise::None,
        (
            SandboxProfile::Trusted,
            Class::Loopback | Class::DirectNetwork | Class::Metadata | Class::ThroughProxy | Class::HostSockets,
        ) if matches!(network, ContainerNetwork::Host) => Promise::LeftOpen(SHARED_NETWORK),
        (SandboxProfile::Trusted, Class::Namespaces) => Promise::LeftOpen(ENGINES_FILTER),
        _ => Promise::Held,
    }
}

/// What there is on this host to be reached.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// A file of nexusd's own that everybody on this host may read and write.
    pub(super) canary: PathBuf,
    /// One that nexusd's user alone may.
    pub(super) secret: PathBuf,
    /// Secrets that this host really has.
    pub(super) files: Vec<PathBuf>,
    /// Unix sockets that this host really has: engines, session buses.
    pub(super) sockets: Vec<PathBuf>,
    /// Name of an abstract Unix socket of nexusd's own.
    pub(super) abstract_socket: String,
    /// A process of nexusd's own, which may be ended.
    pub(super) victim: u32,
    /// Listeners of nexusd's own on loopback.
    pub(super) loopback: Vec<SocketAddr>,
    /// Listeners of nexusd's own on the host's other addresses.
    pub(super) outer: Vec<SocketAddr>,
    /// Whether a sandbox has a proxy here.
    pub(super) proxy: bool,
}

/// How the control is tried, which must succeed where there is no sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    /// The very same.
    Same,
    /// Through a proxy that refuses nothing.
    OpenProxy,
    /// Not at all: it would reach for what is not ours.
    None,
}

/// What tells, beside the program inside, that something was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Witness {
    Nobody,
    /// The listener at that address, which counts who comes.
    Listener(SocketAddr),
    /// The abstract socket, likewise.
    AbstractSocket,
    /// The process, which is gone then.
    Victim,
}

/// One thing that is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) class: Class,
    /// For people.
    pub(super) what: String,
    /// What the helper is asked: `guest`'s `probe`.
    pub(super) words: Vec<String>,
    pub(super) control: Control,
    pub(super) witness: Witness,
}

impl Probe {
    fn new(class: Class, what: impl Into<String>, words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { class, what: what.into(), words, control: Control::Same, witness: Witness::Nobody }
    }

    fn seen_by(self, witness: Witness) -> Self {
        Self { witness, ..self }
    }

    fn controlled_by(self, control: Control) -> Self {
        Self { control, ..self }
    }
}

/// Settings of the kernel that would give the whole host away (core(5), proc_sysrq-trigger(5)).
const SETTINGS: [&str; 3] = ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger"];

/// Where clouds answer with credentials.
const METADATA: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];

/// All that one run tries, in this order. What could end the program itself comes last.
pub(super) fn probes(places: &Places) -> Vec<Probe> {
    let mut probes = Vec::new();
    let mut add = |probe| probes.push(probe);
    let secret = places.secret.display().to_string();
    let canary = places.canary.display().to_string();
    add(Probe::new(Class::HostFiles, "a file of nexusd's user", &["read", &secret]));
    add(Probe::new(Class::HostFiles, "a file in the host's temporary folder", &["read", &canary]));
    add(Probe::new(Class::HostFiles, "writing to that file", &["write", &canary]));
    for path in &places.files {
        let path = path.display().to_string();
        add(Probe::new(Class::HostFiles, path.clone(), &["read", &path]));
    }
    let name = format!("@{}", places.abstract_socket);
    let unix = Probe::new(Class::HostSockets, "an abstract Unix socket of the host", &["unix", &name]);
    add(unix.seen_by(Witness::AbstractSocket));
    for path in &places.sockets {
        let path = path.display().to_string();
        add(Probe::new(Class::HostSockets, path.clone(), &["unix", &path]));
    }
    for path in SETTINGS {
        add(Probe::new(Class::KernelSettings, format!("writing to {path}"), &["write", path]));
    }
    for kind in ["user", "mount"] {
        add(Probe::new(Class::Namespaces, format!("a {kind} namespace"), &["namespace", kind]));
    }
    for (class, listeners) in [(Class::Loopback, &places.loopback), (Class::DirectNetwork, &places.outer)] {
        for address in listeners {
            let (ip, port) = (address.ip().to_string(), address.port().to_string());
            let probe = Probe::new(class, address.to_string(), &["connect", &ip, &port]);
            add(probe.seen_by(Witness::Listener(*address)));
        }
    }
    for address in METADATA {
        add(Probe::new(Class::Metadata, address, &["connect", address, "80"]).controlled_by(Control::None));
    }
    if places.proxy {
        let ask = |class, what: String, host: &str, port: u16, witness| {
            let probe = Probe::new(class, what, &["ask", host, &port.to_string()]);
            probe.controlled_by(Control::OpenProxy).seen_by(witness)
        };
        add(ask(Class::Metadata, format!("{} by the proxy", METADATA[0]), METADATA[0], 80, Witness::Nobody));
        for address in places.loopback.iter().chain(&places.outer) {
            let host = if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() };
            let witness = Witness::Listener(*address);
            add(ask(Class::ThroughProxy, format!("{address} by the proxy"), &host, address.port(), witness));
            if address.ip().is_loopback() {
                let witness = Witness::Listener(*address);
                let what = format!("localhost:{} by the proxy", address.port());
                add(ask(Class::ThroughProxy, what, "localhost", address.port(), witness));
            }
        }
        let unlisted = "a name that is not on the list, by the proxy".to_owned();
        add(ask(Class::ThroughProxy, unlisted, "unlisted.invalid", 443, Witness::Nobody));
    }
    let victim = Probe::new(Class::HostProcesses, "a process of nexusd's own", &["signal", &places.victim.to_string()]);
    add(victim.seen_by(Witness::Victim));
    probes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_profile_promises() {
        use ContainerNetwork::{Host as Shared, Isolated};
        use SandboxProfile::{DarwinAutomation, Host, Trusted, Untrusted};
        let all = |profile, network| Class::ALL.map(|class| promise(profile, network, class));
        assert_eq!(all(Untrusted, Shared), [Promise::Held; 12], "the network of containers is none of its business");
        let left_open = |profile, network| {
            let open = |class: &Class| matches!(promise(profile, network, *class), Promise::LeftOpen(_));
            Class::ALL.into_iter().filter(open).collect::<Vec<_>>()
        };
        assert_eq!(left_open(Trusted, Isolated), [Class::Namespaces]);
        assert_eq!(
            left_open(Trusted, Shared),
            [
                Class::HostSockets,
                Class::Namespaces,
                Class::Loopback,
                Class::DirectNetwork,
                Class::Metadata,
                Class::ThroughProxy
            ]
        );
        let held = |profile| {
            let held = |class: &Class| promise(profile, Isolated, *class) == Promise::Held;
            Class::ALL.into_iter().filter(held).collect::<Vec<_>>()
        };
        assert_eq!(held(Host), [Class::Survivors, Class::Memory, Class::Processes]);
        assert_eq!(held(DarwinAutomation), []);
    }

    #[test]
    fn each_class_is_tried() {
        let address = |text: &str| vec![text.parse().unwrap()];
        let places = Places {
            files: vec!["/etc/shadow".into()],
            sockets: vec!["/run/docker.sock".into()],
            abstract_socket: "a".to_owned(),
            victim: 7,
            loopback: address("[::1]:7"),
            outer: address("192.0.2.7:7"),
            proxy: true,
            ..Places::default()
        };
        let all = probes(&places);
        for class in Class::ALL.into_iter().filter(|class| class.is_attempt()) {
            assert!(all.iter().any(|probe| probe.class == class), "{class:?}");
        }
        assert!(all.iter().any(|probe| probe.words == ["ask", "[::1]", "7"]), "{all:?}");
        assert_eq!(all.last().unwrap().words, ["signal", "7"], "what could end the run comes last");
        let without = probes(&Places { proxy: false, ..places });
        assert!(without.iter().all(|probe| probe.words[0] != "ask"));
    }
}
