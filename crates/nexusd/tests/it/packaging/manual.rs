//! The manual pages and completions of both programs, as the packages take them: from the programs themselves.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::require;

use super::program;

/// What groff warns about, in words; a page with no complaint renders as it was meant.
fn warnings(pages: &[PathBuf]) -> String {
    let mut groff = Command::new("groff");
    groff.args(["-mandoc", "-Tutf8", "-Kutf8", "-rLL=80n", "-wmac", "-z"]).args(pages);
    let output = groff.output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn pages_of(name: &str, dir: &Path) -> Vec<PathBuf> {
    let output = Command::new(program(name)).arg("man").arg(dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut pages: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    pages
}

#[test]
fn every_page_renders_without_a_warning() {
    require!(Groff);
    for (name, least, first) in [("nexusd", 14, "nexusd.yaml.5"), ("mothership", 20, "mothership-run.1")] {
        let dir = tempfile::tempdir().unwrap();
        let pages = pages_of(name, dir.path());
        assert!(pages.len() >= least && pages.contains(&dir.path().join(first)), "{pages:?}");
        assert_eq!(warnings(&pages), "");
        // Control: a slip is seen.
        let slip = dir.path().join(first);
        let text = std::fs::read_to_string(&slip).unwrap().replacen(".SH NAME", ".SHH NAME", 1);
        std::fs::write(&slip, text).unwrap();
        assert!(warnings(&[slip]).contains("SHH"), "a slip is seen");
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    for name in ["nexusd", "mothership"] {
        let output = Command::new(program(name)).args(["man", "/nonexistent/folder"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("cannot write /nonexistent/folder/"), "{said}");
    }
}

#[test]
fn both_programs_complete_in_three_shells() {
    for name in ["nexusd", "mothership"] {
        for (shell, names_it) in [
            ("bash", format!("complete -F _{name}")),
            ("zsh", format!("#compdef {name}")),
            ("fish", format!("complete -c {name}")),
        ] {
            let output = Command::new(program(name)).args(["completions", shell]).output().unwrap();
            let script = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success() && script.contains(&names_it), "{name} {shell}: {script}");
        }
    }
}
