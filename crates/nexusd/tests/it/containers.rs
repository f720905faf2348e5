//! Profile trusted from outside: as an ordinary user, and where there is no podman.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use testkit::require::test_rootfs;
use testkit::{Containers, Endpoint, Output, Process, StubOptions, WorkDir, require};

use crate::bed::{Bed, ORDINARY, SOON, nexusd, ordinary_user_s};

/// A user's own podman: his store, his configuration, and subordinate ids that he has in this mount namespace alone.
struct Rootless {
    dir: WorkDir,
}

impl Rootless {
    fn new() -> Self {
        let dir = WorkDir::new();
        let name = std::fs::read_to_string("/etc/passwd").unwrap();
        let name =
            name.lines().find(|line| line.split(':').nth(2) == Some("65534")).unwrap().split(':').next().unwrap();
        dir.write("subids", format!("{name}:300000:65536\n"));
        dir.write(
            "containers.conf",
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n",
        );
        let config = format!(
            "server_url: \"http://127.0.0.1:1\"\nterritory_id: t\nwork_dir: {}\nmin_free_bytes: 0\n\
             supported_sandbox_profiles: [trusted]\ncontainer: {{image: \"{}\", network: isolated}}\n",
            dir.join("w").display(),
            Containers::IMAGE
        );
        dir.write("config.yaml", config);
        drop(ordinary_user_s(&dir));
        for folder in ["run", "facility"] {
            std::fs::create_dir(dir.join(folder)).unwrap();
            std::os::unix::fs::chown(dir.join(folder), Some(ORDINARY), Some(ORDINARY)).unwrap();
        }
        Self { dir }
    }

    fn run(&self, words: &[&str]) -> std::process::Output {
        let script = r#"mount --bind "$1" /etc/subuid && mount --bind "$1" /etc/subgid && shift && exec "$@""#;
        let at = |name: &str| self.dir.join(name).display().to_string();
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", &at("subids"), "setpriv"]);
        command.args([format!("--reuid={ORDINARY}"), format!("--regid={ORDINARY}"), "--clear-groups".to_owned()]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args([format!("HOME={}", at("")), format!("XDG_RUNTIME_DIR={}", at("run"))]);
        command.arg(format!("CONTAINERS_CONF={}", at("containers.conf"))).args(words).current_dir(self.dir.path());
        command.output().unwrap()
    }

    /// The image, from a tree that only root may read whole.
    fn take_image(&self) {
        let archive = self.dir.join("image.tar");
        let tree = test_rootfs();
        let tar = Command::new("tar").arg("-C").arg(tree).arg("-cf").arg(&archive).arg(".").status().unwrap();
        assert!(tar.success());
        std::os::unix::fs::chown(&archive, Some(ORDINARY), Some(ORDINARY)).unwrap();
        let imported = self.run(&["podman", "import", "--quiet", archive.to_str().unwrap(), Containers::IMAGE]);
        assert!(imported.status.success(), "{imported:?}");
        std::fs::remove_file(archive).unwrap();
    }

    fn nexusd(&self, words: &[&str]) -> std::process::Output {
        let program = self.dir.join("nexusd").display().to_string();
        let config = self.dir.join("config.yaml").display().to_string();
        let all = [&[program.as_str(), "run", "--config", config.as_str(), "--profile", "trusted"], words].concat();
        self.run(&all)
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        // Files of subordinate ids, which only their owner's podman takes away; root would do, and this is the user's way.
        drop(self.run(&["podman", "unshare", "rm", "-rf", ".local"]));
        // It keeps a process that holds the user's namespace.
        let pid = std::fs::read_to_string(self.dir.join("run/libpod/tmp/pause.pid")).unwrap_or_default();
        if let Some(pid) = pid.trim().parse().ok().and_then(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap_or_default();
        }
    }
}

#[test]
fn an_ordinary_user_has_containers_too() {
    require!(Root, Podman, Subids);
    let user = Rootless::new();
    let missing = user.nexusd(&["--", "true"]);
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!missing.status.success() && said.contains("image not known (podman pull"), "{said}");
    user.take_image();
    let script = "id -u; grep CapBnd /proc/self/status; touch made; grep -c . /proc/net/dev; exit 7";
    let facility = user.dir.join("facility");
    let ran = user.nexusd(&["--facility", facility.to_str().unwrap(), "--", script]);
    assert_eq!(ran.status.code(), Some(7), "{ran:?}");
    assert_eq!(String::from_utf8_lossy(&ran.stdout), format!("{ORDINARY}\nCapBnd:\t0000000000000000\n3\n"));
    let made = std::fs::metadata(facility.join("made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), ORDINARY, "what it writes is the user's");
    let left = user.run(&["podman", "ps", "--all", "--quiet"]);
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "{left:?}");
}

#[tokio::test]
async fn without_podman_trusted_is_neither_offered_nor_run() {
    require!(Bwrap);
    let keys = "supported_sandbox_profiles: [untrusted, trusted]\n";
    let bed = Bed::started_by(StubOptions::full(), keys, |dir| {
        // All programs but podman.
        let tools = dir.join("tools");
        std::fs::create_dir(&tools).unwrap();
        for program in ["bwrap", "git", "sh"] {
            std::os::unix::fs::symlink(Path::new("/usr/bin").join(program), tools.join(program)).unwrap();
        }
        let mut program = nexusd();
        program.env("PATH", tools);
        program
    });
    let said = bed.daemon.wait_for_line(Output::Stderr, "a driver does not work", SOON);
    assert!(said.contains("container") && said.contains("podman is not found"), "{said}");
    let ended = bed.run(json!({ "command": "echo ran", "sandbox_profile": "trusted" })).await;
    assert_eq!(ended.outcome(), ("failed", 1, ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("podman is not found: sudo apt install -y podman"), "{}", ended.stderr);
    let polls = bed.stub.requests_of(Endpoint::Poll);
    let asked: Vec<_> = polls.iter().map(|poll| poll.body["supported_sandbox_profiles"].clone()).collect();
    assert!(!asked.is_empty() && asked.iter().all(|profiles| *profiles == json!(["untrusted"])), "{asked:?}");
    assert_eq!(bed.run(json!({ "command": "echo ran" })).await.outcome(), ("succeeded", 0, "ran\n"), "the control");
}

/// /dev/shm, where a run of its own has its state, often executes nothing.
#[test]
fn a_run_whose_state_may_not_be_executed() {
    require!(Root, Podman);
    let dir = WorkDir::new();
    let config = format!("supported_sandbox_profiles: [trusted]\ncontainer: {{image: \"{}\"}}\n", Containers::IMAGE);
    let head = "server_url: \"http://127.0.0.1:1\"\nterritory_id: t\n";
    let config = dir.write("config.yaml", format!("{head}work_dir: {}\n{config}", dir.join("w").display()));
    let left = || {
        let entries = std::fs::read_dir("/tmp").unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("nexus-helper-")).count()
    };
    let before = left();
    for options in ["remount,bind,noexec", "remount,bind,exec"] {
        let script = r#"mount -o "$1" /dev/shm && shift && exec "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh", options, env!("CARGO_BIN_EXE_nexusd"), "run", "--config"]);
        command
            .arg(&config)
            .args(["--profile", "trusted", "--", "echo ran"])
            .envs(Containers::of_tests().environment());
        let output = command.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "ran\n", "{options}: {output:?}");
    }
    assert_eq!(left(), before, "the helper's folder stays behind");
}

