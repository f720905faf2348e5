//! Project quotas: where the file system has them, `limits.disk_mb` is a fence that nothing gets past, and elsewhere a watch.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use conduits::LogStream;
use serde_json::{Value, json};
use sys::quota::{self, Taken};
use testkit::{StubOptions, WorkDir, require};

use super::machine::stderr;
use crate::bed::{Bed, Ended, SOON, nexusd, start};

const MIB: u64 = 1 << 20;

const PROFILES: &str = "supported_sandbox_profiles: [untrusted, host]\n";

/// What makes a file system that can have quotas of projects.
const EXT4: &[&str] = &["mkfs.ext4", "-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota,lazy_itable_init=1"];
const XFS: &[&str] = &["mkfs.xfs", "-q", "-f"];

/// A file system of the test's own, unmounted when dropped.
struct Disk(WorkDir);

impl Disk {
    fn mounted(make: &[&str], options: &str) -> Self {
        let disk = Self(WorkDir::new());
        let (image, at) = (disk.0.join("image"), disk.0.join("disk"));
        fs::create_dir(&at).unwrap();
        File::create(&image).unwrap().set_len(400 * MIB).unwrap();
        let mut mkfs = Command::new(make[0]);
        mkfs.args(&make[1..]).arg(&image);
        let mut mount = Command::new("mount");
        mount.args(["-o", options]).args([&image, &at]);
        for mut command in [mkfs, mount] {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{command:?}: {}", stderr(&output));
        }
        disk
    }

    fn work_dir(&self) -> PathBuf {
        self.0.join("disk/w")
    }

    fn daemon(&self) -> Bed {
        let keys = format!("min_free_bytes: 0\n{PROFILES}");
        Bed::with_work_dir(StubOptions::full(), &self.work_dir(), &keys)
    }

    fn facility(&self, id: &str) -> PathBuf {
        self.work_dir().join(id)
    }

    /// The number of a facility's project, and what that has taken.
    fn project(&self, id: &str) -> (u32, Taken) {
        let facility = File::open(self.facility(id)).unwrap();
        let project = quota::project_of(facility.as_fd()).unwrap();
        (project, quota::taken(facility.as_fd(), project).unwrap())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(self.0.join("disk")).status().unwrap();
    }
}

/// Runs a directive in a facility: its end, and what `started` said of its disk limit.
async fn run(bed: &Bed, facility: &str, disk_mb: u64, command: &str, profile: &str) -> (Ended, Value) {
    let fields = json!({
        "command": command, "facility": {"id": facility}, "limits": {"disk_mb": disk_mb}, "sandbox_profile": profile,
    });
    let id = bed.queue(fields);
    let ended = bed.ended(id.clone()).await;
    let summary = bed.stub.directive(&id).started.unwrap().effective_capabilities_summary;
    (ended, summary.get("disk").cloned().unwrap_or_default())
}

fn fill(file: &str, mib: u64) -> String {
    format!("dd if=/dev/zero bs=1M count={mib} status=none >> {file} && echo filled")
}

#[tokio::test]
async fn the_fence_stands_while_a_directive_runs() {
    require!(Vm, Root, Bwrap);
    the_fence_stands(&Disk::mounted(EXT4, "loop,prjquota")).await;
}

#[tokio::test]
async fn on_xfs_it_stands_as_well() {
    require!(Vm, Root, Bwrap);
    the_fence_stands(&Disk::mounted(XFS, "loop,prjquota")).await;
}

async fn the_fence_stands(disk: &Disk) {
    let bed = disk.daemon();
    for command in [format!("{}; sleep 600", fill("big", 100)), fill("big", 100)] {
        let (ended, kept_by) = run(&bed, "full", 20, &command, "untrusted").await;
        assert_eq!((ended.outcome(), &kept_by), (("failed", 125, ""), &json!("project_quota")), "{}", ended.stderr);
        assert_eq!(ended.report.artifacts_manifest["ended_by"], "disk");
        assert!(ended.stderr.contains("limits.disk_mb allows 20971520"), "{}", ended.stderr);
        let big = disk.facility("full").join("big");
        let took = fs::metadata(&big).unwrap().blocks() * 512;
        assert!((20 * MIB..29 * MIB).contains(&took), "{took}");
        fs::remove_file(big).unwrap();
        assert_eq!(disk.project("full").1.limit, None);
    }
    // Controls: within the limit, beside what is there already; and without a limit.
    for (disk_mb, mib, expected) in
        [(20, 19, json!("project_quota")), (20, 19, json!("project_quota")), (0, 60, Value::Null)]
    {
        let (ended, kept_by) = run(&bed, "full", disk_mb, &fill("more", mib), "untrusted").await;
        assert_eq!((ended.outcome(), &kept_by), (("succeeded", 0, "filled\n"), &expected), "{}", ended.stderr);
    }
    // Another facility is another project.
    run(&bed, "other", 20, "true", "untrusted").await;
    let ((full, taken), (other, of_other)) = (disk.project("full"), disk.project("other"));
    assert!(full != other && full != 0 && other != 0, "{full} {other}");
    assert!(taken.bytes > 98 * MIB && of_other.bytes < MIB, "{taken:?} {of_other:?}");
    assert_eq!(bed.stub.violations(), Vec::<String>::new());
}

