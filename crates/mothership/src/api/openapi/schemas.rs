//! The shapes of the user API.

use serde_json::{Map, Value, json};

/// All of them by name.
pub(super) fn all() -> Value {
    let time = json!({ "type": "string", "format": "date-time" });
    let maybe_time = json!({ "type": ["string", "null"], "format": "date-time" });
    let text = json!({ "type": "string" });
    let maybe = json!({ "type": ["string", "null"] });
    let number = json!({ "type": "integer" });
    let flag = json!({ "type": "boolean" });
    let free = json!({});
    let labels = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    let state = json!({ "type": "string", "enum": ["awaiting_approval", "queued", "leased", "running", "succeeded", "failed", "canceled", "timed_out"] });
    let stream = json!({ "type": "string", "enum": ["stdout", "stderr"] });
    let object = json!({ "type": "object" });
    let scope = json!({ "type": "string", "enum": ["read", "run", "admin"] });
    json!({
        "Error": shape(&["error", "detail"], &[("error", &text), ("detail", &text)]),
        "NewFacility": shape(&[], &[("name", &maybe), ("repo_url", &maybe), ("territory_id", &maybe)]),
        "Facility": shape(&["id", "name", "created_at"], &[("id", &text), ("name", &text), ("repo_url", &maybe),
            ("territory_id", &maybe), ("locked_by", &maybe), ("created_at", &time)]),
        "NewDirective": shape(&["facility_id", "command"], &[("facility_id", &text), ("command", &text),
            ("sandbox_profile", &text), ("shell", &text), ("cwd", &text), ("timeout_seconds", &number),
            ("limits", &object), ("capabilities", &object), ("artifacts", &object), ("env", &labels)]),
        "Directive": shape(&["id", "facility_id", "state", "spec", "queued_at"], &[("id", &text),
            ("facility_id", &text), ("state", &state), ("sandbox_profile", &text), ("territory_id", &maybe),
            ("spec", &object), ("lease_number", &number), ("cancel_requested", &flag), ("reason", &maybe),
            ("queued_at", &time), ("leased_at", &maybe_time), ("started_at", &maybe_time),
            ("finished_at", &maybe_time), ("started", &free), ("output_bytes", &number),
            ("output_truncated", &flag), ("result", &free)]),
        "LogChunk": shape(&["id", "stream", "seq", "bytes", "missing"], &[
            ("id", &json!({ "type": ["string", "null"], "description":
                "The place in both streams after this; null on a page of one stream" })),
            ("stream", &stream), ("seq", &number),
            ("bytes", &json!({ "type": "string", "contentEncoding": "base64" })), ("truncated", &flag),
            ("missing", &json!({ "type": "integer", "description":
                "0 for a chunk; else there is none here: so many from seq on never came" })),
            ("received_at", &maybe_time)]),
        "LogPage": shape(&["chunks"], &[("chunks", &json!({ "type": "array", "items": super::reference("LogChunk") })),
            ("next_seq", &json!({ "type": ["integer", "null"], "description":
                "from_seq of the next page; null on an empty page and on one of both streams" })),
            ("next_after", &json!({ "type": ["string", "null"], "description":
                "after of the next page, such as 12-3: the next chunk of stdout and of stderr; null on an empty page and on one of one stream" })),
            ("state", &state), ("whole", &json!({ "type": "boolean", "description":
                "The directive has ended, and nothing follows this page" }))]),
        "NewEnrollmentToken": shape(&[], &[("ttl_seconds", &number), ("labels", &labels)]),
        "CreatedEnrollmentToken": shape(&["id", "token", "expires_at"], &[("id", &text), ("token", &text), ("expires_at", &time)]),
        "EnrollmentToken": shape(&["id", "state"], &[("id", &text),
            ("state", &json!({ "type": "string", "enum": ["usable", "used", "expired", "revoked"] })),
            ("labels", &labels), ("created_at", &time), ("expires_at", &time), ("used_at", &maybe_time), ("used_by", &maybe)]),
        "Territory": shape(&["id", "name", "kind"], &[("id", &text), ("name", &text), ("kind", &text),
            ("platform", &maybe), ("display_name", &maybe), ("labels", &labels), ("enrolled_at", &time),
            ("disabled_at", &maybe_time), ("last_seen_at", &maybe_time), ("max_concurrent", &number),
            ("nexus_version", &maybe), ("last_heartbeat", &free), ("certificate_not_after", &maybe_time), ("last_poll_at", &maybe_time),
            ("available_profiles", &json!({ "type": "array", "items": { "type": "string" }, "description":
                "The profiles of which it would take a directive soon: it polls for them, or is busy and offers them" }))]),
        "NewApiToken": shape(&["name", "scope"], &[("name", &text), ("scope", &scope), ("ttl_seconds", &number)]),
        "CreatedApiToken": shape(&["id", "name", "scope", "token", "expires_at"], &[("id", &text), ("name", &text),
            ("scope", &scope), ("token", &text), ("expires_at", &time)]),
        "ApiToken": shape(&["id", "name", "scope", "state", "created_at"], &[("id", &text), ("name", &text), ("scope", &scope),
            ("state", &json!({ "type": "string", "enum": ["usable", "expired", "revoked"] })), ("created_at", &time),
            ("expires_at", &maybe_time)]),
        "Rotation": shape(&[], &[("drop_older", &flag)]),
        "SigningKeys": shape(&["signs", "verify"], &[("signs", &text), ("verify", &json!({ "type": "array", "items": { "type": "string" } }))]),
        "AuditEvent": shape(&["id", "at", "actor", "action", "subject"], &[("id", &number), ("at", &time),
            ("actor", &text), ("action", &text), ("subject", &text), ("details", &object)]),
    })
}

fn shape(required: &[&str], properties: &[(&str, &Value)]) -> Value {
    let properties: Map<String, Value> =
        properties.iter().map(|(name, schema)| ((*name).to_owned(), (*schema).clone())).collect();
    json!({ "type": "object", "required": required, "properties": properties })
}
