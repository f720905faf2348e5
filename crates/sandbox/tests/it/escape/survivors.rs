//! Processes that mean to outlive their run. Each is seen on the host while the run lasts, and looked for after it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use sandbox::{EndedBy, RootSource, Stop, StopReason};
use tokio::sync::watch;

use super::attack::Layer::{Ladder, Pids};
use super::attack::{Act, Verdict};
use super::scene::Scene;
use crate::bed::{Bed, Run, processes_with, text, until};

/// How often a run is given up, each time a little later: the moment is a short one.
const GIVEN_UP: u32 = 25;
const GIVEN_UP_STEP: Duration = Duration::from_micros(100);

/// How the run comes to its end.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Itself,
    Timeout,
    Cancel,
    Dropped,
}

/// A file of the workspace whose name tells these processes from all others.
fn token() -> String {
    format!("survivor-{}-", super::scene::unique())
}

fn lingering(how: &str, stay: bool, outputs: &str, token: &str) -> Run {
    let stay = if stay { "stay" } else { "leave" };
    let script = format!("linger\n{how}\n{stay}\n{outputs}\n/workspace/{token}");
    Run { shell: "/workspace/attack".into(), ..Run::sh(&script) }
}

fn left(token: &str) -> Verdict {
    match processes_with(token).as_slice() {
        [] => Verdict::Held("nobody is left".to_owned()),
        pids => Verdict::Broken(format!("left behind: {pids:?}")),
    }
}

fn survives(scene: &Scene, how: &str, outputs: &str, end: End) -> Verdict {
    let token = token();
    let timeout = if end == End::Timeout { Duration::from_millis(300) } else { Duration::from_secs(30) };
    let run = Run { timeout, ..lingering(how, end != End::Itself, outputs, &token) };
    scene.block_on(async {
        let (order, stop) = watch::channel(None);
        let (mut handle, stdout, stderr) = scene.bed.start(run).await.unwrap();
        handle.ready().await.unwrap();
        handle.release().unwrap();
        if end != End::Itself {
            until("the one that stays", || scene.bed.facility().join(&token).exists()).await;
            assert!(processes_with(&token).len() >= 2, "the control: both are there");
        }
        match end {
            End::Dropped => {
                drop(handle);
                until("the end of all", || processes_with(&token).is_empty()).await;
            }
            End::Cancel => {
                let grace = Duration::from_millis(100);
                order.send_replace(Some(Stop { reason: StopReason::Cancel, grace }));
                let exit = handle.wait(stop).await;
                assert_eq!(exit.ended, EndedBy::Stopped(StopReason::Cancel));
            }
            End::Timeout => assert_eq!(handle.wait(stop).await.ended, EndedBy::TimedOut),
            End::Itself => {
                assert_eq!(handle.wait(stop).await.code, 0);
                assert!(scene.bed.facility().join(&token).exists(), "the control: it was there");
            }
        }
        text(stdout).await;
        text(stderr).await;
        left(&token)
    })
}

/// A daemon that is killed: this test's own program, which starts a run and waits for its end.
fn daemon_is_killed(scene: &Scene) -> Verdict {
    let token = token();
    let mut daemon = Command::new(scene.planted.test_program());
    daemon.args(["--exact", "--ignored", "escape::survivors::the_daemon_that_is_killed"]);
    daemon.env("ESCAPE_DAEMON", &token).env("ESCAPE_DIR", scene.planted.dir());
    // What it leaves behind goes with the scene.
    daemon.env("TMPDIR", scene.planted.dir());
    let mut daemon = daemon.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    scene.block_on(async {
        until("the one that stays", || processes_with(&token).len() >= 2).await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        until("the end of all", || processes_with(&token).is_empty()).await;
    });
    left(&token)
}

#[tokio::test]
#[ignore = "the daemon of an attack, not a test"]
async fn the_daemon_that_is_killed() {
    let variable = |name: &str| std::env::var(name).ok();
    let (Some(token), Some(dir)) = (variable("ESCAPE_DAEMON"), variable("ESCAPE_DIR").map(PathBuf::from)) else {
        return;
    };
    let bed = Bed::with(|settings| {
        let rootfs = dir.join("rootfs");
        if rootfs.exists() {
            settings.root = RootSource::Rootfs(rootfs);
        }
    });
    std::fs::copy(dir.join("attack-for-a-daemon"), bed.facility().join("attack")).unwrap();
    bed.run(lingering("deaf", true, "close", &token)).await;
}

/// Runs that are given up while their sandbox is being set up: the moment between two processes of the engine.
fn given_up(scene: &Scene) -> Verdict {
    let facility = scene.bed.facility().display().to_string();
    scene.block_on(async {
        for step in 0..GIVEN_UP {
            let (handle, stdout, stderr) = scene.bed.start(Run::sh("true")).await.unwrap();
            std::thread::sleep(GIVEN_UP_STEP * step);
            handle.abandon();
            for output in [stdout, stderr] {
                if tokio::time::timeout(Duration::from_secs(2), output).await.is_err() {
                    // Where somebody still holds it, the reader is set free by ending who does.
                    let pids = processes_with(&facility);
                    pids.iter().for_each(|pid| kill(*pid));
                    return Verdict::Broken(format!("left behind: {pids:?}"));
                }
            }
        }
        Verdict::Held("nobody is left".to_owned())
    })
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Writes without end to a pipe that nobody reads.
fn flood(scene: &Scene) -> Verdict {
    let run = Run { shell: "/workspace/attack".into(), timeout: Duration::from_millis(200), ..Run::sh("flood\n64") };
    scene.block_on(async {
        let (_keep, stop) = watch::channel(None);
        let (mut handle, unread) = scene.bed.start_unread(run).await.unwrap();
        handle.ready().await.unwrap();
        handle.release().unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), handle.wait(stop)).await;
        drop(unread);
        match ended {
            Ok(exit) if exit.ended == EndedBy::TimedOut => Verdict::Held("it waited, and was ended".to_owned()),
            other => Verdict::Broken(format!("{other:?}")),
        }
    })
}

attacks! { Survivors:
    a_session_of_its_own_after_the_end, [Pids],
        Act::Own(|scene| survives(scene, "setsid", "close", End::Itself)),
        "setsid(2), outputs closed; the run ends by itself";
    twice_forked_after_the_end, [Pids],
        Act::Own(|scene| survives(scene, "twice", "keep", End::Itself)),
        "a double fork that holds the outputs open; the run ends by itself";
    hangup_ignored_after_a_cancel, [Pids],
        Act::Own(|scene| survives(scene, "nohup", "close", End::Cancel)),
        "SIGHUP ignored; the run is cancelled";
    deaf_after_a_timeout, [Pids],
        Act::Own(|scene| survives(scene, "deaf", "close", End::Timeout)),
        "SIGTERM ignored; the run times out";
    twice_forked_after_a_cancel, [Pids],
        Act::Own(|scene| survives(scene, "twice", "close", End::Cancel)),
        "a double fork; the run is cancelled";
    deaf_after_the_handle_is_dropped, [Pids],
        Act::Own(|scene| survives(scene, "deaf", "close", End::Dropped)),
        "SIGTERM ignored; the daemon forgets the run";
    deaf_after_the_daemon_is_killed, [Pids],
        Act::Own(daemon_is_killed),
        "SIGTERM ignored; the daemon is killed by SIGKILL";
    given_up_while_set_up, [Ladder],
        Act::Own(given_up),
        "a run that is given up before its sandbox is ready leaves a half-made one";
    an_output_flood, [Ladder],
        Act::Own(flood),
        "writes more than anybody reads, and waits for ever";
}
