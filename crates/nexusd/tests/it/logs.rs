//! The log pipeline against a real server: nothing lost, nothing twice, whatever fails.

mod figures;
mod recovered;

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use conduits::LogStream;
use nexusd::client::DirectiveCalls;
use nexusd::logs::{LogCounters, LogSettings, LogTrouble, Logs, Overflow};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::directive;
use crate::client::server::{Fault, Server};

const OUT: LogStream = LogStream::Stdout;
const ERR: LogStream = LogStream::Stderr;
const LONG: Duration = Duration::from_secs(30);

struct Bed {
    server: Server,
    calls: DirectiveCalls,
    dir: tempfile::TempDir,
    tasks: TaskTracker,
    cancel: CancellationToken,
    counters: Arc<LogCounters>,
}

impl Bed {
    async fn new() -> Self {
        let server = Server::start().await;
        let calls = directive(&server);
        let dir = tempfile::tempdir().unwrap();
        let counters = Arc::new(LogCounters::default());
        Self { server, calls, dir, tasks: TaskTracker::new(), cancel: CancellationToken::new(), counters }
    }

    fn settings(&self, max_output_bytes: u64, chunk_bytes: usize) -> LogSettings {
        LogSettings {
            max_output_bytes,
            chunk_bytes,
            flush_interval: Duration::from_millis(100),
            spool_root: self.spool_root(),
            overflow: None,
            secrets: vec!["hunter2hunter2".to_owned()],
            counters: Arc::clone(&self.counters),
        }
    }

    fn spool_root(&self) -> std::path::PathBuf {
        self.dir.path().join("spool")
    }

    fn logs(&self, settings: LogSettings) -> Logs {
        Logs::to_mothership(self.calls.clone(), settings, &self.tasks, self.cancel.clone())
    }

    fn spool_is_empty(&self) -> bool {
        std::fs::read_dir(self.spool_root()).map(|mut entries| entries.next().is_none()).unwrap_or(true)
    }
}

/// Writes like a command: blocking, on a thread of its own.
fn write(fd: OwnedFd, parts: Vec<Vec<u8>>) -> std::thread::JoinHandle<Duration> {
    std::thread::spawn(move || {
        let begun = Instant::now();
        let mut file = std::fs::File::from(fd);
        for part in parts {
            file.write_all(&part).unwrap();
        }
        begun.elapsed()
    })
}

