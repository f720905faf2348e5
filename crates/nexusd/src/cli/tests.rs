//! Every form of the command line, and the texts that an operator meets.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use conduits::{NetMode, SandboxProfile};

use super::*;
use crate::config::{ConfigSource, Platform};
use crate::enroll::KeyKind;

fn read(line: &[&str]) -> Result<Invocation, Usage> {
    let args = std::iter::once("nexusd").chain(line.iter().copied()).map(OsString::from);
    parse(args, Platform::Linux)
}

fn words(line: &str) -> Result<Invocation, Usage> {
    read(&line.split_whitespace().collect::<Vec<_>>())
}

fn source(path: Option<&str>) -> ConfigSource {
    ConfigSource { path: PathBuf::from(path.unwrap_or("config.yaml")), named: path.is_some() }
}

#[test]
fn the_guides_flags_and_the_subcommands_mean_the_same() {
    let doctor = |json| Invocation::Doctor { config: source(Some("x.yaml")), json, prove: false };
    let table = [
        ("", Invocation::Daemon { config: source(None) }),
        ("-config x.yaml", Invocation::Daemon { config: source(Some("x.yaml")) }),
        ("-config=x.yaml", Invocation::Daemon { config: source(Some("x.yaml")) }),
        ("--config x.yaml", Invocation::Daemon { config: source(Some("x.yaml")) }),
        ("--config=x.yaml", Invocation::Daemon { config: source(Some("x.yaml")) }),
        ("-version", Invocation::Version),
        ("--version", Invocation::Version),
        ("-V", Invocation::Version),
        ("-doctor", Invocation::Doctor { config: source(None), json: false, prove: false }),
        ("-doctor -config x.yaml", doctor(false)),
        ("-doctor=true -config=x.yaml --json", doctor(true)),
        ("-doctor=false", Invocation::Daemon { config: source(None) }),
        ("doctor --json --config x.yaml", doctor(true)),
        ("-config x.yaml doctor", doctor(false)),
        ("doctor -config x.yaml -json", doctor(true)),
        ("rootfs ensure", Invocation::RootfsEnsure { config: source(None) }),
        ("config check -config x.yaml", Invocation::ConfigCheck { config: source(Some("x.yaml")) }),
        ("config example", Invocation::ConfigExample { platform: Platform::Linux }),
        ("config example --platform macos", Invocation::ConfigExample { platform: Platform::Macos }),
        ("completions bash", Invocation::Completions { shell: clap_complete::Shell::Bash }),
        ("man /x", Invocation::Manual { dir: "/x".into() }),
    ];
    for (line, expected) in table {
        assert_eq!(words(line), Ok(expected), "{line}");
    }
}

#[test]
fn enrolment_in_both_styles() {
    let enroll = |token: TokenSource, with_csr: bool, out_dir: &str, force: bool| {
        Ok(Invocation::Enroll(EnrollArgs {
            config: source(Some("c")),
            token,
            with_csr,
            key: KeyKind::EcdsaP256,
            out_dir: PathBuf::from(out_dir),
            name: None,
            ca_file: None,
            force,
        }))
    };
    let argument = |text: &str| TokenSource::Argument(text.to_owned());
    let out = "./nexus-credentials";
    let table = [
        (
            "-config c -enroll-token T -enroll-with-csr=true -enroll-out-dir ./d",
            enroll(argument("T"), true, "./d", false),
        ),
        ("-config c -enroll-token=T -enroll-with-csr", enroll(argument("T"), true, out, false)),
        ("-config c --enroll-token T --enroll-with-csr=false --force", enroll(argument("T"), false, out, true)),
        // base64url tokens may begin with a dash.
        ("-config c -enroll-token -T-", enroll(argument("-T-"), true, out, false)),
        ("-config c -enroll-token -", enroll(TokenSource::StandardInput, true, out, false)),
        ("-config c --enroll-token-file f", enroll(TokenSource::File("f".into()), true, out, false)),
        ("-config c --enroll-token-file -", enroll(TokenSource::StandardInput, true, out, false)),
        ("enroll -config c --token T --with-csr=false", enroll(argument("T"), false, out, false)),
        ("enroll -config c -enroll-token T -enroll-out-dir d --force", enroll(argument("T"), true, "d", true)),
        ("enroll -config c --token-file -", enroll(TokenSource::StandardInput, true, out, false)),
    ];
    for (line, expected) in table {
        assert_eq!(words(line), expected, "{line}");
    }
}

