//! The calls about one directive: `started`, `heartbeat`, `log_chunks`, `finished`, `token`, `release`.
//!
//! In answers, what only informs is optional and read leniently: the status has already said what matters, and
//! another server's spelling must not turn an accepted report into a failed one.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::ids::DirectiveId;
use crate::state::{DirectiveState, FinishedStatus, LogStream};
use crate::token::DirectiveToken;
use crate::wire::{base64_bytes, is_false, lenient, null_default, yes};

/// The most decoded bytes of one chunk.
pub const MAX_CHUNK_BYTES: usize = 262_144;
/// What both streams of a directive may have where its limits do not say, in bytes.
pub const DEFAULT_MAX_OUTPUT_BYTES: u64 = 2_000_000;
/// What a diff may have where the limits do not say, in bytes.
pub const DEFAULT_MAX_DIFF_BYTES: u64 = 1_048_576;

/// The command is about to run: leased → running.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StartedRequest {
    /// What is really in force: network, file system, layers of the sandbox.
    #[serde(default, deserialize_with = "null_default")]
    pub effective_capabilities_summary: Map<String, Value>,
    /// Version of the sandbox's engine. A repeated report must have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox_version: Option<String>,
    /// Version of the daemon. A repeated report must have the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexus_version: Option<String>,
    /// What it runs in: an image's or kernel's digest, a process. Text or object, as the daemon likes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_ref: Option<Value>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
}

/// Go, or stop at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StartedAnswer {
    /// Always true with status 200.
    #[serde(default = "yes")]
    pub ok: bool,
    /// Which directive.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub directive_id: Option<DirectiveId>,
    /// Its state now.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub state: Option<DirectiveState>,
    /// Whether it was reported before.
    #[serde(default, deserialize_with = "null_default")]
    pub duplicate: bool,
    /// Whether someone asked to cancel it since it was leased.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_false")]
    pub cancel_requested: bool,
}

/// The directive still runs: renews its lease and token.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct DirectiveHeartbeatRequest {
    /// Free.
    #[serde(default, deserialize_with = "null_default")]
    pub progress: Map<String, Value>,
    /// The highest sequence number shipped, over both streams. Other daemons send -1 before the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_output_seq: Option<i64>,
    /// The daemon's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Timestamp>,
}

/// The renewed lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectiveHeartbeatAnswer {
    /// Whether someone asked to cancel it.
    #[serde(default, deserialize_with = "null_default")]
    pub cancel_requested: bool,
    /// Whether the lease lives on. An answer that does not say has renewed it.
    #[serde(default = "yes")]
    pub lease_renewed: bool,
    /// Replaces the old token everywhere at once. A server without token rotation leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directive_token: Option<DirectiveToken>,
}

/// One chunk of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogChunkRequest {
    /// Which stream.
    pub stream: LogStream,
    /// Its number in the stream, from 0.
    pub seq: u64,
    /// The bytes, base64 on the wire; at most [`MAX_CHUNK_BYTES`].
    #[serde(with = "base64_bytes")]
    pub bytes: Vec<u8>,
    /// Whether output is missing from the stream at or before this chunk.
    #[serde(default, deserialize_with = "null_default")]
    pub truncated: bool,
}

/// The chunk is safe.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LogChunkAnswer {
    /// Always true with status 200.
    #[serde(default = "yes")]
    pub ok: bool,
    /// Which directive.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub directive_id: Option<DirectiveId>,
    /// Which stream.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub stream: Option<LogStream>,
    /// Which chunk.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Whether this call stored it.
    #[serde(default, deserialize_with = "null_default")]
    pub stored: bool,
    /// Whether it was stored before.
    #[serde(default, deserialize_with = "null_default")]
    pub duplicate: bool,
    /// How many of its bytes fit the directive's output limit.
    #[serde(default, deserialize_with = "null_default")]
    pub accepted_bytes: u64,
    /// Whether the server cut it, or it came marked.
    #[serde(default, deserialize_with = "null_default")]
    pub truncated: bool,
}