/// Bytes that repeat nowhere at chunk distance.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut all = Vec::with_capacity(len + 8);
    while all.len() < len {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        all.extend_from_slice(&state.to_le_bytes());
    }
    all.truncate(len);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_directive_leaves_no_trace() {
    let bed = Bed::new().await;
    let logs = bed.logs(bed.settings(2_000_000, 16384));
    drop((logs.pipe(OUT).unwrap(), logs.pipe(ERR).unwrap()));
    assert!(logs.end_of_output(LONG).await.complete);
    let summary = logs.shipped(LONG).await;
    assert!(summary.complete);
    assert_eq!(summary.stream(OUT).chunks, 0);
    assert!(bed.server.seen().is_empty());
    assert!(!bed.spool_root().exists());
    drop(logs);
    bed.tasks.close();
    bed.tasks.wait().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bytes_are_sent_at_once_and_the_command_is_still_running() {
    let bed = Bed::new().await;
    let logs = bed.logs(bed.settings(2_000_000, 16384));
    let pipe = logs.pipe(OUT).unwrap();
    let mut file = std::fs::File::from(pipe);
    file.write_all(b"hello\n").unwrap();
    let begun = Instant::now();
    while bed.server.first_chunk_at().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(5), "nothing came");
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    assert!(bed.server.first_chunk_at().unwrap() - begun < Duration::from_millis(90), "not after the flush interval");
    file.write_all(b"again\n").unwrap();
    drop(file);
    logs.end_of_output(LONG).await;
    assert!(logs.shipped(LONG).await.complete);
    assert_eq!(bed.server.stored(OUT), b"hello\nagain\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_percent_of_failures_lose_and_double_nothing() {
    let bed = Bed::new().await;
    bed.server.fail_every(10);
    let logs = bed.logs(bed.settings(4_000_000, 4096));
    let (out, err) = (bytes(600_000, 7), bytes(200_000, 9));
    let writers = [
        write(logs.pipe(OUT).unwrap(), out.chunks(7001).map(<[u8]>::to_vec).collect()),
        write(logs.pipe(ERR).unwrap(), err.chunks(313).map(<[u8]>::to_vec).collect()),
    ];
    assert!(logs.end_of_output(LONG).await.complete);
    let summary = logs.shipped(Duration::from_secs(60)).await;
    assert!(summary.complete, "{summary:?}");
    assert!(bed.server.stored(OUT) == out && bed.server.stored(ERR) == err);
    assert_eq!(summary.stream(OUT).bytes, 600_000);
    assert_eq!(summary.stream(OUT).seen, 600_000);
    assert_eq!(summary.stream(ERR).chunks, bed.server.chunk_lengths(ERR).len() as u64);
    for writer in writers {
        writer.join().unwrap();
    }
    drop(logs);
    bed.tasks.close();
    bed.tasks.wait().await;
    assert!(bed.spool_is_empty());
    assert_eq!(bed.counters.spool_bytes.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_hidden_across_writes_and_chunks() {
    let bed = Bed::new().await;
    let logs = bed.logs(bed.settings(2_000_000, 10));
    let text = format!("a hunter2hunter2 b {} c", crate::client::server::FIRST_TOKEN);
    let parts = text.as_bytes().chunks(3).map(<[u8]>::to_vec).collect();
    write(logs.pipe(OUT).unwrap(), parts).join().unwrap();
    logs.notice(ERR, "[prepare] failed: https://u:hunter2hunter2@host").await;
    logs.end_of_output(LONG).await;
    assert!(logs.shipped(LONG).await.complete);
    assert_eq!(String::from_utf8(bed.server.stored(OUT)).unwrap(), "a [REDACTED] b [REDACTED] c");
    assert_eq!(String::from_utf8(bed.server.stored(ERR)).unwrap(), "[prepare] failed: https://u:[REDACTED]@host\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_into_a_small_limit_keep_head_tail_and_overflow() {
    let bed = Bed::new().await;
    bed.server.delay(Duration::from_millis(20));
    let facility = tempfile::tempdir().unwrap();
    let mut settings = bed.settings(2_000_000, 16384);
    settings.overflow = Some(Overflow {
        facility: std::fs::File::open(facility.path()).unwrap().into(),
        dir: ".nexus/overflow".to_owned(),
        max_bytes_per_stream: 5_000_000,
        owner: None,
    });
    let logs = bed.logs(settings);
    let out = bytes(50_000_000, 3);
    let parts: Vec<Vec<u8>> = out.chunks(65536).map(<[u8]>::to_vec).collect();
    let writer = write(logs.pipe(OUT).unwrap(), parts);
    let err = logs.pipe(ERR).unwrap();
    let took = tokio::task::spawn_blocking(|| writer.join().unwrap()).await.unwrap();
    drop(err);
    assert!(took < Duration::from_secs(20), "a slow mothership must not slow the command: {took:?}");
    assert!(logs.end_of_output(LONG).await.complete);
    let summary = logs.shipped(Duration::from_secs(60)).await;
    assert!(summary.complete, "{summary:?}");
    let (shown, notices) = (bed.server.stored(OUT), bed.server.stored(ERR));
    assert!(shown.len() + notices.len() <= 2_000_000);
    assert!(shown.len() + notices.len() > 1_900_000);
    let part = summary.stream(OUT);
    let marker = format!("\n[... {} bytes truncated ...]\n", part.left_out);
    let at = shown.windows(marker.len()).position(|w| w == marker.as_bytes()).unwrap();
    let (head, tail) = (&shown[..at], &shown[at + marker.len()..]);
    assert!(out.starts_with(head) && out.ends_with(tail));
    assert_eq!(head.len() as u64 + tail.len() as u64 + part.left_out, 50_000_000);
    assert!(part.truncated && part.seen == 50_000_000 && part.bytes == shown.len() as u64);
    assert!(String::from_utf8(notices).unwrap().contains("[log] stdout: 750000 bytes shipped"));
    assert!(!bed.server.truncated().is_empty());
    let kept = std::fs::read(facility.path().join(".nexus/overflow/d-1/stdout.log")).unwrap();
    assert!(out[head.len()..].starts_with(&kept) && kept.len() == 5_000_000);
    assert_eq!(summary.overflow[0].path, ".nexus/overflow/d-1/stdout.log");
    assert!(!summary.overflow[0].complete);
    assert!(bed.server.most_in_flight() <= 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_within_the_limit_is_whole_and_leaves_no_overflow() {
    let bed = Bed::new().await;
    let facility = tempfile::tempdir().unwrap();
    let mut settings = bed.settings(100_000, 16384);
    settings.overflow = Some(Overflow {
        facility: std::fs::File::open(facility.path()).unwrap().into(),
        dir: ".nexus/overflow".to_owned(),
        max_bytes_per_stream: 5_000_000,
        owner: None,
    });
    let logs = bed.logs(settings);
    let out = bytes(90_000, 5);
    write(logs.pipe(OUT).unwrap(), vec![out.clone()]).join().unwrap();
    logs.end_of_output(LONG).await;
    let summary = logs.shipped(LONG).await;
    assert!(summary.complete && !summary.stream(OUT).truncated);
    assert_eq!(bed.server.stored(OUT), out);
    assert!(summary.overflow.is_empty());
    assert!(!facility.path().join(".nexus/overflow/d-1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_links_are_not_followed() {
    let bed = Bed::new().await;
    for plant in ["folder", "file"] {
        let facility = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("stdout.log");
        std::fs::write(&victim, "precious").unwrap();
        if plant == "folder" {
            std::os::unix::fs::symlink(outside.path(), facility.path().join(".nexus")).unwrap();
        } else {
            std::fs::create_dir_all(facility.path().join(".nexus/overflow/d-1")).unwrap();
            std::os::unix::fs::symlink(&victim, facility.path().join(".nexus/overflow/d-1/stdout.log")).unwrap();
        }
        let mut settings = bed.settings(1000, 100);
        settings.overflow = Some(Overflow {
            facility: std::fs::File::open(facility.path()).unwrap().into(),
            dir: ".nexus/overflow".to_owned(),
            max_bytes_per_stream: 5_000_000,
            owner: None,
        });
        let logs = bed.logs(settings);
        write(logs.pipe(OUT).unwrap(), vec![bytes(5000, 5)]).join().unwrap();
        logs.end_of_output(LONG).await;
        let summary = logs.shipped(LONG).await;
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious", "{plant}");
        assert_eq!(summary.overflow.len(), usize::from(plant == "file"), "{plant}");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "{plant}");
        bed.server.forget_chunks();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_stays_is_given_up_after_the_drain() {
    let bed = Bed::new().await;
    let logs = bed.logs(bed.settings(2_000_000, 16384));
    let kept = logs.pipe(OUT).unwrap();
    std::fs::File::from(kept.try_clone().unwrap()).write_all(b"said\n").unwrap();
    let begun = Instant::now();
    assert!(!logs.end_of_output(Duration::from_millis(150)).await.complete);
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(logs.shipped(LONG).await.complete);
    assert_eq!(bed.server.stored(OUT), b"said\n");
    drop(kept);
}

/// A writer that never pauses, until its pipe is closed.
fn flood(fd: OwnedFd) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut file = std::fs::File::from(fd);
        while file.write_all(&[b'x'; 4096]).is_ok() {}
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_never_pauses_is_given_up_after_the_drain() {
    let bed = Bed::new().await;
    for limit in [400_000_000, 1000] {
        let logs = bed.logs(bed.settings(limit, 16384));
        let writer = flood(logs.pipe(OUT).unwrap());
        let ended = tokio::time::timeout(LONG, logs.end_of_output(Duration::from_millis(150))).await;
        assert!(!ended.expect("the end is never reached").complete);
        tokio::task::spawn_blocking(|| writer.join().unwrap()).await.unwrap();
        bed.server.forget_chunks();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_on_one_stream_does_not_hold_up_the_other() {
    let bed = Bed::new().await;
    let limit = 400_000_000;
    let logs = bed.logs(bed.settings(limit, 16384));
    let (flooded, mut err) = (logs.pipe(OUT).unwrap(), std::fs::File::from(logs.pipe(ERR).unwrap()));
    let writer = flood(flooded);
    while logs.summary().stream(OUT).seen < 1_000_000 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    err.write_all(b"something is wrong\n").unwrap();
    while logs.summary().stream(ERR).seen == 0 {
        let seen = logs.summary().stream(OUT).seen;
        assert!(seen < limit / 4, "stderr waits until stdout has filled its share: {seen}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bed.cancel.cancel();
    tokio::task::spawn_blocking(|| writer.join().unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refusal_ends_the_shipping_with_its_reason() {
    let bed = Bed::new().await;
    bed.server.always("/log_chunks", Fault::Status(409, None, r#"{"error":"lease_gone"}"#));
    let logs = bed.logs(bed.settings(2_000_000, 16384));
    write(logs.pipe(OUT).unwrap(), vec![b"x".to_vec()]).join().unwrap();
    assert!(matches!(logs.trouble().await, LogTrouble::Refused(why) if why.contains("lease_gone")));
    logs.end_of_output(LONG).await;
    let summary = logs.shipped(Duration::from_millis(500)).await;
    assert!(!summary.complete);
    drop(logs);
    bed.tasks.close();
    bed.tasks.wait().await;
    assert!(bed.spool_is_empty());
}

/// Every call but these is answered: the end of the directive is not held back for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_mothership_that_answers_a_log_with_nonsense_counts_as_one_that_answers() {
    let bed = Bed::new().await;
    bed.server.always("/log_chunks", Fault::Body("<html>Please sign in</html>".to_owned()));
    let logs = bed.logs(bed.settings(2_000_000, 1000));
    write(logs.pipe(OUT).unwrap(), vec![bytes(20_000, 3)]).join().unwrap();
    logs.end_of_output(LONG).await;
    let begun = Instant::now();
    let summary = logs.shipped(Duration::from_secs(3)).await;
    assert!(!summary.complete && summary.trouble.is_none(), "{summary:?}");
    assert!(begun.elapsed() < Duration::from_millis(4500), "{:?}", begun.elapsed());
    // It goes on being sent, and arrives once it is taken.
    bed.server.heal();
    drop(logs);
    bed.tasks.close();
    tokio::time::timeout(LONG, bed.tasks.wait()).await.expect("it is never shipped");
    assert_eq!(bed.server.stored(OUT), bytes(20_000, 3));
    assert!(bed.spool_is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_gets_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| OwnedFd::from(std::fs::File::create(dir.path().join(name)).unwrap());
    let tasks = TaskTracker::new();
    let logs = Logs::to_files(file("out"), file("err"), &tasks, CancellationToken::new());
    let out = bytes(3_000_000, 1);
    let writer = write(logs.pipe(OUT).unwrap(), out.chunks(100_000).map(<[u8]>::to_vec).collect());
    logs.notice(ERR, "[egress] denied example.com:443 (not_allowed)").await;
    drop(logs.pipe(ERR).unwrap());
    assert!(logs.end_of_output(LONG).await.complete);
    let summary = logs.shipped(LONG).await;
    writer.join().unwrap();
    assert_eq!(summary.stream(OUT).seen, 3_000_000);
    tasks.close();
    tasks.wait().await;
    assert!(std::fs::read(dir.path().join("out")).unwrap() == out);
    assert_eq!(std::fs::read(dir.path().join("err")).unwrap(), b"[egress] denied example.com:443 (not_allowed)\n");
}
