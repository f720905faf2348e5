//! What survives: a shutdown, a kill, an older program.

use std::os::unix::fs::PermissionsExt as _;

use mothership::serve::{ServeConfig, ServeError, start};
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
