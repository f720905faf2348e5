//! The egress proxy: the only way out of a sandbox, usable alone.
//!
//! One [`Proxy`] serves one directive on one listener: HTTP `CONNECT`, absolute-form HTTP and
//! SOCKS5 on the same port, told apart by the first byte. Every byte from the sandbox and every
//! answer of an origin is treated as hostile.
//!
//! Promises: one policy function decides every attempt by name before any query leaves; every
//! resolved address is judged, and the judged address is the dialled one; each attempt becomes one
//! audit line and one count; no input panics the proxy, makes it wait without a bound or grow
//! without one. Leaves to others: making the listener reachable from inside a sandbox, finding out
//! the host's own addresses' changes, and what a denial's line looks like around its text.
//!
//! ```text
//!  client -> server (first byte, bounds) -> wire (parse) -> policy.decide(name)
//!  client that knows no proxy -> names (address -> name) ----^
//!                                             |                |
//!                                          refusal      dial: resolve, judge every address, race
//!                                                              |
//!                                                     relay / exchange -> audit, counters
//! ```

pub mod audit;
pub mod counters;
pub mod denial;
pub mod dial;
pub mod host_addresses;
mod knockout;
pub mod names;
pub mod policy;
mod relay;
pub mod server;
mod stream;
pub mod wire;

pub use audit::{AuditError, AuditLog, AuditSettings};
pub use counters::{EgressCounters, EgressSummary};
pub use denial::{DENIAL_QUEUE, Denial, MAX_DENIED_DESTINATIONS};
pub use dial::{Resolver, ResolverError, UpstreamError, UpstreamProxy};
#[cfg(feature = "knockout")]
pub use knockout::Knockout;
pub use names::{NameSockets, PortSocket};
pub use policy::address::{NamedListeners, OwnAddresses};
pub use policy::nat64::Nat64Prefixes;
pub use policy::reason::{Decision, Reason};
pub use policy::{EgressPolicy, OperatorRules, PolicyError, SniPolicy};
pub use server::{Proxy, ProxyListener, ProxyParts};
pub use wire::credential::Credential;
