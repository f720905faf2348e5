//! What a run may use, and who said so.
//!
//! A limit that a directive or the configuration names is enforced or the launch is refused; a built-in default is
//! best effort, and [`crate::Layers`] says whether it is in force.

use sys::cgroup::{Applied, Group, Quantity, Version};
use sys::spawn::{Resource, Stage};

use crate::engine::Engine;
use crate::{CgroupLayer, LaunchError, LimitLayer, PreparedRun};

/// Fewest open files that a sandbox can be started with: bubblewrap and the helper hold some.
const MIN_NOFILE: u64 = 64;

/// The kernel from which on processes are counted by user namespace, not all of a user's on the host together.
const PROCESSES_BY_NAMESPACE: (u32, u32) = (5, 14);

/// Who asked for a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitOrigin {
    /// The directive or the configuration: enforced, or the run is refused.
    Named,
    /// Built in: best effort.
    Default,
}

/// One limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How much, in the unit of the field that holds it.
    pub value: u64,
    /// Who asked for it.
    pub origin: LimitOrigin,
}

impl Limit {
    /// A limit that the directive or the configuration names.
    #[must_use]
    pub fn named(value: u64) -> Self {
        Self { value, origin: LimitOrigin::Named }
    }

    /// A built-in default.
    #[must_use]
    pub fn default_of(value: u64) -> Self {
        Self { value, origin: LimitOrigin::Default }
    }

    /// Whether the run must be refused when this cannot be enforced.
    #[must_use]
    pub fn is_named(self) -> bool {
        self.origin == LimitOrigin::Named
    }
}

/// The limits of a run. `None`: no such limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Memory and swap together, in bytes (cgroup).
    pub memory_bytes: Option<Limit>,
    /// Processor time, in thousandths of one core (cgroup).
    pub cpu_millicores: Option<Limit>,
    /// Processes and threads, the sandbox's own two included (cgroup; bwrap without one: RLIMIT_NPROC, which the kernel
    /// counts in the sandbox's own user namespace since 5.14).
    pub pids: Option<Limit>,
    /// Open files per process (RLIMIT_NOFILE).
    pub nofile: Option<Limit>,
    /// Size of one file, in bytes (RLIMIT_FSIZE).
    pub fsize_bytes: Option<Limit>,
    /// Size of /tmp, in bytes; /run and /dev/shm get at most as much, and at most 64 MiB each (bwrap).
    pub tmp_bytes: Option<Limit>,
}

impl Limits {
    /// Those that need no cgroup.
    pub(crate) fn without_cgroup(self) -> Self {
        Self { memory_bytes: None, cpu_millicores: None, pids: None, ..self }
    }
}

/// Space of the limits around a run: its cgroup, its resource limits, and what of it is in force.
#[derive(Debug)]
pub(crate) struct Fence {
    pub(crate) group: Option<Group>,
    /// What the process does before it executes anything: the resource limits, then the cgroups.
    pub(crate) stages: Vec<Stage>,
    /// What the helper is to limit processes and threads to; 0: nothing, a cgroup does, or nothing can.
    pub(crate) processes: u64,
    pub(crate) layer: CgroupLayer,
    pub(crate) limits: Vec<LimitLayer>,
}

