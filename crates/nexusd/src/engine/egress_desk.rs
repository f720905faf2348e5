//! The way out, as all directives share it: the operator's rules, the resolver, the audit.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use conduits::DnsName;
use egress::{AuditLog, EgressCounters, OperatorRules, Resolver, ResolverError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::own_names;
use crate::config::{self, Config};

/// What all egress proxies share.
#[derive(Debug)]
pub struct EgressDesk {
    /// Looks names up.
    pub resolver: Resolver,
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
    ) -> Result<Self, ResolverError> {
        let (resolver, fixed) = (Resolver::from_system()?, operator_rules(config));
        let (asked, own_names_asked) = watch::channel(fixed.own_names.is_empty());
        if !fixed.own_names.is_empty() {
            let (names, listeners) = (fixed.own_names.clone(), fixed.named_listeners.clone());
            let follower = own_names::Follower { resolver: resolver.clone(), names, listeners, asked };
            tasks.spawn(follower.run(stop.clone()));
        }
        Ok(Self { resolver, audit, counters, fixed, own_names_asked })
    }

    /// Resolves once it is known which addresses are the mothership's, or that it cannot be known now.
    pub fn own_names_asked(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut asked = self.own_names_asked.clone();
        async move {
            // Refused only once the task behind it has ended, at the very end.
            drop(asked.wait_for(|asked| *asked).await);
        }
    }

    /// The operator's rules with the host's addresses as they are now: they come and go.
    ///
    /// # Errors
    /// The host's addresses are not known: without them a directive could reach the host's own services.
    pub fn rules(&self) -> io::Result<OperatorRules> {
        let own_addresses = egress::host_addresses::read(Path::new("/proc/net"))?;
        Ok(OperatorRules { own_addresses, ..self.fixed.clone() })
    }
}

fn operator_rules(config: &Config) -> OperatorRules {
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
        ..OperatorRules::default()
    };
    let (host, port) = config.server_url.host_port();
    if let Ok(address) = host.parse::<IpAddr>() {
        rules.own_listeners.push(SocketAddr::new(address, port));
    } else if let Ok(name) = DnsName::parse(host) {
        rules.own_names.push((name, port));
    }
    if config.observability.enabled {
        // On all addresses where it has no host: the policy refuses the host's own addresses besides, these are for
        // ranges that the operator opened.
        rules.own_listeners.extend(config.observability.listen_addr.candidates());
    }
    rules
}
