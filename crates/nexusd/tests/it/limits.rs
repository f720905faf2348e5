//! What a directive may use, and what its result says when it wanted more. Each with a control that stays within.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{StubOptions, WorkDir, require};

use crate::bed::{Bed, Ended, nexusd};

/// A limit that bites ends the run long before its command would.
const AT_ONCE: Duration = Duration::from_secs(15);

fn ended_by(ended: &Ended) -> Option<&str> {
    ended.report.artifacts_manifest.get("ended_by").and_then(serde_json::Value::as_str)
}

async fn with_disk(bed: &Bed, disk_mb: u64, command: &str) -> Ended {
    bed.run(json!({ "command": command, "limits": { "disk_mb": disk_mb } })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_limit_ends_a_run_that_goes_on() {
    require!(Bwrap);
    let bed = Bed::new();
    let began = Instant::now();
    let ended = with_disk(&bed, 20, "dd if=/dev/zero of=big bs=1M count=100 status=none; sync; sleep 60").await;
    assert_eq!((ended.report.exit_code, ended_by(&ended)), (Some(125), Some("disk")), "{}", ended.stderr);
    assert!(ended.stderr.contains("ended by its disk limit: it added "), "{}", ended.stderr);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    // Control: within the limit, in a facility that already holds more than that.
    let facility = json!({ "id": "full" });
    bed.run(json!({ "command": "dd if=/dev/zero of=old bs=1M count=40 status=none", "facility": facility })).await;
    let within = json!({
        "command": "dd if=/dev/zero of=new bs=1M count=10 status=none; sleep 1; du -m old | cut -f1",
        "facility": facility, "limits": { "disk_mb": 20 },
    });
    assert_eq!(bed.run(within).await.outcome(), ("succeeded", 0, "40\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_too_fast_for_the_watch_is_no_success() {
    require!(Bwrap);
    let bed = Bed::new();
    let ended = with_disk(&bed, 1, "head -c 4000000 /dev/zero > big").await;
    assert_eq!((ended.report.exit_code, ended_by(&ended)), (Some(125), Some("disk")), "{}", ended.stderr);
    // A file with a hole takes what it holds, not what it says.
    assert_eq!(with_disk(&bed, 1, "truncate -s 10G hole").await.outcome(), ("succeeded", 0, ""));
}

/// A file system has a number of files to give away, and empty ones take none of its bytes.
#[tokio::test(flavor = "multi_thread")]
async fn files_without_content_count() {
    require!(Bwrap);
    let bed = Bed::new();
    let many = |count: u32, then: &str| format!("mkdir d; cd d; seq {count} | xargs touch; echo made; {then}");
    let began = Instant::now();
    let ended = with_disk(&bed, 20, &many(70_000, "sleep 60")).await;
    assert_eq!((ended.report.exit_code, ended_by(&ended)), (Some(125), Some("disk")), "{}", ended.stderr);
    assert!(ended.stderr.contains("files and folders to its facility"), "{}", ended.stderr);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    assert_eq!(with_disk(&bed, 20, &many(10_000, "true")).await.outcome(), ("succeeded", 0, "made\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_name_counts() {
    require!(Root, Bwrap, Cgroups);
    let bed = Bed::new();
    let began = Instant::now();
    let hidden = "exec 3> x; rm x; dd if=/dev/zero bs=1M count=100 status=none >&3; sleep 60";
    let ended = with_disk(&bed, 20, hidden).await;
    assert_eq!((ended.report.exit_code, ended_by(&ended)), (Some(125), Some("disk")), "{}", ended.stderr);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_measured_is_too_much() {
    require!(Bwrap);
    let bed = Bed::new();
    let deep = "i=0; while [ $i -lt 300 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done";
    let ended = with_disk(&bed, 100, deep).await;
    assert_eq!((ended.report.exit_code, ended_by(&ended)), (Some(125), Some("disk")), "{}", ended.stderr);
    assert!(ended.stderr.contains("nested more than 256 deep"), "{}", ended.stderr);
    // Control: without a limit, a directive may nest as it likes.
    assert_eq!(bed.run(json!({ "command": deep })).await.outcome(), ("succeeded", 0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_processes_are_told_apart_in_the_result() {
    // Version 2 kills the whole group.
    require!(Root, Bwrap, CgroupV1);
    let bed = Bed::with(StubOptions::full(), "limits: {pids: 20}\n");
    let hog = "head -c 300M /dev/zero | tail -c 290M | wc -c";
    let strict = format!("set -o pipefail; {hog}");
    let small = json!({ "memory_mb": 64 });
    let ended = bed.run(json!({ "command": strict, "shell": "/bin/bash", "limits": small })).await;
    assert_eq!((ended.outcome().0, ended_by(&ended)), ("failed", Some("oom")), "{:?} {}", ended.report, ended.stderr);
    // A command that does without the process that was killed says so all the same.
    let ended = bed.run(json!({ "command": hog, "limits": small })).await;
    assert!(ended.stderr.contains("the memory limit was reached"), "{:?} {}", ended.report, ended.stderr);
    let counted = |ended: &Ended, name: &str| ended.report.artifacts_manifest["usage"][name].as_u64();
    assert!(counted(&ended, "oom_kills") > Some(0), "{:?}", ended.report);
    assert_eq!(bed.run(json!({ "command": hog })).await.outcome(), ("succeeded", 0, "304087040\n"));

    let many = |count: u32| format!("i=0; while [ $i -lt {count} ]; do sleep 1 & i=$((i+1)); done; wait; echo all");
    let ended = bed.run(json!({ "command": many(40) })).await;
    assert_eq!((ended.outcome().0, ended_by(&ended)), ("failed", Some("pids")), "{}", ended.stderr);
    assert!(ended.stderr.contains("the limit of processes was reached"), "{}", ended.stderr);
    assert!(counted(&ended, "pids_refused") > Some(0), "{:?}", ended.report);
    assert_eq!(counted(&ended, "oom_kills"), Some(0));
    assert_eq!(bed.run(json!({ "command": many(10) })).await.outcome(), ("succeeded", 0, "all\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_reported() {
    require!(Root, Bwrap, Cgroups);
    let bed = Bed::new();
    let busy = "head -c 100M /dev/zero | tail -c 90M | sha256sum > /dev/null; sleep 0.3";
    let ended = bed.run(json!({ "command": busy })).await;
    let usage = &ended.report.artifacts_manifest["usage"];
    let figure = |name: &str| usage[name].as_u64().unwrap_or_else(|| panic!("{name} in {usage}"));
    assert!(figure("wall_ms") >= 300, "{usage}");
    assert!(figure("user_ms") + figure("system_ms") >= 50, "{usage}");
    assert!((80 << 20..1 << 30).contains(&figure("peak_rss_bytes")), "{usage}");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_make_no_sense_are_refused_and_zero_is_the_default() {
    require!(Bwrap);
    let bed = Bed::new();
    for (limits, named) in [
        (json!({ "disk_mb": -1 }), "limits.disk_mb"),
        (json!({ "memory_mb": -5 }), "limits.memory_mb"),
        (json!({ "cpu": 1.5 }), "limits.cpu"),
        (json!({ "disk_mb": 1_u64 << 40 }), "limits.disk_mb"),
        (json!({ "memory_mb": 1_u64 << 40 }), "limits.memory_mb"),
        (json!({ "cpu": 10_000_000 }), "limits.cpu"),
    ] {
        let ended = bed.run(json!({ "command": "echo ran", "limits": limits })).await;
        assert_eq!(ended.outcome(), ("failed", 1, ""), "{limits}");
        assert!(ended.stderr.contains(named), "{limits}: {}", ended.stderr);
    }
    let zero = json!({ "disk_mb": 0, "memory_mb": 0, "cpu": null });
    assert_eq!(bed.run(json!({ "command": "echo ran", "limits": zero })).await.outcome(), ("succeeded", 0, "ran\n"));
}

/// The same holds for the configuration: nothing starts that could not keep it, and checking the file says so.
#[test]
fn a_configured_limit_larger_than_the_machine_is_refused() {
    let dir = WorkDir::new();
    for (limit, named) in [
        ("memory_mb: 16777216", "limits.memory_mb 16777216 is more than this machine has ("),
        ("cpu: 1024000", "limits.cpu 1024000 is more than this machine has ("),
        ("disk_mb: 1073741824", "limits.disk_mb 1073741824 is more than this machine has ("),
    ] {
        let config = dir.write("config.yaml", format!("server_url: http://127.0.0.1:1\nlimits: {{{limit}}}\n"));
        let nexusd = |words: &[&str]| {
            let mut command = nexusd();
            command.arg("-config").arg(&config).args(words).current_dir(dir.path());
            let output = command.output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let (code, said) = nexusd(&["run", "--", "echo ran"]);
        assert!(code != Some(0) && said.contains(named) && said.lines().count() == 1, "{code:?} {said}");
        let (code, said) = nexusd(&["config", "check"]);
        assert!(code == Some(0) && said.contains(named), "{code:?} {said}");
    }
}

/// Whoever may open fewer files than the default runs all the same, within that; and the smallest limit leaves room to start.
#[test]
fn a_daemon_that_may_open_few_files_holds_its_runs_to_that() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let run = |nofile: u64, own: u64| {
        let config = dir.write("config.yaml", format!("min_free_bytes: 0\nlimits: {{nofile: {nofile}}}\n"));
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={own}:{own}"));
        if rustix::process::geteuid().is_root() {
            // Root may raise its limits, unless it is one of a container.
            command.args(["setpriv", "--bounding-set=-sys_resource"]);
        }
        command.arg(nexusd().get_program()).current_dir(dir.path());
        let output = command.args(["run", "--config"]).arg(config).args(["--", "ulimit -n"]).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    for (nofile, own, seen) in [(4096, 1024, "1024"), (64, 1024, "64"), (200, 1024, "200")] {
        let (stdout, stderr) = run(nofile, own);
        assert_eq!((stdout.trim_end(), stderr.as_str()), (seen, ""), "{nofile} of {own}");
    }
}

/// A small file system of the test's own.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mib: u32) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={mib}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "nexus-test"]).arg(at).status().unwrap();
        assert!(mounted.success());
        Self(at.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_ends_the_run_and_not_the_daemon() {
    require!(Root, Bwrap);
    let folder = WorkDir::new();
    let disk = SmallDisk::mount(&folder.join("disk"), 96);
    let work_dir = folder.join("disk/w");
    let bed = Bed::with_work_dir(StubOptions::full(), &work_dir, "min_free_bytes: 32MiB\n");
    let began = Instant::now();
    let ended = bed
        .run(json!({ "command": "dd if=/dev/zero of=big bs=1M count=80 status=none; sleep 60", "facility": { "id": "f1" } }))
        .await;
    assert_eq!((ended.report.exit_code, ended_by(&ended)), (Some(125), Some("disk")), "{}", ended.stderr);
    assert!(ended.stderr.contains("below min_free_bytes"), "{}", ended.stderr);
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    // The daemon lives on: it says why it takes nothing on, and takes on again what fits.
    let refused = bed.run(json!({ "command": "echo ran", "facility": { "id": "other" } })).await;
    assert!(refused.stderr.contains("min_free_bytes"), "{}", refused.stderr);
    std::fs::remove_dir_all(work_dir.join("f1")).unwrap();
    assert_eq!(bed.run(json!({ "command": "echo ran" })).await.outcome(), ("succeeded", 0, "ran\n"));
    drop(bed);
    drop(disk);
}
