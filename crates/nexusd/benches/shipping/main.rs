//! What the logs cost and how fast they go, measured on whole processes: a command that writes a gigabyte, a hundred megabytes
//! shipped whole to a sink near and far, fifty directives that write at once, a cancel on its way. `make bench` and `make
//! chaos` run it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    dead_code,
    missing_docs,
    reason = "a program of its own that ends at the first surprise"
)]

#[path = "../latency/control_plane.rs"]
mod control_plane;
#[path = "../latency/processes.rs"]
mod processes;
mod sink;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use control_plane::System;
use processes::{Files, Process, command};
use serde_json::json;
use sink::Sink;
use testkit::DelayedLink;

const GIGABYTE: u64 = 1_000_000_000;
/// Bytes shipped whole.
const WHOLE: u64 = 100_000_000;
/// Directives that write at once, and how much each: with small chunks and a long way, seconds of shipping, beside which the
/// moments between their beginnings are little.
const WRITERS: usize = 50;
const EACH: u64 = 1_000_000;

fn main() -> ExitCode {
    // `cargo test --all-targets` starts benchmarks too, without this flag: they are no tests.
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("a benchmark: run it by `make bench`");
        return ExitCode::SUCCESS;
    }
    let nexusd = PathBuf::from(env!("CARGO_BIN_EXE_nexusd"));
    let mothership =
        std::env::var_os("NEXUS_MOTHERSHIP").map_or_else(|| nexusd.with_file_name("mothership"), PathBuf::from);
    if !mothership.exists() {
        println!("no {}: build it first (cargo build --release -p mothership)", mothership.display());
        return ExitCode::FAILURE;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        gigabyte(&nexusd, &mothership).await;
        whole(&nexusd, Duration::ZERO, 60.0).await;
        whole(&nexusd, Duration::from_millis(50), 20.0).await;
        fairness(&nexusd).await;
    });
    ExitCode::SUCCESS
}

fn line(what: &str, measured: &str, goal: &str, met: bool) {
    println!("  {what:<62}{measured:>12}{goal:>13}  {}", if met { "PASS" } else { "MISS" });
}

