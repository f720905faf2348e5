//! One suite for every driver: a directive means the same wherever it runs.
//!
//! Each case says what is expected, and where a driver cannot have it, what it has instead. docs/conformance.md is made of the
//! same values; a test compares.

mod cases;
mod company;
mod table;

use std::process::Command;

use conduits::{DirectiveId, LogStream, StartedRequest};
use serde_json::{Value, json};
use testkit::require::test_rootfs;
use testkit::{Containers, StubOptions, require};

use crate::bed::{Bed, Ended, SOON};
use crate::darwin::mac_daemon;
use crate::preparing::GitServer;
use cases::{Case, Check, Then};

/// A driver as a daemon is configured for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    Host,
    BwrapHostUsr,
    BwrapRootfs,
    ContainerIsolated,
    ContainerHost,
    /// Docker's command line; the network is isolated.
    Docker,
    /// As on a Mac, with stand-ins for its tools.
    DarwinStandIns,
}

impl Setting {
    pub(crate) const ALL: [Self; 7] = [
        Self::BwrapHostUsr,
        Self::BwrapRootfs,
        Self::ContainerIsolated,
        Self::ContainerHost,
        Self::Docker,
        Self::Host,
        Self::DarwinStandIns,
    ];

    /// Heading of its column.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::BwrapHostUsr => "bwrap, host's /usr",
            Self::BwrapRootfs => "bwrap, rootfs",
            Self::ContainerIsolated => "container, isolated",
            Self::ContainerHost => "container, host network",
            Self::DarwinStandIns => "darwin-automation (stand-ins)",
            Self::Docker => "container by docker, isolated",
        }
    }

    pub(crate) fn profile(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::BwrapHostUsr | Self::BwrapRootfs => "untrusted",
            Self::ContainerIsolated | Self::ContainerHost | Self::Docker => "trusted",
            Self::DarwinStandIns => "darwin-automation",
        }
    }

    /// The command has a file system of its own.
    pub(crate) fn is_isolated(self) -> bool {
        self.like() != Self::Host
    }

    /// There is a profile that a facility can be handed down to.
    pub(crate) fn has_less_trusted(self) -> bool {
        matches!(self, Self::Host | Self::ContainerIsolated | Self::ContainerHost | Self::Docker)
    }

    /// The setting whose cells it shares where it has none of its own: it is the same driver under another name.
    pub(crate) fn like(self) -> Self {
        if self == Self::DarwinStandIns { Self::Host } else { self }
    }

    /// The shell of cases that name none, where the profile's own is not on every machine.
    fn shell(self) -> Option<&'static str> {
        (self == Self::DarwinStandIns).then_some("/bin/sh")
    }

    fn bed(self) -> Bed {
        let profile = self.profile();
        let less = if self.has_less_trusted() { ", untrusted" } else { "" };
        let mut keys = format!(
            "supported_sandbox_profiles: [{profile}{less}]\nmax_concurrent_directives: 4\noperator: {{net_ceiling: unrestricted}}\n\
             egress: {{allow_private: [127.0.0.2/32]}}\nlog: {{max_output_bytes: 30000000}}\n"
        );
        match self {
            Self::BwrapRootfs => keys += &format!("bwrap: {{rootfs_path: {}}}\n", test_rootfs().display()),
            Self::ContainerIsolated | Self::ContainerHost | Self::Docker => {
                let network = if self == Self::ContainerHost { "host" } else { "isolated" };
                let runtime = if self == Self::Docker { "docker" } else { "podman" };
                let image = Containers::IMAGE;
                keys += &format!("container: {{runtime: {runtime}, image: \"{image}\", network: {network}}}\n");
            }
            Self::Host | Self::BwrapHostUsr | Self::DarwinStandIns => {}
        }
        // The git server has a name here, and the containers a store of their own.
        Bed::started_by(StubOptions::full(), &keys, |dir| {
            let hosts = dir.write("hosts", "127.0.0.1 localhost\n127.0.0.2 git.example.test\n");
            let mut program = Command::new("unshare");
            // The mask is that of the service units.
            let script = r#"mount --bind "$1" /etc/hosts && shift && umask 077 && exec "$@""#;
            program.args(["--mount", "sh", "-c", script, "sh"]).arg(hosts);
            if self == Self::DarwinStandIns {
                let mac = mac_daemon(dir);
                program.arg(mac.get_program()).args(mac.get_args());
            } else {
                program.arg(env!("CARGO_BIN_EXE_nexusd"));
            }
            let containers = Containers::of_tests();
            program.envs(containers.environment());
            if self == Self::Docker {
                let tools = containers.docker_in(dir.path());
                let path = containers.environment().into_iter().find(|(name, _)| name == "PATH").unwrap().1;
                program.env("PATH", format!("{}:{path}", tools.parent().unwrap().display()));
            }
            program
        })
    }
}

/// The cases, as the table has them.
fn all() -> impl Iterator<Item = &'static Case> {
    cases::CASES.iter().chain(company::CASES)
}

/// Every case in one setting; all that fail are named at once.
async fn conforms(setting: Setting) {
    let more = "seq 100 > old && echo x > gone && printf '\\1\\0' > binary";
    let (bed, server) = (setting.bed(), GitServer::with(more));
    let mut wrong = Vec::new();
    for case in all() {
        if let Err(why) = holds(&bed, &server, setting, case).await {
            wrong.push(format!("{}: {why}", case.name));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), all().count(), wrong.join("\n"));
    assert_eq!(bed.stub.violations(), Vec::<String>::new());
}

