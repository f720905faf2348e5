//! Limits that are reported as in force are in force; limits that cannot be are refused.

use sandbox::{CgroupLayer, Driver, EndedBy, LaunchError, Limit, Limits};

use crate::bed::{Bed, Outcome, Run};

fn has(bed: &Bed, controller: &str) -> bool {
    let cgroups = bed.drivers.cgroups();
    let has = match &cgroups {
        CgroupLayer::V1(list) | CgroupLayer::V2(list) => list.iter().any(|name| name == controller),
        CgroupLayer::None(_) => false,
    };
    let required = std::env::var("NEXUS_REQUIRE").unwrap_or_default();
    assert!(has || !required.contains("cgroup"), "NEXUS_REQUIRE={required}, but there is no {controller}: {cgroups:?}");
    has
}

const EAT: &str = "dd if=/dev/zero of=/dev/null bs=100M count=1 status=none && echo ate";

#[tokio::test]
async fn memory_is_limited_or_the_run_refused() {
    let bed = Bed::new();
    for driver in [Driver::Bwrap, Driver::Host] {
        let limits = Limits { memory_bytes: Some(Limit::named(64 << 20)), ..Limits::default() };
        let run = Run { driver, limits, ..Run::sh(EAT) };
        if !has(&bed, "memory") {
            assert!(matches!(bed.start(run).await, Err(LaunchError::Limit { limit: "memory_bytes", .. })));
            continue;
        }
        let outcome = bed.run(run).await;
        assert_eq!((outcome.exit.code, outcome.exit.ended), (137, EndedBy::OutOfMemory), "{}", outcome.stderr);
        assert!(outcome.exit.usage.peak_rss_bytes <= 65 << 20, "{:?}", outcome.exit.usage);
        let limits = Limits { memory_bytes: Some(Limit::named(200 << 20)), ..Limits::default() };
        let outcome = bed.run(Run { driver, limits, ..Run::sh(EAT) }).await;
        assert_eq!(outcome.stdout, "ate\n");
        assert!(outcome.exit.usage.peak_rss_bytes > 100 << 20, "{:?}", outcome.exit.usage);
    }
}

#[tokio::test]
async fn processes_are_limited() {
    let bed = Bed::new();
    if !has(&bed, "pids") {
        return;
    }
    // In /bin/sh: bash would try again for 15 s. Each waits for a pipe that nobody opens.
    let bomb = || Run {
        shell: "/bin/sh".into(),
        ..Run::sh("mkfifo p; n=0; while [ $n -lt 80 ]; do (: < p) & n=$((n+1)); done; echo done; rm p")
    };
    let limits = Limits { pids: Some(Limit::named(40)), ..Limits::default() };
    let outcome = bed.run(Run { limits, ..bomb() }).await;
    assert!(outcome.stderr.contains("fork"), "{}", outcome.stderr);
    assert!(outcome.exit.note.unwrap().contains("limit of processes"));
    let limits = Limits { pids: Some(Limit::named(400)), ..Limits::default() };
    assert_eq!(bed.run(Run { limits, ..bomb() }).await.stdout, "done\n");
}

#[tokio::test]
async fn a_fork_bomb_ends_with_its_run() {
    let bed = Bed::new();
    if !has(&bed, "pids") {
        return;
    }
    for driver in [Driver::Bwrap, Driver::Host] {
        let limits = Limits { pids: Some(Limit::named(200)), ..Limits::default() };
        let run = Run {
            driver,
            limits,
            timeout: std::time::Duration::from_secs(1),
            ..Run::sh("f() { f | f & }; f; sleep 60")
        };
        let outcome = bed.run(run).await;
        assert_eq!(outcome.exit.code, 124);
    }
}

#[tokio::test]
async fn processor_time_is_limited() {
    let bed = Bed::new();
    if !has(&bed, "cpu") {
        return;
    }
    let burn = "timeout 2 bash -c 'while :; do :; done'; true";
    let share = |outcome: &Outcome| {
        let usage = outcome.exit.usage;
        (usage.user + usage.system).as_millis() * 100 / usage.wall.as_millis()
    };
    let limits = Limits { cpu_millicores: Some(Limit::named(200)), ..Limits::default() };
    let limited = bed.run(Run { limits, ..Run::sh(burn) }).await;
    // As much of the time that passed as the limit says, and it did burn; a busy machine adds to both.
    assert!((3..=40).contains(&share(&limited)), "{:?}", limited.exit.usage);
}

#[tokio::test]
async fn files_are_limited() {
    let bed = Bed::new();
    let limits =
        Limits { nofile: Some(Limit::named(100)), fsize_bytes: Some(Limit::named(1 << 20)), ..Limits::default() };
    let outcome =
        bed.run(Run { limits, ..Run::sh("ulimit -n; head -c 3000000 /dev/zero > big; stat -c %s big") }).await;
    assert_eq!(outcome.stdout, "100\n1048576\n", "{}", outcome.stderr);
}

#[tokio::test]
async fn what_is_in_force_is_said() {
    let bed = Bed::new();
    let limits =
        Limits { pids: Some(Limit::default_of(1024)), nofile: Some(Limit::default_of(4096)), ..Limits::default() };
    let (handle, _out, _err) = bed.start(Run { limits, ..Run::sh("true") }).await.unwrap();
    let by: Vec<_> = handle.layers().limits.iter().map(|limit| (limit.name, limit.by)).collect();
    let pids = if has(&bed, "pids") { Some("cgroup") } else { Some("rlimit") };
    assert_eq!(by, [("pids", pids), ("nofile", Some("rlimit"))]);
    handle.abandon();
}

#[tokio::test]
async fn groups_go_with_their_runs() {
    let bed = Bed::new();
    if !has(&bed, "pids") {
        return;
    }
    let found = || {
        let find = std::process::Command::new("find").args(["/sys/fs/cgroup", "-name", "a-group-that-goes"]).output();
        String::from_utf8(find.unwrap().stdout).unwrap().lines().count()
    };
    let run = Run { name: Some("a-group-that-goes".into()), ..Run::sh("setsid sleep 8601 & exit 3") };
    let (mut handle, _stdout, _stderr) = bed.start(run).await.unwrap();
    handle.ready().await.unwrap();
    assert!(found() > 0);
    handle.release().unwrap();
    let (_keep, stop) = tokio::sync::watch::channel(None);
    assert_eq!(handle.wait(stop).await.code, 3);
    // What the kernel still kept then goes with the next run, at the latest.
    assert_eq!(bed.run(Run::sh("true")).await.exit.code, 0);
    assert_eq!(found(), 0);
}
