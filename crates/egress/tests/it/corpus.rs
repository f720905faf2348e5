//! The corpora of the fuzz targets, replayed: each input that ever showed something goes through its parser's check.

use std::path::Path;

#[path = "../../../../fuzz/checks.rs"]
#[expect(unreachable_pub, reason = "a library of its own where it is fuzzed")]
mod checks;

/// Each has a corpus worth the name.
const LEAST_INPUTS: usize = 4;

#[test]
fn every_input_of_every_target_passes_its_check() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut folders: Vec<String> =
        std::fs::read_dir(&corpora).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    folders.sort_unstable();
    let mut names: Vec<&str> = checks::CHECKS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(folders, names, "a folder for each target");
    for (name, check) in checks::CHECKS {
        let mut inputs = 0;
        for entry in std::fs::read_dir(corpora.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let outcome = std::panic::catch_unwind(|| check(&bytes));
            assert!(outcome.is_ok(), "{}", path.display());
            inputs += 1;
        }
        assert!(inputs >= LEAST_INPUTS, "{name} has {inputs} inputs");
    }
}

/// A check that notices nothing would make all of this worthless.
#[test]
fn the_checks_can_fail() {
    use egress::wire::host::Destination;
    let bad = Destination { host: "a.test".parse().unwrap(), port: 0 };
    assert!(std::panic::catch_unwind(|| checks::destination(&bad)).is_err());
    assert!(std::panic::catch_unwind(|| checks::well_formed(b"GET / HTTP/1.1\r\nA: b\nc\r\n\r\n")).is_err());
    assert!(std::panic::catch_unwind(|| checks::settles(b"ab", |bytes| Some(bytes.len()))).is_err());
}
