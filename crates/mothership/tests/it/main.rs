//! The mothership as its clients meet it: a real one served in this process, over TLS or plain HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod access;
mod accounts;
mod agreement;
mod attacks;
mod bed;
mod bounds;
mod cli;
mod conduits_api;
mod deleted_facilities;
mod identity;
mod leases;
mod live_logs;
mod other_client;
mod process;
mod restart;
mod rollover;
mod signals;
mod syncs;
mod user_api;