/// Empty files take no space of a disk, and one of the files that it has.
#[tokio::test]
async fn files_without_content_stop_at_the_fence() {
    require!(Vm, Root, Bwrap);
    let disk = Disk::mounted(EXT4, "loop,prjquota");
    let bed = disk.daemon();
    let many = |count: u64| format!("mkdir files; cd files; seq {count} | xargs touch && echo made");
    let (ended, _) = run(&bed, "many", 20, &many(70_000), "untrusted").await;
    assert_eq!(ended.report.exit_code, Some(125), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("files and folders to its facility, limits.disk_mb allows 65536"),
        "{}",
        ended.stderr
    );
    let of_many = disk.project("many").1;
    assert!((65_537..67_000).contains(&of_many.inodes) && of_many.limit.is_none(), "{of_many:?}");
    let (ended, _) = run(&bed, "few", 20, &many(1000), "untrusted").await;
    assert_eq!(ended.outcome(), ("succeeded", 0, "made\n"), "{}", ended.stderr);
}

/// XFS sets space aside for a file that grows. Who writes less than he may is not ended for that, with quotas or
/// without; who asks for space beyond the end of a file has taken it.
#[tokio::test]
async fn what_xfs_sets_aside_is_nobody_s() {
    require!(Vm, Root, Bwrap);
    // By itself it sets aside as much again; with allocsize, as much as is said.
    for options in ["loop,allocsize=64m,prjquota", "loop,allocsize=64m"] {
        let disk = Disk::mounted(XFS, options);
        let bed = disk.daemon();
        // Whoever opens and closes a file frees what is set aside for it, and so does the watch: there is some again soon.
        let grow = "exec 3>>big; for i in $(seq 34); do head -c 1M /dev/zero >&3; sleep 0.2; done; sleep 2; echo grown";
        let (ended, _) = run(&bed, "f", 40, grow, "untrusted").await;
        assert_eq!(ended.outcome(), ("succeeded", 0, "grown\n"), "{options}: {}", ended.stderr);
        let mut control = File::create(disk.0.join("disk/control")).unwrap();
        control.write_all(&vec![0; 34 << 20]).unwrap();
        let taken = control.metadata().unwrap().blocks() * 512;
        assert!(taken > 60 * MIB, "the control: {taken} bytes are used or set aside");
        let ask = ": > asked; fallocate --keep-size --length 60MiB asked && sleep 30 && echo slept";
        let (ended, _) = run(&bed, "g", 40, ask, "untrusted").await;
        assert_ne!(ended.stdout, "slept\n", "{options}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn what_was_there_before_is_within_the_fence() {
    require!(Vm, Root, Bwrap);
    let disk = Disk::mounted(EXT4, "loop,prjquota");
    let bed = disk.daemon();
    let make = "mkdir -p a/b; echo old > a/b/old; ln a/b/old linked; ln -s a/b/old soft; mkfifo pipe";
    let (ended, _) = run(&bed, "f", 0, make, "untrusted").await;
    assert_eq!(ended.outcome().0, "succeeded", "{}", ended.stderr);
    assert_eq!(disk.project("f").0, 0);
    for file in ["linked", "a/b/new", "soft"] {
        let (ended, kept_by) = run(&bed, "f", 5, &fill(file, 20), "untrusted").await;
        assert_eq!(
            (ended.outcome(), &kept_by),
            (("failed", 125, ""), &json!("project_quota")),
            "{file}: {}",
            ended.stderr
        );
    }
    assert!(disk.project("f").1.bytes < 41 * MIB);
}

/// Tries to leave its project in every way that there is, and says what became of each.
const LEAVE: &str = r#"
import fcntl, os, struct
GET, SET, SET_FLAGS = 0x801c581f, 0x401c5820, 0x40086602
def tried(fd, request, data):
    try:
        fcntl.ioctl(fd, request, data)
        return "done"
    except OSError as error:
        return os.strerror(error.errno)
for path in "file", "dir":
    fd = os.open(path, os.O_RDONLY)
    before = bytearray(28)
    fcntl.ioctl(fd, GET, before)
    flags, extent, extents, project, cow = struct.unpack_from("5I", before)
    said = [tried(fd, SET, struct.pack("5I8x", flags, extent, extents, to, cow)) for to in (0, project + 1, project)]
    if path == "dir":
        said.append(tried(fd, SET, struct.pack("5I8x", flags & ~0x200, extent, extents, project, cow)))
        said.append(tried(fd, SET_FLAGS, struct.pack("l", 0)))
    print(path, said)
"#;

#[tokio::test]
async fn a_sandbox_cannot_leave_its_project() {
    require!(Vm, Root, Bwrap, Python);
    let disk = Disk::mounted(EXT4, "loop,prjquota");
    let bed = disk.daemon();
    let leave = format!("mkdir -p dir; touch file; python3 - <<'E'\n{LEAVE}E\n{}", fill("dir/big", 40));
    let (ended, kept_by) = run(&bed, "f", 10, &leave, "untrusted").await;
    let refused = "Invalid argument";
    // To set what it is already is no change.
    let expected = format!(
        "file ['{refused}', '{refused}', 'done']\ndir ['{refused}', '{refused}', 'done', '{refused}', '{refused}']\n"
    );
    assert_eq!(
        (ended.outcome(), kept_by),
        (("failed", 125, expected.as_str()), json!("project_quota")),
        "{}",
        ended.stderr
    );
    // The control: the same user outside of a user namespace leaves.
    let facility = disk.facility("f");
    let owner = fs::metadata(&facility).unwrap().uid();
    let mut outside = Command::new("setpriv");
    outside.args([&format!("--reuid={owner}"), "--clear-groups", "python3", "-c", LEAVE]);
    // The way there is closed to that user.
    fs::set_permissions(disk.work_dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = outside.current_dir(&facility).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said,
        "file ['done', 'done', 'done']\ndir ['done', 'done', 'done', 'done', 'done']\n",
        "{}",
        stderr(&output)
    );
}

#[tokio::test]
async fn elsewhere_it_is_watched_and_said_to_be() {
    require!(Vm, Root, Bwrap);
    let too_much = format!("{}; sleep 600", fill("big", 40));
    let fenced = Disk::mounted(EXT4, "loop,prjquota");
    let unfenced = Disk::mounted(EXT4, "loop");
    // Quotas do not bind root, and are not in force on a disk that is not mounted so.
    for (disk, profile) in [(&fenced, "host"), (&unfenced, "untrusted")] {
        let bed = disk.daemon();
        let (ended, kept_by) = run(&bed, "f", 5, &too_much, profile).await;
        assert_eq!((ended.report.exit_code, &kept_by), (Some(125), &json!("watched")), "{profile}: {}", ended.stderr);
        assert_eq!(ended.report.artifacts_manifest["ended_by"], "disk", "{profile}");
        assert_eq!(disk.project("f").0, 0);
    }
    // A folder of the user's own is not made a project.
    let own = fenced.0.join("disk/own");
    fs::create_dir(&own).unwrap();
    let work_dir = fenced.0.join("disk/w2");
    let config = format!(
        "server_url: \"http://127.0.0.1:9\"\nterritory_id: t-1\nwork_dir: {}\nmin_free_bytes: 0\nlimits: {{disk_mb: 5}}\n",
        work_dir.display()
    );
    let config = fenced.0.write("config.yaml", config);
    let mut command = nexusd();
    command.current_dir(fenced.0.path()).arg("-config").arg(config).args(["run", "--facility"]).arg(&own);
    let output = command.args(["--", &fill("big", 1)]).output().unwrap();
    assert_eq!(output.stdout, b"filled\n", "{}", stderr(&output));
    assert_eq!(quota::project_of(File::open(&own).unwrap().as_fd()).unwrap(), 0);
}

#[tokio::test]
async fn a_fence_that_a_killed_daemon_left_binds_nobody() {
    require!(Vm, Root, Bwrap);
    let disk = Disk::mounted(EXT4, "loop,prjquota");
    let mut bed = disk.daemon();
    let fields = json!({"command": "echo up; sleep 600", "facility": {"id": "f"}, "limits": {"disk_mb": 5}});
    let id = bed.queue(fields);
    bed.stub.log_contains(&id, LogStream::Stdout, "up", SOON).await;
    bed.daemon.kill();
    let (project, taken) = disk.project("f");
    assert!(taken.limit.is_some_and(|limit| limit.bytes < 14 * MIB), "the control: {taken:?}");
    bed.daemon = start(&bed.dir);
    let (ended, _) = run(&bed, "f", 0, &fill("big", 20), "untrusted").await;
    assert_eq!(ended.outcome(), ("succeeded", 0, "filled\n"), "{}", ended.stderr);
    assert_eq!((disk.project("f").0, disk.project("f").1.limit), (project, None));
}
