//! What an operator sees of a running daemon: its log, its metrics, whether it is well.
//!
//! Promises: labels are bounded (drivers, profiles, statuses, reasons: never an id); a scrape costs no lock that the
//! work of a directive waits for; readiness is a pure function of facts that others publish; every connection to the
//! listener is bounded in number and time.
//!
//! Leaves to others: counting (each part holds its own handles of [`Metrics`]) and publishing [`ReadyFacts`].

pub mod http;
pub mod log;
pub mod metrics;
mod process;
pub mod ready;
pub mod tape;

pub use http::{BindError, Observed, bind, serve};
pub use log::{LogForm, LogHandle, init as init_log};
pub use metrics::{EgressSample, Metrics};
pub use ready::{ReadyFacts, readiness};
