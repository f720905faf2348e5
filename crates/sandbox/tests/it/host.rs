//! The host driver's own rules.

use std::time::{Duration, Instant};

use sandbox::{Driver, LaunchError, NetworkLayer, NetworkPath, WorkspaceAccess};

use crate::bed::{Bed, Run, processes_with};

#[tokio::test]
async fn a_background_child_that_keeps_the_pipe_is_drained_for_two_seconds() {
    let bed = Bed::new();
    let begin = Instant::now();
    let outcome = bed.run(Run::host("(sleep 0.5; echo late) & echo early")).await;
    assert_eq!((outcome.stdout.as_str(), outcome.exit.note), ("early\nlate\n", None));
    assert!(begin.elapsed() < Duration::from_millis(1500), "{:?}", begin.elapsed());
    let begin = Instant::now();
    let outcome = bed.run(Run::host("(sleep 8501; echo never) & echo early")).await;
    assert_eq!((outcome.exit.code, outcome.stdout.as_str()), (0, "early\n"));
    let note = outcome.exit.note.unwrap_or_default();
    assert!(note.contains("left behind held its output for 2 s more"), "{note}");
    assert!((1900..4000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
    assert!(processes_with("sleep\x008501").is_empty());
}

#[tokio::test]
async fn it_claims_no_isolation_and_takes_no_promise_of_it() {
    let bed = Bed::new();
    let narrowed = bed.start(Run { access: WorkspaceAccess::ReadOnly, ..Run::host("true") }).await;
    assert!(matches!(narrowed, Err(LaunchError::Unsupported { .. })));
    let isolated = bed.start(Run { network: Some(NetworkPath::Isolated), ..Run::host("true") }).await;
    assert!(matches!(isolated, Err(LaunchError::Unsupported { .. })));
    let (handle, _out, _err) = bed.start(Run::host("true")).await.unwrap();
    let layers = handle.layers();
    assert_eq!((layers.namespaces.len(), layers.seccomp, layers.network), (0, false, NetworkLayer::Host));
    handle.abandon();
    let outcome = bed
        .run(Run::host(
            "for n in {0..300}; do [ -e /proc/$$/fd/$n ] && echo $n; done; ps -o sid= -p $$ | tr -d ' '; echo $$",
        ))
        .await;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[..3], ["0", "1", "2"]);
    assert_eq!(lines[3], lines[4], "a session of its own");
}

#[tokio::test]
async fn both_drivers_are_healthy_here() {
    let bed = Bed::new();
    let bwrap = bed.drivers.health(Driver::Bwrap).await;
    assert!(bwrap.healthy, "{:?}", bwrap.reason);
    assert!(bwrap.version.starts_with("bubblewrap "), "{}", bwrap.version);
    let begin = Instant::now();
    assert_eq!(bed.drivers.health(Driver::Bwrap).await, bwrap);
    assert!(begin.elapsed() < Duration::from_millis(2), "the second answer is the first one kept");
    assert!(bed.drivers.health(Driver::Host).await.healthy);
}

#[tokio::test]
async fn a_missing_or_failing_bubblewrap_says_so() {
    let missing = Bed::with(|settings| settings.bwrap_path = "no-such-bwrap".into());
    let health = missing.drivers.health(Driver::Bwrap).await;
    assert!(!health.healthy && health.reason.unwrap().contains("sudo apt install -y bubblewrap"));
    let error = missing.start(Run::sh("true")).await.unwrap_err();
    assert!(matches!(error, LaunchError::Unavailable { .. }), "{error}");
    let dir = tempfile::tempdir_in("/usr/local/bin").unwrap();
    let fake = dir.path().join("bwrap");
    std::fs::write(
        &fake,
        "#!/bin/sh\necho 'bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted' >&2\nexit 1\n",
    )
    .unwrap();
    for path in [dir.path(), &fake] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let failing = Bed::with(|settings| settings.bwrap_path = fake.clone());
    let (mut handle, stdout, stderr) = failing.start(Run::sh("true")).await.unwrap();
    let error = handle.ready().await.unwrap_err().to_string();
    assert!(error.contains("RTM_NEWADDR") && error.contains("apparmor_restrict_unprivileged_userns=0"), "{error}");
    drop(handle);
    // The engine's words are not the command's.
    assert_eq!((crate::bed::text(stdout).await, crate::bed::text(stderr).await), (String::new(), String::new()));
}
