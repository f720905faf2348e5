//! The measurements, in the order in which they disturb each other least.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use testkit::{Containers, Need};

use crate::control_plane::{SLOTS, System, between};
use crate::processes::{Files, command, plain_bwrap, plain_bwrap_command, time};

/// Directives of the throughput measurement.
pub(crate) const QUEUED: usize = 200;
/// How long the idle daemon is watched.
pub(crate) const IDLE: Duration = Duration::from_secs(10);
/// Most rounds with containers, each of which takes half a second.
const CONTAINER_ROUNDS: usize = 30;
/// Rounds that only warm up: files into the page cache, connections, the first use of everything.
const WARM_UP: usize = 5;

/// Samples of one quantity.
#[derive(Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The sample that `percent` of all are at most; zero without samples.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn median(&self) -> Duration {
        self.percentile(50)
    }
}

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Measured {
    pub(crate) rounds: usize,
    /// Plain bubblewrap, fork to exit.
    pub(crate) raw: Samples,
    /// The shell of every directive, alone: `sh -c true`, fork to exit.
    pub(crate) shell: Samples,
    /// One small write at the control plane, from the request to the answer that it is on disk.
    pub(crate) acknowledged: Samples,
    /// An untrusted `true`, leased to finished.
    pub(crate) untrusted: Samples,
    /// A host `true`, leased to finished.
    pub(crate) host: Samples,
    /// Queued to leased, both profiles.
    pub(crate) leasing: Samples,
    /// `podman run --rm`, with the network and the limits of a directive; empty without podman.
    pub(crate) podman: Samples,
    /// A trusted `true`, leased to finished; empty without podman.
    pub(crate) trusted: Samples,
    /// From the command's write to the control plane's receipt.
    pub(crate) first_byte: Samples,
    /// `nexusd run -- true`, fork to exit.
    pub(crate) one_shot: Samples,
    /// Directives a second with [`SLOTS`] at a time.
    pub(crate) rate: f64,
    /// Plain bubblewraps a second under `xargs -P`.
    pub(crate) raw_rate: f64,
    /// The daemon's resident memory before any work and after all of it, in bytes.
    pub(crate) resident: (u64, u64),
    /// The daemon's processor time while idle.
    pub(crate) idle: Duration,
}

/// Measures everything on one system.
pub(crate) async fn everything(nexusd: &Path, mothership: &Path, rounds: usize) -> Measured {
    let system = System::start(nexusd, mothership);
    let mut measured = Measured { rounds, ..Measured::default() };
    one_after_the_other(&system, nexusd, &mut measured).await;
    measured.raw_rate = raw_rate();
    measured.rate = rate(&system).await;
    measured.raw_rate = measured.raw_rate.max(raw_rate());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = system.daemon.processor_time();
    tokio::time::sleep(IDLE).await;
    measured.idle = system.daemon.processor_time().saturating_sub(before);
    measured.resident.1 = system.daemon.resident();
    drop(system);
    if Need::Podman.missing().is_none() {
        in_containers(nexusd, mothership, &mut measured).await;
    }
    measured
}

/// Containers, with a system of their own: podman takes from the machine what the others would miss.
async fn in_containers(nexusd: &Path, mothership: &Path, measured: &mut Measured) {
    let containers = Containers::of_tests();
    let keys = format!(
        "supported_sandbox_profiles: [trusted]\ncontainer: {{ image: \"{}\", network: isolated }}",
        Containers::IMAGE
    );
    let system = System::start_with(nexusd, mothership, &keys, &containers.environment());
    let facility = system.facility().await;
    let limits = ["--network=none", "--pids-limit=1024", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
    for round in 0..(WARM_UP + measured.rounds).min(CONTAINER_ROUNDS) {
        let plain = time(containers.podman().args(["run", "--rm"]).args(limits).args([Containers::IMAGE, "true"]));
        let trusted = system.run(&facility, "trusted", "true").await;
        if round >= WARM_UP {
            measured.podman.push(plain);
            measured.trusted.push(trusted.lease_to_end());
        }
    }
}

async fn one_after_the_other(system: &System, nexusd: &Path, measured: &mut Measured) {
    let (untrusted, host) = (system.facility().await, system.facility().await);
    let alone = Files::new();
    for round in 0..WARM_UP + measured.rounds {
        let raw = time(&mut plain_bwrap_command());
        let shell = time(Command::new("/bin/sh").args(["-c", "true"]));
        let asked = Instant::now();
        system.facility().await;
        let acknowledged = asked.elapsed();
        let sandboxed = system.run(&untrusted, "untrusted", "true").await;
        let on_host = system.run(&host, "host", "true").await;
        // `date` writes the moment of its write; what follows keeps the end apart from the first byte.
        let speaking = system.run(&untrusted, "untrusted", "date +%s%N; sleep 0.02").await;
        let (said, received) = system.first_output(&speaking.id).await;
        let one_shot = time(command(nexusd, &["run", "--", "true"]).current_dir(alone.home.path()));
        if round == 0 {
            measured.resident.0 = system.daemon.resident();
        }
        if round < WARM_UP {
            continue;
        }
        let written = SignedDuration::from_nanos(said.trim().parse().unwrap());
        measured.raw.push(raw);
        measured.shell.push(shell);
        measured.acknowledged.push(acknowledged);
        measured.untrusted.push(sandboxed.lease_to_end());
        measured.host.push(on_host.lease_to_end());
        measured.leasing.push(sandboxed.queue_to_lease());
        measured.leasing.push(on_host.queue_to_lease());
        measured.first_byte.push(between(Timestamp::from_duration(written).unwrap(), received));
        measured.one_shot.push(one_shot);
    }
}

/// Directives a second: all queued while the daemon is stopped, counted from the moment it goes on.
async fn rate(system: &System) -> f64 {
    let mut facilities = Vec::new();
    for _ in 0..SLOTS {
        facilities.push(system.facility().await);
    }
    system.daemon.signal(Signal::STOP);
    let mut ids = Vec::new();
    for number in 0..QUEUED {
        ids.push(system.queue(&facilities[number % SLOTS], "untrusted", "true").await);
    }
    let began = Timestamp::now();
    system.daemon.signal(Signal::CONT);
    let mut last = began;
    // The last one queued is among the last to end: few requests while the work is done.
    for id in ids.iter().rev() {
        last = last.max(system.ended(id).await.finished);
    }
    QUEUED as f64 / between(began, last).as_secs_f64()
}

/// Plain bubblewraps a second, as many at a time as the daemon has slots.
fn raw_rate() -> f64 {
    let line = format!("seq {QUEUED} | xargs -P{SLOTS} -I_ {}", plain_bwrap().join(" "));
    let began = Instant::now();
    time(Command::new("sh").args(["-c", &line]));
    QUEUED as f64 / began.elapsed().as_secs_f64()
}
