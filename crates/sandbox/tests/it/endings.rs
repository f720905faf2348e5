//! How runs end: by themselves, by the clock, by an order; and that nothing is left of them.

use std::time::{Duration, Instant};

use sandbox::{Driver, EndedBy, Stop, StopReason};
use tokio::sync::watch;

use crate::bed::{Bed, Run, processes_with, until};

const EACH: [Driver; 3] = [Driver::Bwrap, Driver::Host, Driver::DarwinAutomation];

/// A command that leaves a process behind which has left its session, its group and its parent, and closed its outputs.
fn daemonise(seconds: u32) -> String {
    format!(
        "(setsid bash -c 'setsid sleep {seconds} </dev/null >/dev/null 2>&1 &' &) ; while ! pgrep -f 'sleep {seconds}' >/dev/null; do sleep 0.01; done"
    )
}

fn sleeping(seconds: u32) -> bool {
    !processes_with(&format!("sleep\0{seconds}")).is_empty()
}

#[tokio::test]
async fn a_timeout_is_124_with_two_seconds_of_grace() {
    let bed = Bed::new();
    for driver in EACH {
        let polite = Run {
            driver,
            timeout: Duration::from_millis(300),
            ..Run::sh("trap 'echo bye; exit 3' TERM; sleep 60 & wait")
        };
        let begin = Instant::now();
        let outcome = bed.run(polite).await;
        assert_eq!((outcome.exit.code, outcome.exit.ended), (124, EndedBy::TimedOut));
        assert_eq!(outcome.stdout, "bye\n");
        assert!(begin.elapsed() < Duration::from_millis(1800), "{:?}", begin.elapsed());
        let stubborn =
            Run { driver, timeout: Duration::from_millis(300), ..Run::sh("trap '' TERM; while :; do sleep 0.1; done") };
        let begin = Instant::now();
        let outcome = bed.run(stubborn).await;
        assert_eq!((outcome.exit.code, outcome.exit.ended), (124, EndedBy::TimedOut));
        assert!((2200..4000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_cancel_asks_first_and_then_insists() {
    let bed = Bed::new();
    for driver in EACH {
        for (script, grace, code) in [
            ("trap 'exit 0' TERM; echo up; sleep 60 & wait", 10_000, 0),
            ("echo up; sleep 60", 10_000, 143),
            ("trap '' TERM; echo up; while :; do sleep 0.1; done", 300, 137),
        ] {
            let (order, stop) = watch::channel(None);
            let marker = bed.facility().join("up");
            let run = Run { driver, ..Run::sh(&script.replace("echo up", "touch up")) };
            let begin = Instant::now();
            let cancel = async {
                until("the command", || marker.exists()).await;
                let stop = Stop { reason: StopReason::Cancel, grace: Duration::from_millis(grace) };
                order.send_replace(Some(stop));
            };
            let (outcome, ()) = tokio::join!(bed.run_until(run, stop), cancel);
            assert_eq!(outcome.exit.ended, EndedBy::Stopped(StopReason::Cancel));
            assert_eq!(outcome.exit.code, code, "{driver:?} {script}");
            assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
            std::fs::remove_file(marker).unwrap();
        }
    }
}

#[tokio::test]
async fn a_second_order_shortens_the_grace() {
    let bed = Bed::new();
    let (order, stop) = watch::channel(Some(Stop { reason: StopReason::Shutdown, grace: Duration::from_secs(60) }));
    let hurry = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        order.send_replace(Some(Stop { reason: StopReason::Shutdown, grace: Duration::ZERO }));
    };
    let begin = Instant::now();
    let run = Run::sh("trap '' TERM; while :; do sleep 0.1; done");
    let (outcome, ()) = tokio::join!(bed.run_until(run, stop), hurry);
    assert!(matches!(outcome.exit.ended, EndedBy::Stopped(StopReason::Shutdown)));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn waiting_can_be_dropped_and_taken_up_again() {
    let bed = Bed::new();
    let (mut handle, stdout, _stderr) = bed.start(Run::sh("sleep 0.5; echo done")).await.unwrap();
    handle.ready().await.unwrap();
    handle.release().unwrap();
    let (_keep, stop) = watch::channel(None);
    for _ in 0..20 {
        assert!(tokio::time::timeout(Duration::from_millis(10), handle.wait(stop.clone())).await.is_err());
    }
    let exit = handle.wait(stop).await;
    assert_eq!(exit.code, 0);
    assert!(exit.usage.wall >= Duration::from_millis(450), "{:?}", exit.usage);
    assert_eq!(crate::bed::text(stdout).await, "done\n");
}

#[tokio::test]
async fn nobody_survives_an_end() {
    let bed = Bed::new();
    for (driver, seconds) in [(Driver::Bwrap, 8101), (Driver::Host, 8102), (Driver::DarwinAutomation, 8103)] {
        let begin = Instant::now();
        let outcome = bed.run(Run { driver, ..Run::sh(&daemonise(seconds)) }).await;
        assert_eq!(outcome.exit.code, 0, "{}", outcome.stderr);
        assert!(!sleeping(seconds), "{driver:?}");
        assert!(
            begin.elapsed() < Duration::from_secs(2),
            "a daemonised child kept the run open: {:?}",
            begin.elapsed()
        );
    }
}

#[tokio::test]
async fn nobody_survives_a_timeout_or_a_cancel() {
    let bed = Bed::new();
    for (driver, seconds) in [(Driver::Bwrap, 8201), (Driver::Host, 8202), (Driver::DarwinAutomation, 8203)] {
        let script = format!("{}; trap '' TERM; while :; do sleep 0.1; done", daemonise(seconds));
        let run = bed.run(Run { driver, timeout: Duration::from_secs(1), ..Run::sh(&script) });
        // Control: it is there while the run lasts.
        let (outcome, ()) = tokio::join!(run, until("the daemonised child", || sleeping(seconds)));
        assert_eq!(outcome.exit.ended, EndedBy::TimedOut);
        assert!(!sleeping(seconds), "{driver:?}");
    }
}

#[tokio::test]
async fn nobody_survives_a_dropped_handle() {
    let bed = Bed::new();
    for (driver, seconds) in [(Driver::Bwrap, 8301), (Driver::Host, 8302), (Driver::DarwinAutomation, 8303)] {
        let script = format!("{}; sleep 60", daemonise(seconds));
        let (mut handle, stdout, _stderr) = bed.start(Run { driver, ..Run::sh(&script) }).await.unwrap();
        handle.ready().await.unwrap();
        handle.release().unwrap();
        until("the daemonised child", || sleeping(seconds)).await;
        drop(handle);
        until("the end of it", || !sleeping(seconds)).await;
        crate::bed::text(stdout).await;
    }
}

#[tokio::test]
async fn nobody_survives_the_death_of_the_outermost_process() {
    let bed = Bed::new();
    let seconds = 8401;
    let (mut handle, stdout, _stderr) = bed.start(Run::sh(&format!("{}; sleep 60", daemonise(seconds)))).await.unwrap();
    handle.ready().await.unwrap();
    handle.release().unwrap();
    until("the daemonised child", || sleeping(seconds)).await;
    let pid = rustix::process::Pid::from_raw(i32::try_from(handle.pid()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let (_keep, stop) = watch::channel(None);
    let exit = handle.wait(stop).await;
    assert_eq!((exit.code, &exit.ended), (1, &EndedBy::Engine("the sandbox was killed by signal 9".into())));
    assert!(!sleeping(seconds));
    crate::bed::text(stdout).await;
}

#[test]
fn a_run_outlives_the_pool_thread_that_started_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_keep_alive(Duration::from_millis(20))
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let bed = Bed::new();
        let (handle, stdout, _stderr) = tokio::task::spawn_blocking(move || {
            let inner = tokio::runtime::Handle::current();
            let started = inner.block_on(bed.start(Run::sh("sleep 1; echo lived")));
            (started.unwrap(), bed)
        })
        .await
        .map(|((handle, stdout, stderr), bed)| ((handle, bed), stdout, stderr))
        .unwrap();
        let (mut handle, _bed) = handle;
        handle.ready().await.unwrap();
        handle.release().unwrap();
        // The thread that asked for the start has long ended when the command prints.
        let (_keep, stop) = watch::channel(None);
        assert_eq!(handle.wait(stop).await.code, 0);
        assert_eq!(crate::bed::text(stdout).await, "lived\n");
    });
}

/// What a killed daemon may leave is a bubblewrap that waits for it: the next daemon knows it by its name, and ends it.
#[tokio::test]
async fn what_a_killed_daemon_left_is_ended_by_the_next_one() {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    let bed = Bed::new();
    let (handle, _stdout, _stderr) = bed.start(Run::sh("true")).await.unwrap();
    let name = || {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", handle.pid())).unwrap();
        String::from_utf8(arguments.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
    };
    // Its start is over before its arguments are in place.
    until("its arguments", || !name().is_empty()).await;
    let name = name();
    handle.abandon();
    let runtime = bed.dir.path().join("runtime");
    let own = format!("{}/drivers-{}-", runtime.display(), std::process::id());
    assert!(name.starts_with(&own) && name.ends_with("/bwrap"), "{name}");
    // A pid above the kernel's highest is nobody's; pid 1 lives.
    let mut left = [4_194_999, 1].map(|pid| {
        let folder = runtime.join(format!("drivers-{pid}-0"));
        std::fs::create_dir(&folder).unwrap();
        std::process::Command::new("sleep").arg0(folder.join("bwrap")).arg("60").spawn().unwrap()
    });
    drop(sandbox::Drivers::new(crate::bed::settings(bed.dir.path())).unwrap());
    assert_eq!(left[0].wait().unwrap().signal(), Some(9));
    assert_eq!(left[1].try_wait().unwrap(), None);
    left[1].kill().unwrap();
    left[1].wait().unwrap();
}
