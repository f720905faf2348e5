//! What survives: a shutdown, a kill, an older program.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use mothership::serve::{Running, ServeConfig, ServeError, start};
use reqwest::StatusCode;

use crate::bed::{Bed, client};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let mut bed = Bed::tls().await;
    let mut territory = bed.territory().await;
    territory.may_run(5).await;
    let (ran, queued) = (bed.directive().await, bed.directive().await);
    let lease = territory.one().await;
    territory.started(&lease).await;
    territory.chunk(&lease, "stdout", 0, b"kept").await;
    bed.stop().await;
    assert!(!bed.data().join("mothership.db-wal").exists());
    bed.start_again().await;
    territory.url = bed.url();
    // Same CA, same identity, same key for tokens, same administrator.
    assert_eq!(territory.finished(&lease).await.0, StatusCode::OK);
    assert_eq!(bed.state(&ran).await, "succeeded");
    let (_, page) = bed.get(&format!("/api/v1/directives/{ran}/logs")).await;
    assert_eq!(page["chunks"][0]["bytes"], "a2VwdA==");
    assert_eq!(territory.one().await.id, queued);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_there_after_a_kill() {
    let bed = Bed::tls().await;
    let territory = bed.territory().await;
    let id = bed.directive().await;
    let lease = territory.one().await;
    territory.started(&lease).await;
    territory.finished(&lease).await;
    // A kill leaves the database and its log as they are at this moment: copied under the running server.
    let copy = tempfile::tempdir().unwrap();
    let data = copy.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for name in ["mothership.db", "mothership.db-wal", "ca.pem", "ca-key.pem", "admin-token"] {
        std::fs::copy(bed.data().join(name), data.join(name)).unwrap();
    }
    let config = ServeConfig { listen: "127.0.0.1:0".parse().unwrap(), ..ServeConfig::new(&data) };
    let running = start(config).await.unwrap();
    assert!(!running.is_first_start());
    let url = format!("{}/api/v1/directives/{id}", running.url());
    let found = client(&data, None).get(url).bearer_auth(&bed.token).send().await.unwrap();
    let directive: serde_json::Value = found.json().await.unwrap();
    assert_eq!(directive["state"], "succeeded");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_directory_is_private_and_has_one_master() {
    let mut bed = Bed::tls().await;
    let mode = |name: &str| std::fs::metadata(bed.data().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("."), mode("admin-token"), mode("ca-key.pem")), (0o700, 0o600, 0o600));
    let config = ServeConfig { listen: "127.0.0.1:0".parse().unwrap(), ..ServeConfig::new(&bed.data()) };
    assert!(matches!(start(config.clone()).await, Err(ServeError::InUse(_))));
    bed.stop().await;
    let key = bed.data().join("ca-key.pem");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let exposed = start(config.clone()).await.unwrap_err().to_string();
    assert!(exposed.contains("chmod 600"), "{exposed}");
    std::fs::remove_file(&key).unwrap();
    assert!(matches!(start(config).await, Err(ServeError::Ca(_))));
    assert!(!key.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_a_kill_cut_off_is_made_again_and_one_that_signed_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    started_in(&data).await.unwrap().stop().await;
    let half = std::fs::read(data.join("ca.pem")).unwrap();
    // What a kill leaves between the writing of the certificate and that of the key, at its earliest and its latest.
    for left_over in ["ca.pem.new", "ca-key.pem.new"] {
        let cut_off = dir.path().join(left_over);
        std::fs::create_dir(&cut_off).unwrap();
        set_mode(&cut_off, 0o700);
        std::fs::write(cut_off.join("ca.pem"), &half).unwrap();
        std::fs::write(cut_off.join(left_over), "half of").unwrap();
        let running = started_in(&cut_off).await.unwrap();
        let health = client(&cut_off, None).get(format!("{}/healthz", running.url()));
        assert_eq!(health.send().await.unwrap().status(), StatusCode::OK);
        assert_ne!(std::fs::read(cut_off.join("ca.pem")).unwrap(), half);
        running.stop().await;
    }
    std::fs::remove_file(data.join("ca-key.pem")).unwrap();
    assert!(matches!(started_in(&data).await, Err(ServeError::Ca(_))));
    assert_eq!(std::fs::read(data.join("ca.pem")).unwrap(), half);
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

async fn started_in(data: &Path) -> Result<Running, ServeError> {
    start(ServeConfig { listen: "127.0.0.1:0".parse().unwrap(), ..ServeConfig::new(data) }).await
}

/// The files that hold secrets: what others on the machine must not read.
const PRIVATE: [&str; 6] =
    ["mothership.db", "mothership.db-wal", "mothership.db-shm", "admin-token", "ca-key.pem", "lock"];

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_others_could_read_is_closed_before_anything_is_kept_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    for loose in [0o755, 0o777, 0o750] {
        set_mode(&data, loose);
        let running = started_in(&data).await.unwrap();
        assert_eq!(mode(&data), 0o700, "{loose:o}");
        for name in PRIVATE {
            assert_eq!(mode(&data.join(name)), 0o600, "{loose:o} {name}");
        }
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_others_could_read_is_closed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    started_in(&data).await.unwrap().stop().await;
    // As an older program and a kill leave them.
    for name in ["mothership.db", "mothership.db-wal", "mothership.db-shm"] {
        let path = data.join(name);
        std::fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        set_mode(&path, 0o644);
    }
    let running = started_in(&data).await.unwrap();
    for name in PRIVATE {
        assert_eq!(mode(&data.join(name)), 0o600, "{name}");
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_with_other_things_in_it_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("shared");
    std::fs::create_dir(&data).unwrap();
    set_mode(&data, 0o755);
    std::fs::write(data.join("somebody's file"), "").unwrap();
    let refused = started_in(&data).await.unwrap_err().to_string();
    assert!(refused.contains("somebody's file") && refused.contains("chmod 700"), "{refused}");
    assert_eq!((mode(&data), std::fs::read_dir(&data).unwrap().count()), (0o755, 1));
    // What is in a private directory is its owner's affair.
    set_mode(&data, 0o700);
    started_in(&data).await.unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_named_with_what_to_do_and_one_moved_away_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    started_in(&data).await.unwrap().stop().await;
    let path = data.join("mothership.db");
    let whole = std::fs::read(&path).unwrap();
    // Another file altogether, and one whose first table is gone.
    let mut torn = whole.clone();
    torn.iter_mut().skip(100).take(4000).for_each(|byte| *byte = 0xa5);
    for damaged in [b"no database, but longer than the head of one is".repeat(4), torn] {
        std::fs::write(&path, &damaged).unwrap();
        let told = started_in(&data).await.unwrap_err().to_string();
        assert!(told.contains(path.to_str().unwrap()) && told.contains("restore a backup"), "{told}");
        assert!(std::fs::read(&path).unwrap() == damaged, "it is left as it is");
    }
    std::fs::rename(&path, dir.path().join("away")).unwrap();
    let running = started_in(&data).await.unwrap();
    assert!(running.is_first_start());
    running.stop().await;
}
