//! The agent for launchd: read by Python as launchd reads it, and held against what the daemon needs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nexusd::config::{Config, Platform};
use serde_json::{Value, json};
use testkit::require;

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../nexus-macos/packaging/launchd");
const NAME: &str = "org.cybros.nexusd";

/// A property list as JSON, or what is wrong with it.
fn read(text: &str) -> Result<Value, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.plist");
    std::fs::write(&path, text).unwrap();
    let script = "import json, plistlib, sys; json.dump(plistlib.load(open(sys.argv[1], 'rb')), sys.stdout)";
    let output = Command::new("python3").args(["-c", script]).arg(path).output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

fn shipped() -> String {
    std::fs::read_to_string(Path::new(FOLDER).join(format!("{NAME}.plist"))).unwrap()
}

/// Everything that is wrong with an agent for a daemon that takes `longest` to stop and needs `files` open.
fn complaints(agent: &Value, longest: Duration, files: u64) -> Vec<String> {
    let mut wrong = Vec::new();
    for (key, wanted, why) in [
        ("Label", json!(NAME), "launchctl's name of it is that of its file"),
        ("RunAtLoad", json!(true), "it is there from the login on"),
        ("KeepAlive", json!({ "SuccessfulExit": false }), "a crash starts it again, an order to stop does not"),
        ("LimitLoadToSessionType", json!("Aqua"), "without a desktop there is nothing to automate"),
        ("Umask", json!(0o077), "its files are nobody else's"),
    ] {
        if agent[key] != wanted {
            wrong.push(format!("{key}: {why}"));
        }
    }
    // What takes the daemon to the background, its standard error away, or more rights than its user has.
    for key in ["inetdCompatibility", "Debug", "WaitForDebugger", "UserName", "RootDirectory", "EnableTransactions"] {
        if !agent[key].is_null() {
            wrong.push(format!("{key}: is not for an agent that runs in the foreground"));
        }
    }
    let words: Vec<&str> =
        agent["ProgramArguments"].as_array().into_iter().flatten().map(|word| word.as_str().unwrap_or("")).collect();
    let [program, "-config", config] = words[..] else {
        wrong.push(format!("ProgramArguments: {words:?}"));
        return wrong;
    };
    let log = agent["StandardErrorPath"].as_str().unwrap_or("");
    for path in [program, config, log] {
        if !path.starts_with('/') || path.contains(['~', '$']) {
            wrong.push(format!("{path}: launchd wants absolute paths and expands nothing"));
        }
    }
    if agent["ExitTimeOut"].as_u64().is_none_or(|seconds| Duration::from_secs(seconds) < longest) {
        wrong.push(format!("ExitTimeOut: the daemon may take {longest:?}"));
    }
    for key in ["SoftResourceLimits", "HardResourceLimits"] {
        if agent[key]["NumberOfFiles"].as_u64().is_none_or(|limit| limit < files) {
            wrong.push(format!("{key}: limits.nofile is {files}"));
        }
    }
    wrong
}

fn config() -> Config {
    Config::built_in(Platform::Macos, &|_| None).unwrap()
}

fn longest() -> Duration {
    config().shutdown_timeout.unwrap()
        + nexusd::directive::stop::CANCEL_GRACE
        + nexusd::directive::SHIP_WITHIN
        + nexusd::daemon::FLUSH_WITHIN
        + Duration::from_secs(5)
}

#[test]
fn the_agent_keeps_every_rule() {
    require!(Python);
    let nofile = config().limits.nofile.value;
    let agent = read(&shipped()).unwrap();
    assert_eq!(complaints(&agent, longest(), nofile), Vec::<String>::new());
    // Control: each rule sees what breaks it.
    for (key, broken) in [
        ("Label", json!("nexusd")),
        ("RunAtLoad", json!(false)),
        ("KeepAlive", json!(true)),
        ("LimitLoadToSessionType", json!("Background")),
        ("Umask", json!(18)),
        ("UserName", json!("root")),
        ("ProgramArguments", json!(["nexusd"])),
        ("ProgramArguments", json!(["/usr/local/bin/nexusd", "-config", "~/config.yaml"])),
        ("StandardErrorPath", Value::Null),
        ("ExitTimeOut", json!(20)),
        ("SoftResourceLimits", json!({ "NumberOfFiles": 256 })),
        ("HardResourceLimits", Value::Null),
    ] {
        let mut changed = agent.clone();
        changed[key] = broken;
        assert_eq!(complaints(&changed, longest(), nofile).len(), 1, "{key}");
    }
    assert!(read(&shipped().replace("</dict>", "")).is_err(), "a slip is seen");
}

#[test]
fn its_documents_name_it() {
    let read = std::fs::read_to_string(Path::new(FOLDER).join("README.md")).unwrap();
    assert!(read.contains(&format!("launchctl bootstrap gui/$(id -u) ~/Library/LaunchAgents/{NAME}.plist")));
    // The one placeholder, and what replaces it.
    assert!(read.contains("sed \"s|/Users/YOU|$HOME|\"") && shipped().contains("/Users/YOU/"));
}
