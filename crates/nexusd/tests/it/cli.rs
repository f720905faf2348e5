//! The command line as another crate sees it: one value for each way to call the program.

use std::ffi::OsString;

use nexusd::cli::{Invocation, parse};
use nexusd::config::{Config, ConfigSource, Platform, example_config};

fn words(line: &str) -> Vec<OsString> {
    std::iter::once("nexusd").chain(line.split_whitespace()).map(OsString::from).collect()
}

/// The guide's own command lines.
#[test]
fn every_command_of_the_guide_is_understood() {
    for line in [
        "-doctor",
        "-config config.yaml",
        "-config config.yaml -enroll-token T -enroll-with-csr=true -enroll-out-dir ./nexus-credentials",
        "-version",
    ] {
        assert!(parse(words(line), Platform::Linux).is_ok(), "{line}");
    }
}

/// `config example` and `config check` agree with each other, through a file.
#[test]
fn the_example_that_is_printed_passes_the_check() {
    let dir = tempfile::tempdir().unwrap();
    for (platform, name) in [(Platform::Linux, "linux"), (Platform::Macos, "macos")] {
        let line = format!("config example --platform {name}");
        assert_eq!(parse(words(&line), Platform::Linux), Ok(Invocation::ConfigExample { platform }));
        let path = dir.path().join("config.yaml");
        std::fs::write(&path, example_config(platform)).unwrap();
        let line = format!("config check -config {}", path.display());
        let config = ConfigSource { path: path.clone(), named: true };
        assert_eq!(parse(words(&line), Platform::Linux), Ok(Invocation::ConfigCheck { config }));
        let config = Config::load(&path, platform, &|_| Some("/root".to_owned())).unwrap();
        assert!(config.warnings.is_empty());
    }
}

/// An argument that is not UTF-8 is an error, never a panic.
#[test]
fn arguments_of_any_bytes_are_answered() {
    use std::os::unix::ffi::OsStringExt;
    for bytes in [&b"-\xff\xfe"[..], b"--config=\xff", b"-enroll-token=\xff", b"run", b"\xff"] {
        let args = [OsString::from("nexusd"), OsString::from_vec(bytes.to_vec())];
        if let Err(usage) = parse(args, Platform::Linux) {
            assert_eq!(usage.code, 2);
        }
    }
}