/// How the directive ended: leased or running → terminal. [`crate::finished_digest`] tells a repeat from a conflict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinishedRequest {
    /// How.
    pub status: FinishedStatus,
    /// The command's exit code, or the one that stands for its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether output is missing from stdout.
    #[serde(default, deserialize_with = "null_default")]
    pub stdout_truncated: bool,
    /// Whether output is missing from stderr.
    #[serde(default, deserialize_with = "null_default")]
    pub stderr_truncated: bool,
    /// Whether the middle of the diff is missing.
    #[serde(default, deserialize_with = "null_default")]
    pub diff_truncated: bool,
    /// The commit that HEAD named before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_before: Option<String>,
    /// The commit that HEAD named after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_after: Option<String>,
    /// Artifacts, and beside them `log`, `egress`, `reason`, `log_overflow`, ….
    #[serde(default, deserialize_with = "null_default")]
    pub artifacts_manifest: Map<String, Value>,
    /// The diff of the working tree, base64 on the wire.
    #[serde(default, with = "base64_bytes::optional", skip_serializing_if = "Option::is_none")]
    pub diff_base64: Option<Vec<u8>>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

impl FinishedRequest {
    /// A report of a status, everything else absent.
    #[must_use]
    pub fn new(status: FinishedStatus) -> Self {
        Self {
            status,
            exit_code: None,
            stdout_truncated: false,
            stderr_truncated: false,
            diff_truncated: false,
            snapshot_before: None,
            snapshot_after: None,
            artifacts_manifest: Map::new(),
            diff_base64: None,
            finished_at: None,
        }
    }

    /// The report as JSON without `finished_at` and without what is absent: what its digest is over.
    pub(crate) fn to_value_without_time(&self) -> Value {
        // Destructured in full, so that a field added later cannot be forgotten here.
        let Self {
            status,
            exit_code,
            stdout_truncated,
            stderr_truncated,
            diff_truncated,
            snapshot_before,
            snapshot_after,
            artifacts_manifest,
            diff_base64,
            finished_at: _,
        } = self;
        let mut map = Map::new();
        let mut put = |key: &str, value: Value| {
            if !value.is_null() {
                map.insert(key.to_owned(), value);
            }
        };
        put("status", json!(status));
        put("exit_code", json!(exit_code));
        put("stdout_truncated", json!(stdout_truncated));
        put("stderr_truncated", json!(stderr_truncated));
        put("diff_truncated", json!(diff_truncated));
        put("snapshot_before", json!(snapshot_before));
        put("snapshot_after", json!(snapshot_after));
        put("artifacts_manifest", json!(artifacts_manifest));
        put("diff_base64", json!(diff_base64.as_deref().map(base64_bytes::encode)));
        Value::Object(map)
    }
}

/// The end is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FinishedAnswer {
    /// Always true with status 200.
    #[serde(default = "yes")]
    pub ok: bool,
    /// Which directive.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub directive_id: Option<DirectiveId>,
    /// Its state for good.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub final_state: Option<DirectiveState>,
    /// Whether the same report came before.
    #[serde(default, deserialize_with = "null_default")]
    pub duplicate: bool,
}

/// A fresh token for the same lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenAnswer {
    /// Replaces the old token everywhere at once.
    pub directive_token: DirectiveToken,
}

