//! Prepare: a facility is filled from a git server that asks for credentials, and nobody else learns them.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use testkit::{StubOptions, WorkDir, require};

use crate::bed::{Bed, Ended};

/// git over HTTP with a name and password; the port it listens on.
pub(crate) struct GitServer {
    process: Child,
    pub(crate) port: u16,
    root: WorkDir,
}

impl GitServer {
    fn start() -> Self {
        Self::with("true")
    }

    /// With what a script adds to the tree.
    pub(crate) fn with(more: &str) -> Self {
        let root = WorkDir::new();
        let script = format!(
            "git init -q -b main tree && cd tree && echo hello > greeting && {more} && git add . &&
            git -c user.name=t -c user.email=t@t commit -qm first && git clone -q --bare . ../project.git"
        );
        let made = Command::new("sh").args(["-c", &script]).current_dir(root.path()).status().unwrap();
        assert!(made.success());
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/preparing/git_server.py");
        let mut command = Command::new("python3");
        command.arg(program).arg(root.path()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, port: line.trim().parse().unwrap(), root }
    }

    /// What requests carried, a line each.
    fn seen(&self) -> String {
        std::fs::read_to_string(self.root.join("seen")).unwrap_or_default()
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The operator lets directives reach this loopback address, which has a name here.
fn bed() -> Bed {
    let keys = "operator: {net_ceiling: unrestricted}\negress: {allow_private: [127.0.0.2/32]}\n\
        supported_sandbox_profiles: [untrusted, host]\n";
    Bed::with(StubOptions::full(), keys).with_hosts("127.0.0.1 localhost\n127.0.0.2 git.example.test\n")
}

async fn cloned(bed: &Bed, facility: &str, url: &str, command: &str) -> Ended {
    bed.run(json!({
        "facility": { "id": facility, "repo_url": url }, "command": command,
        "capabilities": { "net": { "mode": "unrestricted" } },
    }))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_reach_the_server_and_nothing_else() {
    require!(Root, Bwrap, Git, Python);
    let (server, bed) = (GitServer::start(), bed());
    let url = format!("http://robot:s3cret%2Fpass@git.example.test:{}/project.git", server.port);
    let look = "cat greeting .git/config; env; grep -rl s3cret . /tmp /run 2>/dev/null; cat /proc/[0-9]*/environ | tr '\\0' '\\n'";
    let ended = cloned(&bed, "f1", &url, look).await;
    assert_eq!(ended.report.exit_code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("hello\n"), "{}", ended.stdout);
    for text in [&ended.stdout, &ended.stderr] {
        assert!(!text.contains("s3cret") && !text.contains("pass@"), "{text}");
    }
    // Control: they did reach the server, and without them there is no clone.
    assert!(server.seen().contains("Basic "), "{}", server.seen());
    let bare = format!("http://git.example.test:{}/project.git", server.port);
    let ended = cloned(&bed, "f2", &bare, "cat greeting").await;
    assert_eq!(ended.outcome(), ("failed", 1, ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("[prepare] failed: "), "{}", ended.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_redirects_does_not_get_them_elsewhere() {
    require!(Root, Bwrap, Git, Python);
    let (first, second, bed) = (GitServer::start(), GitServer::start(), bed());
    let url =
        format!("http://robot:s3cret%2Fpass@git.example.test:{}/elsewhere/{}/project.git", first.port, second.port);
    let ended = cloned(&bed, "f1", &url, "cat greeting").await;
    assert_eq!(ended.outcome(), ("failed", 1, ""), "{}", ended.stderr);
    assert!(second.seen().contains("/project.git"), "control: the redirect was followed: {}", ended.stderr);
    assert!(!second.seen().contains("Basic "), "{}", second.seen());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_has_the_directive_s_disk_limit() {
    require!(Root, Bwrap, Git, Python);
    let (server, bed) = (GitServer::with("head -c 20000000 /dev/urandom > large"), bed());
    let url = format!("http://robot:s3cret%2Fpass@git.example.test:{}/project.git", server.port);
    let run = |disk_mb: u64| {
        bed.run(json!({
            "facility": { "id": format!("f{disk_mb}"), "repo_url": url }, "command": "cat greeting",
            "capabilities": { "net": { "mode": "unrestricted" } }, "limits": { "disk_mb": disk_mb },
        }))
    };
    let ended = run(5).await;
    assert_eq!(ended.outcome(), ("failed", 1, ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("[prepare] failed: ended by its disk limit"), "{}", ended.stderr);
    assert_eq!(std::fs::read_dir(bed.dir.join("w/f5")).unwrap().count(), 0, "the facility is as empty as before");
    // Control: with room for it, it is cloned.
    assert_eq!(run(500).await.outcome(), ("succeeded", 0, "hello\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_ends_a_clone() {
    require!(Root, Bwrap, Git);
    let bed = bed();
    // Takes the connection and never says a word.
    let silent = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let id = bed.queue(json!({
        "facility": { "id": "f", "repo_url": format!("http://git.example.test:{port}/x.git") },
        "capabilities": { "net": { "mode": "unrestricted" } },
    }));
    let (taken, _) = tokio::task::spawn_blocking(move || silent.accept().unwrap()).await.unwrap();
    let began = std::time::Instant::now();
    bed.stub.cancel(&id);
    let ended = bed.ended(id).await;
    assert_eq!(ended.report.status.as_str(), "canceled", "{}", ended.stderr);
    assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    drop(taken);
}

/// Cloned in a sandbox, worked on by the daemon's own user: it is his, else git would not work there.
#[tokio::test(flavor = "multi_thread")]
async fn a_clone_for_the_host_belongs_to_who_works_there() {
    require!(Root, Bwrap, Git, Python);
    let (server, bed) = (GitServer::start(), bed());
    let url = format!("http://robot:s3cret%2Fpass@git.example.test:{}/project.git", server.port);
    let ended = bed
        .run(json!({
            "facility": { "id": "h", "repo_url": url }, "sandbox_profile": "host",
            "capabilities": { "net": { "mode": "unrestricted" } },
            "command": "git status --short; git log --format=%s; stat -c %u . greeting .git/config; echo changed > greeting",
        }))
        .await;
    assert_eq!(ended.outcome(), ("succeeded", 0, "first\n0\n0\n0\n"), "{}", ended.stderr);
    let diff = String::from_utf8(ended.report.diff_base64.unwrap_or_default()).unwrap();
    assert!(diff.contains("-hello\n+changed\n"), "{diff}\n{}", ended.stderr);
}
