//! What a commit does to the disk.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use testkit::require;
use tokio::process::{Child, Command};

use crate::bed::client;
use crate::process::ended;

/// A server of its own beneath strace, which writes down each sync and whose file it was.
struct Traced {
    data: tempfile::TempDir,
    server: Child,
}

impl Traced {
    async fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let server = Command::new("strace")
            .args(["-f", "-y", "-e", "trace=fsync,fdatasync", "-o"])
            .arg(data.path().join("trace"))
            .arg(env!("CARGO_BIN_EXE_mothership"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data.path().join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let traced = Self { data, server };
        for _ in 0..1200 {
            if traced.data().join("address").exists() {
                return traced;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("it never listened");
    }

    fn data(&self) -> std::path::PathBuf {
        self.data.path().join("data")
    }

    /// The calls that were for the database's log, once the server has ended.
    async fn syncs_of_the_log(self) -> Vec<String> {
        let trace = self.data.path().join("trace");
        // strace ends when what it started does; that one's number stands first in the line.
        let text = read(&trace);
        let pid = text.split_whitespace().next().unwrap();
        assert!(Command::new("kill").args(["-s", "TERM", pid]).status().await.unwrap().success());
        ended(self.server).await;
        read(&trace).lines().filter(|line| line.contains("/mothership.db-wal>")).map(str::to_owned).collect()
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// fsync(2) would write the file's times as well, and each commit would pay for a journal entry of the file system.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_costs_one_sync_of_the_data_alone() {
    require!(Debuggers);
    let traced = Traced::start().await;
    let data = traced.data();
    let (url, token) = (read(&data.join("address")), read(&data.join("admin-token")));
    for _ in 0..5 {
        let request = client(&data, None).post(format!("{}/api/v1/facilities", url.trim())).bearer_auth(token.trim());
        assert!(request.json(&json!({})).send().await.unwrap().status().is_success());
    }
    let syncs = traced.syncs_of_the_log().await;
    assert!(syncs.len() >= 5, "{syncs:?}");
    assert!(syncs.iter().all(|call| call.contains("fdatasync(")), "{syncs:?}");
}
