//! What to say of a directive that stays in the queue because no territory takes the like of it.

use serde_json::{Value, json};

use super::commands::text;

/// Territories that are named at most.
const NAMED: usize = 5;

/// The lines for a directive of `profile` in `facility`, with the account's `territories`; none where one of them would take it.
pub(super) fn nobody(profile: &str, facility: &Value, territories: &[Value]) -> Option<String> {
    let bound = facility["territory_id"].as_str();
    let may = |territory: &&Value| bound.is_none_or(|id| territory["id"] == id);
    let takes = |territory: &Value| {
        territory["available_profiles"].as_array().is_some_and(|profiles| profiles.contains(&json!(profile)))
    };
    if territories.iter().filter(may).any(takes) {
        return None;
    }
    let Some(bound) = bound else {
        return Some(anywhere(profile, territories));
    };
    let place = territories.iter().find(|territory| territory["id"] == bound);
    let state = place.map_or_else(|| format!("{bound}: it is not enrolled any more"), described);
    Some(format!(
        "facility {} is on a territory that takes no directive of profile {profile} now; this one waits for it\n  {state}\n  {}, or run in another facility",
        text(facility, "name"),
        place.map_or("enrol it again", |place| mend(place))
    ))
}

fn anywhere(profile: &str, territories: &[Value]) -> String {
    if territories.is_empty() {
        return format!(
            "no territory is enrolled, so nobody takes this directive of profile {profile}; it waits\n  make a token with `mothership enroll-token create`, and enrol a nexusd with it (--enroll-token)"
        );
    }
    let mut lines = format!("no territory takes directives of profile {profile} now; this one waits until one does");
    for territory in territories.iter().take(NAMED) {
        lines.push_str("\n  ");
        lines.push_str(&described(territory));
    }
    if territories.len() > NAMED {
        lines.push_str(&format!("\n  and {} more; see `mothership territories`", territories.len() - NAMED));
    }
    lines.push_str(&format!(
        "\n  start a nexusd that has {profile} in supported_sandbox_profiles, or choose another --profile"
    ));
    lines
}

/// A territory in a line. Its name came from outside, checked to be printable.
fn described(territory: &Value) -> String {
    let (name, id) = (text(territory, "name"), text(territory, "id"));
    if !territory["disabled_at"].is_null() {
        return format!("{name} ({id}): disabled");
    }
    let profiles: Vec<&str> =
        territory["available_profiles"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !profiles.is_empty() {
        return format!("{name} ({id}): takes {}", profiles.join(", "));
    }
    let seen = ["last_seen_at", "last_poll_at"].iter().filter_map(|field| territory[*field].as_str()).max();
    match seen {
        Some(at) => format!("{name} ({id}): asks for no work; last seen {at}"),
        None => format!("{name} ({id}): never seen"),
    }
}

/// What helps where the one territory that may take it does not.
fn mend(territory: &Value) -> &'static str {
    let takes_others = territory["available_profiles"].as_array().is_some_and(|profiles| !profiles.is_empty());
    match (territory["disabled_at"].is_null(), takes_others) {
        (false, _) => "enable it with POST /api/v1/territories/{id}/enable",
        (true, true) => "add the profile to supported_sandbox_profiles of its nexusd",
        (true, false) => "start its nexusd",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn territory(id: &str, available: &[&str]) -> Value {
        json!({ "id": id, "name": format!("n-{id}"), "available_profiles": available, "disabled_at": null,
            "last_seen_at": null, "last_poll_at": null })
    }

    #[test]
    fn who_could_take_it_silences_it() {
        let (free, bound) = (json!({ "name": "f", "territory_id": null }), json!({ "name": "f", "territory_id": "b" }));
        let both = [territory("a", &["host"]), territory("b", &["untrusted"])];
        assert_eq!(nobody("host", &free, &both), None);
        assert_eq!(nobody("untrusted", &bound, &both), None);
        assert!(nobody("trusted", &free, &both).is_some());
        let elsewhere = nobody("host", &bound, &both).unwrap();
        assert_eq!(
            elsewhere,
            "facility f is on a territory that takes no directive of profile host now; this one waits for it\n  \
             n-b (b): takes untrusted\n  add the profile to supported_sandbox_profiles of its nexusd, or run in another facility"
        );
    }

    #[test]
    fn what_there_is_and_what_to_do_is_said() {
        let free = json!({ "name": "f", "territory_id": null });
        assert!(nobody("host", &free, &[]).unwrap().contains("mothership enroll-token create"));
        let (mut away, mut off) = (territory("a", &[]), territory("b", &[]));
        away["last_seen_at"] = json!("2026-01-02T03:04:05Z");
        off["disabled_at"] = json!("2026-01-01T00:00:00Z");
        let mut all = vec![away, off, territory("c", &[]), territory("d", &["untrusted", "trusted"])];
        let told = nobody("host", &free, &all).unwrap();
        for line in [
            "no territory takes directives of profile host now",
            "  n-a (a): asks for no work; last seen 2026-01-02T03:04:05Z\n",
            "  n-b (b): disabled\n",
            "  n-c (c): never seen\n",
            "  n-d (d): takes untrusted, trusted\n",
            "supported_sandbox_profiles",
        ] {
            assert!(told.contains(line), "{line}: {told}");
        }
        all.extend((0..10).map(|n| territory(&format!("x{n}"), &[])));
        assert!(nobody("host", &free, &all).unwrap().contains("and 9 more"));
        let gone = nobody("host", &json!({ "name": "f", "territory_id": "z" }), &all).unwrap();
        assert!(gone.contains("z: it is not enrolled any more"), "{gone}");
    }
}
