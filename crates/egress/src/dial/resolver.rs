//! Name look-ups, by a library that tells how long an answer holds; never by libc.

mod system;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use conduits::DnsName;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use ipnet::Ipv6Net;
use tokio::time::Instant;

use crate::policy::nat64;
use system::System;

/// How long one look-up may take, retries included.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one question may stay unanswered.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// Questions under way at once, over all directives.
const MAX_ACTIVE_REQUESTS: usize = 512;
/// The most addresses of one answer that are looked at.
const MAX_ADDRESSES: usize = 64;
/// The most names on the way from a name to its addresses; an answer with more is refused.
const MAX_ALIASES: usize = 16;
/// The longest an answer is kept, whatever it says.
const MAX_TTL: Duration = Duration::from_secs(300);

/// No resolver can be set up.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// The system's configuration cannot be read.
    #[error("cannot read the system's resolver configuration: {0}; check /etc/resolv.conf")]
    System(NetError),
    /// The resolver cannot be built.
    #[error("cannot set up the resolver: {0}")]
    Build(NetError),
}

/// Why a name has no address.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("the name does not exist or has no address")]
    NoAddress,
    #[error("the name server did not answer in time")]
    TimedOut,
    #[error("the name cannot be resolved: {0}")]
    Failed(String),
}

/// Addresses of a name, the names it is an alias of, and until when both hold.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) aliases: Vec<DnsName>,
    pub(crate) valid_until: Instant,
}

/// Looks names up; one for the daemon, cheap to clone. Caches nothing itself: each directive keeps
/// its own answers, so that none can tell from timing what another one asked for.
#[derive(Clone)]
pub struct Resolver(Source);

