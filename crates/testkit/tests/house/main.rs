//! The rules of the house that no compiler and no lint checks: which crate may know which, what the sources may hold,
//! and that the documents name files, commands and headings that exist.
//!
//! Each rule is a pure function from what was found to a list of complaints, so that beside every test over the real
//! tree stands one that shows the rule biting.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod direction;
mod documents;
mod sources;

use std::fs;
use std::path::{Path, PathBuf};

/// The top folder of the repository.
fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// The files beneath `folder` whose names end with `ending`, as paths relative to the top folder, sorted. What is built
/// or hidden is left out.
fn files_beneath(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![top().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && !name.starts_with('.') && name != "target" && name != "dist" {
                folders.push(entry.path());
            } else if kind.is_file() && name.ends_with(ending) {
                let path = entry.path().strip_prefix(top()).unwrap().to_path_buf();
                found.push(path.into_os_string().into_string().unwrap());
            }
        }
    }
    found.sort();
    found
}

fn text_of(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap()
}

/// Fails with every complaint on a line of its own.
#[track_caller]
fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
