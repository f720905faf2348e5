//! Prints the OpenAPI document, for `docs/protocol/openapi.json`.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

fn main() {
    println!("{:#}", mothership::api::openapi::rendered());
}
