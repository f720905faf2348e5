//! `POST /territories/enroll`, `/renew` and `/heartbeat`: how a machine becomes a territory and says how it is.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

use crate::enroll_token::EnrollToken;
use crate::ids::{DirectiveId, FacilityId, InstanceId, TerritoryId};
use crate::profile::named;
use crate::wire::{lenient, lenient_list, null_default, seconds, seconds_or_zero, yes};

/// Deleted facilities in one heartbeat or its answer; more follow in the next ones.
pub const MAX_REMOVED_FACILITIES: usize = 64;

/// What kind of machine a territory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TerritoryKind {
    /// A machine that serves (the default).
    #[default]
    Server,
    /// A person's computer.
    Desktop,
    /// A telephone or tablet.
    Mobile,
    /// Stands for other machines.
    Bridge,
}

named!(TerritoryKind, "territory kind", {
    Server => "server",
    Desktop => "desktop",
    Mobile => "mobile",
    Bridge => "bridge",
});

/// What a machine sends to enrol.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnrollRequest {
    /// The single-use secret.
    pub enroll_token: EnrollToken,
    /// The name of the installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What kind of machine it is.
    #[serde(default, deserialize_with = "null_default")]
    pub kind: TerritoryKind,
    /// Operating system and architecture, such as `linux/amd64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// The name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free labels.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Free data; `capacity` as in [`Capacity`].
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Map::is_empty")]
    pub metadata: Map<String, Value>,
    /// A certificate request (PKCS #10, PEM); without it no certificate is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub csr_pem: Option<String>,
}

/// What it gets, with status 201.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnrollAnswer {
    /// Its id from now on.
    pub territory_id: TerritoryId,
    /// The kind as stored; nothing where the server has a kind that is not known here.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub kind: Option<TerritoryKind>,
    /// The client certificate (PEM), where a CSR was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls_client_cert_pem: Option<String>,
    /// The authorities that the server's certificate goes back to (PEM), where a CSR was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_pem: Option<String>,
    /// What the server would like.
    #[serde(default, deserialize_with = "null_default")]
    pub config: EnrollConfig,
}

/// The server's wishes for intervals, in seconds. A local configuration wins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EnrollConfig {
    /// Between polls, where the server cannot hold them.
    #[serde(default, deserialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub poll_interval_seconds: Option<u64>,
    /// Between territory heartbeats.
    #[serde(default, deserialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub heartbeat_interval_seconds: Option<u64>,
    /// How long a lease lives without a heartbeat.
    #[serde(default, deserialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub lease_ttl_seconds: Option<u64>,
}

/// Asks for a new client certificate; the present one is the identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// A certificate request (PKCS #10, PEM).
    pub csr_pem: String,
}

/// The new certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewAnswer {
    /// The client certificate (PEM).
    pub mtls_client_cert_pem: String,
    /// The authorities of the server (PEM).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_pem: Option<String>,
}

/// How a territory is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct TerritoryHeartbeatRequest {
    /// Version of the daemon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexus_version: Option<String>,
    /// Free labels.
    #[serde(default, deserialize_with = "null_default")]
    pub labels: BTreeMap<String, String>,
    /// What it can do.
    #[serde(default, deserialize_with = "null_default")]
    pub capacity: Capacity,
    /// Free: what else it can do. Other daemons send other shapes, so they are kept as they come.
    #[serde(default, deserialize_with = "null_default")]
    pub capabilities: Vec<Value>,
    /// What it is doing.
    #[serde(default, deserialize_with = "null_default")]
    pub runtime_status: RuntimeStatus,
    /// How many directives run; the same number as in `runtime_status`.
    #[serde(default, deserialize_with = "null_default")]
    pub running_directives_count: u64,
    /// Free measurements.
    #[serde(default, deserialize_with = "null_default")]
    pub telemetry: Map<String, Value>,
    /// An addition: which start of the daemon this is. Where it is there, `runtime_status.directive_ids` is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<InstanceId>,
    /// An addition: facilities of the last answer's `removed_facility_ids` that are no longer here.
    #[serde(
        default,
        deserialize_with = "lenient_list::<_, _, MAX_REMOVED_FACILITIES>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub removed_facility_ids: Vec<FacilityId>,
}

/// What a territory can do.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// How many directives it runs side by side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u32>,
    /// Its drivers by name ([`crate::DriverKind`]; other daemons may have others).
    #[serde(default, deserialize_with = "null_default")]
    pub sandbox_health: BTreeMap<String, DriverHealth>,
    /// The profiles it offers by name ([`crate::SandboxProfile`]; other daemons may have others).
    #[serde(default, deserialize_with = "null_default")]
    pub supported_profiles: Vec<String>,
    /// The driver of the untrusted profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrusted_driver: Option<String>,
}

/// How one driver is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DriverHealth {
    /// Whether it can run something now.
    #[serde(default, deserialize_with = "null_default")]
    pub healthy: bool,
    /// Free: version, reason, layers in force.
    #[serde(default, deserialize_with = "null_default")]
    pub details: Map<String, Value>,
}

/// What a territory is doing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RuntimeStatus {
    /// How many directives run.
    #[serde(default, deserialize_with = "null_default")]
    pub running_directives: u64,
    /// Every directive it holds, from lease to the end of its report.
    #[serde(default, deserialize_with = "null_default")]
    pub directive_ids: Vec<DirectiveId>,
    /// How long the daemon has been up, in seconds.
    #[serde(default, deserialize_with = "seconds_or_zero")]
    pub uptime_seconds: u64,
}

