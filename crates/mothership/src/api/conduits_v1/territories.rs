//! `POST /territories/…`: enrolment, renewal, heartbeat.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use conduits::{
    EnrollAnswer, EnrollConfig, EnrollRequest, RenewAnswer, RenewRequest, TerritoryHeartbeatAnswer,
    TerritoryHeartbeatRequest, TerritoryId, code,
};
use serde_json::{Map, Value, json};

use crate::api::App;
use crate::api::caller;
use crate::api::error::{ApiError, ApiResult};
use crate::api::request;
use crate::ca::{ClientCertificate, ClientCertificateError};
use crate::refusal::{Fault, Refusal, RefusalKind};
use crate::server::Peer;
use crate::store::territories::{self, NewTerritory, Seen};
use crate::store::{StoreError, Tx, audit, claims, enrollment, facilities};

/// How often territories are asked to say that they live.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// What clients that poll without waiting are told at enrolment.
const POLL_INTERVAL_SECONDS: u64 = 2;
/// How long an enrolment waits for its turn to be read.
const TURN: Duration = Duration::from_secs(10);
/// Characters of names that a newcomer gives itself.
const NAME_CHARS: usize = 128;
/// Directives that run at once at most, whatever a territory says.
const MOST_CONCURRENT: u32 = 1024;