/// The most resident memory that a process ever shows while this lives.
struct Watched {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watched {
    fn new(pid: u32) -> Self {
        let (most, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen, stopped) = (Arc::clone(&most), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
                let bytes = line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024;
                seen.fetch_max(bytes, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Self { most, stop, thread: Some(thread) }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.most.load(Ordering::Relaxed)
    }
}

/// A gigabyte into a limit of 2 MB, against the same command writing to a file; and a cancel.
async fn gigabyte(nexusd: &Path, mothership: &Path) {
    let system = System::start(nexusd, mothership);
    let facility = system.facility().await;
    system.run(&facility, "untrusted", "true").await;
    let (mut to_file, mut to_us) = (Vec::new(), Vec::new());
    let watched = Watched::new(system.daemon.id());
    for _ in 0..3 {
        for (into, times) in [("> file", &mut to_file), ("", &mut to_us)] {
            let run = format!(
                "rm -f file; a=$(date +%s%N); head -c {GIGABYTE} /dev/zero {into}; b=$(date +%s%N); echo $((b-a)) > took; rm -f file"
            );
            system.run(&facility, "untrusted", &run).await;
            let took = fs::read_to_string(system.work_dir().join(&facility).join("took")).unwrap();
            times.push(Duration::from_nanos(took.trim().parse().unwrap()));
        }
    }
    let most = watched.end();
    let (file, us) = (*to_file.iter().min().unwrap(), *to_us.iter().min().unwrap());
    let slower = us.as_secs_f64() / file.as_secs_f64() - 1.0;
    let seconds =
        |times: &[Duration]| times.iter().map(|t| format!("{:.2}", t.as_secs_f64())).collect::<Vec<_>>().join(" ");
    println!("  1 GB to a file in {} s, to the log in {} s", seconds(&to_file), seconds(&to_us));
    line(
        "1 GB into 2 MB: the command is slower than `> file` by",
        &format!("{:.0} %", slower * 100.0),
        "< 20 %",
        slower < 0.2,
    );
    let megabytes = most as f64 / 1e6;
    line("1 GB into 2 MB: nexusd resident at most", &format!("{megabytes:.1} MB"), "< 30 MB", megabytes < 30.0);
    let mut worst = Duration::ZERO;
    for _ in 0..10 {
        let run = "trap 'date +%s%N > asked; exit 1' TERM; echo > up; while :; do sleep 0.01; done";
        let up = system.work_dir().join(&facility).join("up");
        drop(fs::remove_file(&up));
        let id = system.queue(&facility, "untrusted", run).await;
        while !up.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        let asked = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        system.cancel(&id).await;
        system.gone(&id).await;
        let heard = fs::read_to_string(system.work_dir().join(&facility).join("asked")).unwrap();
        worst = worst.max(Duration::from_nanos(heard.trim().parse().unwrap()).saturating_sub(asked));
    }
    line(
        "cancel to SIGTERM, the slowest of 10",
        &format!("{} ms", worst.as_millis()),
        "< 200 ms",
        worst < Duration::from_millis(200),
    );
}

/// A daemon of the sink's.
struct Shipping {
    sink: Sink,
    daemon: Process,
    files: Files,
    _link: Option<DelayedLink>,
}

impl Shipping {
    fn start(nexusd: &Path, sink: Sink, link: Option<DelayedLink>, slots: usize, chunk_bytes: usize) -> Self {
        let files = Files::new();
        let address = link.as_ref().map_or(sink.address(), DelayedLink::address);
        let config = files.at("nexusd.yaml");
        let claim = slots.min(5);
        fs::write(
            &config,
            format!(
                "server_url: http://{address}\nterritory_id: bench\nwork_dir: {}/w\nmin_free_bytes: 0\n\
                 max_concurrent_directives: {slots}\npoll: {{ max_directives_to_claim: {claim} }}\n\
                 log: {{ max_output_bytes: 400000000, chunk_bytes: {chunk_bytes} }}\n",
                files.home.path().display()
            ),
        )
        .unwrap();
        let daemon = Process::start(&mut command(nexusd, &["-config", config.to_str().unwrap()]), &files.at("log"));
        Self { sink, daemon, files, _link: link }
    }

    fn queue(&self, id: &str, run: &str) {
        self.sink.queue(json!({
            "directive_id": id, "facility": { "id": id }, "command": run,
            "limits": { "max_output_bytes": 400_000_000 }, "capabilities": { "net": { "mode": "none" } },
        }));
    }
}

/// Everything shipped, from the lease to the end's arrival.
async fn whole(nexusd: &Path, round_trip: Duration, goal: f64) {
    let sink = Sink::start();
    let link = (!round_trip.is_zero()).then(|| DelayedLink::start(sink.address(), round_trip / 2));
    let shipping = Shipping::start(nexusd, sink, link, 1, 262_144);
    let mut best: f64 = 0.0;
    for round in 0..3 {
        let id = format!("whole-{round}");
        let began = Instant::now();
        shipping.queue(&id, &format!("head -c {WHOLE} /dev/zero"));
        shipping.sink.finished(&id).await;
        assert_eq!(shipping.sink.bytes(&id), WHOLE, "not whole");
        best = best.max(WHOLE as f64 / 1e6 / began.elapsed().as_secs_f64());
    }
    let what = format!("100 MB whole, chunks of 256 KiB, {} ms of round trip", round_trip.as_millis());
    line(&what, &format!("{best:.0} MB/s"), &format!("≥ {goal:.0} MB/s"), best >= goal);
}

/// How far apart they are when half of everything has arrived.
async fn fairness(nexusd: &Path) {
    let sink = Sink::start();
    let link = DelayedLink::start(sink.address(), Duration::from_millis(50));
    let shipping = Shipping::start(nexusd, sink, Some(link), WRITERS, 16_384);
    let ids: Vec<String> = (0..WRITERS).map(|n| format!("fair-{n}")).collect();
    for id in &ids {
        shipping.queue(id, &format!("touch up; while [ ! -e go ]; do sleep 0.05; done; head -c {EACH} /dev/zero"));
    }
    let at = |id: &str, name: &str| shipping.files.home.path().join("w").join(id).join(name);
    while !ids.iter().all(|id| at(id, "up").exists()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for id in &ids {
        fs::write(at(id, "go"), "").unwrap();
    }
    let total = EACH * WRITERS as u64;
    let arrived = loop {
        let arrived: Vec<u64> = ids.iter().map(|id| shipping.sink.bytes(id)).collect();
        if arrived.iter().sum::<u64>() >= total / 2 {
            break arrived;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    for id in &ids {
        shipping.sink.finished(id).await;
        assert_eq!(shipping.sink.bytes(id), EACH, "not whole");
    }
    let (least, most) = (*arrived.iter().min().unwrap(), *arrived.iter().max().unwrap());
    let factor = most as f64 / least.max(1) as f64;
    println!("  at half of everything, of {EACH} bytes each: least {least}, most {most}");
    line("50 directives writing at once: most over least", &format!("{factor:.2}"), "≤ 2", factor <= 2.0);
}
