//! What a connection through the proxy costs, beside no proxy and beside other proxies, in one run with one load
//! generator: everything is interleaved, each figure is the median of five rounds. `make bench` runs it.
//!
//! Each proxy is a process of its own, this one too (the same program, started again), with the runtime of nexusd. What is
//! not installed is left out aloud. `NEXUS_BENCH_ROUNDS` gives another number of rounds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    missing_docs,
    reason = "a program of its own that ends at the first surprise"
)]

mod contenders;
mod load;
mod ours;
mod report;

use std::process::ExitCode;

/// Rounds of the interleaved measurements.
const ROUNDS: usize = 5;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--serve") {
        ours::serve(&arguments[at + 1..]);
        return ExitCode::SUCCESS;
    }
    // `cargo test --all-targets` starts benchmarks too, without this flag: they are no tests.
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("a benchmark: run it by `make bench`");
        return ExitCode::SUCCESS;
    }
    let rounds = std::env::var("NEXUS_BENCH_ROUNDS").map_or(ROUNDS, |text| text.parse().expect("NEXUS_BENCH_ROUNDS"));
    println!("{}", report::measure(rounds));
    ExitCode::SUCCESS
}
