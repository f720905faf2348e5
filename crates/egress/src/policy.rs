//! The egress policy of one directive: compiled once, asked for every attempt.
//!
//! Pure: no I/O, no clock of its own. One function ([`EgressPolicy::decide`]) judges the name for
//! `CONNECT`, absolute-form and SOCKS5 alike, one ([`EgressPolicy::judge_address`]) every address
//! before it is dialled, one ([`EgressPolicy::judge_hello`]) the first bytes of a tunnel.
//! Promises: what the operator rules is never widened by a directive; what does not match is
//! refused. Leaves to others: reading requests (`wire`), resolving and dialling (`dial`).

pub mod address;
mod embedded;
mod hosts;
mod names;
pub mod nat64;
pub mod reason;

use std::net::SocketAddr;
use std::time::Duration;

use conduits::{AllowEntry, DnsName, NetCapability, NetMode};
use ipnet::IpNet;
use tokio::time::Instant;

use self::address::{AddressRefusal, AddressRules, NamedListeners, OwnAddresses};
use self::hosts::{Found, HostTable};
use self::nat64::Nat64Prefixes;
use self::reason::Reason;
use crate::knockout::{Knockout, Knockouts};
use crate::wire::hello::Hello;
use crate::wire::host::Destination;

/// What to do about a client hello that names no host, hides it (ECH), or is not TLS at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SniPolicy {
    /// Let it through and note it in the audit.
    #[default]
    Audit,
    /// Close the tunnel.
    Enforce,
}

/// What the operator of this daemon rules for every directive.
#[derive(Debug, Clone)]
pub struct OperatorRules {
    /// The widest mode a directive may ask for (`operator.net_ceiling`).
    pub net_ceiling: NetMode,
    /// Destinations that no directive reaches, whatever its allowlist (`operator.net_deny`).
    pub net_deny: Vec<AllowEntry>,
    /// Address ranges opened beyond the public ones (`egress.allow_private`).
    pub allow_private: Vec<IpNet>,
    /// Where the daemon and the mothership listen: refused even inside `allow_private`.
    pub own_listeners: Vec<SocketAddr>,
    /// The same by name: the mothership's `host:port` where it is configured by name.
    pub own_names: Vec<(DnsName, u16)>,
    /// The addresses of those names, as they were last found.
    pub named_listeners: NamedListeners,
    /// The host's interface addresses and gateways.
    pub own_addresses: OwnAddresses,
    /// NAT64 prefixes of this network beside the well-known ones.
    pub nat64_prefixes: Nat64Prefixes,
    /// What to do about a hello without a readable name.
    pub sni_policy: SniPolicy,
    /// Ports on which the first client bytes are read.
    pub sni_check_ports: Vec<u16>,
    /// Connections a directive may have open at once.
    pub max_connections: usize,
    /// How long a connection may be silent both ways.
    pub idle_timeout: Duration,
}

impl Default for OperatorRules {
    fn default() -> Self {
        Self {
            net_ceiling: NetMode::Unrestricted,
            net_deny: Vec::new(),
            allow_private: Vec::new(),
            own_listeners: Vec::new(),
            own_names: Vec::new(),
            named_listeners: NamedListeners::default(),
            own_addresses: OwnAddresses::default(),
            nat64_prefixes: Nat64Prefixes::default(),
            sni_policy: SniPolicy::Audit,
            sni_check_ports: vec![443],
            max_connections: 256,
            idle_timeout: Duration::from_secs(600),
        }
    }
}

/// A capability that this daemon does not grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The directive asks for more than the operator's ceiling.
    #[error(
        "net mode `{asked}` is above the operator's ceiling `{ceiling}`: ask for `{ceiling}`, or raise operator.net_ceiling"
    )]
    AboveCeiling {
        /// The mode asked for.
        asked: NetMode,
        /// The operator's ceiling.
        ceiling: NetMode,
    },
}

/// A refusal: the code, and a sentence for whoever reads the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub reason: Reason,
    /// Why, and what would have to change, in one line.
    pub why: String,
}

impl Refusal {
    pub(crate) fn new(reason: Reason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into() }
    }
}

/// What a directive may reach; compiled once, shared by its connections.
#[derive(Debug)]
pub struct EgressPolicy {
    mode: NetMode,
    allow: HostTable,
    deny: HostTable,
    own_names: Vec<(DnsName, u16)>,
    addresses: AddressRules,
    expires_at: Option<Instant>,
    sni_policy: SniPolicy,
    sni_check_ports: Vec<u16>,
    pub(crate) max_connections: usize,
    pub(crate) idle_timeout: Duration,
    knockouts: Knockouts,
}

impl EgressPolicy {
    /// Compiles a directive's net capability under the operator's rules; `ttl_seconds` counts from `now`.
    ///
    /// # Errors
    /// The capability asks for more than the operator's ceiling.
    pub fn compile(net: &NetCapability, rules: &OperatorRules, now: Instant) -> Result<Self, PolicyError> {
        if net.mode > rules.net_ceiling {
            return Err(PolicyError::AboveCeiling { asked: net.mode, ceiling: rules.net_ceiling });
        }
        Ok(Self {
            mode: net.mode,
            allow: HostTable::compile(&net.allow),
            deny: HostTable::compile(&rules.net_deny),
            own_names: rules.own_names.clone(),
            addresses: AddressRules {
                allow_private: rules.allow_private.clone(),
                own_addresses: rules.own_addresses.clone(),
                own_listeners: rules.own_listeners.clone(),
                named_listeners: rules.named_listeners.clone(),
                nat64_prefixes: rules.nat64_prefixes.clone(),
            },
            expires_at: net.ttl_seconds.map(|ttl| now + Duration::from_secs(u64::from(ttl))),
            sni_policy: rules.sni_policy,
            sni_check_ports: rules.sni_check_ports.clone(),
            max_connections: rules.max_connections,
            idle_timeout: rules.idle_timeout,
            knockouts: Knockouts::default(),
        })
    }

