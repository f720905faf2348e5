//! Containers: what a run in one may do, how it ends, and that nothing of it is left.

mod surroundings;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use sandbox::{
    ContainerRuntime, ContainerSettings, Driver, DriverSettings, EndedBy, ImagePull, Limit, Limits, NetworkPath, Stop,
    StopReason,
};
use testkit::{Containers, require};
use tokio::sync::watch;

use crate::bed::{Bed, Run, text, until};
use crate::promises::{self, sh};

const SOON: Duration = Duration::from_secs(20);

fn settings() -> ContainerSettings {
    ContainerSettings {
        runtime: ContainerRuntime::Podman,
        program: "podman".into(),
        image: Containers::IMAGE.into(),
        pull: ImagePull::Never,
        run_args: Vec::new(),
        environment: Containers::of_tests().environment(),
    }
}

async fn bed() -> Bed {
    bed_with(|_| {}).await
}

async fn bed_with(change: impl FnOnce(&mut ContainerSettings)) -> Bed {
    let mut container = settings();
    change(&mut container);
    let bed = Bed::with(|settings: &mut DriverSettings| settings.container = Ok(container));
    let health = bed.drivers.health(Driver::Container).await;
    assert_eq!(health.reason, None);
    bed
}

/// The containers that podman knows of this bed, whatever their state.
fn left(dir: &Path) -> String {
    let filter = format!("label=io.nexus.dir={}", dir.join("runtime").display());
    let mut podman = Containers::of_tests().podman();
    let output = podman.args(["ps", "--all", "--format={{.Names}} {{.Status}}", "--filter", &filter]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_command_runs_as_the_facility_s_user_with_nothing_more() {
    require!(Root, Podman);
    let bed = bed().await;
    let script = "id -u; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; ls /proc/self/fd | wc -l; \
                  cat /proc/1/cmdline | tr '\\0' ' '; echo; hostname; touch made; stat -c %u made; umask; env | cut -d= -f1 | sort";
    let outcome = bed.run(sh(script)).await;
    assert_eq!(outcome.exit.code, 0, "{}", outcome.stderr);
    let uid = bed.drivers.owner(Driver::Container).uid;
    let expected = format!(
        "{uid}\nCapBnd:\t0000000000000000\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n4\n/.nexus-init container \nnexus\n\
         {uid}\n0022\nPATH\nPWD\nSHLVL\n_\n"
    );
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&outcome.stdout), sorted(&expected));
    // The file is the facility's, and the next driver's to use.
    assert_eq!(bed.sh("rm made && echo gone").await, "gone\n");
    assert_eq!(left(bed.dir.path()), "");
}

