//! The egress proxy over real sockets: what it lets through, what it refuses, what it survives.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::print_stderr,
    missing_docs
)]

mod aliases;
mod attack;
mod bed;
mod bounds;
mod connect;
mod corpus;
mod denied;
mod departures;
mod forward;
mod names;
mod netns;
mod smuggling;
mod sni;
mod socks;
mod upstream;
