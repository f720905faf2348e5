//! What the source files may hold, as far as it can be read off their lines.

use crate::{assert_none, files_beneath, text_of};

/// Something that only certain files may hold.
struct Reserved {
    /// Any of these on a line that is no comment.
    words: &'static [&'static str],
    /// The beginnings or endings of the paths that may hold it.
    to: fn(&str) -> bool,
    why: &'static str,
}

const RESERVED: &[Reserved] = &[
    Reserved {
        words: &["allow(unsafe_code", "expect(unsafe_code"],
        // This file names the words, to look for them.
        to: |path| {
            ["crates/sys/", "crates/guest/", "crates/testkit/tests/house/"].iter().any(|place| path.starts_with(place))
        },
        why: "unsafe code lives in sys and guest",
    },
    Reserved {
        words: &["anyhow::", "use anyhow"],
        to: |path| path.ends_with("/src/main.rs") || is_test(path),
        why: "errors are enums of their module; only main.rs gathers them",
    },
    Reserved {
        words: &["process::exit(", "process::abort("],
        to: |path| path.ends_with("/src/main.rs") || path.starts_with("crates/guest/") || is_test(path),
        why: "only main.rs ends the process",
    },
    Reserved {
        words: &["env::var(", "env::var_os(", "env::vars("],
        to: |path| {
            path.ends_with("/src/main.rs")
                || path.ends_with("/build.rs")
                || path.starts_with("crates/testkit/")
                || is_test(path)
        },
        why: "only main.rs reads the environment",
    },
];

fn is_test(path: &str) -> bool {
    ["/tests/", "/benches/"].iter().any(|folder| path.contains(folder))
        || path.ends_with("/tests.rs")
        || path.ends_with("_tests.rs")
}

fn complaints(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    if path.ends_with("/mod.rs") {
        complaints.push(format!("{path}: a module `foo` lives in foo.rs, its parts in foo/"));
    }
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
        for Reserved { words, to, why } in RESERVED {
            if words.iter().any(|word| line.contains(word)) && !to(path) {
                complaints.push(format!("{path}:{}: {why}", number + 1));
            }
        }
    }
    complaints
}

#[test]
fn reserved_things_stay_where_they_belong() {
    let files = files_beneath("crates", ".rs");
    assert!(files.contains(&"crates/conduits/src/lib.rs".to_owned()), "the walk found the sources");
    let all: Vec<String> = files.iter().flat_map(|path| complaints(path, &text_of(path))).collect();
    assert_none(&all);
}

#[test]
fn a_thing_out_of_place_is_seen() {
    let text = "//! anyhow::Result is not used\nfn f() -> anyhow::Result<()> { std::process::exit(1) }\n";
    assert_eq!(
        complaints("crates/nexusd/src/poll.rs", text),
        [
            "crates/nexusd/src/poll.rs:2: errors are enums of their module; only main.rs gathers them",
            "crates/nexusd/src/poll.rs:2: only main.rs ends the process",
        ]
    );
    assert_eq!(complaints("crates/nexusd/src/main.rs", text), Vec::<String>::new());
    assert_eq!(
        complaints("crates/egress/src/wire/mod.rs", "#![allow(unsafe_code)]"),
        [
            "crates/egress/src/wire/mod.rs: a module `foo` lives in foo.rs, its parts in foo/",
            "crates/egress/src/wire/mod.rs:1: unsafe code lives in sys and guest",
        ]
    );
}