/// What the server answers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TerritoryHeartbeatAnswer {
    /// Always true with status 200.
    #[serde(default = "yes")]
    pub ok: bool,
    /// Who the server took the caller for.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub territory_id: Option<TerritoryId>,
    /// When to come again, in seconds; obeyed within 5..300.
    #[serde(default, deserialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub next_heartbeat_interval_seconds: Option<u64>,
    /// Whether a newer daemon exists.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub upgrade_available: Option<bool>,
    /// The newest daemon's version.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub latest_version: Option<String>,
    /// Older daemons than this one should be upgraded.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub min_compatible_version: Option<String>,
    /// An addition: facilities that were deleted and that the territory may still have. They are named again until a
    /// heartbeat's `removed_facility_ids` has them.
    #[serde(
        default,
        deserialize_with = "lenient_list::<_, _, MAX_REMOVED_FACILITIES>",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub removed_facility_ids: Vec<FacilityId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_smallest_enrolment_reads() {
        let request: EnrollRequest =
            serde_json::from_value(json!({"enroll_token": "abc", "kind": null, "labels": null})).unwrap();
        assert_eq!(request.kind, TerritoryKind::Server);
        assert_eq!(request.enroll_token.expose(), "abc");
        assert!(!format!("{request:?}").contains("abc"));
        assert_eq!(serde_json::to_value(&request).unwrap(), json!({"enroll_token": "abc", "kind": "server"}));
        assert!(serde_json::from_value::<EnrollRequest>(json!({"name": "x"})).is_err());
        assert!(serde_json::from_value::<EnrollRequest>(json!({"enroll_token": "x", "kind": "toaster"})).is_err());
    }

    #[test]
    fn another_servers_enrolment_answer_reads() {
        let answer: EnrollAnswer = serde_json::from_value(json!({
            "territory_id": "0199-a", "kind": "satellite", "ca_bundle_pem": null,
            "config": {"poll_interval_seconds": 2, "log_level": "debug", "features": {"x": 1}},
        }))
        .unwrap();
        assert_eq!((answer.kind, answer.ca_bundle_pem, answer.config.poll_interval_seconds), (None, None, Some(2)));
        assert!(serde_json::from_value::<EnrollAnswer>(json!({"territory_id": "../x"})).is_err());
    }

    #[test]
    fn another_daemons_heartbeat_reads() {
        let request: TerritoryHeartbeatRequest = serde_json::from_value(json!({
            "nexus_version": "0.9.1", "labels": null,
            "capacity": {"max_concurrent": 4, "sandbox_health": {"bwrap": {"healthy": true, "details": null}, "gvisor": {}},
                         "supported_profiles": ["untrusted", "gvisor"], "untrusted_driver": "bwrap"},
            "capabilities": ["diff", {"name": "x"}],
            "runtime_status": {"running_directives": 1, "directive_ids": ["d1"], "uptime_seconds": 12.5},
            "running_directives_count": 1, "telemetry": {"load": 0.5},
        }))
        .unwrap();
        assert_eq!(request.runtime_status.uptime_seconds, 13);
        assert_eq!(request.instance_id, None);
        assert!(request.capacity.sandbox_health["bwrap"].healthy);
        assert!(!request.capacity.sandbox_health["gvisor"].healthy);
        let again: TerritoryHeartbeatRequest = serde_json::from_value(serde_json::to_value(&request).unwrap()).unwrap();
        assert_eq!(again, request);
        let empty: TerritoryHeartbeatRequest = serde_json::from_value(json!({})).unwrap();
        assert_eq!(empty, TerritoryHeartbeatRequest::default());
    }

    #[test]
    fn removed_facilities_are_ids_and_not_too_many() {
        let read = |ids: Value| {
            let answer: TerritoryHeartbeatAnswer =
                serde_json::from_value(json!({ "removed_facility_ids": ids })).unwrap();
            let request: TerritoryHeartbeatRequest =
                serde_json::from_value(json!({ "removed_facility_ids": ids })).unwrap();
            assert_eq!(request.removed_facility_ids, answer.removed_facility_ids);
            answer.removed_facility_ids.into_iter().map(String::from).collect::<Vec<_>>()
        };
        assert_eq!(read(json!(["a", "../b", ".nexus", 7, null, "c.d", "e"])), ["a", "e"]);
        for none in [json!(null), json!("a"), json!({ "a": "b" }), json!([])] {
            assert_eq!(read(none), [""; 0]);
        }
        let many: Vec<String> = (0..1000).map(|n| format!("f{n}")).collect();
        assert_eq!(read(json!(many)), many[..MAX_REMOVED_FACILITIES]);
        // A peer that knows nothing of it sees nothing of it.
        let plain = serde_json::to_value(TerritoryHeartbeatAnswer::default()).unwrap();
        assert_eq!(plain, json!({ "ok": false }));
        assert!(
            serde_json::to_value(TerritoryHeartbeatRequest::default()).unwrap().get("removed_facility_ids").is_none()
        );
    }

    #[test]
    fn an_answer_of_odd_types_is_still_an_answer() {
        let answer: TerritoryHeartbeatAnswer = serde_json::from_value(json!({
            "territory_id": 7, "latest_version": {"v": 1}, "upgrade_available": "no", "next_heartbeat_interval_seconds": 30,
        }))
        .unwrap();
        assert!(answer.ok);
        assert_eq!(answer.next_heartbeat_interval_seconds, Some(30));
        assert_eq!((answer.territory_id, answer.latest_version, answer.upgrade_available), (None, None, None));
    }
}