impl Fence {
    /// Puts the limits of a run in force, as far as this host can.
    ///
    /// # Errors
    /// A named limit cannot be enforced.
    pub(crate) fn build(engine: &Engine, driver: &'static str, run: &PreparedRun) -> Result<Self, LaunchError> {
        let wanted = [
            ("memory_bytes", Quantity::Memory, run.limits.memory_bytes),
            ("cpu_millicores", Quantity::CpuMillicores, run.limits.cpu_millicores),
            ("pids", Quantity::Pids, run.limits.pids),
        ];
        let mut fence = Self {
            group: None,
            stages: Vec::new(),
            processes: 0,
            layer: CgroupLayer::None(String::new()),
            limits: Vec::new(),
        };
        let counted_inside = driver == crate::bwrap::NAME && engine.facts().is_at_least(PROCESSES_BY_NAMESPACE);
        let limited: Vec<Quantity> =
            wanted.iter().filter(|(_, _, limit)| limit.is_some()).map(|(_, quantity, _)| *quantity).collect();
        fence.group = fence.make_group(engine, run.name.as_str(), &limited);
        for (name, quantity, limit) in wanted {
            let Some(limit) = limit else { continue };
            let by = match fence.group.as_ref().map(|group| group.set(quantity, limit.value)) {
                Some(Ok(Applied::Whole)) => Some("cgroup"),
                // Swap would let the run pass its limit: as good as none where the limit was asked for.
                Some(Ok(Applied::WithoutSwap)) if !limit.is_named() || !engine.has_swap() => Some("cgroup"),
                Some(Ok(Applied::WithoutSwap)) => {
                    return Err(LaunchError::Limit {
                        limit: name,
                        reason: "the kernel does not count swap (swapaccount=1)".to_owned(),
                    });
                }
                Some(Err(_)) | None if quantity == Quantity::Pids && counted_inside => {
                    // bubblewrap's outer process is not in that namespace.
                    fence.processes = limit.value.saturating_sub(1).max(1);
                    Some("rlimit")
                }
                Some(Err(error)) if limit.is_named() => {
                    return Err(LaunchError::Limit { limit: name, reason: error.to_string() });
                }
                None if limit.is_named() => {
                    let CgroupLayer::None(reason) = &fence.layer else { continue };
                    return Err(LaunchError::Limit {
                        limit: name,
                        reason: format!("the daemon has no cgroup ({reason})"),
                    });
                }
                Some(Err(_)) | None => None,
            };
            fence.limits.push(LimitLayer { name, value: limit.value, by });
        }
        fence.resources(driver, &run.limits)?;
        Ok(fence)
    }

    fn make_group(&mut self, engine: &Engine, name: &str, limited: &[Quantity]) -> Option<Group> {
        let cgroups = engine.cgroups();
        let made = if cgroups.version() == Version::None {
            Err(cgroups.missing().to_owned())
        } else {
            cgroups.create(name, limited).map_err(|error| error.to_string())
        };
        let ready = made.and_then(|group| match group.doors() {
            Ok(doors) => Ok((group, doors)),
            Err(error) => Err(error.to_string()),
        });
        match ready {
            Ok((group, doors)) => {
                self.stages.extend(doors.into_iter().map(Stage::JoinCgroup));
                let controllers = group.controllers().into_iter().map(str::to_owned).collect();
                self.layer = if cgroups.version() == Version::Two {
                    CgroupLayer::V2(controllers)
                } else {
                    CgroupLayer::V1(controllers)
                };
                Some(group)
            }
            Err(reason) => {
                self.layer = CgroupLayer::None(reason);
                None
            }
        }
    }

    fn resources(&mut self, driver: &'static str, limits: &Limits) -> Result<(), LaunchError> {
        // A core dump would be written by the host's handler, with what the memory held.
        self.stages.push(Stage::Limit(Resource::Core, 0));
        for (name, resource, limit) in
            [("nofile", Resource::OpenFiles, limits.nofile), ("fsize_bytes", Resource::FileSize, limits.fsize_bytes)]
        {
            let Some(limit) = limit else { continue };
            // A daemon that is held to less itself holds its runs to that.
            let value = limit.value.min(resource.ceiling());
            if resource == Resource::OpenFiles && value < MIN_NOFILE {
                let reason = format!("{value} open files are too few to start anything: give at least {MIN_NOFILE}");
                return Err(LaunchError::Limit { limit: name, reason });
            }
            self.stages.push(Stage::Limit(resource, value));
            self.limits.push(LimitLayer { name, value, by: Some("rlimit") });
        }
        match limits.tmp_bytes {
            Some(limit) if driver == crate::bwrap::NAME => {
                self.limits.push(LimitLayer { name: "tmp_bytes", value: limit.value, by: Some("tmpfs") });
            }
            Some(limit) if limit.is_named() => {
                return Err(LaunchError::Limit {
                    limit: "tmp_bytes",
                    reason: "the host's /tmp has no size of its own".to_owned(),
                });
            }
            _ => {}
        }
        Ok(())
    }
}
