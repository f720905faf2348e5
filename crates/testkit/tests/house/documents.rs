//! The documents name real things: every relative link leads to a file (and to a heading in it), every path of this
//! repository in backquotes exists, every `make target` is one.

use std::collections::BTreeSet;

use crate::{assert_none, files_beneath, text_of, top};

/// The folders whose names, at the beginning of a word in backquotes, make it a path of this repository.
const FOLDERS: &[&str] = &["crates/", "docs/", "tools/", "nexus-linux/", "nexus-macos/", ".ci/", ".config/"];

/// What a document refers to.
#[derive(Debug, Default, PartialEq, Eq)]
struct References {
    links: BTreeSet<String>,
    paths: BTreeSet<String>,
    targets: BTreeSet<String>,
}

/// Reads a document's prose; what stands in fenced blocks is output and examples, but for the `make` commands in it.
fn references(text: &str) -> References {
    let mut found = References::default();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            if let Some(command) = line.trim_start().trim_start_matches("$ ").strip_prefix("make ") {
                found.targets.extend(first_word(command));
            }
            continue;
        }
        for (index, piece) in line.split('`').enumerate() {
            if index % 2 == 1 {
                if FOLDERS.iter().any(|folder| piece.starts_with(folder)) && !piece.contains(['*', '<', '…', ' ', '{'])
                {
                    found.paths.insert(piece.trim_end_matches('/').to_owned());
                }
                if let Some(command) = piece.strip_prefix("make ") {
                    found.targets.extend(first_word(command));
                }
            }
        }
        for piece in line.split("](").skip(1) {
            let link = piece.split(')').next().unwrap_or_default();
            if !link.contains("://") && !link.starts_with("mailto:") {
                found.links.insert(link.to_owned());
            }
        }
    }
    found
}

fn first_word(command: &str) -> Option<String> {
    command.split([' ', '`', '#']).next().filter(|word| !word.is_empty()).map(str::to_owned)
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| kept(*c))
        .collect::<String>()
        .replace(' ', "-")
}

fn anchors(text: &str) -> BTreeSet<String> {
    text.lines().filter(|line| line.starts_with('#')).map(anchor).collect()
}

fn complaints(document: &str, found: &References, targets: &BTreeSet<String>) -> Vec<String> {
    let folder = top().join(document).parent().unwrap().to_path_buf();
    let mut complaints = Vec::new();
    for link in &found.links {
        let (path, heading) = link.split_once('#').unwrap_or((link, ""));
        let file = if path.is_empty() { top().join(document) } else { folder.join(path) };
        if !file.exists() {
            complaints.push(format!("{document}: the link to {link} leads nowhere"));
        } else if !heading.is_empty() && !anchors(&std::fs::read_to_string(&file).unwrap()).contains(heading) {
            complaints.push(format!("{document}: {path} has no heading for {link}"));
        }
    }
    for path in found.paths.iter().filter(|path| !top().join(path).exists()) {
        complaints.push(format!("{document}: there is no {path}"));
    }
    for target in found.targets.difference(targets) {
        complaints.push(format!("{document}: the Makefile has no target {target}"));
    }
    complaints
}

fn make_targets() -> BTreeSet<String> {
    let makefile = text_of("Makefile");
    makefile
        .lines()
        .filter(|line| line.contains(":") && line.contains("## "))
        .filter_map(|line| line.split(':').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn documents_name_what_exists() {
    let documents = files_beneath("", ".md");
    assert!(documents.contains(&"README.md".to_owned()), "the walk found the documents: {documents:?}");
    let targets = make_targets();
    assert!(targets.contains("demo"), "the Makefile was read: {targets:?}");
    let all: Vec<String> =
        documents.iter().flat_map(|document| complaints(document, &references(&text_of(document)), &targets)).collect();
    assert_none(&all);
}

#[test]
fn a_name_of_nothing_is_seen() {
    let text = "# A title\n[here](#a-title) [there](#b-title) [file](Makefile) [none](no/file.md) [web](https://x.example/)\n\
                `crates/conduits` `crates/nothing.rs` `crates/<name>/src` `make demo KEEP=1` `make coffee`\n\
                ```sh\nmake test    # everything\n[x](nowhere)\nmake tea\n```\n";
    let found = references(text);
    assert_eq!(found.targets, ["demo", "coffee", "test", "tea"].map(String::from).into());
    // A document that exists, so that its folder does; the headings are its own.
    assert_eq!(
        complaints("Makefile", &found, &["demo", "test"].map(String::from).into()),
        [
            "Makefile:  has no heading for #a-title",
            "Makefile:  has no heading for #b-title",
            "Makefile: the link to no/file.md leads nowhere",
            "Makefile: there is no crates/nothing.rs",
            "Makefile: the Makefile has no target coffee",
            "Makefile: the Makefile has no target tea",
        ]
    );
    assert_eq!(anchors("# A title, with `code`\ntext\n## B"), ["a-title-with-code", "b"].map(String::from).into());
}
