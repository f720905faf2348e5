//! What Podman and Docker have each in its own way: how their host and their images are asked for, and what they answer.
//! Pure functions; the command line is asked by [`super::cli`].

use std::ffi::{OsStr, OsString};

use serde_json::Value;

use crate::LaunchError;

/// What runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRuntime {
    /// Podman: a container is a descendant of its command.
    Podman,
    /// Docker: a container is its engine's, which has to be on this host.
    Docker,
}

/// How podman is asked for its facts (podman-info(1)).
const PODMAN_INFO: &str = "{{.Host.CgroupsVersion}} {{.Host.Security.Rootless}} {{.Host.Security.SELinuxEnabled}} \
                           {{.Host.Security.SECCOMPEnabled}} {{.Version.Version}} {{range .Host.CgroupControllers}}{{.}} {{end}}";

/// How Docker's engine is (docker info; the engine's API, "Get system information").
const DOCKER_INFO: &str = "{{json .}}";

/// How podman is asked for an image. Its volumes are ignored ([`super::args`]).
const PODMAN_IMAGE: &str = "{{.Id}} {{.Digest}}";

/// The same of Docker: three values of JSON.
const DOCKER_IMAGE: &str = "{{json .Id}} {{json .RepoDigests}} {{json .Config}}";

/// Folders in which every container has a file system of its own, whatever the image asks for there.
const OWN: [&str; 4] = ["/tmp", "/var/tmp", "/run", "/workspace"];

/// What a runtime says of this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// 1 or 2.
    pub(super) cgroup_version: u8,
    /// It works as an ordinary user.
    pub(super) rootless: bool,
    /// Files are labelled here.
    pub(super) selinux: bool,
    /// It filters system calls.
    pub(super) seccomp: bool,
    /// Its own version.
    pub(super) version: String,
    /// The cgroup controllers that it has.
    pub(super) controllers: Vec<String>,
}

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// `sha256:…` of its configuration: what runs are started from, so that the digest below is theirs.
    pub(super) id: String,
    /// `sha256:…` of its manifest; of an image that Docker got from no registry, its id.
    pub(super) digest: String,
    /// Folders that the runtime would put on the host's disk, were there nothing else.
    pub(super) volumes: Vec<String>,
}

impl ContainerRuntime {
    /// Its command.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }

    /// How it is installed.
    pub(super) fn installed_by(self) -> &'static str {
        match self {
            Self::Podman => "sudo apt install -y podman",
            Self::Docker => "sudo apt install -y docker.io",
        }
    }

    /// How its version is shown.
    pub(super) fn version_line(self, version: &str) -> String {
        match self {
            Self::Podman => format!("podman version {version}"),
            Self::Docker => format!("Docker version {version}"),
        }
    }

    /// Whether its client hands the helper's descriptors through. Else the helper comes for them ([`super::meeting`]).
    pub(super) fn hands_through(self) -> bool {
        self == Self::Podman
    }

    /// The arguments that ask for the facts.
    pub(super) fn info(self) -> [&'static str; 3] {
        let format = match self {
            Self::Podman => PODMAN_INFO,
            Self::Docker => DOCKER_INFO,
        };
        ["info", "--format", format]
    }

    /// What they get for an answer; `None`: it is not understood.
    pub(super) fn facts(self, answer: &str, has_swap: bool) -> Option<Facts> {
        match self {
            Self::Podman => podman_facts(answer),
            Self::Docker => docker_facts(answer, has_swap),
        }
    }

    /// The arguments that ask for an image.
    pub(super) fn image(self, name: &str) -> [&str; 6] {
        let format = match self {
            Self::Podman => PODMAN_IMAGE,
            Self::Docker => DOCKER_IMAGE,
        };
        ["image", "inspect", "--format", format, "--", name]
    }

    /// What they get for an answer; `None`: it is not understood.
    pub(super) fn found(self, answer: &str) -> Option<Found> {
        match self {
            Self::Podman => podman_image(answer),
            Self::Docker => docker_image(answer),
        }
    }

    /// A condition for `ps`: podman reads a list of comma-separated values, docker one value as it is.
    pub(super) fn filter(self, condition: &OsStr) -> OsString {
        match self {
            Self::Podman => super::args::field("", condition),
            Self::Docker => condition.to_owned(),
        }
    }

    /// The arguments that kill and remove containers.
    pub(super) fn removal(self) -> &'static [&'static str] {
        match self {
            Self::Podman => &["rm", "--force", "--ignore", "--time=0", "--volumes", "--"],
            Self::Docker => &["rm", "--force", "--volumes", "--"],
        }
    }

    /// Whether a failed removal only says of every container that it is gone, or going.
    pub(super) fn is_gone(self, complaint: &str) -> bool {
        let gone = |line: &str| line.contains("No such container") || line.contains("is already in progress");
        self == Self::Docker && complaint.lines().filter(|line| !line.trim().is_empty()).all(gone)
    }

    /// Whether containers can be had of an engine like this at all, or why not.
    pub(super) fn fits(self, facts: &Facts) -> Result<(), String> {
        if self == Self::Podman {
            return Ok(());
        }
        if facts.rootless {
            let why = "docker: its engine is a rootless one, whose containers cannot have the facility's uid: use podman, or \
                       the engine of the system (docker context use default)";
            return Err(why.to_owned());
        }
        if facts.selinux {
            let why = "docker: SELinux keeps its containers from nexusd's socket: use podman";
            return Err(why.to_owned());
        }
        Ok(())
    }

    /// Whether an image may be run, or why not.
    pub(super) fn takes(self, image: &Found) -> Result<(), String> {
        let inside =
            |volume: &&String| *volume == "/" || volume.starts_with("/workspace/") || volume.starts_with("/.nexus");
        match image.volumes.iter().find(inside) {
            None => Ok(()),
            Some(volume) => Err(format!(
                "{}: the image has a VOLUME {volume}, which would be made in the facility: take another image, or podman",
                self.as_str()
            )),
        }
    }

    /// Whether limits of this controller are kept here, or why not.
    pub(super) fn limits_by(self, facts: &Facts, controller: &str) -> Result<(), String> {
        if facts.rootless && facts.cgroup_version < 2 {
            return Err(
                "podman keeps no limits for an ordinary user under cgroup version 1: run nexusd as root, or boot with \
                        cgroup version 2"
                    .to_owned(),
            );
        }
        if facts.controllers.iter().any(|name| name == controller) {
            return Ok(());
        }
        Err(match self {
            Self::Podman => format!(
                "podman does not have the cgroup controller {controller} here: delegate it to this user \
                 (systemd: Delegate={controller} for user@.service)"
            ),
            Self::Docker => format!(
                "docker's engine keeps no limit of {controller} here (docker info says so): boot with that cgroup controller \
                 and, for memory, with swapaccount=1"
            ),
        })
    }
}

/// Whether a complaint about an image says that it is not there, and nothing else.
pub(super) fn is_absence(complaint: &str) -> bool {
    ["image not known", "no such image", "No such image"].iter().any(|words| complaint.contains(words))
}

fn podman_facts(text: &str) -> Option<Facts> {
    let mut words = text.split_whitespace();
    let cgroup_version = words.next()?.strip_prefix('v')?.parse().ok()?;
    let mut flag = || words.next()?.parse::<bool>().ok();
    let (rootless, selinux, seccomp) = (flag()?, flag()?, flag()?);
    let version = words.next()?.to_owned();
    Some(Facts { cgroup_version, rootless, selinux, seccomp, version, controllers: words.map(str::to_owned).collect() })
}

