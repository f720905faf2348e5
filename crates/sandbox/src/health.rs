//! What a driver's health check says.

use std::collections::BTreeMap;

/// The health of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whether runs can be started.
    pub healthy: bool,
    /// The engine's version line, such as `bubblewrap 0.8.0`; empty when it has none.
    pub version: String,
    /// Why it is unhealthy, with the command that mends it.
    pub reason: Option<String>,
    /// Facts for operators, by name.
    pub details: BTreeMap<String, String>,
}

impl Health {
    /// Of a driver that cannot work here, for this reason.
    pub(crate) fn without(reason: String) -> Self {
        Self { healthy: false, version: String::new(), reason: Some(reason), details: BTreeMap::new() }
    }
}
