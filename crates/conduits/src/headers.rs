//! The names of the HTTP headers of the protocol, in lower case as HTTP/2 carries them.

/// The client certificate's fingerprint, set by a TLS-terminating proxy in front of the mothership. Honoured only
/// from addresses configured as trusted proxies.
pub const CLIENT_CERT_FINGERPRINT: &str = "x-nexus-client-cert-fingerprint";
/// Names the territory, for development only: anyone can send it.
pub const TERRITORY_ID: &str = "x-nexus-territory-id";
/// A request's preferences (RFC 7240): `wait=<seconds>` asks for a held answer.
pub const PREFER: &str = "prefer";
/// The preferences that an answer has honoured (RFC 7240).
pub const PREFERENCE_APPLIED: &str = "preference-applied";
/// When to try again, in seconds or as a date (RFC 9110 §10.2.3).
pub const RETRY_AFTER: &str = "retry-after";
/// Makes a create of the user API repeatable.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