fn docker_facts(text: &str, has_swap: bool) -> Option<Facts> {
    let info: Value = serde_json::from_str(text.trim()).ok()?;
    if info["OSType"].as_str()? != "linux" {
        return None;
    }
    let options = info["SecurityOptions"].as_array()?;
    let option = |name: &str| {
        let is_it = |text: &str| text.split(',').next() == Some(name);
        options.iter().filter_map(Value::as_str).any(is_it)
    };
    let kept = |name: &str| info[name].as_bool().unwrap_or(false);
    // Without a count of swap, a limit of memory is none where there is some.
    let memory = kept("MemoryLimit") && (kept("SwapLimit") || !has_swap);
    let controllers = [("memory", memory), ("cpu", kept("CpuCfsQuota")), ("pids", kept("PidsLimit"))];
    Some(Facts {
        cgroup_version: info["CgroupVersion"].as_str()?.parse().ok()?,
        rootless: option("name=rootless"),
        selinux: option("name=selinux"),
        seccomp: option("name=seccomp"),
        version: info["ServerVersion"].as_str().filter(|version| !version.is_empty())?.to_owned(),
        controllers: controllers.iter().filter(|(_, kept)| *kept).map(|(name, _)| (*name).to_owned()).collect(),
    })
}

fn podman_image(text: &str) -> Option<Found> {
    let mut words = text.split_whitespace();
    let (id, digest) = (words.next()?, words.next()?);
    is_hex(id).then(|| Found { id: format!("sha256:{id}"), digest: digest.to_owned(), volumes: Vec::new() })
}

fn docker_image(text: &str) -> Option<Found> {
    let values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let values = values.collect::<Result<Vec<_>, _>>().ok()?;
    let [id, digests, config] = values.as_slice() else { return None };
    let id = id.as_str().filter(|id| id.strip_prefix("sha256:").is_some_and(is_hex))?.to_owned();
    let digest = digests[0].as_str().and_then(|text| text.rsplit_once('@')).map_or(id.as_str(), |(_, digest)| digest);
    let volumes = config["Volumes"].as_object().map(|volumes| volumes.keys().cloned().collect()).unwrap_or_default();
    Some(Found { digest: digest.to_owned(), id, volumes: without_own(volumes) })
}

/// The volumes where there would be nothing else.
fn without_own(volumes: Vec<String>) -> Vec<String> {
    volumes.into_iter().filter(|volume| !OWN.contains(&volume.trim_end_matches('/'))).collect()
}

fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Facts {
    /// [`ContainerRuntime::limits_by`] as a limit of a run: a named one that is not kept refuses it.
    pub(super) fn keep(
        &self,
        runtime: ContainerRuntime,
        limit: &'static str,
        controller: &str,
        is_named: bool,
    ) -> Result<bool, LaunchError> {
        match runtime.limits_by(self, controller) {
            Ok(()) => Ok(true),
            Err(reason) if is_named => Err(LaunchError::Limit { limit, reason }),
            Err(_) => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ContainerRuntime::{Docker, Podman};
    use super::*;

    #[test]
    fn facts_are_read_or_refused() {
        let facts = Podman.facts("v1 false false true 4.3.1 cpuset cpu memory pids \n", true).unwrap();
        assert_eq!((facts.cgroup_version, facts.rootless, facts.version.as_str()), (1, false, "4.3.1"));
        assert_eq!(facts.controllers, ["cpuset", "cpu", "memory", "pids"]);
        assert!(Podman.facts("v2 true true true 5.0.0", false).unwrap().selinux);
        for nonsense in [
            "",
            "v2",
            "v2 yes no yes 4",
            "2 true true true 4.3.1",
            "v2 true true true",
            "<no value> false false true 4",
        ] {
            assert_eq!(Podman.facts(nonsense, false), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_condition_is_one_word_to_either() {
        for (condition, podman) in [
            ("label=a=/srv/nexus", "label=a=/srv/nexus"),
            ("label=a=/srv/a, b", "\"label=a=/srv/a, b\""),
            ("label=a=/srv/a\"b", "\"label=a=/srv/a\"\"b\""),
        ] {
            let condition = OsStr::new(condition);
            assert_eq!((Podman.filter(condition), Docker.filter(condition)), (podman.into(), condition.to_owned()));
        }
    }

    #[test]
    fn an_engine_of_docker_s_is_read_or_refused() {
        let info = r#"{"ServerVersion":"28.2.2","CgroupVersion":"2","OSType":"linux","MemoryLimit":true,"SwapLimit":false,
            "CpuCfsQuota":true,"PidsLimit":true,"SecurityOptions":["name=apparmor","name=seccomp,profile=builtin","name=cgroupns"]}"#;
        let facts = Docker.facts(info, false).unwrap();
        assert_eq!((facts.cgroup_version, facts.version.as_str(), facts.seccomp), (2, "28.2.2", true));
        assert_eq!(facts.controllers, ["memory", "cpu", "pids"]);
        assert_eq!(Docker.fits(&facts), Ok(()));
        assert_eq!(Docker.facts(info, true).unwrap().controllers, ["cpu", "pids"], "swap that nobody counts");
        for (option, why) in [("name=rootless", "use podman"), ("name=selinux", "SELinux")] {
            let facts = Docker.facts(&info.replace("name=cgroupns", option), false).unwrap();
            assert!(Docker.fits(&facts).unwrap_err().contains(why), "{option}");
        }
        // What the client says where there is no engine, and other nonsense.
        let without = info.replace("28.2.2", "");
        let windows = info.replace("linux", "windows");
        for nonsense in ["", "{}", "[]", "null", "{{json .}}", &without, &windows] {
            assert_eq!(Docker.facts(nonsense, false), None, "{nonsense:?}");
        }
    }

    #[test]
    fn images_are_read_or_refused() {
        let hex = "ab".repeat(32);
        let found = Podman.found(&format!("{hex} sha256:12\n")).unwrap();
        assert_eq!((found.id, found.digest.as_str()), (format!("sha256:{hex}"), "sha256:12"));
        let docker = |digests: &str, config: &str| Docker.found(&format!("\"sha256:{hex}\" {digests} {config}\n"));
        let found = docker("[\"ubuntu@sha256:34\"]", r#"{"Volumes":{"/data":{},"/tmp/":{},"/workspace":{}}}"#).unwrap();
        assert_eq!((found.digest.as_str(), found.volumes.as_slice()), ("sha256:34", ["/data".to_owned()].as_slice()));
        assert_eq!(Docker.takes(&found), Ok(()));
        for digests in ["[]", "null"] {
            assert_eq!(docker(digests, "null").unwrap().digest, format!("sha256:{hex}"));
        }
        for volume in ["/", "/workspace/sub", "/.nexus"] {
            let found = docker("[]", &format!("{{\"Volumes\":{{\"{volume}\":{{}}}}}}")).unwrap();
            assert!(Docker.takes(&found).unwrap_err().contains(volume));
        }
        for nonsense in ["", "x", "\"sha256:ab\" [] null", "[]", "<no value> <no value>"] {
            assert_eq!((Podman.found(nonsense), Docker.found(nonsense)), (None, None), "{nonsense:?}");
        }
    }

    #[test]
    fn who_keeps_limits() {
        let all = vec!["cpu".to_owned(), "memory".to_owned(), "pids".to_owned()];
        let facts =
            |cgroup_version, rootless| Facts { cgroup_version, rootless, controllers: all.clone(), ..Facts::default() };
        assert_eq!(Podman.limits_by(&facts(1, false), "memory"), Ok(()));
        assert_eq!(Podman.limits_by(&facts(2, true), "pids"), Ok(()));
        assert!(Podman.limits_by(&facts(1, true), "memory").unwrap_err().contains("cgroup version 2"));
        assert!(Podman.limits_by(&facts(2, true), "io").unwrap_err().contains("Delegate=io"));
        assert!(Docker.limits_by(&facts(2, false), "io").unwrap_err().contains("docker info"));
    }

    #[test]
    fn a_container_that_is_gone_needs_no_removal() {
        assert!(Docker.is_gone("Error response from daemon: No such container: a\nError: No such container: b\n"));
        assert!(Docker.is_gone("Error response from daemon: removal of container a is already in progress\n"));
        assert!(
            !Docker.is_gone("Error response from daemon: No such container: a\nCannot connect to the Docker daemon\n")
        );
        assert!(!Podman.is_gone("Error: No such container: a"));
    }
}
