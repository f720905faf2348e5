//! Whose cgroup it is: with a subtree of its own the daemon enforces every limit; without, it refuses what is named, says
//! what is not in force, and leaves everything where it was.

use std::process::Command;

use serde_json::{Value, json};
use testkit::{Output, StubOptions, require, wait};

use super::machine::{EVERY_CONTROLLER, Said, Unit, Who, cgroup_of, daemon_in, eat, layers, peak_mib, wrapped};
use crate::bed::{Bed, Ended, SOON, nexusd, start_by};

/// What the machine that emulates this one does meanwhile passes for the command's own time: the shares are far apart.
const BURN: &str = "timeout 2 sh -c 'while :; do :; done'; true";

/// Starts more processes than a limit of 40; each waits for a pipe that nobody opens.
const FORK: &str = "mkfifo p; n=0; while [ $n -lt 60 ]; do (: < p) & n=$((n+1)); done; echo survived";

fn processor_share(ended: &Ended) -> u64 {
    let usage = &ended.report.artifacts_manifest["usage"];
    let millis = |name: &str| usage[name].as_u64().unwrap();
    (millis("user_ms") + millis("system_ms")) * 100 / millis("wall_ms")
}

#[tokio::test]
async fn an_ordinary_users_daemon_enforces_everything_in_a_delegated_unit() {
    require!(Vm, CgroupV2, Bwrap);
    let unit = Unit::delegated("delegated", Who::User);
    let bed = daemon_in(&unit, Who::User, "limits: {pids: 40}\n");
    assert_eq!(cgroup_of(bed.daemon.id()), "/delegated.slice/nexusd.service/nexusd");

    for profile in ["untrusted", "host"] {
        let run = |command: &str, limits: Value| json!({"command": command, "shell": "/bin/sh", "sandbox_profile": profile, "limits": limits});
        let (ended, layers) = layers(&bed, run(&eat(90), json!({"memory_mb": 64}))).await;
        assert_eq!(ended.outcome(), ("failed", 137, ""), "{profile}: {}", ended.stderr);
        assert_eq!(ended.report.artifacts_manifest["ended_by"], "oom", "{profile}");
        assert!((60..=64).contains(&peak_mib(&ended)), "{profile}: {} MiB", peak_mib(&ended));
        assert_eq!(layers["cgroup"], json!({"version": 2, "controllers": ["memory", "cpu", "pids"]}), "{profile}");
        assert_eq!(layers["limits"]["memory_bytes"], json!({"value": 64 << 20, "by": "cgroup"}), "{profile}");
        assert_eq!(layers["limits"]["pids"], json!({"value": 40, "by": "cgroup"}), "{profile}");
        let ended = bed.run(run(&eat(90), json!({"memory_mb": 200}))).await;
        assert_eq!(ended.outcome(), ("succeeded", 0, "survived\n"), "{profile}: {}", ended.stderr);
        assert!(peak_mib(&ended) >= 90, "{profile}: {} MiB", peak_mib(&ended));

        let ended = bed.run(run(FORK, json!({}))).await;
        assert_eq!(
            (ended.report.status.as_str(), ended.stdout.as_str()),
            ("failed", ""),
            "{profile}: {}",
            ended.stderr
        );
        assert!(ended.stderr.contains("fork"), "{profile}: {}", ended.stderr);
        assert!(ended.stderr.contains("limit of processes"), "{profile}: {}", ended.stderr);

        let ended = bed.run(run(BURN, json!({"cpu": 200}))).await;
        assert!(processor_share(&ended) <= 40, "{profile}: {:?}", ended.report.artifacts_manifest);
        let ended = bed.run(run(BURN, json!({}))).await;
        assert!(processor_share(&ended) > 50, "{profile}: {:?}", ended.report.artifacts_manifest);
    }
    // The kernel may keep the group of the last run for a moment; those before it are gone.
    let own = ["nexus", &format!("nexus/{}", bed.daemon.id()), "nexusd"];
    let left: Vec<String> = unit.below().into_iter().filter(|dir| !own.contains(&dir.as_str())).collect();
    assert!(left.len() <= 1, "{left:?}");
    assert_eq!(bed.stub.violations(), Vec::<String>::new());
}

