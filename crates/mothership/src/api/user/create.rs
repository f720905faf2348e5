//! `POST /api/v1/directives`: a directive from the fields of DirectiveSpec.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use conduits::directive::{DEFAULT_MAX_DIFF_BYTES, DEFAULT_MAX_OUTPUT_BYTES};
use conduits::{DirectiveId, DirectiveSpec, code, headers};
use serde_json::{Map, Value, json};

use super::{actor, fields};
use crate::api::App;
use crate::api::error::ApiResult;
use crate::api::request;
use crate::refusal::{Fault, Refusal};
use crate::secret;
use crate::store::api_tokens::{Scope, User};
use crate::store::directives::{self, NewDirective};
use crate::store::{StoreError, Tx, audit, facilities, idempotency};

/// The largest diff that a report's body can carry.
const MOST_DIFF_BYTES: u64 = 8 * 1024 * 1024;
/// Characters of an Idempotency-Key.
const KEY_CHARS: usize = 255;

pub(super) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<(StatusCode, Json<Value>)> {
    // Looked up before the body is read: only who has a token may send megabytes.
    app.query_as(Scope::Run, &headers, |_, _| Ok(())).await?;
    let bytes = request::bytes(body, request::LARGE).await?;
    let key = idempotency_key(&headers)?;
    let fields: Map<String, Value> = request::fields(&bytes)?;
    let created = app
        .change(&headers, move |tx, user| {
            once(tx, user, key.as_deref(), "directive", &bytes, || create_one(tx, user, fields))
        })
        .await?;
    Ok((StatusCode::CREATED, Json(created)))
}

/// The request's Idempotency-Key.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get(headers::IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    value.to_str().ok().filter(|key| (1..=KEY_CHARS).contains(&key.len())).map(|key| Some(key.to_owned())).ok_or_else(
        || {
            Refusal::invalid(
                code::INVALID_PARAMETER,
                format!("Idempotency-Key must be 1 to {KEY_CHARS} ASCII characters"),
            )
        },
    )
}

/// Creates once for each key: again with the same body, the first answer is given again.
pub(super) fn once(
    tx: &Tx<'_>,
    user: &User,
    key: Option<&str>,
    kind: &str,
    body: &[u8],
    create: impl FnOnce() -> Result<Value, Fault>,
) -> Result<Value, Fault> {
    let Some(key) = key else {
        return create();
    };
    let request = digest(kind, body);
    if let Some(answer) = idempotency::recall(tx, &user.account_id, key, &request)? {
        return Ok(answer);
    }
    let answer = create()?;
    // A directive names its facility, a facility is one.
    let facility = answer.get("facility_id").or_else(|| answer.get("id")).and_then(Value::as_str);
    idempotency::remember(tx, &user.account_id, key, &request, &answer, facility)?;
    Ok(answer)
}

/// What tells one request from another.
pub(super) fn digest(kind: &str, body: &[u8]) -> [u8; 32] {
    secret::sha256(&[kind.as_bytes(), &[0], body].concat())
}

fn create_one(tx: &Tx<'_>, user: &User, fields: Map<String, Value>) -> Result<Value, Fault> {
    let id = DirectiveId::generate();
    fields::refuse_unknown(&fields)?;
    let asked = facility_of(&fields)?;
    let facility = facilities::get(tx.conn(), &user.account_id, asked.id)?.ok_or_else(|| {
        Refusal::invalid(code::INVALID_PARAMETER, format!("facility: there is no {:?}; create it first", asked.id))
    })?;
    if asked.repo_url.is_some_and(|url| url.as_str() != facility.repo_url.as_deref()) {
        return Err(Refusal::invalid(
            code::INVALID_PARAMETER,
            "facility.repo_url: is the facility's, given when it is created; leave it out here",
        )
        .into());
    }
    let mut spec = json!({
        "directive_id": id,
        "facility": { "id": facility.id },
    });
    if let Some(mount) = asked.mount {
        spec["facility"]["mount"] = mount.clone();
    }
    if let Some(repo_url) = &facility.repo_url {
        spec["facility"]["repo_url"] = json!(repo_url);
    }
    for (name, value) in fields {
        if name != "facility" && name != "facility_id" {
            spec[name] = value;
        }
    }
    let spec = DirectiveSpec::from_value(&spec)
        .map_err(|error| Refusal::invalid(code::INVALID_PARAMETER, error.to_string()))?;
    let max_diff_bytes = spec.limits.max_diff_bytes.unwrap_or(DEFAULT_MAX_DIFF_BYTES);
    if max_diff_bytes > MOST_DIFF_BYTES {
        return Err(Refusal::invalid(
            code::INVALID_PARAMETER,
            format!("limits.max_diff_bytes is {max_diff_bytes}; use at most {MOST_DIFF_BYTES}"),
        )
        .into());
    }
    directives::create(
        tx,
        &user.account_id,
        &NewDirective {
            id: id.as_str(),
            facility_id: &facility.id,
            territory_id: facility.territory_id.as_deref(),
            profile: spec.sandbox_profile.as_str(),
            spec: &spec.to_value(),
            max_output_bytes: spec.limits.max_output_bytes.unwrap_or(DEFAULT_MAX_OUTPUT_BYTES),
            max_diff_bytes,
        },
    )?;
    audit::record(
        tx,
        &user.account_id,
        &actor(user),
        "directive.create",
        id.as_str(),
        &json!({ "facility": facility.id, "profile": spec.sandbox_profile }),
    )?;
    let view = directives::get(tx.conn(), &user.account_id, id.as_str())?;
    Ok(serde_json::to_value(view)
        .map_err(|error| StoreError::Corrupt { what: "the new directive", detail: error.to_string() })?)
}

/// The facility that a request names.
struct Asked<'f> {
    id: &'f str,
    mount: Option<&'f Value>,
    repo_url: Option<&'f Value>,
}

/// `facility_id`, or `facility` as in DirectiveSpec.
fn facility_of(fields: &Map<String, Value>) -> Result<Asked<'_>, Refusal> {
    let missing = || {
        Refusal::invalid(code::INVALID_PARAMETER, "facility_id: missing; name the facility that the directive runs in")
    };
    match (fields.get("facility_id"), fields.get("facility")) {
        (Some(id), None) => Ok(Asked { id: id.as_str().ok_or_else(missing)?, mount: None, repo_url: None }),
        (None, Some(facility)) => {
            let id = facility.get("id").and_then(Value::as_str);
            let repo_url = facility.get("repo_url").filter(|url| !url.is_null());
            Ok(Asked { id: id.ok_or_else(missing)?, mount: facility.get("mount"), repo_url })
        }
        (Some(_), Some(_)) => Err(Refusal::invalid(code::INVALID_PARAMETER, "facility_id, facility: give one of them")),
        (None, None) => Err(missing()),
    }
}