#[tokio::test]
async fn streams_stay_apart_and_codes_come_back() {
    require!(Root, Podman);
    let bed = bed().await;
    let outcome = bed.run(sh("printf 'o\\377\\0'; printf e >&2; exit 42")).await;
    assert_eq!((outcome.exit.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (42, "o\u{fffd}\0", "e"));
    let outcome = bed.run(sh("kill -KILL $$")).await;
    assert_eq!((outcome.exit.code, outcome.exit.ended), (137, EndedBy::Signal(9)));
    let outcome = bed.run(Run { shell: "/bin/nosuch".into(), ..sh("true") }).await;
    assert_eq!((outcome.exit.code, outcome.stderr.as_str()), (127, "nexus: /bin/nosuch: No such file or directory\n"));
    let script = "'\"$(echo no)`echo no`\\ --rm=1\n#";
    let outcome = bed.run(sh(&format!("cat <<'END'\n{script}\nEND"))).await;
    assert_eq!(outcome.stdout, format!("{script}\n"));
}

#[tokio::test]
async fn ten_megabytes_and_an_input_come_whole() {
    require!(Root, Podman);
    let bed = bed().await;
    let (read, write) = std::io::pipe().unwrap();
    let writer = std::thread::spawn(move || {
        let mut write = write;
        std::io::copy(&mut std::io::Read::take(std::io::repeat(b'x'), 10 << 20), &mut write).unwrap();
    });
    let (mut handle, stdout, _stderr) = bed.start(Run { stdin: Some(OwnedFd::from(read)), ..sh("cat") }).await.unwrap();
    handle.ready().await.unwrap();
    handle.release().unwrap();
    let (_keep, stop) = watch::channel(None);
    assert_eq!(handle.wait(stop).await.code, 0);
    writer.join().unwrap();
    let all = stdout.await.unwrap();
    assert!(all.len() == 10 << 20 && all.iter().all(|&byte| byte == b'x'), "{}", all.len());
}

#[tokio::test]
async fn limits_hold_and_say_so() {
    require!(Root, Podman, Cgroups);
    let bed = bed().await;
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
    let outcome = bed
        .run(run("head -c 4000000 /dev/zero > /tmp/x; stat -c %s /tmp/x; head -c 2000000 /dev/zero > y; stat -c %s y"))
        .await;
    assert_eq!(outcome.stdout, "1048576\n1048576\n", "files: {}", outcome.stderr);
    let outcome = bed
        .run(run("for i in 1 2 3; do head -c 1000000 /dev/zero > /tmp/$i || break; done; du -sk /tmp | cut -f1"))
        .await;
    assert_eq!(outcome.stdout, "2048\n", "{}", outcome.stderr);
    // Twice what is allowed, and none of it is swap.
    let outcome = bed.run(run("head -c 134217728 /dev/zero | tail | wc -c")).await;
    assert!(outcome.exit.oom_kills.unwrap_or(0) > 0, "{:?} {}", outcome.exit, outcome.stdout);
    let outcome = bed.run(run("exec tail /dev/zero")).await;
    assert_eq!((outcome.exit.ended, outcome.exit.code), (EndedBy::OutOfMemory, 137));
    // Half a processor: a second of work takes two.
    let begun = Instant::now();
    let spin = "end=$(( $(cut -d' ' -f1 /proc/self/schedstat) + 0 )); while :; do read -r a _ < /proc/self/schedstat; \
                [ $a -gt 1000000000 ] && break; done";
    assert_eq!(bed.run(Run { shell: "/bin/bash".into(), ..run(spin) }).await.exit.code, 0);
    assert!(begun.elapsed() > Duration::from_millis(1700), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_cancel_and_a_timeout_end_everything_inside() {
    require!(Root, Podman);
    let bed = bed().await;
    let script = "setsid sh -c 'trap \"\" TERM; while :; do sleep 0.1; done' & trap 'echo asked; exit 3' TERM; echo up; touch up; while :; do sleep 0.1; done";
    let (keep, stop) = watch::channel(None);
    let up = bed.facility().join("up");
    let cancel = async {
        until("the command is up", || up.exists()).await;
        keep.send(Some(Stop { reason: StopReason::Cancel, grace: SOON })).unwrap();
    };
    let (outcome, ()) = tokio::join!(bed.run_until(sh(script), stop), cancel);
    assert_eq!(outcome.exit.ended, EndedBy::Stopped(StopReason::Cancel));
    assert_eq!(outcome.stdout, "up\nasked\n");
    let deaf = "trap '' TERM; while :; do sleep 0.1; done";
    let begun = Instant::now();
    let outcome = bed.run(Run { timeout: Duration::from_secs(1), ..sh(deaf) }).await;
    assert_eq!((outcome.exit.ended, outcome.exit.code), (EndedBy::TimedOut, 124));
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(left(bed.dir.path()), "");
}

#[tokio::test]
async fn a_run_that_is_given_up_leaves_no_container() {
    require!(Root, Podman);
    let bed = bed().await;
    let marker = format!("10{}", std::process::id());
    promises::who_is_given_up_ends(&bed, &marker).await;
    // What podman could not tidy up itself, the next look does.
    let look = Bed::with(|settings| {
        settings.container = Ok(self::settings());
        settings.runtime_dir = bed.dir.path().join("runtime");
    });
    assert_eq!(look.drivers.health(Driver::Container).await.reason, None);
    assert_eq!(left(bed.dir.path()), "");
}

#[tokio::test]
async fn containers_of_a_daemon_that_is_gone_are_removed_and_no_others() {
    require!(Root, Podman);
    for parent in ["plain", "com,ma q\"uo'te co:lon"] {
        let dir = tempfile::tempdir().unwrap();
        let parent = dir.path().join(parent);
        std::fs::create_dir(&parent).unwrap();
        let make = |folder: &str| {
            let label = format!("io.nexus.dir={}", parent.join(folder).display());
            let words =
                ["create", "--network=none", "--ulimit=nofile=100:100", "--ulimit=nproc=1000:1000", "--label", &label];
            let output =
                Containers::of_tests().podman().args(words).args([Containers::IMAGE, "true"]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        let (ours, other) = (make("runtime"), make("runtime-of-another"));
        let bed = Bed::with(|settings| {
            settings.container = Ok(self::settings());
            settings.runtime_dir = parent.join("runtime");
        });
        let reason = bed.drivers.health(Driver::Container).await.reason;
        let exists =
            |id: &str| Containers::of_tests().podman().args(["container", "exists", id]).status().unwrap().success();
        let found = (exists(&ours), exists(&other));
        Containers::of_tests().podman().args(["rm", "--force", "--ignore", &ours, &other]).output().unwrap();
        assert_eq!((reason, found), (None, (false, true)), "{parent:?}");
        assert_eq!(bed.run(sh("exit 7")).await.exit.code, 7, "{parent:?}");
    }
}

#[tokio::test]
async fn an_isolated_container_has_no_way_out_but_the_proxy() {
    require!(Root, Podman);
    let bed = bed().await;
    let outside = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let script = format!(
        "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '; (echo > /dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo connected; \
         (echo > /dev/tcp/203.0.113.1/80) 2>&1 | grep -q unreachable && echo unreachable"
    );
    assert_eq!(bed.run(sh(&script)).await.stdout, "lo\nunreachable\n");
    // The control: with the host's network it gets there.
    let outcome = bed.run(Run { network: Some(NetworkPath::HostNetwork), ..sh(&script) }).await;
    assert!(outcome.stdout.contains("connected"), "{}", outcome.stdout);
    promises::the_proxy_is_reached(&bed).await;
}

#[tokio::test]
async fn the_workspace_is_narrowed() {
    require!(Root, Podman);
    let bed = bed().await;
    promises::the_workspace_is_narrowed(&bed).await;
}

#[tokio::test]
async fn what_cannot_work_is_said_plainly() {
    require!(Root, Podman);
    let reason = async |change: &dyn Fn(&mut ContainerSettings)| {
        let mut container = settings();
        change(&mut container);
        let bed = Bed::with(|settings| settings.container = Ok(container));
        bed.drivers.health(Driver::Container).await.reason.unwrap_or_default()
    };
    let missing = reason(&|s| s.image = "localhost/nosuch:1".into()).await;
    assert!(missing.contains("localhost/nosuch:1: image not known (podman pull"), "{missing}");
    let no_program = reason(&|s| s.program = "/nonexistent/podman".into()).await;
    assert!(no_program.contains("/nonexistent/podman is not found: sudo apt install -y podman"), "{no_program}");
    let failing = reason(&|s| s.program = "/bin/false".into()).await;
    assert_eq!(failing, "/bin/false ended without a word: code 1");
    let nonsense = reason(&|s| s.program = "/bin/echo".into()).await;
    assert!(nonsense.contains("which is not understood"), "{nonsense}");
    // An image that is fetched only when it is asked for: the run says what podman said.
    let bed = bed_with(|s| (s.image, s.pull) = ("127.0.0.1:1/no/such:1".into(), ImagePull::Missing)).await;
    let (mut handle, _out, _err) = bed.start(sh("true")).await.unwrap();
    let error = handle.ready().await.unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1") && error.contains("the registry cannot be reached"), "{error}");
    // What is broken is not taken for an image that will be fetched.
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("podman");
    let text = "#!/bin/sh\n[ \"$1\" = image ] || exec podman \"$@\"\necho 'Error: open store: input/output error' >&2\nexit 125\n";
    std::fs::write(&broken, text).unwrap();
    std::fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let store = reason(&|s| (s.program, s.pull) = (broken.clone(), ImagePull::Missing)).await;
    assert_eq!(store, "podman: open store: input/output error");
    // Not looked at, not run.
    let bed = Bed::with(|settings| settings.container = Ok(self::settings()));
    assert!(bed.start(sh("true")).await.unwrap_err().to_string().contains("not been looked at"));
}

#[tokio::test]
async fn odd_folders_work() {
    require!(Root, Podman);
    let bed = bed().await;
    let parent = bed.dir.path().to_owned();
    for name in ["a b", "q\"u'o", "co:lon", "com,ma", "nl\nx", "-dash", "$(id)"] {
        let facility = parent.join(name).join("f");
        std::fs::create_dir(parent.join(name)).unwrap();
        std::fs::rename(bed.facility(), &facility).unwrap();
        let (out, err) = (sys::pipe::pipe().unwrap(), sys::pipe::pipe().unwrap());
        let prepared = crate::bed::prepared(sh("touch here"), facility.clone(), out.write, err.write);
        let mut handle = bed.drivers.start(bed.drivers.arm(Driver::Container, prepared).unwrap()).await.unwrap();
        handle.ready().await.unwrap();
        handle.release().unwrap();
        let (_keep, stop) = watch::channel(None);
        assert_eq!(handle.wait(stop).await.code, 0, "{name:?}");
        assert!(facility.join("here").exists(), "{name:?}");
        std::fs::remove_file(facility.join("here")).unwrap();
        std::fs::rename(facility, bed.facility()).unwrap();
    }
}

/// What the name means may change between the look and the run: the digest that is told is of what runs.
#[tokio::test]
async fn the_image_that_was_looked_at_is_the_one_that_runs() {
    require!(Root, Podman);
    let podman = |words: &[&str]| {
        let output = Containers::of_tests().podman().args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let (name, other) = ["moving", "other"].map(|name| format!("localhost/nexus-{name}:{}", std::process::id())).into();
    podman(&["tag", Containers::IMAGE, &name]);
    let bed = bed_with(|settings| settings.image.clone_from(&name)).await;
    // The name is given to an image without a shell.
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("empty.tar");
    let made = std::process::Command::new("tar").arg("-cf").arg(&archive).arg("-T").arg("/dev/null").status().unwrap();
    assert!(made.success());
    podman(&["import", "--quiet", archive.to_str().unwrap(), &other]);
    podman(&["tag", &other, &name]);
    let (mut handle, stdout, _stderr) = bed.start(sh("echo ran")).await.unwrap();
    let told = handle.layers().image.clone();
    handle.ready().await.unwrap();
    handle.release().unwrap();
    let (_keep, stop) = watch::channel(None);
    let code = handle.wait(stop).await.code;
    let said = text(stdout).await;
    let digest = podman(&["image", "inspect", "--format", "{{.Digest}}", Containers::IMAGE]);
    podman(&["rmi", &name, &other]);
    assert_eq!((code, said.as_str(), told), (0, "ran\n", Some(digest)));
}

/// Whoever kills podman itself does not leave its container running: it is dead when the end is told.
#[tokio::test]
async fn a_killed_podman_takes_its_container_along() {
    require!(Root, Podman);
    let bed = bed().await;
    let marker = format!("20{}", std::process::id());
    let (mut handle, _stdout, _stderr) = bed.start(sh(&format!("sleep {marker}"))).await.unwrap();
    handle.ready().await.unwrap();
    handle.release().unwrap();
    until("the command runs", || !crate::bed::processes_with(&marker).is_empty()).await;
    let client = rustix::process::Pid::from_raw(handle.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(client, rustix::process::Signal::KILL).unwrap();
    let (_keep, stop) = watch::channel(None);
    let exit = handle.wait(stop).await;
    assert!(matches!(exit.ended, EndedBy::Engine(_)), "{exit:?}");
    assert_eq!(crate::bed::processes_with(&marker), Vec::<i32>::new());
}
