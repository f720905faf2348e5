//! A daemon of root in the root cgroup: it needs no delegation, and moves nobody.

use serde_json::json;
use sys::cgroup::{Cgroups, Quantity};
use testkit::require;

use super::machine::{Said, Who, cgroup_of, eat, layers, peak_mib};
use crate::bed::Bed;

#[tokio::test]
async fn the_root_cgroup_needs_no_delegation() {
    require!(Vm, CgroupV2, Bwrap, Root);
    let bed = Bed::new();
    for profile in ["untrusted", "host"] {
        let fields = json!({"command": eat(90), "sandbox_profile": profile, "limits": {"memory_mb": 64, "cpu": 1000}});
        let (ended, layers) = layers(&bed, fields).await;
        assert_eq!(ended.outcome(), ("failed", 137, ""), "{profile}: {}", ended.stderr);
        assert!((60..=64).contains(&peak_mib(&ended)), "{profile}: {} MiB", peak_mib(&ended));
        assert_eq!(layers["cgroup"], json!({"version": 2, "controllers": ["memory", "cpu", "pids"]}), "{profile}");
        for limit in ["memory_bytes", "cpu_millicores", "pids"] {
            assert_eq!(layers["limits"][limit]["by"], "cgroup", "{profile} {limit}");
        }
    }
    assert_eq!((cgroup_of(bed.daemon.id()), cgroup_of(1)), ("/".to_owned(), "/".to_owned()));
    let said = Said::by(Who::Root, |doctor| doctor);
    assert_eq!((said.code, said.pair("cgroups")), (0, ("pass", "v2: cpu, memory, pids")), "{said:?}");
}

#[tokio::test]
async fn landlock_is_there_as_the_kernel_has_it() {
    require!(Vm, Landlock, Bwrap);
    let abi = sys::facts::KernelFacts::read().landlock_abi.unwrap();
    let bed = Bed::new();
    // A move between folders keeps the file itself where Landlock's rules allow it, from ABI 2 on.
    let command =
        "mkdir a b; echo x > a/f; before=$(stat -c %i a/f); mv a/f b/f; test $before = $(stat -c %i b/f) && echo same";
    let (ended, layers) = layers(&bed, json!({"command": command})).await;
    assert_eq!(ended.outcome(), ("succeeded", 0, if abi >= 2 { "same\n" } else { "" }), "{}", ended.stderr);
    assert_eq!(layers["landlock_abi"], abi);
    let said = Said::by(Who::Root, |doctor| doctor);
    assert_eq!(said.pair("landlock"), ("pass", format!("ABI {abi}").as_str()));
}

#[test]
fn one_set_of_drivers_outlives_another() {
    require!(Vm, CgroupV2, Root);
    let (first, second) = (Cgroups::find(), Cgroups::find());
    drop(first);
    let group = second.create("outliving", &[Quantity::Memory]).unwrap();
    for (quantity, value) in [(Quantity::Memory, 1 << 26), (Quantity::Pids, 20), (Quantity::CpuMillicores, 500)] {
        group.set(quantity, value).unwrap();
    }
    let dir = std::path::Path::new("/sys/fs/cgroup/nexus").join(std::process::id().to_string());
    let kept = std::fs::read_to_string(dir.join("outliving/memory.max")).unwrap();
    assert_eq!(kept, "67108864\n");
    drop(group);
    drop(second);
    assert!(!dir.exists());
}