#[test]
fn debug_output_never_shows_a_token() {
    let shown = format!("{:?}", words("-enroll-token hunter2").unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn run_takes_everything_after_the_dashes_as_it_is() {
    let line = [
        "run",
        "-profile",
        "host",
        "--allow",
        "Example.com:443",
        "-allow=example.com:443",
        "--timeout",
        "1m30s",
        "--json",
        "--env",
        "A=b=c",
        "-facility",
        "w",
        "--",
        "ls",
        "-config",
        "--",
        "-doctor",
        "it's",
        "",
    ];
    let Ok(Invocation::Run(run)) = read(&line) else { panic!("{:?}", read(&line)) };
    assert_eq!(run.profile, SandboxProfile::Host);
    assert_eq!(run.net, NetMode::Allowlist);
    assert_eq!(run.allow.iter().map(ToString::to_string).collect::<Vec<_>>(), ["example.com:443"]);
    assert_eq!(run.timeout, Some(Duration::from_secs(90)));
    assert_eq!(run.facility, Some(PathBuf::from("w")));
    assert!(run.json);
    assert_eq!(run.env.iter().map(|(k, v)| format!("{}:{v}", k.as_str())).collect::<Vec<_>>(), ["A:b=c"]);
    assert_eq!(run.script, r"ls -config -- -doctor 'it'\''s' ''");

    let Ok(Invocation::Run(run)) = read(&["run", "--", "echo $HOME; ls"]) else { panic!() };
    assert_eq!(
        (run.script.as_str(), run.net, run.profile),
        ("echo $HOME; ls", NetMode::None, SandboxProfile::Untrusted)
    );
    let Ok(Invocation::Run(run)) = read(&["run", "-net", "unrestricted", "--", "true"]) else { panic!() };
    assert_eq!(run.net, NetMode::Unrestricted);
}

#[test]
fn mistakes_exit_2_and_name_the_mend() {
    let table: [&[&str]; 22] = [
        &["-confg", "x"],
        &["-docter"],
        &["-config"],
        &["-doctor", "extra"],
        &["frob"],
        &["-enroll-out-dir", "d"],
        &["-enroll-token", "T", "-doctor"],
        &["-enroll-token", "T", "--enroll-token-file", "f"],
        &["-enroll-token", "T", "-enroll-with-csr=perhaps"],
        &["enroll"],
        &["--force", "enroll", "--token", "T"],
        &["--json"],
        &["run", "true"],
        &["run"],
        &["run", "--profile", "rooot", "--", "true"],
        &["run", "--profile", "darwin-automation", "--", "true"],
        &["run", "--allow", "1.2.3.4:443", "--", "true"],
        &["run", "--net", "allowlist", "--", "true"],
        &["run", "--net", "none", "--allow", "example.com:443", "--", "true"],
        &["run", "--timeout", "0s", "--", "true"],
        &["run", "--env", "LD_PRELOAD=x", "--", "true"],
        &["completions", "tcsh"],
    ];
    let mut shown = String::new();
    for line in table {
        let usage = read(line).unwrap_err();
        assert_eq!(usage.code, 2, "{line:?}");
        shown.push_str(&format!("$ nexusd {}\n{}\n", line.join(" "), usage.text));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn help() {
    // A fixed width: the real one follows the terminal.
    let mut shown = String::new();
    let mut root = command().term_width(100);
    root.build();
    shown.push_str(&root.render_long_help().to_string());
    for name in ["run", "doctor", "enroll", "rootfs", "config", "completions"] {
        let sub = root.find_subcommand_mut(name).unwrap();
        shown.push_str(&format!("\n──── nexusd {name}\n{}", sub.clone().term_width(100).render_long_help()));
    }
    insta::assert_snapshot!(shown);
    assert_eq!(read(&["--help"]).unwrap_err().code, 0);
    assert_eq!(read(&["-help"]).unwrap_err().code, 0);
    assert_eq!(read(&["-h"]).unwrap_err().code, 0);
}

#[test]
fn the_declaration_is_sound_and_completes() {
    command().debug_assert();
    let script = String::from_utf8(completions(clap_complete::Shell::Bash)).unwrap();
    assert!(script.contains("--enroll-out-dir"));
    assert!(version_line().starts_with("nexusd 0."));
}

#[test]
fn every_command_and_every_key_has_its_place_in_the_manual() {
    let pages = manual_pages();
    let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names.first(), names.last()), (Some(&"nexusd.1"), Some(&"nexusd.yaml.5")));
    for name in ["nexusd-run.1", "nexusd-config-check.1", "nexusd-rootfs-ensure.1"] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("-help")), "{names:?}");
    let keys = &pages.last().unwrap().1;
    for key in crate::config::keys::KEYS {
        assert!(keys.contains(&format!("\\fB{}\\fR: ", key.path)), "{}", key.path);
    }
}
