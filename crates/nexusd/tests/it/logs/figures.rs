//! How fast the log is. Nothing is judged: run by hand.

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::{Bed, LONG, OUT, bytes, write};

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
