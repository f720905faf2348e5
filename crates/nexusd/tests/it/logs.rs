//! The log pipeline against a real server: nothing lost, nothing twice, whatever fails.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use conduits::LogStream;
use nexusd::client::DirectiveCalls;
use nexusd::logs::{LogCounters, LogSettings, LogTrouble, Logs, Overflow, recover};
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
    bed.tasks.close();
    bed.tasks.wait().await;
    assert!(bed.spool_is_empty());
}

/// A process that dies leaves its spool; another ships it to the end, and what arrived before is not doubled.
async fn killed_and_recovered(held: bool, damage: impl Fn(&std::path::Path)) -> (Bed, Vec<u8>) {
    let bed = Bed::new().await;
    let max = if held { 300_000 } else { 3_000_000 };
    let logs = bed.logs(bed.settings(max, 1000));
    let out = bytes(500_000, 11);
    let mut file = std::fs::File::from(logs.pipe(OUT).unwrap());
    file.write_all(&out[..50_000]).unwrap();
    while bed.server.chunk_lengths(OUT).len() < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bed.server.always("/log_chunks", Fault::Status(503, None, ""));
    let rest = out.clone();
    let writer = std::thread::spawn(move || file.write_all(&rest[50_000..]).map(|()| file));
    let begun = Instant::now();
    while logs.summary().stream(OUT).seen < 500_000 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the outage stalled the command");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(writer.join().unwrap());
    bed.cancel.cancel();
    bed.tasks.close();
    bed.tasks.wait().await;
    damage(&bed.spool_root().join("d-1"));
    (bed, out)
}

