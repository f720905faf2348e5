//! What docs/observability offers for the metrics page is about names that the page has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::require;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/observability")
}

/// Every word that begins as our metrics do.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("nexusd_")).collect()
}

/// The series of the page, which a unit test holds to be the page.
fn series() -> BTreeSet<String> {
    let page = include_str!("../../src/observe/snapshots/nexusd__observe__metrics__tests__the_page.snap");
    let lines = page.lines().filter(|line| line.starts_with("nexusd_"));
    lines.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

#[test]
fn every_metric_that_is_asked_for_is_on_the_page() {
    let series = series();
    assert!(series.len() > 20, "{series:?}");
    let mut asked = BTreeSet::new();
    for file in ["alerts.yml", "alerts.test.yml", "dashboard.json", "README.md"] {
        let text = std::fs::read_to_string(folder().join(file)).unwrap();
        for name in names(&text).into_iter().filter(|name| *name != "nexusd_") {
            assert!(series.contains(name), "{file}: {name} is not on the page");
            asked.insert(name.to_owned());
        }
    }
    // And the other way round: what is counted is shown to somebody.
    for name in &series {
        let part = ["_sum", "_count"].iter().any(|end| name.ends_with(end));
        assert!(part || asked.contains(name), "{name} is on the page, and nothing in docs/observability looks at it");
    }
    assert!(names("sum(nexusd_no_such_total)").iter().all(|name| !series.contains(*name)), "the control");
}

#[test]
fn the_dashboard_is_one() {
    let text = std::fs::read_to_string(folder().join("dashboard.json")).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        assert!(
            !panel["title"].as_str().unwrap().is_empty() && !panel["targets"].as_array().unwrap().is_empty(),
            "{panel}"
        );
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{panel}");
    }
}

#[test]
fn the_alerts_fire_when_they_should_and_only_then() {
    require!(Promtool);
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let output = Command::new("promtool").args(arguments).current_dir(folder()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("SUCCESS"), "{arguments:?}: {said}");
    }
}
