//! Enrolled, running, renewed, revoked: a real control plane and real daemons over TLS.

pub(crate) mod bed;
mod edge;
mod life;
mod proxy;
mod renewing;
mod secrets;
