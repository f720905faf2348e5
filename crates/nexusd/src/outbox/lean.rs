//! An end that the mothership finds too large is said again without what makes it large: a report of how a directive ended is
//! worth more than its diff. Pure.

use conduits::FinishedRequest;
use serde_json::json;

use crate::client::CallError;

/// What of the manifest can be large: the rest is bounded to a few KiB where it is made.
const BULKY: [&str; 2] = ["artifacts", "egress"];

/// The report without its diff and lists, where the refusal may be about its size and it has some. `422` is the protocol's
/// word for a diff above `max_diff_bytes`, `413` that of whatever stands in front of the mothership.
pub(super) fn lean(report: &FinishedRequest, refusal: &CallError) -> Option<FinishedRequest> {
    let CallError::Invalid { status: status @ (413 | 422), said } = refusal else { return None };
    without_bulk(report, &format!("the mothership refused the whole report: {status}, {said}"))
}

/// The report without its diff and lists, and why; none where it has neither.
pub(super) fn without_bulk(report: &FinishedRequest, why: &str) -> Option<FinishedRequest> {
    let mut lean = report.clone();
    let mut left_out = Vec::new();
    if lean.diff_base64.take().is_some() {
        lean.diff_truncated = true;
        left_out.push("diff");
    }
    left_out.extend(BULKY.into_iter().filter(|name| lean.artifacts_manifest.remove(*name).is_some()));
    if left_out.is_empty() {
        return None;
    }
    lean.artifacts_manifest.insert("left_out".into(), json!({ "what": left_out, "why": why }));
    Some(lean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Said;
    use conduits::FinishedStatus;

    #[test]
    fn only_what_is_large_is_left_out_and_only_where_the_size_may_be_the_reason() {
        let mut report = FinishedRequest::new(FinishedStatus::Failed);
        report.exit_code = Some(3);
        report.diff_base64 = Some(vec![7; 100]);
        for name in ["artifacts", "egress", "usage", "log", "ended_by"] {
            report.artifacts_manifest.insert(name.into(), json!([1]));
        }
        let refusal = |status| CallError::Invalid { status, said: Said::new("diff_too_large", "1 MiB") };
        for status in [413, 422] {
            let lean = lean(&report, &refusal(status)).unwrap();
            let keys: Vec<&str> = lean.artifacts_manifest.keys().map(String::as_str).collect();
            assert_eq!(keys, ["ended_by", "left_out", "log", "usage"]);
            assert_eq!((lean.status, lean.exit_code, lean.diff_truncated), (FinishedStatus::Failed, Some(3), true));
            assert_eq!(lean.diff_base64, None);
            let why = lean.artifacts_manifest["left_out"]["why"].as_str().unwrap();
            assert!(why.contains(&status.to_string()) && why.contains("diff_too_large"), "{why}");
            assert_eq!(super::lean(&lean, &refusal(status)), None, "once is enough");
        }
        for other in [refusal(400), CallError::Conflict(Said::default()), CallError::Unauthorized(Said::default())] {
            assert_eq!(lean(&report, &other), None, "{other}");
        }
    }
}
