//! What a directive costs, measured on whole processes: a real control plane (TLS, SQLite on disk), a real enrolled
//! daemon and real sandboxes, against plain bubblewrap with the same namespaces. Everything is measured in one run and
//! interleaved, so that a busy machine slows both sides alike. `make bench` runs it.
//!
//! Times of a directive are the control plane's own timestamps: what a user of it would see. `NEXUS_MOTHERSHIP` names
//! another `mothership` than the one built beside `nexusd`; `NEXUS_BENCH_ROUNDS` another number of rounds.
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

mod control_plane;
mod measure;
mod processes;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

/// Rounds of the interleaved measurements.
const ROUNDS: usize = 100;

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
    let rounds = std::env::var("NEXUS_BENCH_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("NEXUS_BENCH_ROUNDS"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let measured = runtime.block_on(measure::everything(&nexusd, &mothership, rounds));
    println!("{}", report::table(&measured));
    ExitCode::SUCCESS
}