/// How a daemon may find itself in a cgroup that is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Foreign {
    /// Somebody else's, as a login session's is.
    NotGiven,
    /// The directory was given away, the files in it were not.
    HalfGiven,
    /// root may do everything there, but is not alone.
    Shared,
}

#[tokio::test]
async fn without_delegation_what_is_named_is_refused_and_nothing_is_moved() {
    require!(Vm, CgroupV2, Bwrap);
    for (foreign, who) in
        [(Foreign::NotGiven, Who::User), (Foreign::HalfGiven, Who::User), (Foreign::Shared, Who::Root)]
    {
        let unit = Unit::new("foreign", &EVERY_CONTROLLER);
        let neighbour = unit.neighbour();
        if foreign == Foreign::HalfGiven {
            unit.give_directory(who);
        }
        let bed = daemon_in(&unit, who, "");
        let profile = if foreign == Foreign::NotGiven { "host" } else { "untrusted" };
        for (limits, name) in [(json!({"memory_mb": 64}), "memory_bytes"), (json!({"cpu": 200}), "cpu_millicores")] {
            let ended = bed.run(json!({"command": "echo ran", "sandbox_profile": profile, "limits": limits})).await;
            assert_eq!(ended.outcome(), ("failed", 1, ""), "{foreign:?} {name}");
            for part in [&format!("limit {name} cannot be enforced on this host"), "Delegate=yes"] {
                assert!(ended.stderr.contains(part), "{foreign:?} {part}: {}", ended.stderr);
            }
        }
        let (ended, layers) = layers(&bed, json!({"command": "echo ran", "sandbox_profile": profile})).await;
        assert_eq!(ended.outcome(), ("succeeded", 0, "ran\n"), "{foreign:?}: {}", ended.stderr);
        assert_eq!(layers["cgroup"]["version"], Value::Null, "{foreign:?}");
        assert!(layers["cgroup"]["why"].as_str().unwrap().contains("Delegate=yes"), "{foreign:?}: {layers}");
        // In a sandbox's own user namespace a resource limit counts its processes; on the host it would count all of a user's.
        let pids = if profile == "host" { Value::Null } else { json!("rlimit") };
        for (limit, by) in [("memory_bytes", Value::Null), ("pids", pids), ("nofile", json!("rlimit"))] {
            assert_eq!(layers["limits"][limit]["by"], by, "{foreign:?} {limit}");
        }
        let said = Said::by(who, |doctor| unit.command(who, doctor));
        let (state, detail) = said.pair("cgroups");
        assert!(
            state == "warn" && detail.starts_with("none, default limits are best effort: "),
            "{foreign:?} {detail}"
        );

        assert!(unit.holds(neighbour.id()) && unit.holds(bed.daemon.id()), "{foreign:?}: somebody was moved");
        assert_eq!(unit.below(), Vec::<String>::new(), "{foreign:?}");
    }
}

#[tokio::test]
async fn a_controller_that_was_not_handed_down_is_refused_alone() {
    require!(Vm, CgroupV2, Bwrap);
    let unit = Unit::new("partly", &["memory", "pids"]);
    unit.delegate(Who::User);
    let bed = daemon_in(&unit, Who::User, "");
    let ended = bed.run(json!({"command": "echo ran", "limits": {"cpu": 200}})).await;
    assert_eq!(ended.outcome(), ("failed", 1, ""));
    assert!(
        ended
            .stderr
            .contains("limit cpu_millicores cannot be enforced on this host: cpu: the daemon has no cpu controller"),
        "{}",
        ended.stderr
    );
    let (ended, layers) = layers(&bed, json!({"command": eat(90), "limits": {"memory_mb": 64}})).await;
    assert_eq!(ended.outcome(), ("failed", 137, ""), "{}", ended.stderr);
    assert_eq!(layers["cgroup"], json!({"version": 2, "controllers": ["memory", "pids"]}));
    let said = Said::by(Who::User, |doctor| unit.command(Who::User, doctor));
    assert_eq!(said.pair("cgroups"), ("warn", "v2, without cpu: default limits are best effort"));
}

