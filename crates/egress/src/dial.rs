//! From an allowed name to a connected socket: resolve, judge every address, race the allowed ones.
//!
//! Promises: the address dialled is an address that was judged in this very attempt, there is no
//! second look-up; answers are cached for one directive alone and no longer than they say; every
//! wait is bounded. Leaves to others: judging the name, which must be done before.
//!
//! Where the operator has an upstream proxy, that one resolves and dials. What a name has for addresses here is judged all
//! the same, where this host's name server knows it at all: a name that leads to forbidden ones alone is not passed on.

mod race;
mod resolver;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::policy::address::AddressRefusal;
use crate::policy::{EgressPolicy, Refusal};
use crate::wire::host::Destination;

pub(crate) use resolver::{Answer, LookupError};
pub use resolver::{Resolver, ResolverError};
pub(crate) use upstream::UpstreamFailure;
pub use upstream::{UpstreamError, UpstreamProxy};

/// Names whose answers one directive keeps.
const CACHED_NAMES: usize = 256;
/// Look-ups under way at once for one directive. The resolver, and how many questions it has open, is everybody's: names that
/// nobody answers for must not keep other directives from asking.
const MAX_LOOKUPS: usize = 32;
/// How long a look-up waits to be one of them.
const LOOKUP_WAIT: Duration = Duration::from_secs(10);
/// How long an IPv6 address waits for this network's NAT64 prefixes, once, at the start of the daemon.
const NAT64_WAIT: Duration = Duration::from_secs(3);
/// How long this host's name server may take where the upstream proxy's counts.
const SECOND_OPINION_WAIT: Duration = Duration::from_secs(2);
/// How long a name of which this host's name server knew nothing is not asked for again there.
const SECOND_OPINION_KEPT: Duration = Duration::from_secs(60);

/// Why a destination that the policy allows by name was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("no address of {host} may be reached: {refusal}")]
    Denied { host: String, refusal: AddressRefusal },
    #[error("{}", .0.why)]
    Alias(Refusal),
    #[error("{0}")]
    Lookup(#[from] LookupError),
    #[error("{address} did not answer in time")]
    TimedOut { address: SocketAddr },
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("the upstream proxy {0}")]
    Upstream(#[from] UpstreamFailure),
}

/// A connection to an origin, and the address it went to; the upstream proxy does not tell it.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: TcpStream,
    pub(crate) address: Option<IpAddr>,
}

/// Dials for one directive.
#[derive(Debug)]
pub(crate) struct Dialer {
    resolver: Resolver,
    policy: Arc<EgressPolicy>,
    upstream: Option<UpstreamProxy>,
    cache: Mutex<HashMap<String, Answer>>,
    lookups: Semaphore,
}

impl Dialer {
    pub(crate) fn new(resolver: Resolver, policy: Arc<EgressPolicy>, upstream: Option<UpstreamProxy>) -> Self {
        Self { resolver, policy, upstream, cache: Mutex::default(), lookups: Semaphore::new(MAX_LOOKUPS) }
    }

    /// Connects to a destination whose name the policy has allowed.
    pub(crate) async fn dial(&self, to: &Destination) -> Result<Dialled, DialError> {
        let Some(upstream) = &self.upstream else {
            let answer = self.lookup(to).await?;
            return direct(&self.judge(to, &answer).await?).await;
        };
        let answer = self.second_opinion(to).await;
        let allowed = self.judge(to, &answer).await?;
        // The upstream proxy's loopback is not this host's.
        if !allowed.is_empty() && allowed.iter().all(|address| address.ip().is_loopback()) {
            return direct(&allowed).await;
        }
        let stream = upstream.connect(&self.resolver, to).await?;
        Ok(Dialled { stream, address: None })
    }

    async fn lookup(&self, to: &Destination) -> Result<Answer, LookupError> {
        let name = to.host.as_str();
        if let Some(answer) = self.cached(name) {
            return Ok(answer);
        }
        // The semaphore is never closed: all that can go wrong is the wait.
        let Ok(Ok(_place)) = tokio::time::timeout(LOOKUP_WAIT, self.lookups.acquire()).await else {
            return Err(LookupError::TimedOut);
        };
        // Whoever was before may have asked for the same name.
        if let Some(answer) = self.cached(name) {
            return Ok(answer);
        }
        let answer = self.resolver.lookup(name).await?;
        self.keep(name, &answer);
        Ok(answer)
    }

    /// What this host's name server says of a name that another one will be asked for; empty where it says nothing.
    async fn second_opinion(&self, to: &Destination) -> Answer {
        match tokio::time::timeout(SECOND_OPINION_WAIT, self.lookup(to)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => {
                let valid_until = Instant::now() + SECOND_OPINION_KEPT;
                let unknown = Answer { addresses: Vec::new(), aliases: Vec::new(), valid_until };
                self.keep(to.host.as_str(), &unknown);
                unknown
            }
        }
    }

    fn keep(&self, name: &str, answer: &Answer) {
        let now = Instant::now();
        if answer.valid_until <= now {
            return;
        }
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.len() >= CACHED_NAMES {
            cache.retain(|_, answer| answer.valid_until > now);
        }
        if cache.len() < CACHED_NAMES {
            cache.insert(name.to_owned(), answer.clone());
        }
    }

    fn cached(&self, name: &str) -> Option<Answer> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.get(name).filter(|answer| answer.valid_until > Instant::now()).cloned()
    }

    /// The addresses that may be dialled; an error where there are some and none may be.
    async fn judge(&self, to: &Destination, answer: &Answer) -> Result<Vec<SocketAddr>, DialError> {
        for alias in &answer.aliases {
            self.policy.decide_alias(alias, to).map_err(DialError::Alias)?;
        }
        if answer.addresses.iter().any(IpAddr::is_ipv6)
            && tokio::time::timeout(NAT64_WAIT, self.policy.nat64_known()).await.is_err()
        {
            tracing::debug!(host = %to.host, "dialled before the network's NAT64 prefixes were known");
        }
        let mut allowed = Vec::with_capacity(answer.addresses.len());
        let mut refused = None;
        for address in answer.addresses.iter().map(|ip| SocketAddr::new(*ip, to.port)) {
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

async fn direct(addresses: &[SocketAddr]) -> Result<Dialled, DialError> {
    let race::Dialled { stream, address } = race::connect(addresses).await?;
    Ok(Dialled { stream, address: Some(address.ip()) })
}