async fn holds(bed: &Bed, server: &GitServer, setting: Setting, case: &Case) -> Result<(), String> {
    let mut ended: Vec<Option<Ended>> = Vec::new();
    let mut going = Vec::new();
    let facility = format!("f-{}", case.name.replace([' ', ',', '\''], "-"));
    for (place, step) in (case.steps)(setting).into_iter().enumerate() {
        let port = format!(":{}", server.port);
        let mut fields: Value = serde_json::from_str(&step.fields.to_string().replace(":PORT", &port)).unwrap();
        let is_its = fields["sandbox_profile"].is_null();
        if is_its {
            fields["sandbox_profile"] = json!(setting.profile());
        }
        if let Some(shell) = setting.shell().filter(|_| fields["shell"].is_null()) {
            fields["shell"] = json!(shell);
        }
        if fields["facility"]["id"].is_null() {
            fields["facility"] = json!({ "id": facility });
        }
        let id = bed.queue(fields);
        let (Then::Cancel(mark) | Then::GoOn(mark) | Then::Hold(mark)) = step.then else {
            ended.push(Some(finished(bed, setting, &id, is_its).await?));
            continue;
        };
        bed.stub.log_contains(&id, LogStream::Stdout, mark, SOON).await;
        if matches!(step.then, Then::Cancel(_)) {
            bed.stub.cancel(&id);
            ended.push(Some(finished(bed, setting, &id, is_its).await?));
        } else {
            ended.push(None);
            going.push((place, id, matches!(step.then, Then::Hold(_))));
        }
    }
    for (place, id, held) in going {
        if held {
            bed.stub.cancel(&id);
        }
        ended[place] = Some(finished(bed, setting, &id, true).await?);
    }
    let ended: Vec<Ended> = ended.into_iter().flatten().collect();
    let Check(check) = case.check;
    check(setting, &ended).map_err(|why| format!("{why}\n    {}", shown(&ended)))
}

/// The end of a directive; of one of the setting's own profile it is looked at what was told of it.
async fn finished(bed: &Bed, setting: Setting, id: &DirectiveId, is_its: bool) -> Result<Ended, String> {
    let ended = bed.ended(id.clone()).await;
    if is_its {
        told(setting, bed.stub.directive(id).started.as_ref(), &ended)?;
    }
    Ok(ended)
}

/// What every start and every end says of where it ran: the network is called enforced where it is, and nowhere else.
fn told(setting: Setting, started: Option<&StartedRequest>, ended: &Ended) -> Result<(), String> {
    let is_soft = matches!(setting.like(), Setting::Host | Setting::ContainerHost);
    let Some(started) = started else { return Err("nothing was told of it".to_owned()) };
    let enforced = started.effective_capabilities_summary.get("net").map(|net| net["enforced"].clone());
    // A directive that is refused runs in nothing.
    if enforced.as_ref().is_some_and(|enforced| *enforced != json!(!is_soft)) {
        return Err(format!("started says of the network: enforced {enforced:?}"));
    }
    let manifest = &ended.report.artifacts_manifest;
    let ran = manifest.contains_key("usage");
    if ran && (enforced.is_none() || manifest.get("network_enforced") != is_soft.then_some(&json!(false))) {
        return Err(format!("the end says of the network: {:?}", manifest.get("network_enforced")));
    }
    let runs_in = started.runtime_ref.as_ref().and_then(|value| value.as_str()).unwrap_or_default();
    let is_container = setting.profile() == "trusted";
    if ran && is_container != runs_in.starts_with("container:sha256:") {
        return Err(format!("runtime_ref is {runs_in:?}"));
    }
    Ok(())
}

fn shown(ended: &[Ended]) -> String {
    let cut = |text: &str| text.chars().take(300).collect::<String>();
    let one = |end: &Ended| {
        format!(
            "{} {:?} out {:?} err {:?}",
            end.report.status.as_str(),
            end.report.exit_code,
            cut(&end.stdout),
            cut(&end.stderr)
        )
    };
    ended.iter().map(one).collect::<Vec<_>>().join("\n    ")
}

#[tokio::test(flavor = "multi_thread")]
async fn host() {
    require!(Root, Bwrap, Git, Python, Cgroups);
    conforms(Setting::Host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bwrap_with_the_hosts_usr() {
    require!(Root, Bwrap, Git, Python, Cgroups);
    conforms(Setting::BwrapHostUsr).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bwrap_with_a_rootfs() {
    require!(Root, Bwrap, Git, Python, Cgroups, Rootfs);
    conforms(Setting::BwrapRootfs).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn container_without_a_network() {
    require!(Root, Bwrap, Git, Python, Cgroups, Podman);
    conforms(Setting::ContainerIsolated).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn container_with_the_hosts_network() {
    require!(Root, Bwrap, Git, Python, Cgroups, Podman);
    conforms(Setting::ContainerHost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn darwin_automation_with_stand_ins() {
    require!(Root, Bwrap, Git, Python, Cgroups);
    conforms(Setting::DarwinStandIns).await;
}

#[tokio::test]
async fn container_by_docker_s_command_line() {
    require!(Root, Bwrap, Git, Python, Cgroups, Podman);
    conforms(Setting::Docker).await;
}
