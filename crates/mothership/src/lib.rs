//! The control plane: holds directives, hands them out, keeps logs and results.
//!
//! Territories (enrolled `nexusd` installations) call the Conduits API, users and programs `/api/v1`; both
//! are served over TLS by one process with one SQLite file. Requests become one job of the [`store`] each: who calls is
//! looked up, the rule of [`transition`] is asked, rows change, all in one transaction that is on disk
//! before the answer goes out. Whoever waits (held polls, live logs, held heartbeats) is woken by the
//! [`hub`] when the transaction is committed.
//!
//! Leaves to others: what runs where and how it is confined (`nexusd`), the shape of messages (`conduits`).

pub mod api;
pub mod ca;
pub mod cli;
pub mod clock;
pub mod hub;
pub mod presence;
pub mod rate;
pub mod reaper;
pub mod refusal;
pub mod secret;
pub mod serve;
pub mod server;
pub mod store;
pub mod tickets;
pub mod token;
pub mod transition;
