//! `GET /openapi.json`: the user API as OpenAPI 3.1, rendered from one table.
//!
//! The same table tells the tests which routes there must be, so neither can be forgotten; the rendered document is
//! committed as `docs/protocol/openapi.json` and compared.

mod schemas;

use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};

use crate::store::api_tokens::Scope;

/// One operation.
struct Operation {
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    request: Option<&'static str>,
    success: (&'static str, &'static str, Content),
    refusals: &'static [&'static str],
}

/// What a success carries.
enum Content {
    None,
    Json(&'static str),
    Page(&'static str, &'static str),
    Bytes,
    Events,
}

const PAGE: &[&str] = &["limit", "cursor"];
const READ: &[&str] = &["401", "404", "422"];
const LIST: &[&str] = &["401", "422"];

/// The user API.
const OPERATIONS: &[Operation] = &[
    Operation {
        method: "GET",
        path: "/api/v1/facilities",
        summary: "List facilities",
        query: &["limit", "cursor", "name"],
        request: None,
        success: ("200", "A page", Content::Page("facilities", "Facility")),
        refusals: LIST,
    },
    Operation {
        method: "POST",
        path: "/api/v1/facilities",
        summary: "Make a facility",
        query: &[],
        request: Some("NewFacility"),
        success: ("201", "Made", Content::Json("Facility")),
        refusals: &["401", "409", "413", "422"],
    },
    Operation {
        method: "GET",
        path: "/api/v1/facilities/{id}",
        summary: "Look at a facility",
        query: &[],
        request: None,
        success: ("200", "The facility", Content::Json("Facility")),
        refusals: READ,
    },
    Operation {
        method: "DELETE",
        path: "/api/v1/facilities/{id}",
        summary: "Delete a facility with its directives, logs and results; its territory then removes the folder",
        query: &[],
        request: None,
        success: ("204", "Deleted", Content::None),
        refusals: &["401", "404", "409", "422"],
    },
    Operation {
        method: "GET",
        path: "/api/v1/directives",
        summary: "List directives, newest first",
        query: &["limit", "cursor", "state", "facility_id", "territory_id"],
        request: None,
        success: ("200", "A page", Content::Page("directives", "Directive")),
        refusals: LIST,
    },
    Operation {
        method: "POST",
        path: "/api/v1/directives",
        summary: "Queue a directive",
        query: &[],
        request: Some("NewDirective"),
        success: ("201", "Queued", Content::Json("Directive")),
        refusals: &["401", "409", "413", "422"],
    },
    Operation {
        method: "GET",
        path: "/api/v1/directives/{id}",
        summary: "Look at a directive and its result",
        query: &[],
        request: None,
        success: ("200", "The directive", Content::Json("Directive")),
        refusals: READ,
    },
    Operation {
        method: "POST",
        path: "/api/v1/directives/{id}/cancel",
        summary: "Cancel a directive: a queued one at once, a running one through its territory",
        query: &[],
        request: None,
        success: ("200", "The directive as it is now", Content::Json("Directive")),
        refusals: READ,
    },
    Operation {
        method: "GET",
        path: "/api/v1/directives/{id}/diff",
        summary: "The diff that a directive left",
        query: &[],
        request: None,
        success: ("200", "The diff", Content::Bytes),
        refusals: READ,
    },
    Operation {
        method: "GET",
        path: "/api/v1/directives/{id}/logs",
        summary: "Stored output without gaps: of one stream from a seq on, or of both from a place on",
        query: &["stream", "from_seq", "after"],
        request: None,
        success: ("200", "A page", Content::Json("LogPage")),
        refusals: READ,
    },
    Operation {
        method: "GET",
        path: "/api/v1/directives/{id}/logs/stream",
        summary: "Output as server-sent events: log (LogChunk), state, and last end once all is sent, or deleted; resumes after Last-Event-ID",
        query: &["after"],
        request: None,
        success: ("200", "Events", Content::Events),
        refusals: READ,
    },
    Operation {
        method: "GET",
        path: "/api/v1/enrollment-tokens",
        summary: "List enrolment tokens",
        query: PAGE,
        request: None,
        success: ("200", "A page", Content::Page("enrollment_tokens", "EnrollmentToken")),
        refusals: LIST,
    },
    Operation {
        method: "POST",
        path: "/api/v1/enrollment-tokens",
        summary: "Make an enrolment token, good for one territory; its secret is shown once",
        query: &[],
        request: Some("NewEnrollmentToken"),
        success: ("201", "Made", Content::Json("CreatedEnrollmentToken")),
        refusals: &["401", "409", "413", "422"],
    },
    Operation {
        method: "DELETE",
        path: "/api/v1/enrollment-tokens/{id}",
        summary: "Revoke an enrolment token",
        query: &[],
        request: None,
        success: ("204", "Revoked", Content::None),
        refusals: READ,
    },
    Operation {
        method: "GET",
        path: "/api/v1/territories",
        summary: "List territories",
        query: PAGE,
        request: None,
        success: ("200", "A page", Content::Page("territories", "Territory")),
        refusals: LIST,
    },
    Operation {
        method: "GET",
        path: "/api/v1/territories/{id}",
        summary: "Look at a territory",
        query: &[],
        request: None,
        success: ("200", "The territory", Content::Json("Territory")),
        refusals: READ,
    },
    Operation {
        method: "POST",
        path: "/api/v1/territories/{id}/disable",
        summary: "Shut a territory out at once",
        query: &[],
        request: None,
        success: ("200", "The territory", Content::Json("Territory")),
        refusals: READ,
    },
    Operation {
        method: "POST",
        path: "/api/v1/territories/{id}/enable",
        summary: "Let a territory in again",
        query: &[],
        request: None,
        success: ("200", "The territory", Content::Json("Territory")),
        refusals: READ,
    },
    Operation {
        method: "GET",
        path: "/api/v1/api-tokens",
        summary: "List API tokens",
        query: PAGE,
        request: None,
        success: ("200", "A page", Content::Page("api_tokens", "ApiToken")),
        refusals: LIST,
    },
    Operation {
        method: "POST",
        path: "/api/v1/api-tokens",
        summary: "Make an API token with a scope and an end; its secret is shown once",
        query: &[],
        request: Some("NewApiToken"),
        success: ("201", "Made", Content::Json("CreatedApiToken")),
        refusals: &["401", "409", "413", "422"],
    },
    Operation {
        method: "DELETE",
        path: "/api/v1/api-tokens/{id}",
        summary: "Revoke an API token, at once",
        query: &[],
        request: None,
        success: ("204", "Revoked", Content::None),
        refusals: &["401", "404", "409", "422"],
    },
    Operation {
        method: "POST",
        path: "/api/v1/signing-keys/rotate",
        summary: "Make a new key for directive tokens; the older ones verify for seven days more, or not at all",
        query: &[],
        request: Some("Rotation"),
        success: ("200", "The key that signs, and those that verify", Content::Json("SigningKeys")),
        refusals: &["401", "413", "422"],
    },
    Operation {
        method: "GET",
        path: "/api/v1/audit-events",
        summary: "List audit events, newest first",
        query: PAGE,
        request: None,
        success: ("200", "A page", Content::Page("audit_events", "AuditEvent")),
        refusals: LIST,
    },
];

/// What is behind these is for tokens of scope `admin`.
const ADMINISTRATION: &[&str] =
    &["/api/v1/enrollment-tokens", "/api/v1/api-tokens", "/api/v1/signing-keys", "/api/v1/audit-events"];

/// The scope that an operation needs.
fn scope(operation: &Operation) -> Scope {
    let decides = matches!(operation.path.rsplit('/').next(), Some("enable" | "disable"));
    if decides || ADMINISTRATION.iter().any(|path| operation.path.starts_with(path)) {
        return Scope::Admin;
    }
    if operation.method == "GET" { Scope::Read } else { Scope::Run }
}

/// Method, path and scope of every operation.
pub fn scopes() -> impl Iterator<Item = (&'static str, &'static str, Scope)> {
    OPERATIONS.iter().map(|operation| (operation.method, operation.path, scope(operation)))
}

/// Method and path of every operation.
pub fn routes() -> impl Iterator<Item = (&'static str, &'static str)> {
    OPERATIONS.iter().map(|operation| (operation.method, operation.path))
}

/// The document.
#[must_use]
pub fn rendered() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| Value::Object(Map::new()));
        path[operation.method.to_lowercase()] = described(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Nexus mothership",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The user API. Times are RFC 3339 in UTC, output and diffs are bytes. A field or parameter that a call does not have is refused by name (422), and so is a field that is there twice.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas::all(),
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut parameters: Vec<Value> = operation
        .query
        .iter()
        .map(|name| {
            let number = matches!(*name, "limit" | "from_seq");
            let kind = if number { "integer" } else { "string" };
            json!({ "name": name, "in": "query", "required": false, "schema": { "type": kind } })
        })
        .collect();
    if operation.path.contains("{id}") {
        parameters.push(json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }));
    }
    if operation.success.0 == "201" {
        parameters.push(idempotency_key(operation));
    }
    let (status, description, content) = &operation.success;
    let mut success = json!({ "description": description });
    match content {
        Content::None => {}
        Content::Json(schema) => success["content"] = json!({ "application/json": { "schema": reference(schema) } }),
        Content::Page(key, schema) => {
            let page = json!({ "type": "object", "required": [key, "next_cursor"], "properties": {
                *key: { "type": "array", "items": reference(schema) },
                "next_cursor": { "type": ["string", "null"] },
            } });
            success["content"] = json!({ "application/json": { "schema": page } });
        }
        Content::Bytes => success["content"] = json!({ "application/octet-stream": {} }),
        Content::Events => success["content"] = json!({ "text/event-stream": {} }),
    }
    let mut responses = Map::new();
    responses.insert((*status).to_owned(), success);
    for refusal in operation.refusals {
        responses.insert((*refusal).to_owned(), refused(refusal));
    }
    let scope = scope(operation);
    if scope > Scope::Read {
        responses.insert("403".to_owned(), refused("403"));
    }
    let mut described = json!({
        "operationId": operation_id(operation),
        "summary": operation.summary,
        "description": format!("For tokens of scope {}{}.", scope.as_str(), if scope == Scope::Admin { "" } else { " and up" }),
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(schema) = operation.request {
        described["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": reference(schema) } } });
    }
    described
}