async fn ship_leftovers(bed: &Bed) -> nexusd::logs::LogSummary {
    bed.server.heal();
    let mut leftovers = recover(&bed.spool_root()).unwrap();
    assert_eq!(leftovers.len(), 1);
    let tasks = TaskTracker::new();
    let calls = directive(&bed.server);
    let leftover = leftovers.remove(0);
    let logs = Logs::recovered(leftover, calls, bed.settings(1, 1), &tasks, CancellationToken::new()).unwrap();
    logs.notice(ERR, "[nexusd] restarted").await;
    logs.end_of_output(LONG).await;
    let summary = logs.shipped(LONG).await;
    tasks.close();
    tasks.wait().await;
    summary
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_is_shipped_after_a_kill() {
    let (bed, out) = killed_and_recovered(false, |_| {}).await;
    let summary = ship_leftovers(&bed).await;
    assert!(summary.complete, "{summary:?}");
    assert!(bed.server.stored(OUT) == out);
    assert_eq!(bed.server.stored(ERR), b"[nexusd] restarted\n");
    assert_eq!(summary.stream(OUT).chunks, bed.server.chunk_lengths(OUT).len() as u64);
    assert_eq!(summary.stream(OUT).bytes, 500_000);
    assert!(bed.spool_is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn held_output_is_shipped_after_a_kill() {
    let (bed, out) = killed_and_recovered(true, |_| {}).await;
    let summary = ship_leftovers(&bed).await;
    assert!(summary.complete, "{summary:?}");
    let shown = bed.server.stored(OUT);
    let marker = format!("\n[... {} bytes truncated ...]\n", summary.stream(OUT).left_out);
    let at = shown.windows(marker.len()).position(|w| w == marker.as_bytes()).unwrap();
    assert!(out.starts_with(&shown[..at]) && out.ends_with(&shown[at + marker.len()..]));
    assert_eq!((shown.len() - marker.len()) as u64 + summary.stream(OUT).left_out, 500_000);
    assert!(shown.len() + bed.server.stored(ERR).len() <= 300_000);
    assert!(shown.len() > 280_000);
    assert!(bed.spool_is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_record_is_dropped_and_no_good_one() {
    let (bed, out) = killed_and_recovered(false, |dir| {
        let last = last_segment(dir);
        let len = std::fs::metadata(&last).unwrap().len();
        std::fs::File::options().write(true).open(&last).unwrap().set_len(len - 1).unwrap();
    })
    .await;
    let summary = ship_leftovers(&bed).await;
    assert!(summary.complete);
    let shown = bed.server.stored(OUT);
    assert!(out.starts_with(&shown));
    assert!(out.len() - shown.len() <= 1000 && shown.len() < out.len(), "one record: {}", out.len() - shown.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_set_aside_by_name_and_what_is_good_is_shipped() {
    let (bed, out) = killed_and_recovered(false, |dir| {
        use std::os::unix::fs::FileExt as _;
        let last = last_segment(dir);
        let len = std::fs::metadata(&last).unwrap().len();
        std::fs::File::options().write(true).open(&last).unwrap().write_all_at(b"\xff\xff\xff", len / 2).unwrap();
    })
    .await;
    let found = recover(&bed.spool_root()).unwrap();
    assert_eq!(found[0].set_aside.len(), 1);
    assert!(found[0].set_aside[0].path.to_str().unwrap().ends_with(".seg.corrupt"));
    drop(found);
    ship_leftovers(&bed).await;
    let shown = bed.server.stored(OUT);
    assert!(out.starts_with(&shown) && shown.len() > 100_000);
}

fn last_segment(dir: &std::path::Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.extension().is_some_and(|e| e == "seg")).max().unwrap()
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

/// Figures, not a judgement: `cargo test --release -p nexusd --test it figures -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn figures() {
    let bed = Bed::new().await;
    let mut first_bytes: Vec<Duration> = Vec::new();
    for _ in 0..200 {
        let bed = Bed::new().await;
        bed.calls.heartbeat(&conduits::DirectiveHeartbeatRequest::default(), None).await.unwrap();
        let logs = bed.logs(bed.settings(2_000_000, 16384));
        let mut file = std::fs::File::from(logs.pipe(OUT).unwrap());
        tokio::time::sleep(Duration::from_millis(2)).await;
        let begun = Instant::now();
        file.write_all(b"hello\n").unwrap();
        while bed.server.first_chunk_at().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        first_bytes.push(bed.server.first_chunk_at().unwrap() - begun);
        drop(file);
        logs.end_of_output(LONG).await;
        logs.shipped(LONG).await;
    }
    first_bytes.sort();
    println!("first byte at the server: median {:?}, p95 {:?}", first_bytes[100], first_bytes[190]);
    for (delay, chunk) in [(0u64, 262_144), (0, 16_384), (50, 262_144)] {
        bed.server.delay(Duration::from_millis(delay));
        let logs = bed.logs(bed.settings(400_000_000, chunk));
        let total = 100_000_000u32;
        let begun = Instant::now();
        let writer =
            write(logs.pipe(OUT).unwrap(), bytes(total as usize, 3).chunks(65536).map(<[u8]>::to_vec).collect());
        logs.end_of_output(LONG).await;
        let read = begun.elapsed();
        let summary = logs.shipped(Duration::from_secs(120)).await;
        let took = begun.elapsed();
        writer.join().unwrap();
        assert!(summary.complete);
        let rate = f64::from(total) / 1e6 / took.as_secs_f64();
        println!("100 MB, chunks of {chunk}, {delay} ms away: read in {read:?}, shipped in {took:?}: {rate:.0} MB/s");
        bed.server.forget_chunks();
    }
}

/// Figures, not a judgement: a gigabyte beyond the limit, against the same command writing to a file.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "prints figures"]
async fn figures_of_a_gigabyte() {
    let command = |stdout: std::process::Stdio| {
        let begun = Instant::now();
        let mut child =
            std::process::Command::new("head").args(["-c", "1000000000", "/dev/zero"]).stdout(stdout).spawn().unwrap();
        assert!(child.wait().unwrap().success());
        begun.elapsed()
    };
    for round in 0..3 {
        let bed = Bed::new().await;
        let plain = bed.dir.path().join("plain");
        let to_file = command(std::fs::File::create(&plain).unwrap().into());
        std::fs::remove_file(&plain).unwrap();
        let logs = bed.logs(bed.settings(2_000_000, 16384));
        let pipe = logs.pipe(OUT).unwrap();
        let to_us = tokio::task::spawn_blocking(move || command(pipe.into())).await.unwrap();
        logs.end_of_output(LONG).await;
        let summary = logs.shipped(LONG).await;
        assert!(summary.complete && summary.stream(OUT).seen == 1_000_000_000);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        println!(
            "round {round}: 1 GB to a file {to_file:?}, to the log {to_us:?}; {peak} (with the server in the same process)"
        );
    }
}
