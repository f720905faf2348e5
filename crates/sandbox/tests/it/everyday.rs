//! Everyday work still works: compilers, package managers, run-times and shells in the sandbox as it is when nobody
//! configures anything. Each test asserts what the work was for, not that a program started. What does not work, and is
//! meant not to, is in `limits`, as `docs/inside-a-sandbox.md` says it.

mod archives;
mod compilers;
mod files;
mod kernel;
mod limits;
mod packages;
mod polite;
mod processes;
mod system;

use std::time::Duration;

use sandbox::{BaseEnvironment, DriverSettings, Environment, Limit, Limits, ProxyVariables};

use crate::bed::{Bed, Outcome, Run};

/// How long one piece of work may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(55);

/// A sandbox with the daemon's own environment and default limits, on the host's `/usr`, without a network. The proxy's
/// variables are set all the same, as they are for a directive: what talks to itself over loopback must not mind them.
struct Everyday {
    bed: Bed,
}

impl Everyday {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut DriverSettings)) -> Self {
        Self { bed: Bed::with(change) }
    }

    /// Runs a script of bash that stops at its first failure.
    async fn outcome(&self, script: &str) -> Outcome {
        let environment = Environment::base(&BaseEnvironment {
            directive_id: "d1",
            facility_id: "f1",
            territory_id: "t1",
            profile: "untrusted",
            workspace: "/workspace",
            home: "/workspace",
            private_tmp: true,
            proxy: ProxyVariables::Sandbox,
        });
        let run = Run {
            environment: environment.unwrap().iter().map(|(name, value)| (name.into(), value.into())).collect(),
            limits: daemon_defaults(),
            timeout: PATIENCE,
            ..Run::sh(&format!("set -eu -o pipefail\n{script}"))
        };
        self.bed.run(run).await
    }

    /// What a script prints, which must end well.
    async fn work(&self, script: &str) -> String {
        let Outcome { exit, stdout, stderr } = self.outcome(script).await;
        assert_eq!(exit.code, 0, "{exit:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        stdout
    }

    /// The same for Python, which gets its program as it is written here.
    async fn python(&self, program: &str) -> String {
        self.work(&format!("python3 - <<'PROGRAM'\n{program}\nPROGRAM")).await
    }
}

/// The limits that the daemon sets when neither the directive nor the configuration names any.
fn daemon_defaults() -> Limits {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let kib: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
    Limits {
        memory_bytes: Some(Limit::default_of(kib * 1024 / 100 * 80)),
        pids: Some(Limit::default_of(1024)),
        nofile: Some(Limit::default_of(4096)),
        tmp_bytes: Some(Limit::default_of(512 << 20)),
        ..Limits::default()
    }
}