/// The header that makes a create happen once.
fn idempotency_key(operation: &Operation) -> Value {
    let again = if matches!(operation.request, Some("NewEnrollmentToken" | "NewApiToken")) {
        "409, and no second token: the secret is shown once and not kept"
    } else {
        "the first answer again; 409 for another body, or once what was made is deleted"
    };
    json!({ "name": "Idempotency-Key", "in": "header", "required": false,
        "description": format!("Remembered for a day. The same key again gives {again}."),
        "schema": { "type": "string", "maxLength": 255 } })
}

fn refused(status: &str) -> Value {
    let description = match status {
        "401" => "The token is missing, unknown, expired or revoked",
        "403" => "The token's scope does not allow it",
        "404" => "There is no such thing",
        "409" => "Its state does not allow it",
        "413" => "The body is too large",
        _ => "A parameter is invalid; detail says which and how to mend it",
    };
    json!({ "description": description, "content": { "application/json": { "schema": reference("Error") } } })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// Such as `post_directives_id_cancel`.
fn operation_id(operation: &Operation) -> String {
    let path = operation.path.trim_start_matches("/api/v1/");
    let mut id = operation.method.to_lowercase();
    for piece in path.split(['/', '-', '{', '}']).filter(|piece| !piece.is_empty()) {
        id.push('_');
        id.push_str(piece);
    }
    id
}

/// Serves the document.
pub async fn document() -> impl IntoResponse {
    let text = rendered().to_string();
    ([(header::CONTENT_TYPE, "application/json")], text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_document_is_the_rendered_one() {
        let rendered = format!("{:#}\n", rendered());
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/protocol/openapi.json");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == rendered,
            "docs/protocol/openapi.json is not what is served; run `cargo run -p mothership --example openapi > docs/protocol/openapi.json`"
        );
    }

    #[test]
    fn every_reference_has_its_schema() {
        let document = rendered();
        let text = document.to_string();
        for piece in text.split("#/components/schemas/").skip(1) {
            let name = piece.split('"').next().unwrap();
            assert!(document["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
