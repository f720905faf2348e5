//! `POST /polls`: a territory asks for work.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::ids::{ClaimId, DirectiveId};
use crate::profile::SandboxProfile;
use crate::token::DirectiveToken;
use crate::wire::{null_default, seconds};

/// The most directives that one poll may claim.
pub const MAX_DIRECTIVES_TO_CLAIM: u8 = 5;
/// How long a lease lives where the server did not say, in seconds.
pub const DEFAULT_LEASE_TTL_SECONDS: u64 = 300;

/// What a territory asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollRequest {
    /// The profiles it can run now. Names that are not known are ignored: a newer daemon offers more than an older
    /// server can hand out.
    #[serde(default, deserialize_with = "known_profiles")]
    pub supported_sandbox_profiles: Vec<SandboxProfile>,
    /// How many it has room for, 1..=[`MAX_DIRECTIVES_TO_CLAIM`]; the server checks the range.
    #[serde(default = "one", deserialize_with = "null_one")]
    pub max_directives_to_claim: u8,
    /// An addition: the same id asks for the same leases again after a lost answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_id: Option<ClaimId>,
}

const fn one() -> u8 {
    1
}

fn null_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_else(one))
}

fn known_profiles<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SandboxProfile>, D::Error> {
    let names: Vec<String> = null_default(deserializer)?;
    Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
}

/// What it gets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PollAnswer {
    /// The leases, perhaps none.
    pub directives: Vec<DirectiveLease>,
    /// How long each lease lives without a heartbeat, in seconds.
    pub lease_ttl_seconds: u64,
    /// After an empty answer: how long to wait before the next poll, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
    /// Received leases that name no usable directive or token, so that nothing can be said about them. Never sent;
    /// empty in an answer that is made here. They are for the daemon's log: the good ones beside them are kept.
    #[serde(skip)]
    pub unusable: Vec<UnusableLease>,
}

impl Default for PollAnswer {
    fn default() -> Self {
        Self {
            directives: Vec::new(),
            lease_ttl_seconds: DEFAULT_LEASE_TTL_SECONDS,
            retry_after_seconds: None,
            unusable: Vec::new(),
        }
    }
}

/// A received lease that cannot be worked on or answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusableLease {
    /// Position in the answer, from 0.
    pub index: usize,
    /// What is wrong, in one line.
    pub why: String,
}

/// The right to run one directive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirectiveLease {
    /// Which one.
    pub directive_id: DirectiveId,
    /// The proof for every call about it.
    pub directive_token: DirectiveToken,
    /// The specification as it came: a bad one must become the directive's refusal, not a failed poll.
    /// [`crate::DirectiveSpec::from_value`] reads it.
    #[serde(default)]
    pub spec: Value,
}

#[derive(Deserialize)]
struct RawPollAnswer {
    #[serde(default, deserialize_with = "null_default")]
    directives: Vec<Box<RawValue>>,
    #[serde(default, deserialize_with = "seconds")]
    lease_ttl_seconds: Option<u64>,
    #[serde(default, deserialize_with = "seconds")]
    retry_after_seconds: Option<u64>,
}

/// A lease whose specification is not read yet: JSON that no text can hold, such as half of a surrogate pair, costs
/// its own directive alone.
#[derive(Deserialize)]
struct RawLease {
    directive_id: DirectiveId,
    directive_token: DirectiveToken,
    #[serde(default)]
    spec: Option<Box<RawValue>>,
}

impl From<RawLease> for DirectiveLease {
    fn from(raw: RawLease) -> Self {
        // What cannot be read is handed on as its text, which is no specification and is refused as such.
        let spec = raw.spec.map_or(Value::Null, |spec| {
            serde_json::from_str(spec.get()).unwrap_or_else(|error| Value::from(format!("unreadable: {error}")))
        });
        Self { directive_id: raw.directive_id, directive_token: raw.directive_token, spec }
    }
}

