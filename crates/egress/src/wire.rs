//! Sans-I/O parsers of everything hostile: what a sandbox sends to the proxy and what an origin
//! answers.
//!
//! Promises: no parser panics, loops or allocates without a bound, whatever the bytes; the result
//! does not depend on how the bytes were split into packets; what is doubtful is refused, never
//! repaired. Leaves to others: reading, writing, time-outs, policy.

pub mod body;
pub mod credential;
pub mod head;
pub mod hello;
pub mod host;
pub mod request;
pub mod response;
pub mod socks;