#[derive(Clone)]
enum Source {
    Fixed(Arc<TokioResolver>),
    Followed(Arc<System>),
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// With the name servers of `/etc/resolv.conf` and the names of `/etc/hosts`, as they are from time to time.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub fn from_system() -> Result<Self, ResolverError> {
        let files = ["/etc/resolv.conf", "/etc/hosts"].map(Into::into).to_vec();
        let read = || {
            let builder = TokioResolver::builder_tokio().map_err(ResolverError::System)?;
            Self::build(builder, ResolveHosts::Always)
        };
        System::new(files, Box::new(read)).map(Self::followed)
    }

    fn followed(system: System) -> Self {
        Self(Source::Followed(Arc::new(system)))
    }

    /// With these name servers alone, asked over UDP and, where an answer is cut, TCP.
    ///
    /// # Errors
    /// The resolver cannot be built.
    pub fn with_nameservers(servers: &[SocketAddr]) -> Result<Self, ResolverError> {
        Self::asking(servers).map(|resolver| Self(Source::Fixed(Arc::new(resolver))))
    }

    fn asking(servers: &[SocketAddr]) -> Result<TokioResolver, ResolverError> {
        let servers = servers.iter().map(|server| {
            let connection = |mut config: ConnectionConfig| {
                config.port = server.port();
                config
            };
            let connections = vec![connection(ConnectionConfig::udp()), connection(ConnectionConfig::tcp())];
            NameServerConfig::new(server.ip(), true, connections)
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        Self::build(builder, ResolveHosts::Never)
    }

    fn build(
        mut builder: hickory_resolver::ResolverBuilder<TokioRuntimeProvider>,
        hosts: ResolveHosts,
    ) -> Result<TokioResolver, ResolverError> {
        let options: &mut ResolverOpts = builder.options_mut();
        options.cache_size = 0;
        // The names on the way are judged, too.
        options.preserve_intermediates = true;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = hosts;
        options.timeout = QUERY_TIMEOUT;
        options.attempts = 2;
        options.max_active_requests = MAX_ACTIVE_REQUESTS;
        builder.build().map_err(ResolverError::Build)
    }

    /// The resolver to ask now, and a number that is another one once the name servers are others.
    fn current(&self) -> (TokioResolver, u64) {
        match &self.0 {
            Source::Fixed(resolver) => (TokioResolver::clone(resolver), 0),
            Source::Followed(system) => system.current(Instant::now()),
        }
    }

    /// Asks, and once more where nobody answered and the name servers have become others meanwhile.
    async fn ask<T, F>(&self, question: impl Fn(TokioResolver) -> F) -> Result<T, LookupError>
    where
        F: Future<Output = Result<T, NetError>>,
    {
        let both = async {
            let (resolver, generation) = self.current();
            match question(resolver).await {
                Err(error) if !is_no_address(&error) => match self.current() {
                    (resolver, now) if now != generation => question(resolver).await,
                    _ => Err(error),
                },
                answered => answered,
            }
        };
        match tokio::time::timeout(LOOKUP_TIMEOUT, both).await {
            Err(_) | Ok(Err(NetError::Timeout)) => Err(LookupError::TimedOut),
            Ok(Err(error)) if is_no_address(&error) => Err(LookupError::NoAddress),
            Ok(Err(error)) => Err(LookupError::Failed(error.to_string())),
            Ok(Ok(answer)) => Ok(answer),
        }
    }

    /// Every address of a name; none where it has none or nobody could be asked.
    pub async fn addresses(&self, name: &DnsName) -> Vec<IpAddr> {
        self.lookup(name.as_str()).await.map(|answer| answer.addresses).unwrap_or_default()
    }

    /// The NAT64 prefixes of this network as its name server shows them (RFC 7050); `None` where nobody could be asked.
    pub async fn nat64_prefixes(&self) -> Option<Vec<Ipv6Net>> {
        let question = |resolver: TokioResolver| async move {
            resolver.lookup(format!("{}.", nat64::ASKED_NAME), RecordType::AAAA).await
        };
        match self.ask(question).await {
            Ok(found) => {
                let six = found.answers().iter().filter_map(|record| match record.data.ip_addr() {
                    Some(IpAddr::V6(six)) => Some(six),
                    _ => None,
                });
                Some(nat64::prefixes(&six.take(MAX_ADDRESSES).collect::<Vec<_>>()))
            }
            Err(LookupError::NoAddress) => Some(Vec::new()),
            Err(LookupError::TimedOut | LookupError::Failed(_)) => None,
        }
    }

    /// Addresses of a host that the operator named, looked up as the host's own programs would, search list included.
    pub(crate) async fn lookup_as_configured(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        let found = self.ask(|resolver| async move { resolver.lookup_ip(name).await }).await?;
        Ok(found.iter().take(MAX_ADDRESSES).collect())
    }

    /// Every address of a name in its compared form.
    pub(crate) async fn lookup(&self, name: &str) -> Result<Answer, LookupError> {
        // RFC 6761: these never go to a name server. The address rules refuse loopback as ever.
        if name == "localhost" || name.ends_with(".localhost") {
            let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            return Ok(Answer { addresses, aliases: Vec::new(), valid_until: Instant::now() });
        }
        // The closing dot keeps the search list out: the name asked is the name judged.
        let found = self.ask(|resolver| async move { resolver.lookup_ip(format!("{name}.")).await }).await?;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.iter().take(MAX_ADDRESSES) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let aliases = aliases(found.as_lookup().answers())?;
        let valid_until = Instant::from_std(found.valid_until()).min(Instant::now() + MAX_TTL);
        Ok(Answer { addresses, aliases, valid_until })
    }
}

/// The name server has answered that there is none.
fn is_no_address(error: &NetError) -> bool {
    error.is_no_records_found() || error.is_nx_domain()
}

/// The targets of the aliases in an answer. One that is no name in the compared form cannot be judged: the answer is
/// refused with it.
fn aliases(answers: &[Record]) -> Result<Vec<DnsName>, LookupError> {
    let mut aliases = Vec::new();
    for record in answers {
        let RData::CNAME(target) = &record.data else { continue };
        // Names of services may have underscores, which no rule has: a rule for what is above them still covers them.
        let text = target.to_ascii().replace('_', "x");
        let alias = DnsName::parse(&text)
            .map_err(|error| LookupError::Failed(format!("it is an alias of {text:?}, which is no name ({error})")))?;
        if !aliases.contains(&alias) {
            aliases.push(alias);
        }
        if aliases.len() > MAX_ALIASES {
            return Err(LookupError::Failed(format!("it goes over more than {MAX_ALIASES} aliases")));
        }
    }
    Ok(aliases)
}
