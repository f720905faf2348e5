//! Containers by Docker's command line: the helper comes for its descriptors. A stand-in takes the line and has podman run the
//! container, for no engine of Docker's can run in a test.

use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use sandbox::{
    ContainerRuntime, ContainerSettings, Driver, DriverSettings, EndedBy, ImagePull, Limit, Limits, Stop, StopReason,
};
use testkit::{Containers, require};
use tokio::sync::watch;

use crate::bed::{Bed, Run, processes_with, until};
use crate::promises::{self, sh};

const SOON: Duration = Duration::from_secs(20);

fn settings(program: PathBuf) -> ContainerSettings {
    ContainerSettings {
        runtime: ContainerRuntime::Docker,
        program,
        image: Containers::IMAGE.into(),
        pull: ImagePull::Never,
        run_args: Vec::new(),
        environment: Containers::of_tests().environment(),
    }
}

struct Docker {
    bed: Bed,
    /// Where the stand-in is.
    _tools: tempfile::TempDir,
}

async fn docker() -> Docker {
    docker_with(|_| {}).await
}

async fn docker_with(change: impl FnOnce(&mut ContainerSettings)) -> Docker {
    let tools = tempfile::tempdir().unwrap();
    let mut container = settings(Containers::of_tests().docker_in(tools.path()));
    change(&mut container);
    let bed = Bed::with(|settings: &mut DriverSettings| settings.container = Ok(container));
    let health = bed.drivers.health(Driver::Container).await;
    assert_eq!(health.reason, None);
    assert_eq!(health.version, "Docker version 28.2.2");
    Docker { bed, _tools: tools }
}

/// The containers and the places to meet that are left of this bed.
fn left(dir: &Path) -> String {
    let filter = format!("label=io.nexus.dir={}", dir.join("runtime").display());
    let mut podman = Containers::of_tests().podman();
    let output = podman.args(["ps", "--all", "--format={{.Names}}", "--filter", &filter]).output().unwrap();
    let places =
        std::fs::read_dir(dir.join("runtime")).unwrap().flatten().flat_map(|own| std::fs::read_dir(own.path()));
    let places =
        places.flat_map(|entries| entries.flatten()).map(|entry| entry.file_name().to_string_lossy().into_owned());
    let places: Vec<_> = places.filter(|name| name.starts_with("meet-")).collect();
    String::from_utf8(output.stdout).unwrap() + &places.join("\n")
}

#[tokio::test]
async fn a_command_runs_as_with_podman_and_finds_no_place_to_meet() {
    require!(Root, Podman, Python);
    let Docker { bed, .. } = &docker().await;
    let script = "id -u; grep -E '^(CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; ls /proc/self/fd | wc -l; \
                  tr '\\0' ' ' < /proc/1/cmdline; echo; hostname; touch made; stat -c %u made; umask; ls -A /.nexus | wc -l; \
                  echo told >&2; echo by name > /dev/stderr; (: > /.nexus/x) 2>/dev/null || echo closed; exit 7";
    let outcome = bed.run(sh(script)).await;
    let uid = bed.drivers.owner(Driver::Container).uid;
    let expected = format!(
        "{uid}\nNoNewPrivs:\t1\nSeccomp:\t2\nCapBnd:\t0000000000000000\n4\n/.nexus-init container /.nexus/socket \nnexus\n{uid}\n0022\n0\n\
         closed\n"
    );
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&outcome.stdout), sorted(&expected), "{}", outcome.stderr);
    assert_eq!((outcome.exit.code, outcome.stderr.as_str()), (7, "told\nby name\n"));
    assert_eq!(bed.sh("rm made && echo gone").await, "gone\n");
    assert_eq!(left(bed.dir.path()), "");
}

#[tokio::test]
async fn an_input_comes_whole_and_codes_come_back() {
    require!(Root, Podman, Python);
    let Docker { bed, .. } = &docker().await;
    let (read, write) = std::io::pipe().unwrap();
    let writer = std::thread::spawn(move || {
        let mut write = write;
        std::io::copy(&mut std::io::Read::take(std::io::repeat(b'x'), 10 << 20), &mut write).unwrap();
    });
    let outcome = bed.run(Run { stdin: Some(OwnedFd::from(read)), ..sh("wc -c; head -c1 | wc -c") }).await;
    writer.join().unwrap();
    assert_eq!(outcome.stdout, "10485760\n0\n", "{}", outcome.stderr);
    // Without one, there is nothing to read.
    let outcome = bed.run(sh("wc -c; kill -KILL $$")).await;
    assert_eq!((outcome.stdout.as_str(), outcome.exit.ended), ("0\n", EndedBy::Signal(9)));
}

