//! The cases as a table: docs/conformance.md.

use std::fmt::Write as _;

use super::{Setting, all};

const HEAD: &str = "# Conformance

A directive means the same wherever it runs. Each row is a case that `make test` runs against every driver; ✓ is the promise
in the second column, and where a driver cannot have that, the cell says what it has instead. The test that checks the cells
fails when this file is not what the cases say (write it anew: `NEXUS_WRITE_DOCS=1 cargo test -p nexusd --test it conformance`).

";

fn table() -> String {
    let mut text = HEAD.to_owned();
    let names: Vec<_> = Setting::ALL.iter().map(|setting| setting.name()).collect();
    writeln!(text, "| case | promise | {} |", names.join(" | ")).unwrap();
    writeln!(text, "|---|---|{}", "---|".repeat(names.len())).unwrap();
    for case in all() {
        let cell = |setting: &Setting| {
            let of = |setting| case.instead.iter().find(|(of, _)| *of == setting).map(|(_, instead)| *instead);
            of(*setting).or_else(|| of(setting.like())).unwrap_or("✓")
        };
        let cells: Vec<_> = Setting::ALL.iter().map(cell).collect();
        writeln!(text, "| {} | {} | {} |", case.name, case.promise, cells.join(" | ")).unwrap();
    }
    text
}

#[test]
fn the_table_is_what_the_cases_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/conformance.md");
    if std::env::var_os("NEXUS_WRITE_DOCS").is_some() {
        std::fs::write(path, table()).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == table(), "docs/conformance.md is not what the cases say: NEXUS_WRITE_DOCS=1 writes it");
    assert!(all().count() >= 40, "{} cases", all().count());
}
