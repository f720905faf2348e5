//! What a client is told when it is refused.

use crate::dial::{DialError, LookupError, UpstreamFailure};
use crate::policy::Refusal;
use crate::policy::reason::Reason;
use crate::wire::socks::Reply;

/// Credentials are asked for in this realm.
const REALM: &str = "Proxy-Authenticate: Basic realm=\"nexus egress\"\r\n";

/// A refusal, ready to be told in either protocol.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) reply: Reply,
    pub(super) refusal: Refusal,
}

impl Told {
    /// The policy says no.
    pub(super) fn denied(refusal: Refusal) -> Self {
        Self { status: 403, reply: Reply::NotAllowed, refusal }
    }

    /// The request cannot be read or is not acceptable.
    pub(super) fn malformed(reason: Reason, why: impl Into<String>) -> Self {
        Self { status: 400, reply: Reply::Failure, refusal: Refusal::new(reason, why) }
    }

    /// A credential is missing or wrong.
    pub(super) fn unauthenticated() -> Self {
        let why =
            "this proxy needs the credential of the run; use the proxy variables of the run's environment as they are";
        Self { status: 407, reply: Reply::NotAllowed, refusal: Refusal::new(Reason::Other, why) }
    }

    /// The directive has as many connections as it may.
    pub(super) fn too_many(most: usize) -> Self {
        let why = format!(
            "the directive already has {most} connections open, the most egress.max_connections allows; close some, or raise that bound"
        );
        Self { status: 503, reply: Reply::Failure, refusal: Refusal::new(Reason::Other, why) }
    }

    /// Reading or answering took too long, or the other side's answer is unusable.
    pub(super) fn upstream(status: u16, why: impl Into<String>) -> Self {
        Self { status, reply: Reply::HostUnreachable, refusal: Refusal::new(Reason::Other, why) }
    }

    /// Allowed by name and not reached.
    pub(super) fn unreached(error: &DialError) -> Self {
        match error {
            DialError::Denied { refusal, .. } => {
                let remedy = if refusal.class.can_be_opened() {
                    "only the operator can open such a range (egress.allow_private)"
                } else {
                    "no setting opens it"
                };
                Self::denied(Refusal::new(Reason::DnsDenied, format!("{error}; {remedy}")))
            }
            DialError::Alias(refusal) => Self::denied(refusal.clone()),
            DialError::TimedOut { .. }
            | DialError::Lookup(LookupError::TimedOut)
            | DialError::Upstream(UpstreamFailure::TimedOut) => Self::upstream(504, error.to_string()),
            DialError::Lookup(_) | DialError::Upstream(_) => Self::upstream(502, error.to_string()),
            DialError::Connect { source, .. } => {
                let reply = match source.kind() {
                    std::io::ErrorKind::ConnectionRefused => Reply::Refused,
                    std::io::ErrorKind::NetworkUnreachable => Reply::NetworkUnreachable,
                    _ => Reply::HostUnreachable,
                };
                Self { reply, ..Self::upstream(502, error.to_string()) }
            }
        }
    }

    /// Whether the policy (and not the network) stands against it.
    pub(super) fn is_denial(&self) -> bool {
        self.refusal.reason != Reason::Other || self.status < 500
    }

    /// The whole HTTP answer; `what` is the `host:port` asked for.
    pub(super) fn response(&self, what: &str) -> Vec<u8> {
        let Refusal { reason, why } = &self.refusal;
        let subject = if what.is_empty() { "the request" } else { what };
        let verb = if self.is_denial() { "refused" } else { "could not reach" };
        let body = format!("nexus egress: {verb} {subject}: {reason}: {why}\n");
        let (status, text) = (self.status, status_text(self.status));
        let realm = if status == 407 { REALM } else { "" };
        format!(
            "HTTP/1.1 {status} {text}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             X-Nexus-Egress-Reason: {reason}\r\n{realm}Connection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

const fn status_text(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        403 => "Forbidden",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::address::{AddressClass, AddressRefusal};

    #[test]
    fn a_refusal_says_what_why_and_what_to_add() {
        let refusal = Refusal::new(
            Reason::NotInAllowlist,
            "no allowlist entry covers it; add \"a.example:443\" to capabilities.net.allow",
        );
        let body = "nexus egress: refused a.example:443: NOT_IN_ALLOWLIST: no allowlist entry covers it; add \"a.example:443\" to capabilities.net.allow\n";
        let want = format!(
            "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nX-Nexus-Egress-Reason: NOT_IN_ALLOWLIST\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        assert_eq!(String::from_utf8(Told::denied(refusal).response("a.example:443")).unwrap(), want);
    }

    /// No operator looks for a setting that does not exist.
    #[test]
    fn only_what_a_setting_opens_is_said_to_be_opened_by_one() {
        let why = |class| {
            let refusal = AddressRefusal { address: "127.0.0.1".parse().unwrap(), class };
            Told::unreached(&DialError::Denied { host: "a.example".into(), refusal }).refusal.why
        };
        let (opened, closed) = (why(AddressClass::Loopback), why(AddressClass::OwnListener));
        assert!(
            opened.ends_with("is loopback; only the operator can open such a range (egress.allow_private)"),
            "{opened}"
        );
        assert!(closed.ends_with("is a listener of the daemon or the mothership; no setting opens it"), "{closed}");
    }

    #[test]
    fn statuses_and_replies() {
        let address = "93.184.216.34:443".parse().unwrap();
        let connect = |kind: std::io::ErrorKind| DialError::Connect { address, source: kind.into() };
        let cases = [
            (DialError::TimedOut { address }, 504, Reply::HostUnreachable, false),
            (DialError::Lookup(LookupError::NoAddress), 502, Reply::HostUnreachable, false),
            (DialError::Lookup(LookupError::TimedOut), 504, Reply::HostUnreachable, false),
            (connect(std::io::ErrorKind::ConnectionRefused), 502, Reply::Refused, false),
            (connect(std::io::ErrorKind::NetworkUnreachable), 502, Reply::NetworkUnreachable, false),
            (connect(std::io::ErrorKind::HostUnreachable), 502, Reply::HostUnreachable, false),
        ];
        for (error, status, reply, denial) in cases {
            let told = Told::unreached(&error);
            assert_eq!((told.status, told.reply, told.is_denial()), (status, reply, denial), "{error}");
        }
    }
}
