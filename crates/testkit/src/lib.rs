//! What the tests stand on: a stub control plane with faults, origin servers, a network bed, processes.
//!
//! Promises: everything listens on loopback or in network namespaces of its own; everything ends when its value is
//! dropped; every wait has a deadline and says at the end of it what it saw instead. The servers run on threads of
//! their own, so they serve asynchronous and plain tests alike, and a test that blocks does not block them.
//!
//! Leaves to others: all knowledge of nexusd, mothership, egress and sandbox. The stub is written from the protocol
//! alone, as another vendor's control plane would be.
//!
//! The waits that are `async` measure real time: do not use them under tokio's paused clock, which would skip
//! straight to their deadline.

#![allow(
    clippy::disallowed_methods,
    reason = "a test starts programs, reads its environment and waits for what it cannot be told of"
)]
#![allow(clippy::print_stderr, reason = "a skipped test says so aloud")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on must stop there")]

pub mod archive;
pub mod fault_proxy;
pub mod netbed;
pub mod origin;
pub mod process;
pub mod require;
pub mod seed;
pub mod server;
pub mod stub;
pub mod tls;
pub mod wait;

pub use archive::TarBytes;
pub use fault_proxy::{DelayedLink, FaultProxy, Trouble};
pub use netbed::NetBed;
pub use origin::{HttpOrigin, TcpBehaviour, TcpOrigin};
pub use process::{Output, Process, WorkDir, free_port, wait_for_port};
pub use require::{Containers, Need};
pub use seed::Dice;
pub use stub::{Endpoint, Fault, HeldHeartbeat, Stub, StubOptions};
pub use tls::TestCa;