pub(super) async fn enroll(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<(StatusCode, Json<EnrollAnswer>)> {
    let address = caller::counted_address(&app.trusted_proxies, &peer, &headers);
    if let Some(wait) = app.enroll_failures.kept_out(address) {
        return Err(rate_limited(wait).into());
    }
    let turn = tokio::time::timeout(TURN, app.enroll_bodies.take(address)).await;
    let Ok(Some(turn)) = turn else { return Err(busy().into()) };
    // Before the try is counted: what is counted must be decided soon.
    let bytes = request::bytes(body, request::SMALL).await;
    drop(turn);
    let attempt = app.enroll_failures.begin(address).await.map_err(rate_limited)?;
    let enrolled = match bytes.and_then(|bytes| request::parse(&bytes)) {
        Ok(request) => enroll_once(&app, request).await,
        Err(refusal) => Err(refusal.into()),
    };
    match &enrolled {
        Err(ApiError::Refused(refusal)) if matches!(refusal.kind, RefusalKind::Invalid | RefusalKind::TooLarge) => {
            tracing::warn!(%address, code = refusal.code, "an enrolment failed");
            drop(attempt);
        }
        _ => attempt.give_back(),
    }
    Ok((StatusCode::CREATED, Json(enrolled?)))
}

fn rate_limited(wait: Duration) -> Refusal {
    Refusal::of(
        RefusalKind::RateLimited(wait),
        code::RATE_LIMITED,
        "too many enrolments from this address failed; wait, then use a fresh token",
    )
}

fn busy() -> Refusal {
    Refusal::of(
        RefusalKind::RateLimited(Duration::from_secs(1)),
        code::RATE_LIMITED,
        "too many enrolments are being read; come again",
    )
}

/// One transaction: the token is spent only together with everything that it pays for.
async fn enroll_once(app: &Arc<App>, request: EnrollRequest) -> ApiResult<EnrollAnswer> {
    let id = TerritoryId::generate();
    let (territory, kind, signer) = (id.clone(), request.kind, Arc::clone(app));
    let name = named(request.name.as_deref(), "name")?.unwrap_or_else(|| "nexus".to_owned());
    let display_name = named(request.display_name.as_deref(), "display_name")?;
    let platform = named(request.platform.as_deref(), "platform")?;
    let certificate = app
        .store
        .write(move |tx| {
            let token = enrollment::usable(tx, request.enroll_token.secret())?.ok_or_else(|| {
                Refusal::invalid(
                    code::INVALID_ENROLL_TOKEN,
                    "the enrolment token is unknown, used, expired or revoked; make a fresh one with `mothership enroll-token create`",
                )
            })?;
            let mut labels: Map<String, Value> = request
                .labels
                .into_iter()
                .map(|(key, value)| (key, Value::String(value)))
                .collect();
            // The operator's labels win: policy may hang on them.
            if let Value::Object(bound) = token.labels {
                labels.extend(bound);
            }
            let new = NewTerritory {
                id: territory.as_str(),
                account_id: &token.account_id,
                name: &name,
                kind: kind.as_str(),
                platform: platform.as_deref(),
                display_name: display_name.as_deref(),
                labels: &Value::Object(labels),
                metadata: &Value::Object(request.metadata),
            };
            territories::create(tx, &new)?;
            let certificate = request
                .csr_pem
                .as_deref()
                .map(|csr| issue(&signer, tx, territory.as_str(), csr))
                .transpose()?;
            enrollment::spend(tx, &token.id, territory.as_str())?;
            let details = json!({ "token": token.id, "name": name });
            let actor = format!("territory:{territory}");
            audit::record(
                tx,
                &token.account_id,
                &actor,
                "territory.enroll",
                territory.as_str(),
                &details,
            )?;
            Ok(certificate)
        })
        .await?;
    tracing::info!(territory = %id, "a territory enrolled");
    Ok(EnrollAnswer {
        territory_id: id,
        kind: Some(kind),
        ca_bundle_pem: certificate.is_some().then(|| app.authority.bundle_pem()),
        mtls_client_cert_pem: certificate.map(|certificate| certificate.pem),
        config: EnrollConfig {
            poll_interval_seconds: Some(POLL_INTERVAL_SECONDS),
            heartbeat_interval_seconds: Some(HEARTBEAT.as_secs()),
            lease_ttl_seconds: Some(app.lease_ttl.as_secs()),
        },
    })
}

/// A name from outside: printable, of a length that a table bears.
fn named(text: Option<&str>, field: &str) -> Result<Option<String>, Refusal> {
    let Some(text) = text.map(str::trim).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    if text.chars().count() > NAME_CHARS || text.chars().any(char::is_control) {
        return Err(Refusal::invalid(
            code::INVALID_PARAMETER,
            format!("{field} must be at most {NAME_CHARS} printable characters"),
        ));
    }
    Ok(Some(text.to_owned()))
}

/// Signs a request's key for a territory and records the certificate.
fn issue(app: &App, tx: &Tx<'_>, territory: &str, csr_pem: &str) -> Result<ClientCertificate, Fault> {
    let issued = app.authority.client(territory, csr_pem, app.client_lifetime).map_err(|error| match error {
        ClientCertificateError::Request(error) => {
            Fault::Refused(Refusal::invalid(code::INVALID_CSR, error.to_string()))
        }
        ClientCertificateError::Crypto(error) => {
            Fault::Store(StoreError::Corrupt { what: "the authority's key", detail: error.to_string() })
        }
    })?;
    territories::add_certificate(tx, territory, issued.fingerprint, issued.not_after)?;
    Ok(issued)
}

/// A fresh certificate for a territory whose present one still works; the old one works until its end.
pub(super) async fn renew(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<RenewAnswer>> {
    let caller = app.caller(&peer, &headers)?;
    let request: RenewRequest = request::json(body, request::SMALL).await?;
    let signer = Arc::clone(&app);
    let issued = app
        .store
        .write(move |tx| {
            let territory = territories::authenticate(tx.conn(), &caller, tx.now())?;
            let issued = issue(&signer, tx, &territory.id, &request.csr_pem)?;
            let details = json!({ "fingerprint": issued.fingerprint.to_string() });
            let actor = format!("territory:{}", territory.id);
            audit::record(tx, &territory.account_id, &actor, "territory.renew", &territory.id, &details)?;
            Ok(issued)
        })
        .await?;
    Ok(Json(RenewAnswer { mtls_client_cert_pem: issued.pem, ca_bundle_pem: Some(app.authority.bundle_pem()) }))
}

/// The territory lives; what an older instance of its daemon left behind is taken back, and it is told of facilities that
/// were deleted until it has them no more.
pub(super) async fn heartbeat(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Json<TerritoryHeartbeatAnswer>> {
    let caller = app.caller(&peer, &headers)?;
    let report: TerritoryHeartbeatRequest = request::json(body, request::SMALL).await?;
    let (id, taken, removed_facility_ids) = app
        .store
        .write(move |tx| {
            let territory = territories::authenticate(tx.conn(), &caller, tx.now())?;
            let taken = record(tx, &territory, &report)?;
            confirm_removed(tx, &territory, &report)?;
            let removed = facilities::removed(tx, &territory.id)?;
            Ok((territory.id, taken, removed))
        })
        .await?;
    if taken > 0 {
        tracing::warn!(territory = %id, directives = taken, "a new daemon instance left directives of the old one");
    }
    let territory_id = id.parse().map_err(|error: conduits::IdError| ApiError::Internal(error.to_string()))?;
    Ok(Json(TerritoryHeartbeatAnswer {
        ok: true,
        territory_id: Some(territory_id),
        next_heartbeat_interval_seconds: Some(HEARTBEAT.as_secs()),
        removed_facility_ids,
        ..TerritoryHeartbeatAnswer::default()
    }))
}

fn record(
    tx: &Tx<'_>,
    territory: &territories::Territory,
    report: &TerritoryHeartbeatRequest,
) -> Result<usize, StoreError> {
    let shown = json!({
        "capacity": report.capacity,
        "capabilities": report.capabilities,
        "runtime_status": report.runtime_status,
        "telemetry": report.telemetry,
        "labels": report.labels,
    });
    let instance = report.instance_id.as_ref().map(|id| id.as_str());
    territories::seen(
        tx,
        &territory.id,
        &Seen {
            nexus_version: report.nexus_version.as_deref(),
            max_concurrent: report.capacity.max_concurrent.map(|most| most.clamp(1, MOST_CONCURRENT)),
            instance_id: instance,
            report: &shown,
        },
    )?;
    let Some(instance) = instance else {
        return Ok(0);
    };
    if territory.instance_id.as_deref() == Some(instance) {
        return Ok(0);
    }
    let listed: Vec<String> = report.runtime_status.directive_ids.iter().map(|id| id.as_str().to_owned()).collect();
    claims::replaced(tx, territory, instance, &listed)
}

fn confirm_removed(
    tx: &Tx<'_>,
    territory: &territories::Territory,
    report: &TerritoryHeartbeatRequest,
) -> Result<(), StoreError> {
    for id in &report.removed_facility_ids {
        if facilities::forget_removed(tx, &territory.id, id)? {
            let actor = format!("territory:{}", territory.id);
            audit::record(tx, &territory.account_id, &actor, "facility.removed", id.as_str(), &json!({}))?;
        }
    }
    Ok(())
}
