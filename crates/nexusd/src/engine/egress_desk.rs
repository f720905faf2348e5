//! The way out, as all directives share it: the operator's rules, the resolver, the audit.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use conduits::DnsName;
use egress::{
    AuditLog, EgressCounters, Nat64Prefixes, OperatorRules, OwnAddresses, Resolver, UpstreamError, UpstreamProxy,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{EngineError, nat64, own_names};
use crate::config::{self, Config, ProxyUrl};

/// Where the kernel tells of the host's addresses.
const PROC_NET: &str = "/proc/net";

/// How often it is asked while directives run.
const OWN_ADDRESSES_EVERY: Duration = Duration::from_secs(10);

/// What all egress proxies share.
#[derive(Debug)]
pub struct EgressDesk {
    /// Looks names up.
    pub resolver: Resolver,
    /// `egress.upstream_proxy`
    pub upstream: Option<UpstreamProxy>,
    /// The audit file.
    pub audit: AuditLog,
    /// Counts of all proxies.
    pub counters: Arc<EgressCounters>,
    fixed: OperatorRules,
    /// True once the mothership's own addresses have been looked up.
    own_names_asked: watch::Receiver<bool>,
}

impl EgressDesk {
    pub(super) fn new(
        audit: AuditLog,
        counters: Arc<EgressCounters>,
        config: &Config,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Result<Self, EngineError> {
        let upstream = config.egress.upstream_proxy.as_ref().map(upstream).transpose()?;
        let (resolver, fixed) = (Resolver::from_system()?, operator_rules(config, upstream.as_ref()));
        let prefixes = nat64::Follower { resolver: resolver.clone(), prefixes: fixed.nat64_prefixes.clone() };
        tasks.spawn(prefixes.run(stop.clone()));
        tasks.spawn(follow_own_addresses(fixed.own_addresses.clone(), stop.clone()));
        let (asked, own_names_asked) = watch::channel(fixed.own_names.is_empty());
        if !fixed.own_names.is_empty() {
            let (names, listeners) = (fixed.own_names.clone(), fixed.named_listeners.clone());
            let follower = own_names::Follower { resolver: resolver.clone(), names, listeners, asked };
            tasks.spawn(follower.run(stop.clone()));
        }
        Ok(Self { resolver, upstream, audit, counters, fixed, own_names_asked })
    }

    /// Resolves once it is known which addresses are the mothership's, or that it cannot be known now.
    pub fn own_names_asked(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut asked = self.own_names_asked.clone();
        async move {
            // Refused only once the task behind it has ended, at the very end.
            drop(asked.wait_for(|asked| *asked).await);
        }
    }

    /// The operator's rules. The host's addresses are as they are now, and followed from here on.
    ///
    /// # Errors
    /// The host's addresses are not known: without them a directive could reach the host's own services.
    pub fn rules(&self) -> io::Result<OperatorRules> {
        self.fixed.own_addresses.set(egress::host_addresses::read(Path::new(PROC_NET))?);
        Ok(self.fixed.clone())
    }
}

/// Addresses come and go while directives run. One that cannot be read changes nothing: the next start of a directive
/// says so.
async fn follow_own_addresses(own: OwnAddresses, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(OWN_ADDRESSES_EVERY)).await.is_some() {
        match egress::host_addresses::read(Path::new(PROC_NET)) {
            Ok(addresses) => own.set(addresses),
            Err(error) => tracing::debug!(%error, "the host's own addresses cannot be read again"),
        }
    }
}

fn upstream(url: &ProxyUrl) -> Result<UpstreamProxy, UpstreamError> {
    let url = url.expose();
    let (user, password) = (unescaped(url.username()), unescaped(url.password().unwrap_or_default()));
    let credential = (!user.is_empty() || !password.is_empty()).then_some((user.as_str(), password.as_str()));
    UpstreamProxy::new(
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.port_or_known_default().unwrap_or_default(),
        credential,
    )
}

/// Percent-encoding undone; what is none stays.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| *first == b'%');
        let value = escaped.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn operator_rules(config: &Config, upstream: Option<&UpstreamProxy>) -> OperatorRules {
    let mut rules = OperatorRules {
        net_ceiling: config.operator.net_ceiling,
        net_deny: config.operator.net_deny.clone(),
        allow_private: config.egress.allow_private.clone(),
        sni_policy: match config.egress.sni_policy {
            config::SniPolicy::Audit => egress::SniPolicy::Audit,
            config::SniPolicy::Enforce => egress::SniPolicy::Enforce,
        },
        sni_check_ports: config.egress.sni_check_ports.clone(),
        max_connections: config.egress.max_connections,
        idle_timeout: config.egress.idle_timeout,
        nat64_prefixes: Nat64Prefixes::not_yet_known(),
        ..OperatorRules::default()
    };
    // A directive that spoke to the upstream proxy itself would go round every rule here.
    for (host, port) in
        [Some(config.server_url.host_port()), upstream.map(UpstreamProxy::host_port)].into_iter().flatten()
    {
        if let Ok(address) = host.parse::<IpAddr>() {
            rules.own_listeners.push(SocketAddr::new(address, port));
        } else if let Ok(name) = DnsName::parse(host) {
            rules.own_names.push((name, port));
        }
    }
    if config.observability.enabled {
        // On all addresses where it has no host: the policy refuses the host's own addresses besides, these are for
        // ranges that the operator opened.
        rules.own_listeners.extend(config.observability.listen_addr.candidates());
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstream_proxy_is_a_listener_of_ours() {
        let read = |text: &str| upstream(&ProxyUrl::parse(text).unwrap());
        let proxy = read("http://user:p%40ss@proxy.example:3128").unwrap();
        assert_eq!(proxy, UpstreamProxy::new("http", "proxy.example", 3128, Some(("user", "p@ss"))).unwrap());
        assert_eq!(read("http://proxy.example").unwrap().host_port(), ("proxy.example", 80));
        assert_eq!(read("http://[2001:db8::1]:8080").unwrap().host_port(), ("2001:db8::1", 8080));
        assert_eq!(read("https://proxy.example:3128"), Err(UpstreamError::Scheme));
        let around = crate::config::Surroundings {
            platform: crate::config::Platform::Linux,
            environment: &|_| None,
            folder: "/etc/nexusd".into(),
            home: None,
        };
        let config = Config::from_text("c", "server_url: http://127.0.0.1:1", &around).unwrap();
        let by_name = operator_rules(&config, Some(&proxy));
        assert_eq!(by_name.own_names, [(DnsName::parse("proxy.example").unwrap(), 3128)]);
        let by_address = operator_rules(&config, Some(&read("http://10.0.0.1:3128").unwrap()));
        assert!(by_address.own_listeners.contains(&"10.0.0.1:3128".parse().unwrap()), "{by_address:?}");
        assert!(by_address.own_names.is_empty());
    }

    #[test]
    fn escapes_are_undone_and_nothing_else() {
        for (text, want) in [("a%40b", "a@b"), ("100%", "100%"), ("%zz%4", "%zz%4"), ("%2540", "%40"), ("", "")] {
            assert_eq!(unescaped(text), want);
        }
    }
}