#[tokio::test]
async fn limits_hold() {
    require!(Root, Podman, Python, Cgroups);
    let Docker { bed, .. } = &docker().await;
    let limits = Limits {
        memory_bytes: Some(Limit::named(64 << 20)),
        cpu_millicores: Some(Limit::named(500)),
        pids: Some(Limit::named(20)),
        nofile: Some(Limit::named(100)),
        fsize_bytes: Some(Limit::named(1 << 20)),
        tmp_bytes: Some(Limit::named(2 << 20)),
    };
    let run = |script: &str| Run { limits, ..sh(script) };
    let outcome =
        bed.run(run("ulimit -n; (for i in $(seq 40); do sleep 2 & done) 2>&1 | grep -qi fork && echo refused")).await;
    assert_eq!(outcome.stdout, "100\nrefused\n", "{}", outcome.stderr);
    let outcome = bed.run(run("exec tail /dev/zero")).await;
    assert_eq!((outcome.exit.ended, outcome.exit.code), (EndedBy::OutOfMemory, 137));
}

#[tokio::test]
async fn the_workspace_is_narrowed_and_the_proxy_is_reached() {
    require!(Root, Podman, Python);
    let Docker { bed, .. } = &docker().await;
    promises::the_workspace_is_narrowed(bed).await;
    promises::the_proxy_is_reached(bed).await;
}

#[tokio::test]
async fn a_cancel_and_a_timeout_end_the_container_and_not_only_the_client() {
    require!(Root, Podman, Python);
    let Docker { bed, .. } = &docker().await;
    let marker = format!("30{}", std::process::id());
    let script =
        format!("setsid sleep {marker} & trap 'echo asked; exit 3' TERM; touch up; while :; do sleep 0.1; done");
    let (keep, stop) = watch::channel(None);
    let up = bed.facility().join("up");
    let cancel = async {
        until("the command is up", || up.exists()).await;
        keep.send(Some(Stop { reason: StopReason::Cancel, grace: SOON })).unwrap();
    };
    let (outcome, ()) = tokio::join!(bed.run_until(sh(&script), stop), cancel);
    assert_eq!((outcome.exit.ended, outcome.stdout.as_str()), (EndedBy::Stopped(StopReason::Cancel), "asked\n"));
    let deaf = format!("trap '' TERM; sleep {marker}");
    let begun = Instant::now();
    let outcome = bed.run(Run { timeout: Duration::from_secs(1), ..sh(&deaf) }).await;
    assert_eq!((outcome.exit.ended, outcome.exit.code), (EndedBy::TimedOut, 124));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(processes_with(&marker), Vec::<i32>::new());
    assert_eq!(left(bed.dir.path()), "");
}

#[tokio::test]
async fn a_run_that_is_given_up_leaves_no_container() {
    require!(Root, Podman, Python);
    let Docker { bed, .. } = &docker().await;
    let marker = format!("31{}", std::process::id());
    promises::who_is_given_up_ends(bed, &marker).await;
    until("the containers are gone", || {
        // What was being made while its client was killed, the label finds.
        left(bed.dir.path()).is_empty()
    })
    .await;
}

