//! What `started` says: which layers are really in force around the run.

use conduits::StartedRequest;
use jiff::Timestamp;
use sandbox::{CgroupLayer, Layers};
use serde_json::{Map, Value, json};

use super::admit::Admitted;
use crate::engine::Engine;

/// A directive that is refused runs in nothing.
pub(super) fn of_refused() -> StartedRequest {
    started(Map::new())
}

/// A directive whose workspace is made before its sandbox: what runs it is what was found at the last look.
pub(super) fn before_launch(engine: &Engine, admitted: &Admitted) -> StartedRequest {
    let mut request = started(asked(engine, admitted));
    request.sandbox_version = engine.driver_version(admitted.driver);
    request.runtime_ref = Some(runtime_ref(engine, admitted.driver.as_str(), engine.image_digest(admitted.driver)));
    request
}

/// What a run can be traced by: the image, or this start of the daemon.
fn runtime_ref(engine: &Engine, driver: &str, image: Option<String>) -> Value {
    Value::String(format!("{driver}:{}", image.unwrap_or_else(|| engine.instance.to_string())))
}

/// A sandbox that stands, whose command waits.
pub(super) fn of_armed(
    engine: &Engine,
    admitted: &Admitted,
    layers: &Layers,
    disk_kept_by: Option<&'static str>,
) -> StartedRequest {
    let mut summary = asked(engine, admitted);
    if let Some(kept_by) = disk_kept_by {
        summary.insert("disk".into(), kept_by.into());
    }
    summary.insert("layers".into(), layers_value(layers));
    let mut request = started(summary);
    request.sandbox_version = engine.driver_version(admitted.driver);
    request.runtime_ref = Some(runtime_ref(engine, layers.driver, layers.image.clone()));
    request
}

fn started(summary: Map<String, Value>) -> StartedRequest {
    StartedRequest {
        effective_capabilities_summary: summary,
        sandbox_version: None,
        nexus_version: Some(crate::VERSION.to_owned()),
        runtime_ref: None,
        started_at: Some(Timestamp::now()),
    }
}

fn asked(engine: &Engine, admitted: &Admitted) -> Map<String, Value> {
    let net = &admitted.spec.net;
    let mut summary = Map::new();
    summary.insert("driver".into(), admitted.driver.as_str().into());
    summary.insert(
        "net".into(),
        json!({
            "mode": net.mode.as_str(),
            "allow": net.allow.iter().map(ToString::to_string).collect::<Vec<_>>(),
            // With the host's network the mode is a wish, and said to be one.
            "enforced": engine.enforces_network(admitted.driver),
        }),
    );
    summary.insert("workspace".into(), format!("{:?}", admitted.access).into());
    summary.insert("timeout_seconds".into(), admitted.timeout.as_secs_f64().into());
    summary
}

fn layers_value(layers: &Layers) -> Value {
    json!({
        "namespaces": layers.namespaces,
        "seccomp": layers.seccomp,
        "no_new_privs": layers.no_new_privs,
        "landlock_abi": layers.landlock_abi,
        "uid": layers.uid,
        "separate_uid": layers.separate_uid,
        "cgroup": match &layers.cgroup {
            CgroupLayer::V1(controllers) => json!({"version": 1, "controllers": controllers}),
            CgroupLayer::V2(controllers) => json!({"version": 2, "controllers": controllers}),
            CgroupLayer::None(why) => json!({"version": null, "why": why}),
        },
        "network": layers.network.as_str(),
        "limits": layers
            .limits
            .iter()
            .map(|limit| (limit.name.to_owned(), json!({"value": limit.value, "by": limit.by})))
            .collect::<Map<String, Value>>(),
    })
}
