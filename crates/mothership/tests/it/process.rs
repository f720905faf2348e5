//! The command line as a process.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::bed::{Bed, Lease, Territory};

pub(crate) fn mothership(bed: &Bed, words: &[&str]) -> Child {
    command(&bed.data(), words)
}

pub(crate) fn command(data: &Path, words: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mothership"))
        .arg("--data-dir")
        .arg(data)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

pub(crate) async fn ended(child: Child) -> Output {
    tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await.expect("the command ends").unwrap()
}

pub(crate) async fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("it runs still").to_string();
    assert!(Command::new("kill").args(["-s", name, &pid]).status().await.unwrap().success());
}

/// Its standard error up to a line that holds `word`; what was said in one breath after it is lost.
pub(crate) async fn told(child: &mut Child, word: &str) -> String {
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    let mut text = String::new();
    let read = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            text.push_str(&line);
            text.push('\n');
            if line.contains(word) {
                return;
            }
        }
        panic!("it never said {word}");
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect(word);
    text
}

/// The code of a command that is to leave at once.
pub(crate) async fn left(mut child: Child) -> Option<i32> {
    tokio::time::timeout(Duration::from_secs(5), child.wait()).await.expect("it leaves at once").unwrap().code()
}

/// The lease of the directive that a command just queued.
pub(crate) async fn claimed(territory: &Territory) -> Lease {
    for _ in 0..200 {
        if let Some(lease) = territory.poll(1).await.pop() {
            return lease;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("nothing was queued");
}