/// There is no next look that would remove it.
#[test]
fn a_run_of_its_own_leaves_no_container_where_its_monitor_is_killed() {
    require!(Root, Podman);
    let dir = WorkDir::new();
    let config = format!(
        "server_url: \"http://127.0.0.1:1\"\nterritory_id: t\nwork_dir: {}\nsupported_sandbox_profiles: [trusted]\n\
         container: {{image: \"{}\", network: isolated}}\n",
        dir.join("w").display(),
        Containers::IMAGE
    );
    let config = dir.write("config.yaml", config);
    let mut command = nexusd();
    command.args(["run", "--config"]).arg(&config).args(["--profile", "trusted", "--", "echo up; sleep 100"]);
    let mut run = Process::start(command.envs(Containers::of_tests().environment()));
    drop(run.wait_for_line(Output::Stdout, "up", SOON));
    let label = format!("nexusd-run-{}-", run.id());
    let containers = || {
        let words = ["ps", "--all", "--no-trunc", "--format={{.ID}} {{.Labels}}"];
        let output = Containers::of_tests().podman().args(words).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let ours = text.lines().filter(|line| line.contains(&label));
        ours.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect::<Vec<_>>()
    };
    let found = containers();
    let [id] = found.as_slice() else { panic!("{found:?}") };
    let monitor = std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let is_its = line.starts_with(b"/usr/bin/conmon") && String::from_utf8_lossy(&line).contains(id.as_str());
        entry.file_name().to_str()?.parse().ok().filter(|_| is_its)
    });
    let monitor = rustix::process::Pid::from_raw(monitor.expect("a monitor")).unwrap();
    rustix::process::kill_process(monitor, rustix::process::Signal::KILL).unwrap();
    // podman waits for its monitor for a while.
    assert_eq!(run.wait(3 * SOON).code(), Some(1));
    assert_eq!(containers(), Vec::<String>::new());
}
