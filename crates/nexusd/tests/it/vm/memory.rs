//! Memory that is not a process's own heap: swap, and files in memory.

use std::process::Command;

use serde_json::json;
use testkit::{WorkDir, require};

use super::machine::{EVERY_CONTROLLER, Unit, Who, daemon_in, eat, layers, stderr};

fn sh(script: &str) -> std::process::Output {
    let output = Command::new("/bin/sh").args(["-ec", script]).output().unwrap();
    assert!(output.status.success(), "{script}: {}", stderr(&output));
    output
}

/// Swap of the test's own, off when dropped.
struct Swap(WorkDir);

impl Swap {
    fn on(mib: u32) -> Self {
        let dir = WorkDir::new();
        let file = dir.join("swap");
        let file = file.display();
        sh(&format!("fallocate -l {mib}M {file}; chmod 600 {file}; mkswap -q {file}; swapon {file}"));
        Self(dir)
    }

    /// How much of it is in use, in MiB.
    fn used_mib(&self) -> u64 {
        let text = std::fs::read_to_string("/proc/swaps").unwrap();
        text.lines().nth(1).unwrap().split_whitespace().nth(3).unwrap().parse::<u64>().unwrap() / 1024
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        sh(&format!("swapoff {}", self.0.join("swap").display()));
    }
}

#[tokio::test]
async fn swap_is_no_way_past_the_limit() {
    require!(Vm, CgroupV2, Bwrap);
    let swap = Swap::on(128);
    {
        // The control: with swap a group of the same size lives through it.
        let unit = Unit::new("swapping", &EVERY_CONTROLLER);
        std::fs::write(unit.path().join("memory.max"), (64 << 20).to_string()).unwrap();
        let mut eat_it = Command::new("/bin/sh");
        eat_it.args(["-c", &eat(90)]);
        let output = unit.command(Who::Root, eat_it).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "survived\n", "{}", stderr(&output));
    }
    let before = swap.used_mib();
    let unit = Unit::delegated("swapless", Who::User);
    let bed = daemon_in(&unit, Who::User, "");
    for profile in ["untrusted", "host"] {
        let fields = json!({"command": eat(90), "sandbox_profile": profile, "limits": {"memory_mb": 64}});
        let (ended, layers) = layers(&bed, fields).await;
        assert_eq!(ended.outcome(), ("failed", 137, ""), "{profile}: {}", ended.stderr);
        assert_eq!(ended.report.artifacts_manifest["ended_by"], "oom", "{profile}");
        assert_eq!(layers["limits"]["memory_bytes"]["by"], "cgroup", "{profile}");
    }
    assert!(swap.used_mib() <= before + 8, "{} MiB of swap, {before} before", swap.used_mib());
}

#[tokio::test]
async fn files_in_memory_count() {
    require!(Vm, CgroupV2, Bwrap);
    let unit = Unit::delegated("files", Who::User);
    let bed = daemon_in(&unit, Who::User, "");
    for place in ["/tmp", "/dev/shm"] {
        let write = |mb: u32| json!({"command": format!("dd if=/dev/zero of={place}/x bs=48M count=1 status=none; echo wrote"), "limits": {"memory_mb": mb}});
        let ended = bed.run(write(32)).await;
        assert_eq!(ended.outcome(), ("failed", 137, ""), "{place}: {}", ended.stderr);
        assert_eq!(ended.report.artifacts_manifest["ended_by"], "oom", "{place}");
        assert_eq!(bed.run(write(200)).await.outcome(), ("succeeded", 0, "wrote\n"), "{place}");
    }
}