impl<'de> Deserialize<'de> for PollAnswer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawPollAnswer::deserialize(deserializer)?;
        let mut answer = Self {
            lease_ttl_seconds: raw.lease_ttl_seconds.filter(|s| *s > 0).unwrap_or(DEFAULT_LEASE_TTL_SECONDS),
            retry_after_seconds: raw.retry_after_seconds,
            ..Self::default()
        };
        for (index, value) in raw.directives.into_iter().enumerate() {
            match serde_json::from_str::<RawLease>(value.get()) {
                Ok(lease) => answer.directives.push(lease.into()),
                Err(error) => answer.unusable.push(UnusableLease { index, why: error.to_string() }),
            }
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_request_without_additions_is_the_plain_one() {
        let request = PollRequest {
            supported_sandbox_profiles: vec![SandboxProfile::Untrusted],
            max_directives_to_claim: 2,
            claim_id: None,
        };
        let value = json!({"supported_sandbox_profiles": ["untrusted"], "max_directives_to_claim": 2});
        assert_eq!(serde_json::to_value(&request).unwrap(), value);
        assert_eq!(serde_json::from_value::<PollRequest>(value).unwrap(), request);
    }

    #[test]
    fn another_daemons_requests_read() {
        let smallest =
            PollRequest { supported_sandbox_profiles: Vec::new(), max_directives_to_claim: 1, claim_id: None };
        let null = json!({"supported_sandbox_profiles": null, "max_directives_to_claim": null, "claim_id": null});
        for value in [json!({}), null, json!({"supported_sandbox_profiles": ["microvm"], "room": 3})] {
            assert_eq!(serde_json::from_value::<PollRequest>(value).unwrap(), smallest);
        }
        let newer = json!({"supported_sandbox_profiles": ["microvm", "untrusted", "", "host"]});
        let newer: PollRequest = serde_json::from_value(newer).unwrap();
        assert_eq!(newer.supported_sandbox_profiles, [SandboxProfile::Untrusted, SandboxProfile::Host]);
        for wrong in [
            json!({"supported_sandbox_profiles": "untrusted"}),
            json!({"supported_sandbox_profiles": [7]}),
            json!({"max_directives_to_claim": 256}),
            json!({"max_directives_to_claim": -1}),
        ] {
            assert!(serde_json::from_value::<PollRequest>(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn another_servers_empty_answers_read() {
        for value in [
            json!({}),
            json!({"directives": null, "lease_ttl_seconds": null, "retry_after_seconds": null}),
            json!({"directives": [], "lease_ttl_seconds": 0}),
        ] {
            assert_eq!(serde_json::from_value::<PollAnswer>(value).unwrap(), PollAnswer::default());
        }
        let answer: PollAnswer =
            serde_json::from_value(json!({"retry_after_seconds": 1.2, "lease_ttl_seconds": 60.0})).unwrap();
        assert_eq!((answer.retry_after_seconds, answer.lease_ttl_seconds), (Some(2), 60));
        assert!(serde_json::from_value::<PollAnswer>(json!({"retry_after_seconds": -1})).is_err());
        assert!(serde_json::from_value::<PollAnswer>(json!({"directives": "none"})).is_err());
    }

    #[test]
    fn a_bad_spec_or_lease_does_not_cost_the_others() {
        let answer: PollAnswer = serde_json::from_value(json!({"directives": [
            {"directive_id": "d1", "directive_token": "t1", "spec": "nonsense", "extra": 1},
            {"directive_id": "../x", "directive_token": "t2", "spec": {}},
            {"directive_id": "d3", "directive_token": "t3"},
            7,
        ]}))
        .unwrap();
        let ids: Vec<&str> = answer.directives.iter().map(|lease| lease.directive_id.as_str()).collect();
        assert_eq!(ids, ["d1", "d3"]);
        assert_eq!(answer.directives[0].spec, json!("nonsense"));
        assert_eq!(answer.directives[1].spec, Value::Null);
        let unusable: Vec<usize> = answer.unusable.iter().map(|lease| lease.index).collect();
        assert_eq!(unusable, [1, 3]);
        assert!(answer.unusable[0].why.contains("\"../x\" is not a directive id"), "{:?}", answer.unusable);
        assert!(serde_json::to_value(&answer).unwrap().get("unusable").is_none());
    }

    #[test]
    fn a_specification_that_no_text_can_hold_costs_its_own_directive_alone() {
        let text = r#"{"directives": [
            {"directive_id": "d1", "directive_token": "t1", "spec": {"command": "\ud800"}},
            {"directive_id": "d2", "directive_token": "t2", "spec": {"command": "true"}}
        ]}"#;
        let answer: PollAnswer = serde_json::from_str(text).unwrap();
        assert_eq!(answer.unusable, []);
        assert!(answer.directives[0].spec.as_str().unwrap().starts_with("unreadable: "), "{answer:?}");
        assert_eq!(answer.directives[1].spec["command"], "true");
    }
}