#[tokio::test]
async fn doctor_and_daemon_agree_in_a_unit_of_their_own() {
    require!(Vm, CgroupV2, Bwrap);
    let unit = Unit::delegated("agreed", Who::Root);
    let said = Said::by(Who::Root, |doctor| unit.command(Who::Root, doctor));
    assert_eq!(said.pair("cgroups"), ("pass", "v2: cpu, memory, pids"));
    // The daemon comes after it, and a second doctor beside the daemon.
    let bed = daemon_in(&unit, Who::Root, "");
    let said = Said::by(Who::Root, |doctor| unit.command(Who::Root, doctor));
    assert_eq!(said.pair("cgroups"), ("pass", "v2: cpu, memory, pids"));
    let ended = bed.run(json!({"command": eat(90), "limits": {"memory_mb": 64}})).await;
    assert_eq!(ended.outcome(), ("failed", 137, ""), "{}", ended.stderr);
}

/// systemd's `DelegateSubgroup=nexusd` (since 254) puts the daemon where it would go itself.
#[tokio::test]
async fn a_subgroup_made_by_systemd_is_the_leaf() {
    require!(Vm, CgroupV2, Bwrap);
    let unit = Unit::delegated("subgroup", Who::User);
    unit.make_subgroup("nexusd", Who::User);
    let bed = daemon_in(&unit, Who::User, "");
    assert_eq!(cgroup_of(bed.daemon.id()), "/subgroup.slice/nexusd.service/nexusd");
    let ended = bed.run(json!({"command": eat(90), "limits": {"memory_mb": 64}})).await;
    assert_eq!(ended.outcome(), ("failed", 137, ""), "{}", ended.stderr);
}

/// In a container the daemon's cgroup looks like the root, and is none: it has processes and limits of its own.
#[tokio::test]
async fn a_cgroup_namespace_is_not_taken_for_the_root() {
    require!(Vm, CgroupV2, Bwrap);
    let unit = Unit::delegated("container", Who::Root);
    let bed = Bed::started_by(StubOptions::full(), "", |_| {
        let mut inside = Command::new("unshare");
        inside.args(["--cgroup", "--mount", "/bin/sh", "-c"]);
        inside.args(["umount /sys/fs/cgroup && mount -t cgroup2 cgroup /sys/fs/cgroup && exec \"$0\" \"$@\""]);
        unit.command(Who::Root, wrapped(inside, &nexusd()))
    });
    assert_eq!(cgroup_of(bed.daemon.id()), "/container.slice/nexusd.service/nexusd");
    let ended = bed.run(json!({"command": eat(90), "limits": {"memory_mb": 64}})).await;
    assert_eq!(ended.outcome(), ("failed", 137, ""), "{}", ended.stderr);
}

#[tokio::test]
async fn the_next_daemon_clears_what_a_killed_one_left() {
    require!(Vm, CgroupV2, Bwrap);
    let unit = Unit::delegated("killed", Who::User);
    let mut bed = daemon_in(&unit, Who::User, "max_concurrent_directives: 2\n");
    let up = |profile: &str| bed.queue(json!({"command": "echo up; sleep 600", "sandbox_profile": profile}));
    for id in [up("untrusted"), up("host")] {
        bed.stub.log_contains(&id, conduits::LogStream::Stdout, "up", SOON).await;
    }
    let killed = bed.daemon.id();
    assert_eq!(unit.below().len(), 5, "the control: {:?}", unit.below());
    bed.daemon.kill();
    bed.daemon = start_by(unit.command(Who::User, nexusd()), &bed.dir);
    let expected = ["nexus".to_owned(), format!("nexus/{}", bed.daemon.id()), "nexusd".to_owned()];
    assert_ne!(killed, bed.daemon.id());
    wait::until("the end of the old groups", SOON, || (unit.below() == expected).then_some(()));
    assert_eq!(bed.daemon.text(Output::Stdout), "");
}
