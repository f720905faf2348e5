//! The closed set of reasons an attempt is decided with, and the two decisions.
//!
//! The codes are a contract: they stand in the audit file, in metrics, in the
//! `X-Nexus-Egress-Reason` header and on the directive's stderr.

use std::fmt;

/// Whether an attempt was let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Decision {
    /// The policy let the attempt through (whether the peer could be reached is another matter).
    Allow,
    /// The policy refused the attempt.
    Deny,
}

impl Decision {
    /// Both decisions, in the order the counters use.
    pub const ALL: [Self; 2] = [Self::Allow, Self::Deny];

    /// The word the audit file and the metrics use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Why an attempt was decided as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Allowed, and nothing more to say.
    Ok,
    /// The directive has no network (`capabilities.net.mode` is `none`).
    NetModeNone,
    /// The host is not in the directive's allowlist.
    NotInAllowlist,
    /// The host is in the allowlist, the port is not.
    PortNotAllowed,
    /// What was asked for is no acceptable `host:port`, or the request could not be read.
    InvalidDestination,
    /// The peer spoke as if to an origin server, not to a proxy.
    ProxyRequired,
    /// The TLS client hello names another host than the destination (or none, under `enforce`).
    SniMismatch,
    /// The name resolves only to addresses that no directive may reach.
    DnsDenied,
    /// The directive's `ttl_seconds` has passed.
    PolicyExpired,
    /// Somebody has to approve the destination first.
    ApprovalRequired,
    /// The proxy failed, not the peer.
    InternalError,
    /// None of the above; the text beside it says more.
    Other,
}

impl Reason {
    /// Every reason, in the order the counters use.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::NetModeNone,
        Self::NotInAllowlist,
        Self::PortNotAllowed,
        Self::InvalidDestination,
        Self::ProxyRequired,
        Self::SniMismatch,
        Self::DnsDenied,
        Self::PolicyExpired,
        Self::ApprovalRequired,
        Self::InternalError,
        Self::Other,
    ];

    /// The code, as the audit file and the refusal header spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::NetModeNone => "NET_MODE_NONE",
            Self::NotInAllowlist => "NOT_IN_ALLOWLIST",
            Self::PortNotAllowed => "PORT_NOT_ALLOWED",
            Self::InvalidDestination => "INVALID_DESTINATION",
            Self::ProxyRequired => "PROXY_REQUIRED",
            Self::SniMismatch => "SNI_MISMATCH",
            Self::DnsDenied => "DNS_DENIED",
            Self::PolicyExpired => "POLICY_EXPIRED",
            Self::ApprovalRequired => "APPROVAL_REQUIRED",
            Self::InternalError => "INTERNAL_ERROR",
            Self::Other => "OTHER",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