    /// The same with a layer left out.
    #[cfg(feature = "knockout")]
    #[must_use]
    pub fn without(mut self, layer: Knockout) -> Self {
        self.knockouts.add(layer);
        self
    }

    /// When open tunnels have to be closed.
    #[must_use]
    pub const fn expires_at(&self) -> Option<Instant> {
        self.expires_at
    }

    /// Judges a destination by its name. Nothing may be resolved before this has allowed it.
    ///
    /// # Errors
    /// The refusal to show.
    pub fn decide(&self, to: &Destination, now: Instant) -> Result<(), Refusal> {
        if self.mode == NetMode::None {
            return Err(Refusal::new(
                Reason::NetModeNone,
                "this directive has no network (capabilities.net.mode is none); ask for an allowlist with this entry",
            ));
        }
        if self.expires_at.is_some_and(|end| now >= end) {
            return Err(self.expired());
        }
        if self.knockouts.has(Knockout::Names) {
            return Ok(());
        }
        self.decide_forbidden(&to.host, to.port)?;
        match (self.mode, self.allow.find(&to.host, to.port)) {
            (NetMode::Unrestricted, _) | (_, Found::Match) => Ok(()),
            (_, Found::OtherPort) => Err(Refusal::new(
                Reason::PortNotAllowed,
                format!(
                    "the host is in the allowlist, port {} is not; add \"{to}\" to capabilities.net.allow",
                    to.port
                ),
            )),
            (_, Found::Nothing) => Err(Refusal::new(
                Reason::NotInAllowlist,
                format!("no allowlist entry covers it; add \"{to}\" to capabilities.net.allow"),
            )),
        }
    }

    /// Judges a name that `to` is an alias of (a CNAME on the way to its addresses). What no directive may reach is not
    /// reached by another name for it either; whether it is allowed is asked of the name in the request alone.
    ///
    /// # Errors
    /// The refusal to show.
    pub fn decide_alias(&self, alias: &DnsName, to: &Destination) -> Result<(), Refusal> {
        if self.knockouts.has(Knockout::Names) {
            return Ok(());
        }
        self.decide_forbidden(alias, to.port)
            .map_err(|refusal| Refusal { why: format!("its name is an alias of {alias}: {}", refusal.why), ..refusal })
    }

    /// What is forbidden whatever the directive's own list says.
    fn decide_forbidden(&self, host: &DnsName, port: u16) -> Result<(), Refusal> {
        if self.own_names.iter().any(|(own, own_port)| own == host && *own_port == port) {
            return Err(Refusal::new(
                Reason::DnsDenied,
                "this is the control plane's own address or the daemon's way out, which directives never reach; no setting opens it",
            ));
        }
        if self.deny.find(host, port) == Found::Match {
            return Err(Refusal::new(
                Reason::Other,
                "the operator's operator.net_deny forbids it for every directive; only the operator can remove that entry",
            ));
        }
        Ok(())
    }

    /// Resolves once this network's NAT64 prefixes are known, which only IPv6 addresses have to wait for.
    pub(crate) async fn nat64_known(&self) {
        self.addresses.nat64_prefixes.known().await;
    }

    /// Judges an address that `decide`d names resolve to; every address is asked before it is dialled.
    ///
    /// # Errors
    /// Which rung of the ladder refuses it.
    pub fn judge_address(&self, address: SocketAddr) -> Result<(), AddressRefusal> {
        if self.knockouts.has(Knockout::Addresses) { Ok(()) } else { self.addresses.judge(address) }
    }

    /// Whether the first client bytes of a tunnel to this port are read.
    #[must_use]
    pub fn checks_hello(&self, port: u16) -> bool {
        self.sni_check_ports.contains(&port) && !self.knockouts.has(Knockout::Hello)
    }

    /// Judges the first client bytes of a tunnel to `to`.
    ///
    /// # Errors
    /// The refusal, always [`Reason::SniMismatch`].
    pub fn judge_hello(&self, to: &Destination, hello: &Hello) -> Result<(), Refusal> {
        let refuse = |why: String| Err(Refusal::new(Reason::SniMismatch, why));
        let what = match hello {
            Hello::Names { host, hidden: false } => {
                if *host == to.host {
                    return Ok(());
                }
                return refuse(format!("the TLS hello names {host}; connect to the name that the TLS hello carries"));
            }
            // Bytes that start as TLS and then are not: nothing an honest client sends, so no policy lets it through.
            Hello::Broken(why) => return refuse(format!("the TLS hello cannot be read ({why})")),
            Hello::Names { hidden: true, .. } | Hello::Hidden => "hides its host name (encrypted client hello)",
            Hello::NoName => "names no host",
            Hello::NotTls => "is not TLS",
        };
        match self.sni_policy {
            SniPolicy::Audit => Ok(()),
            SniPolicy::Enforce => refuse(format!(
                "what the client sends first {what}; egress.sni_policy is enforce: use TLS with SNI, or another port"
            )),
        }
    }

    pub(crate) fn expired(&self) -> Refusal {
        Refusal::new(
            Reason::PolicyExpired,
            "the directive's network permission has expired; ask for a longer capabilities.net.ttl_seconds",
        )
    }
}

#[cfg(test)]
#[path = "policy/policy_tests.rs"]
mod tests;
