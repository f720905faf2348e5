//! Name look-ups, by a library that tells how long an answer holds; never by libc.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
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
pub struct Resolver {
    inner: TokioResolver,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// With the name servers of `/etc/resolv.conf` and the names of `/etc/hosts`.
    ///
    /// # Errors
    /// The configuration cannot be read.
    pub fn from_system() -> Result<Self, ResolverError> {
        let builder = TokioResolver::builder_tokio().map_err(ResolverError::System)?;
        Self::build(builder, ResolveHosts::Always)
    }

    /// With these name servers alone, asked over UDP and, where an answer is cut, TCP.
    ///
    /// # Errors
    /// The resolver cannot be built.
    pub fn with_nameservers(servers: &[SocketAddr]) -> Result<Self, ResolverError> {
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
    ) -> Result<Self, ResolverError> {
        let options: &mut ResolverOpts = builder.options_mut();
        options.cache_size = 0;
        // The names on the way are judged, too.
        options.preserve_intermediates = true;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = hosts;
        options.timeout = QUERY_TIMEOUT;
        options.attempts = 2;
        options.max_active_requests = MAX_ACTIVE_REQUESTS;
        Ok(Self { inner: builder.build().map_err(ResolverError::Build)? })
    }

    /// Every address of a name; none where it has none or nobody could be asked.
    pub async fn addresses(&self, name: &DnsName) -> Vec<IpAddr> {
        self.lookup(name.as_str()).await.map(|answer| answer.addresses).unwrap_or_default()
    }

    /// The NAT64 prefixes of this network as its name server shows them (RFC 7050); `None` where nobody could be asked.
    pub async fn nat64_prefixes(&self) -> Option<Vec<Ipv6Net>> {
        let lookup = self.inner.lookup(format!("{}.", nat64::ASKED_NAME), RecordType::AAAA);
        match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
            Ok(Ok(found)) => {
                let six = found.answers().iter().filter_map(|record| match record.data.ip_addr() {
                    Some(IpAddr::V6(six)) => Some(six),
                    _ => None,
                });
                Some(nat64::prefixes(&six.take(MAX_ADDRESSES).collect::<Vec<_>>()))
            }
            Ok(Err(error)) if error.is_no_records_found() || error.is_nx_domain() => Some(Vec::new()),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Addresses of a host that the operator named, looked up as the host's own programs would, search list included.
    pub(crate) async fn lookup_as_configured(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        match tokio::time::timeout(LOOKUP_TIMEOUT, self.inner.lookup_ip(name)).await {
            Err(_) | Ok(Err(NetError::Timeout)) => Err(LookupError::TimedOut),
            Ok(Err(error)) if error.is_no_records_found() || error.is_nx_domain() => Err(LookupError::NoAddress),
            Ok(Err(error)) => Err(LookupError::Failed(error.to_string())),
            Ok(Ok(found)) => Ok(found.iter().take(MAX_ADDRESSES).collect()),
        }
    }

    /// Every address of a name in its compared form.
    pub(crate) async fn lookup(&self, name: &str) -> Result<Answer, LookupError> {
        // RFC 6761: these never go to a name server. The address rules refuse loopback as ever.
        if name == "localhost" || name.ends_with(".localhost") {
            let addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            return Ok(Answer { addresses, aliases: Vec::new(), valid_until: Instant::now() });
        }
        // The closing dot keeps the search list out: the name asked is the name judged.
        let lookup = self.inner.lookup_ip(format!("{name}."));
        let found = match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
            Err(_) | Ok(Err(NetError::Timeout)) => return Err(LookupError::TimedOut),
            Ok(Err(error)) if error.is_no_records_found() || error.is_nx_domain() => {
                return Err(LookupError::NoAddress);
            }
            Ok(Err(error)) => return Err(LookupError::Failed(error.to_string())),
            Ok(Ok(found)) => found,
        };
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
