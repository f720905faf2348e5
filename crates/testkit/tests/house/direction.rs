//! Who may depend on whom. A crate is a trust or contract boundary: an arrow that is not in this table is a decision to
//! be taken (and written down in `docs/adr/`), not a line to be added in passing.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use crate::{assert_none, text_of, top};

/// Each crate, and the crates of the workspace that it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    ("conduits", &[]),
    ("egress", &["conduits", "sys"]),
    ("guest", &[]),
    ("mothership", &["conduits"]),
    ("nexusd", &["conduits", "egress", "guest", "sandbox", "sys"]),
    ("sandbox", &["guest", "sys"]),
    ("sys", &[]),
    ("testkit", &["conduits"]),
];

/// What only tests may use, in any crate but its own.
const FOR_TESTS: &str = "testkit";

/// The contract is pure: a crate of this list in `conduits` means that it has begun to do I/O.
const NOT_IN_THE_CONTRACT: &[&str] = &[
    "axum",
    "hickory-resolver",
    "hyper",
    "hyper-util",
    "libc",
    "reqwest",
    "rusqlite",
    "rustix",
    "rustls",
    "tokio",
    "tokio-util",
    "tracing",
];

/// One arrow between two crates of the workspace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    from: String,
    to: String,
    test_only: bool,
}

fn metadata() -> Metadata {
    MetadataCommand::new().manifest_path(top().join("Cargo.toml")).no_deps().exec().expect("cargo metadata")
}

fn arrows(metadata: &Metadata) -> BTreeSet<Arrow> {
    let ours: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let mut arrows = BTreeSet::new();
    for package in &metadata.packages {
        for dependency in package.dependencies.iter().filter(|dependency| ours.contains(dependency.name.as_str())) {
            arrows.insert(Arrow {
                from: package.name.to_string(),
                to: dependency.name.clone(),
                test_only: dependency.kind == DependencyKind::Development,
            });
        }
    }
    arrows
}

fn forbidden(arrows: &BTreeSet<Arrow>) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut complaints = Vec::new();
    for Arrow { from, to, test_only } in arrows {
        let table = allowed.get(from.as_str()).copied().unwrap_or_default();
        let for_tests = *test_only && to == FOR_TESTS && from != FOR_TESTS;
        if !table.contains(&to.as_str()) && !for_tests {
            let what = if *test_only { "the tests of " } else { "" };
            complaints.push(format!("{what}{from} must not know {to}"));
        }
    }
    complaints
}

#[test]
fn crates_know_only_what_the_house_lets_them() {
    let metadata = metadata();
    let found: BTreeSet<&str> = metadata.packages.iter().map(|package| package.name.as_str()).collect();
    let named: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, named, "the crates of the workspace are those of the table");
    assert_none(&forbidden(&arrows(&metadata)));
}

#[test]
fn a_forbidden_arrow_is_seen() {
    let arrow = |from: &str, to: &str, test_only| Arrow { from: from.into(), to: to.into(), test_only };
    let arrows = BTreeSet::from([
        arrow("egress", "sandbox", false),
        arrow("egress", "testkit", true),
        arrow("mothership", "nexusd", true),
        arrow("nexusd", "sandbox", false),
        arrow("nexusd", "testkit", false),
        arrow("stranger", "conduits", false),
    ]);
    assert_eq!(
        forbidden(&arrows),
        [
            "egress must not know sandbox",
            "the tests of mothership must not know nexusd",
            "nexusd must not know testkit",
            "stranger must not know conduits",
        ]
    );
}

/// What a crate links and what builds it, tests apart.
fn linked_by(metadata: &Metadata, name: &str) -> Vec<String> {
    let package = metadata.packages.iter().find(|package| package.name.as_str() == name).unwrap();
    let linked = package.dependencies.iter().filter(|dependency| dependency.kind != DependencyKind::Development);
    linked.map(|dependency| dependency.name.clone()).collect()
}

#[test]
fn the_contract_does_no_io() {
    let linked = linked_by(&metadata(), "conduits");
    assert!(linked.contains(&"serde".to_owned()), "the look-up found the crate: {linked:?}");
    let io: Vec<_> = linked.iter().filter(|name| NOT_IN_THE_CONTRACT.contains(&name.as_str())).collect();
    assert!(io.is_empty(), "conduits links {io:?}");
}

#[test]
fn the_helper_inside_sandboxes_has_no_dependencies() {
    assert_eq!(linked_by(&metadata(), "guest"), Vec::<String>::new());
}

/// The feature by which tests leave layers of the sandbox out.
const KNOCKOUT: &str = "knockout";

#[test]
fn no_crate_can_be_built_with_layers_of_the_sandbox_left_out() {
    let metadata = metadata();
    let sandbox = metadata.packages.iter().find(|package| package.name.as_str() == "sandbox").unwrap();
    assert_eq!(sandbox.features.get(KNOCKOUT), Some(&Vec::new()), "the control: there is such a feature");
    let mut complaints = Vec::new();
    for package in &metadata.packages {
        let by_feature = package.features.iter().flat_map(|(name, enables)| enables.iter().map(move |on| (name, on)));
        complaints.extend(by_feature.filter(|(_, on)| on.contains(KNOCKOUT)).map(|(name, on)| format!("{name}: {on}")));
        let by_dependency = package.dependencies.iter().filter(|dependency| dependency.name == "sandbox");
        let named = by_dependency.filter(|dependency| dependency.features.iter().any(|on| on == KNOCKOUT));
        complaints.extend(named.map(|_| format!("{} builds sandbox with {KNOCKOUT}", package.name)));
    }
    assert_none(&complaints);
    // Nor by a switch of the house's own: only the report's script names it.
    for file in ["Makefile", ".ci/run", "tools/test.sh", "tools/build-release.sh"] {
        assert!(!text_of(file).contains("--all-features"), "{file}");
        assert!(!text_of(file).contains(&format!("features {KNOCKOUT}")), "{file}");
    }
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let without = |(name, _): &(&str, &[&str])| {
        let manifest = text_of(&format!("crates/{name}/Cargo.toml"));
        let lints =
            manifest.split("[lints]").nth(1).is_some_and(|rest| rest.trim_start().starts_with("workspace = true"));
        (!lints).then(|| format!("crates/{name}/Cargo.toml: no `[lints] workspace = true`"))
    };
    assert_none(&ALLOWED.iter().filter_map(without).collect::<Vec<_>>());
}
