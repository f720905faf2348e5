//! Limits of a container: flags of the engine's, for it makes the cgroup.

use super::runtime::{ContainerRuntime, Facts};
use crate::limits::Limit;
use crate::{LaunchError, LimitLayer, Limits};

/// Size of /tmp where the run does not say.
const DEFAULT_TMP: u64 = 512 * 1024 * 1024;

/// What a container is held to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ceilings {
    pub(super) memory_bytes: Option<u64>,
    pub(super) cpu_millicores: Option<u64>,
    pub(super) pids: Option<u64>,
    pub(super) nofile: Option<u64>,
    pub(super) fsize_bytes: Option<u64>,
    /// RLIMIT_NPROC, so that the engine does not try to raise it beyond what the daemon may.
    pub(super) processes: Option<u64>,
    pub(super) tmp_bytes: u64,
}

/// What the daemon itself is held to: an engine that is its child cannot give more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    /// RLIMIT_NOFILE, the hard one.
    pub(super) nofile: u64,
    /// RLIMIT_NPROC, the hard one, and no more than there may be process ids.
    pub(super) processes: u64,
}

impl Ceilings {
    /// What of these limits the engine can keep here, and what is then in force.
    ///
    /// # Errors
    /// A named limit cannot be kept.
    pub(super) fn of(
        runtime: ContainerRuntime,
        limits: &Limits,
        facts: &Facts,
        own: Own,
    ) -> Result<(Self, Vec<LimitLayer>), LaunchError> {
        let mut layers = Vec::new();
        let mut by_cgroup = |name: &'static str, controller: &str, limit: Option<Limit>| {
            let Some(limit) = limit else { return Ok::<_, LaunchError>(None) };
            let kept = facts.keep(runtime, name, controller, limit.is_named())?;
            layers.push(LimitLayer { name, value: limit.value, by: kept.then_some("cgroup") });
            Ok(kept.then_some(limit.value))
        };
        let memory_bytes = by_cgroup("memory_bytes", "memory", limits.memory_bytes)?;
        let cpu_millicores = by_cgroup("cpu_millicores", "cpu", limits.cpu_millicores)?;
        let pids = by_cgroup("pids", "pids", limits.pids)?;
        let nofile = limits.nofile.map_or(own.nofile, |limit| limit.value.min(own.nofile));
        layers.extend(limits.nofile.map(|_| LimitLayer { name: "nofile", value: nofile, by: Some("rlimit") }));
        let fsize_bytes = limits.fsize_bytes.map(|limit| limit.value);
        layers.extend(fsize_bytes.map(|value| LimitLayer { name: "fsize_bytes", value, by: Some("rlimit") }));
        let tmp_bytes = limits.tmp_bytes.map_or(DEFAULT_TMP, |limit| limit.value);
        layers.extend(limits.tmp_bytes.map(|_| LimitLayer { name: "tmp_bytes", value: tmp_bytes, by: Some("tmpfs") }));
        let (nofile, processes) = (Some(nofile), Some(own.processes));
        Ok((Self { memory_bytes, cpu_millicores, pids, nofile, fsize_bytes, processes, tmp_bytes }, layers))
    }

    /// As arguments of podman-run(1). Core dumps are off: the host's handler would write them.
    pub(super) fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--ulimit=core=0:0".to_owned()];
        for (name, limit) in [("nofile", self.nofile), ("fsize", self.fsize_bytes), ("nproc", self.processes)] {
            flags.extend(limit.map(|value| format!("--ulimit={name}={value}:{value}")));
        }
        // Memory and swap together: none of it is swap.
        flags.extend(self.memory_bytes.map(|bytes| format!("--memory={bytes}b")));
        flags.extend(self.memory_bytes.map(|bytes| format!("--memory-swap={bytes}b")));
        flags.extend(self.cpu_millicores.map(|cpu| format!("--cpus={}.{:03}", cpu / 1000, cpu % 1000)));
        flags.extend(self.pids.map(|pids| format!("--pids-limit={pids}")));
        flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Own = Own { nofile: 20_000, processes: 30_000 };

    fn facts(version: u8, rootless: bool, controllers: &[&str]) -> Facts {
        let controllers = controllers.iter().map(|&name| name.to_owned()).collect();
        Facts { cgroup_version: version, rootless, controllers, ..Facts::default() }
    }

    #[test]
    fn a_named_limit_is_kept_or_the_run_refused() {
        let all = ["cpu", "memory", "pids"];
        let named = Limits { memory_bytes: Some(Limit::named(1 << 20)), ..Limits::default() };
        let default = Limits { memory_bytes: Some(Limit::default_of(1 << 20)), ..Limits::default() };
        let table = [
            (facts(2, false, &all), true),
            (facts(2, true, &all), true),
            (facts(1, false, &all), true),
            (facts(1, true, &all), false),
            (facts(2, true, &["pids"]), false),
        ];
        for (facts, kept) in table {
            assert_eq!(Ceilings::of(ContainerRuntime::Podman, &named, &facts, OWN).is_ok(), kept, "{facts:?}");
            let (ceilings, layers) = Ceilings::of(ContainerRuntime::Podman, &default, &facts, OWN).unwrap();
            assert_eq!(ceilings.memory_bytes.is_some(), kept, "{facts:?}");
            assert_eq!(layers[0].by, kept.then_some("cgroup"), "{facts:?}");
        }
    }

    #[test]
    fn nobody_gets_more_than_the_daemon() {
        let limits = Limits { nofile: Some(Limit::named(1 << 20)), ..Limits::default() };
        let (ceilings, layers) = Ceilings::of(ContainerRuntime::Podman, &limits, &facts(2, false, &[]), OWN).unwrap();
        assert_eq!(ceilings.nofile, Some(20_000));
        assert_eq!(layers, [LimitLayer { name: "nofile", value: 20_000, by: Some("rlimit") }]);
        assert!(ceilings.flags().contains(&"--ulimit=nproc=30000:30000".to_owned()));
    }
}