/// An engine goes on when its client is killed; the container does not.
#[tokio::test]
async fn a_killed_client_takes_its_container_along() {
    require!(Root, Podman, Python);
    let Docker { bed, .. } = &docker().await;
    let marker = format!("32{}", std::process::id());
    let (mut handle, _stdout, _stderr) = bed.start(sh(&format!("sleep {marker}"))).await.unwrap();
    handle.ready().await.unwrap();
    handle.release().unwrap();
    until("the command runs", || !processes_with(&marker).is_empty()).await;
    let client = rustix::process::Pid::from_raw(handle.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(client, rustix::process::Signal::KILL).unwrap();
    let (_keep, stop) = watch::channel(None);
    let exit = handle.wait(stop).await;
    assert!(matches!(exit.ended, EndedBy::Engine(_)), "{exit:?}");
    assert_eq!(processes_with(&marker), Vec::<i32>::new());
    drop(handle);
    bed.drivers.tidy().await;
    assert_eq!(left(bed.dir.path()), "");
}

#[tokio::test]
async fn containers_of_a_daemon_that_is_gone_are_removed() {
    require!(Root, Podman, Python);
    let dir = tempfile::tempdir().unwrap();
    let label = format!("io.nexus.dir={}", dir.path().join("runtime").display());
    let words = ["create", "--network=none", "--ulimit=nofile=100:100", "--ulimit=nproc=1000:1000", "--label", &label];
    let output = Containers::of_tests().podman().args(words).args([Containers::IMAGE, "true"]).output().unwrap();
    let id = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    let program = Containers::of_tests().docker_in(dir.path());
    let bed = Bed::with(|settings| {
        settings.container = Ok(self::settings(program));
        settings.runtime_dir = dir.path().join("runtime");
    });
    assert_eq!(bed.drivers.health(Driver::Container).await.reason, None);
    let found = Containers::of_tests().podman().args(["container", "exists", &id]).status().unwrap().success();
    Containers::of_tests().podman().args(["rm", "--force", "--ignore", &id]).output().unwrap();
    assert!(!found);
}

/// A volume of the image's is a tmpfs with a size, not a folder of the engine's.
#[tokio::test]
async fn an_image_s_volumes_are_bounded_or_refused() {
    require!(Root, Podman, Python);
    let podman = |words: &[&str]| {
        let output = Containers::of_tests().podman().args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let make = |volume: &str, name: &str| {
        let name = format!("localhost/nexus-{name}:{}", std::process::id());
        let flags = ["create", "--network=none", "--ulimit=nofile=100:100", "--ulimit=nproc=1000:1000"];
        let container = podman(&[flags.as_slice(), &[Containers::IMAGE, "true"]].concat());
        podman(&["commit", "--quiet", "--format=docker", "--change", volume, &container, &name]);
        podman(&["rm", &container]);
        name
    };
    let (data, inside) = (make("VOLUME /da,ta", "data"), make("VOLUME /workspace/sub", "inside"));
    let Docker { bed, .. } = &docker_with(|settings| settings.image.clone_from(&data)).await;
    let outcome = bed.run(sh("grep -c '^tmpfs /da,ta ' /proc/mounts")).await;
    let tools = tempfile::tempdir().unwrap();
    let mut refused = settings(Containers::of_tests().docker_in(tools.path()));
    refused.image.clone_from(&inside);
    let other = Bed::with(|settings| settings.container = Ok(refused));
    let reason = other.drivers.health(Driver::Container).await.reason.unwrap_or_default();
    podman(&["rmi", &data, &inside]);
    assert_eq!(outcome.stdout, "1\n", "{}", outcome.stderr);
    assert!(reason.contains("the image has a VOLUME /workspace/sub"), "{reason}");
}

/// Docker's own client, where this machine has one.
fn real() -> Option<PathBuf> {
    ["/usr/local/bin/docker", "/usr/bin/docker"].map(PathBuf::from).into_iter().find(|path| path.exists())
}

fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("docker");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn what_cannot_work_is_said_plainly() {
    require!(Root, Podman, Python);
    let tools = tempfile::tempdir().unwrap();
    let standin = Containers::of_tests().docker_in(tools.path());
    let reason = async |program: PathBuf, image: &str| {
        let mut container = settings(program);
        container.image = image.to_owned();
        container.environment.push(("DOCKER_HOST".to_owned(), "unix:///nonexistent/docker.sock".to_owned()));
        let bed = Bed::with(|settings| settings.container = Ok(container));
        bed.drivers.health(Driver::Container).await.reason.unwrap_or_default()
    };
    let missing = reason(standin.clone(), "localhost/nosuch:1").await;
    assert_eq!(
        missing,
        "docker: No such image: localhost/nosuch:1 (docker pull the image as this user, or set container.pull: missing)"
    );
    let no_program = reason("/nonexistent/docker".into(), Containers::IMAGE).await;
    assert!(no_program.contains("/nonexistent/docker is not found: sudo apt install -y docker.io"), "{no_program}");
    // As the client says it, and where there is a real one, the client itself.
    let said = "echo '{\"ServerVersion\":\"\"}'; echo 'Cannot connect to the Docker daemon at unix:///nonexistent/docker.sock. \
                Is the docker daemon running?' >&2; exit 1";
    let dir = tempfile::tempdir().unwrap();
    for client in real().into_iter().chain([script(dir.path(), said)]) {
        let no_engine = reason(client.clone(), Containers::IMAGE).await;
        assert!(no_engine.starts_with("docker: Cannot connect to the Docker daemon at"), "{client:?}: {no_engine}");
        assert!(
            no_engine.ends_with("(start Docker's engine on this machine: sudo systemctl start docker)"),
            "{no_engine}"
        );
    }
    // The client reads the whole command line of a run before it looks for an engine.
    if let Some(real) = real() {
        let program = script(
            dir.path(),
            &format!("case $1 in run) exec {} \"$@\";; *) exec {} \"$@\";; esac", real.display(), standin.display()),
        );
        let no_engine = reason(program, Containers::IMAGE).await;
        assert!(no_engine.starts_with("docker: Cannot connect to the Docker daemon at"), "{no_engine}");
    }
    let rootless = format!("{} \"$@\" | sed 's/name=cgroupns/name=rootless/'", standin.display());
    let rootless = reason(script(dir.path(), &rootless), Containers::IMAGE).await;
    assert!(rootless.contains("a rootless one") && rootless.contains("use podman"), "{rootless}");
}

/// An engine on another machine starts something there, and nobody ever comes; one that fails says why.
#[tokio::test]
async fn a_container_that_never_comes_is_said_to_be_that() {
    require!(Root, Podman, Python);
    let tools = tempfile::tempdir().unwrap();
    let standin = Containers::of_tests().docker_in(tools.path());
    let dir = tempfile::tempdir().unwrap();
    let runs = |what: &str| format!("case $1 in run) {what};; *) exec {} \"$@\";; esac", standin.display());
    let refused = "echo 'docker: Error response from daemon: no.' >&2; exit 125";
    let after_much = &format!("seq 3000 >&2; {refused}");
    for (what, why) in
        [(refused, "docker: no."), (after_much, "docker: no."), ("exit 0", "ended with code 0 and without a report")]
    {
        let program = script(dir.path(), &runs(what));
        let bed = Bed::with(|settings| settings.container = Ok(self::settings(program)));
        let reason = bed.drivers.health(Driver::Container).await.reason.unwrap_or_default();
        assert!(reason.contains(why), "{reason}");
        assert_eq!(left(bed.dir.path()), "", "{why}");
    }
    // Somebody who has the way there, and is not the one.
    let root = "for word; do case $word in --mount=*/meet-*) at=${word#*source=}; at=${at%%,*};; esac; done; \
                /usr/bin/python3 -c 'import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); \
                print(s.recv(1))' $at/socket >&2; sleep 100";
    let program = script(dir.path(), &runs(root));
    let bed = Bed::with(|settings| settings.container = Ok(self::settings(program)));
    let reason = bed.drivers.health(Driver::Container).await.reason.unwrap_or_default();
    assert!(reason.contains("uid 0 came to the meeting of the container"), "{reason}");
}

/// The stand-in is as strict as the client, or the tests above would say nothing.
#[test]
fn the_stand_in_refuses_what_docker_does_not_have() {
    require!(Root, Podman, Python);
    let tools = tempfile::tempdir().unwrap();
    let standin = Containers::of_tests().docker_in(tools.path());
    let run = |words: &[&str]| {
        let mut command = Command::new(&standin);
        let output =
            command.arg("run").args(words).arg(Containers::IMAGE).envs(Containers::of_tests().environment()).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned())
    };
    for flag in ["--preserve-fds=3", "--http-proxy=false", "--systemd=false", "--image-volume=ignore", "--no-hosts"] {
        assert_eq!(run(&[flag]), (Some(125), format!("unknown flag: {flag}")));
    }
    assert_eq!(run(&["--userns=keep-id"]).0, Some(125));
    assert_eq!(run(&["--pid=private"]).0, Some(125));
    assert_eq!(run(&["--mount=type=bind,source=/x,destination=/y,relabel=shared"]).0, Some(125));
}
