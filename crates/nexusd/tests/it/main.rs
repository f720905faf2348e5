//! The daemon from outside: its files, its command line, its words with a control plane.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

mod bed;
mod cli;
mod client;
mod collecting;
mod config;
mod conformance;
mod containers;
mod damaged;
mod doctor;
mod egress;
mod endings;
mod enroll;
mod hostile_input;
mod identity;
mod limits;
mod logs;
mod metrics;
mod names;
mod other_servers;
mod outbox;
mod packaging;
mod planted;
mod preparing;
mod prove;
mod removing;
mod restarting;
mod resting;
mod retention;
mod rootfs;
mod run;
mod service;
mod starting;
mod stopping;
mod tools;
mod vm;
