//! From an allowed name to a connected socket: resolve, judge every address, race the allowed ones.
//!
//! Promises: the address dialled is an address that was judged in this very attempt, there is no
//! second look-up; answers are cached for one directive alone and no longer than they say; every
//! wait is bounded. Leaves to others: judging the name, which must be done before.

mod race;
mod resolver;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::policy::EgressPolicy;
use crate::policy::address::AddressRefusal;
use crate::wire::host::Destination;

pub(crate) use resolver::{Answer, LookupError};
pub use resolver::{Resolver, ResolverError};

/// Names whose answers one directive keeps.
const CACHED_NAMES: usize = 256;

/// Why a destination that the policy allows by name was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("no address of {host} may be reached: {refusal}")]
    Denied { host: String, refusal: AddressRefusal },
    #[error("{0}")]
    Lookup(#[from] LookupError),
    #[error("{address} did not answer in time")]
    TimedOut { address: SocketAddr },
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
}

/// A connection to an origin, and the address it went to.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: TcpStream,
    pub(crate) address: SocketAddr,
}

/// Dials for one directive.
#[derive(Debug)]
pub(crate) struct Dialer {
    resolver: Resolver,
    policy: Arc<EgressPolicy>,
    cache: Mutex<HashMap<String, Answer>>,
}

impl Dialer {
    pub(crate) fn new(resolver: Resolver, policy: Arc<EgressPolicy>) -> Self {
        Self { resolver, policy, cache: Mutex::default() }
    }

    /// Connects to a destination whose name the policy has allowed.
    pub(crate) async fn dial(&self, to: &Destination) -> Result<Dialled, DialError> {
        let addresses = self.lookup(to).await?;
        let allowed = self.judge(to, &addresses)?;
        race::connect(&allowed).await
    }

    async fn lookup(&self, to: &Destination) -> Result<Vec<IpAddr>, LookupError> {
        let name = to.host.as_str();
        if let Some(addresses) = self.cached(name) {
            return Ok(addresses);
        }
        let answer = self.resolver.lookup(name).await?;
        let addresses = answer.addresses.clone();
        let now = Instant::now();
        if answer.valid_until > now {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if cache.len() >= CACHED_NAMES {
                cache.retain(|_, answer| answer.valid_until > now);
            }
            if cache.len() < CACHED_NAMES {
                cache.insert(name.to_owned(), answer);
            }
        }
        Ok(addresses)
    }

    fn cached(&self, name: &str) -> Option<Vec<IpAddr>> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = cache.get(name).filter(|answer| answer.valid_until > Instant::now())?;
        Some(answer.addresses.clone())
    }

    fn judge(&self, to: &Destination, addresses: &[IpAddr]) -> Result<Vec<SocketAddr>, DialError> {
        let mut allowed = Vec::with_capacity(addresses.len());
        let mut refused = None;
        for address in addresses.iter().map(|ip| SocketAddr::new(*ip, to.port)) {
            match self.policy.judge_address(address) {
                Ok(()) => allowed.push(address),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        match refused {
            Some(refusal) if allowed.is_empty() => Err(DialError::Denied { host: to.host.to_string(), refusal }),
            _ => Ok(allowed),
        }
    }
}
