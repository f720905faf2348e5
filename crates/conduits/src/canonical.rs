//! JSON in one form, and the digest that tells a repeated report from a different one.

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;

use crate::directive::FinishedRequest;

/// `value` as compact JSON with the keys of every object in the order of their bytes.
///
/// Does not depend on how `serde_json` keeps its maps: a dependency anywhere in a build can switch that to the order
/// of insertion.
#[must_use]
pub fn canonical_json(value: &Value) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            out.push('{');
            for (position, (key, value)) in sorted.into_iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

/// SHA-256 over the canonical JSON of every field of the report but `finished_at`: the same end reported again at
/// another time is the same report. Fields that are absent are left out, so `null` and absent are alike.
#[must_use]
pub fn finished_digest(report: &FinishedRequest) -> [u8; 32] {
    Sha256::digest(canonical_json(&report.to_value_without_time())).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fingerprint::hex;
    use serde_json::json;

    fn digest(value: &Value) -> String {
        hex(&finished_digest(&serde_json::from_value(value.clone()).unwrap()))
    }

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value: Value =
            serde_json::from_str(r#"{"b":[{"z":1,"a":"\u00e9\n\""}],"a":null,"B":1.5,"é":true}"#).unwrap();
        assert_eq!(canonical_json(&value), r#"{"B":1.5,"a":null,"b":[{"a":"é\n\"","z":1}],"é":true}"#);
    }

    #[test]
    fn the_time_does_not_count_and_everything_else_does() {
        let base = json!({
            "status": "succeeded", "exit_code": 0, "stdout_truncated": false, "stderr_truncated": false,
            "diff_truncated": false, "snapshot_before": "aa", "snapshot_after": "bb",
            "artifacts_manifest": {"log": {"stdout": 1}}, "diff_base64": "AAE=",
            "finished_at": "2026-01-02T03:04:05Z",
        });
        let mut later = base.clone();
        later["finished_at"] = json!("2026-01-02T03:04:06Z");
        assert_eq!(digest(&base), digest(&later));
        let changes = [
            ("status", json!("failed")),
            ("exit_code", json!(1)),
            ("stdout_truncated", json!(true)),
            ("stderr_truncated", json!(true)),
            ("diff_truncated", json!(true)),
            ("snapshot_before", json!("cc")),
            ("snapshot_after", json!(null)),
            ("artifacts_manifest", json!({"log": {"stdout": 2}})),
            ("diff_base64", json!("AAI=")),
        ];
        for (field, value) in changes {
            let mut changed = base.clone();
            changed[field] = value;
            assert_ne!(digest(&base), digest(&changed), "{field}");
        }
    }

    /// The digests are stored by servers and compared after an upgrade, so they must never change.
    #[test]
    fn pinned_vectors() {
        let short = json!({"status": "failed"});
        assert_eq!(
            canonical_json(&serde_json::from_value::<FinishedRequest>(short.clone()).unwrap().to_value_without_time()),
            r#"{"artifacts_manifest":{},"diff_truncated":false,"status":"failed","stderr_truncated":false,"stdout_truncated":false}"#
        );
        assert_eq!(digest(&short), "e4a90448a429d939e8f5d93d2047a567dab7bcce46e544e15f1e80381a243d61");
        assert_eq!(
            digest(&json!({"status": "failed", "exit_code": null, "diff_base64": null, "unknown": 1})),
            digest(&short)
        );
        let full = json!({
            "finished_at": "2026-01-02T03:04:05.123456Z", "diff_base64": "ZGlmZg==", "status": "timed_out", "exit_code": 124,
            "stdout_truncated": true, "artifacts_manifest": {"b": [1, 2.5, null, "é"], "a": {"z": 1, "y": -2}},
            "snapshot_before": "0123", "snapshot_after": "4567",
        });
        assert_eq!(digest(&full), "204dc003d321e83f0e2a04ec0795795cf694df1bcd155d654dc85809982e77e6");
    }
}