/// The lease is given back: leased → queued.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReleaseAnswer {
    /// Always true with status 200.
    #[serde(default = "yes")]
    pub ok: bool,
    /// Which directive.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub directive_id: Option<DirectiveId>,
    /// Its state now.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub state: Option<DirectiveState>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(bytes: &str) -> Result<LogChunkRequest, serde_json::Error> {
        serde_json::from_value(json!({"stream": "stdout", "seq": 0, "bytes": bytes}))
    }

    #[test]
    fn base64_is_standard_padded_and_strict() {
        assert_eq!(chunk("AAH/+w==").unwrap().bytes, [0, 1, 0xff, 0xfb]);
        assert_eq!(chunk("").unwrap().bytes, Vec::<u8>::new());
        // url-safe alphabet, no padding, too much of it, white space, loose bits at the end
        for bad in ["AAH_-w==", "AAH/+w", "AAH/+w=", "AAH/+w===", "AAH/ +w==", "AAH/+w==\n", "AAH/+x==", "=", "é"] {
            assert!(chunk(bad).is_err(), "{bad:?}");
        }
        let shown = serde_json::to_value(chunk("AAH/+w==").unwrap()).unwrap();
        assert_eq!(shown, json!({"stream": "stdout", "seq": 0, "bytes": "AAH/+w==", "truncated": false}));
        for bad in [
            json!({"stream": "stdout", "seq": -1, "bytes": ""}),
            json!({"stream": "stdout", "seq": 0, "bytes": null}),
            json!({"stream": "stdout", "seq": 0}),
            json!({"stream": "stdlog", "seq": 0, "bytes": ""}),
        ] {
            assert!(serde_json::from_value::<LogChunkRequest>(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_absent_is_not_sent() {
        let finished = FinishedRequest::new(FinishedStatus::Failed);
        assert_eq!(
            serde_json::to_value(&finished).unwrap(),
            json!({"status": "failed", "stdout_truncated": false, "stderr_truncated": false, "diff_truncated": false,
                   "artifacts_manifest": {}})
        );
        assert_eq!(
            serde_json::to_value(StartedRequest::default()).unwrap(),
            json!({"effective_capabilities_summary": {}})
        );
        assert_eq!(serde_json::to_value(DirectiveHeartbeatRequest::default()).unwrap(), json!({"progress": {}}));
    }

    #[test]
    fn a_full_report_survives_the_wire() {
        let finished = FinishedRequest {
            exit_code: Some(-1),
            diff_base64: Some(vec![0, 255]),
            snapshot_before: Some("a".to_owned()),
            finished_at: Some("2026-11-23T10:00:00.5Z".parse().unwrap()),
            ..FinishedRequest::new(FinishedStatus::TimedOut)
        };
        let value = serde_json::to_value(&finished).unwrap();
        assert_eq!(value["finished_at"], "2026-11-23T10:00:00.5Z");
        assert_eq!(value["diff_base64"], "AP8=");
        assert_eq!(serde_json::from_value::<FinishedRequest>(value).unwrap(), finished);
        let offset: FinishedRequest =
            serde_json::from_value(json!({"status": "failed", "finished_at": "2026-11-23T12:00:00.5+02:00"})).unwrap();
        assert_eq!(offset.finished_at, finished.finished_at);
        for bad in [json!({"status": "done"}), json!({}), json!({"status": "failed", "finished_at": "yesterday"})] {
            assert!(serde_json::from_value::<FinishedRequest>(bad).is_err());
        }
    }

    #[test]
    fn answers_of_other_servers_read() {
        let started: StartedAnswer = serde_json::from_value(json!({"state": "warming_up", "directive_id": 7})).unwrap();
        assert_eq!((started.ok, started.state, started.cancel_requested), (true, None, false));
        let heartbeat: DirectiveHeartbeatAnswer = serde_json::from_value(json!({"cancel_requested": true})).unwrap();
        assert_eq!(
            (heartbeat.cancel_requested, heartbeat.lease_renewed, heartbeat.directive_token),
            (true, true, None)
        );
        let chunk: LogChunkAnswer = serde_json::from_value(json!({"ok": true, "stored": true, "seq": "3"})).unwrap();
        assert!(chunk.stored && chunk.seq.is_none());
        assert!(serde_json::from_value::<TokenAnswer>(json!({"directive_token": null})).is_err());
    }
}
