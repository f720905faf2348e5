//! What is measured, in which order, and how it is shown.

use std::fmt::Write as _;
use std::time::Duration;

use crate::contenders::{self, Contender, Speech};
use crate::load::{self, BULK, Direction, Way};

const LANES: [usize; 3] = [1, 16, 64];
/// Idle tunnels whose memory is measured.
const TUNNELS: usize = 256;
/// Refused attempts whose memory is measured.
const DENIALS: usize = 10_000;

#[derive(Debug)]
struct Row {
    name: String,
    way: Way,
    contender: Option<usize>,
    lanes: [Vec<Measured>; LANES.len()],
    bulk: [Vec<(f64, f64)>; 2],
}

#[derive(Debug, Clone, Copy)]
struct Measured {
    a_second: f64,
    median: Duration,
    cpu_micros: f64,
}

pub(crate) fn measure(rounds: usize) -> String {
    let folder = std::env::temp_dir().join(format!("egress-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    // squid gives up its rights and still wants to look at its folder.
    std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    load::origin();
    let mut all = vec![contenders::ours(&folder, 18_880, "plain"), contenders::ours(&folder, 18_884, "slow-audit")];
    all.extend(contenders::others(&folder));
    let mut rows = rows(&all);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for round in 0..=rounds {
            // The first round warms up and does not count.
            for row in &mut rows {
                one_round(row, &all, round > 0).await;
            }
        }
    });
    let mut text = table(&rows);
    let memory = runtime.block_on(memory(&all[0]));
    text.push_str(&memory);
    drop(all);
    std::fs::remove_dir_all(&folder).unwrap();
    text
}

fn rows(all: &[Contender]) -> Vec<Row> {
    let row = |name: String, way, contender| Row {
        name,
        way,
        contender,
        lanes: Default::default(),
        bulk: Default::default(),
    };
    let mut rows = vec![row("direct".to_owned(), Way(None), None)];
    for speech in [Speech::Connect, Speech::Socks5] {
        for (at, contender) in all.iter().enumerate().filter(|(_, contender)| contender.speaks.contains(&speech)) {
            let way = Way(Some((contender.at, speech)));
            rows.push(row(format!("{speech:?} {}", contender.name), way, Some(at)));
        }
    }
    rows
}

async fn one_round(row: &mut Row, all: &[Contender], counts: bool) {
    let cpu = || row.contender.map_or(0.0, |at| all[at].cpu_seconds());
    for (at, lanes) in LANES.into_iter().enumerate() {
        let before = cpu();
        let done = load::set_ups(row.way, lanes).await;
        let cpu_micros = (cpu() - before) * 1e6 / done.count as f64;
        if counts {
            row.lanes[at].push(Measured { a_second: done.a_second, median: done.median, cpu_micros });
        }
    }
    // In bulk both ways into a proxy are the same.
    if row.name.contains("Socks5") || row.name.contains("slow") {
        return;
    }
    for (at, direction) in [Direction::Down, Direction::Up].into_iter().enumerate() {
        let before = cpu();
        let rate = load::bulk(row.way, direction).await;
        let cpu_a_gb = (cpu() - before) / (BULK as f64 / 1e9);
        if counts {
            row.bulk[at].push((rate, cpu_a_gb));
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<27}{}\n{:<27}{}\n",
        "",
        LANES.map(|lanes| format!("{:>29}", format!("{lanes} at a time"))).concat(),
        "set-ups",
        LANES.map(|_| format!("{:>11}{:>9}{:>9}", "a second", "p50 us", "CPU us")).concat(),
    );
    for row in rows {
        write!(text, "{:<27}", row.name).unwrap();
        for lane in &row.lanes {
            let rate = median(lane.iter().map(|one| one.a_second));
            let p50 = median(lane.iter().map(|one| one.median.as_secs_f64() * 1e6));
            let cpu = median(lane.iter().map(|one| one.cpu_micros));
            write!(text, "{rate:>11.0}{p50:>9.0}{cpu:>9.0}").unwrap();
        }
        text.push('\n');
    }
    writeln!(text, "\n{:<27}{:>22}{:>22}", "one tunnel", "down GB/s  CPU s/GB", "up GB/s  CPU s/GB").unwrap();
    for row in rows.iter().filter(|row| !row.bulk[0].is_empty()) {
        write!(text, "{:<27}", row.name).unwrap();
        for direction in &row.bulk {
            let rate = median(direction.iter().map(|one| one.0));
            let cpu = median(direction.iter().map(|one| one.1));
            write!(text, "{rate:>13.2}{cpu:>9.2}").unwrap();
        }
        text.push('\n');
    }
    text
}

async fn memory(ours: &Contender) -> String {
    let way = Way(Some((ours.at, Speech::Connect)));
    let kib = |bytes: i128| bytes as f64 / 1024.0;
    let private = || i128::from(ours.private_bytes());
    let before = private();
    let mut open = Vec::new();
    for _ in 0..TUNNELS {
        open.push(load::set_up(way).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let with = private();
    drop(open);
    tokio::time::sleep(Duration::from_secs(1)).await;
    load::denials(ours.at, DENIALS / 10).await;
    let quiet = private();
    load::denials(ours.at, DENIALS).await;
    let after = private();
    format!(
        "\n{TUNNELS} idle tunnels: {:.0} KiB each more than before, {:.1} MB the whole process\n\
         {DENIALS} refused attempts: {:+.0} KiB\n",
        kib(with - before) / TUNNELS as f64,
        kib(with) / 1024.0,
        kib(after - quiet),
    )
}
