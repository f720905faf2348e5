//! The units of systemd that are shipped: what they say is read here as systemd reads it, and held against the rules.

mod chroot;
mod deb;
mod install;
mod launchd;
mod manual;
mod release;
mod rules;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nexusd::config::{Config, Platform, parse_duration};
use testkit::require;

use chroot::Chroot;
use rules::{FORBIDDEN, REQUIRED, Rule, Wanted};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nexus-linux/packaging/systemd").join(name)
}

/// One of the two programs as the tests were built with it.
fn program(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_nexusd")).with_file_name(name)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What systemd says against a unit that is installed in a root of its own, to which this machine lends the rest of a systemd.
fn verified(chroot: &Chroot, unit: &str) -> Vec<String> {
    let output = chroot.beside(&format!(
        "for dir in /usr/bin /usr/lib/systemd/system; do \
         mount -t overlay overlay -o \"lowerdir=$ROOT$dir:$dir\" \"$ROOT$dir\" || exit; done; \
         systemd-analyze verify --man=no --root=\"$ROOT\" {unit}"
    ));
    assert!(output.status.code().is_some_and(|code| code < 2), "{output:?}");
    said(&output).lines().map(str::to_owned).collect()
}

/// The settings of one section, in order; a setting may stand there several times.
fn settings(unit: &str, section: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in unit.replace("\\\n", " ").lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == format!("[{section}]");
        } else if inside
            && !line.starts_with(['#', ';'])
            && let Some((name, value)) = line.split_once('=')
        {
            found.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    found
}

/// What the unit says last about a setting.
fn value<'a>(settings: &'a [(String, String)], name: &str) -> Option<&'a str> {
    settings.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn is_off(value: &str) -> bool {
    ["", "no", "false", "off", "0"].contains(&value.to_lowercase().as_str())
}

/// Everything in which the settings break the rules, in words.
fn complaints(settings: &[(String, String)]) -> Vec<String> {
    let mut complaints = Vec::new();
    for Rule { setting, wanted, why } in FORBIDDEN.iter().chain(REQUIRED) {
        let lines: Vec<&str> =
            settings.iter().filter(|(name, _)| name == setting).map(|(_, value)| value.as_str()).collect();
        let kept = match wanted {
            Wanted::Off => lines.iter().all(|value| is_off(value)),
            Wanted::Absent => lines.is_empty(),
            Wanted::NotWithin(place) => lines.iter().all(|value| {
                !value.split_whitespace().any(|path| path.trim_start_matches(['-', '+']).starts_with(place))
            }),
            Wanted::NotNegative => lines.iter().all(|value| !value.starts_with('-')),
            Wanted::Exactly(text) => lines.last() == Some(text),
            Wanted::Words(words) => {
                let given: Vec<&str> = lines.iter().flat_map(|value| value.split_whitespace()).collect();
                lines.is_empty() || words.iter().all(|word| given.contains(word))
            }
            Wanted::TakesAwayOnly(words) => lines.iter().all(|value| {
                let taken = value.strip_prefix('~').unwrap_or(value);
                value.starts_with('~') && taken.split_whitespace().all(|word| words.contains(&word))
            }),
        };
        if !kept {
            complaints.push(format!("{setting}={}: {why}", lines.last().unwrap_or(&"(absent)")));
        }
    }
    complaints
}

fn service(name: &str) -> Vec<(String, String)> {
    settings(&fs::read_to_string(shipped(name)).unwrap(), "Service")
}

#[test]
fn the_daemon_s_unit_keeps_every_rule() {
    let unit = service("nexusd.service");
    assert_eq!(value(&unit, "Type"), Some("notify"), "the unit was read");
    assert_eq!(complaints(&unit), Vec::<String>::new());
    // A drop-in adds to the unit, and what it says last counts.
    let with_root = [unit, service("nexusd-as-root.conf")].concat();
    assert_eq!(value(&with_root, "User"), Some("root"));
    assert_eq!(complaints(&with_root), Vec::<String>::new());
}

#[test]
fn each_rule_bites() {
    let unit = service("nexusd.service");
    for Rule { setting, wanted, .. } in FORBIDDEN.iter().chain(REQUIRED) {
        let broken = match wanted {
            Wanted::Off => "yes",
            Wanted::Absent => "@system-service",
            Wanted::NotWithin(place) => place,
            Wanted::NotNegative => "-500",
            Wanted::Exactly(_) => "something else",
            Wanted::Words(_) => "",
            Wanted::TakesAwayOnly(_) => "~@clock @debug",
        };
        let mut changed: Vec<(String, String)> = unit.iter().filter(|(name, _)| name != setting).cloned().collect();
        changed.push(((*setting).to_owned(), broken.to_owned()));
        let found = complaints(&changed);
        assert!(found.len() == 1 && found[0].starts_with(setting), "{setting}={broken}: {found:?}");
        if matches!(wanted, Wanted::Exactly(_)) {
            changed.pop();
            assert_eq!(complaints(&changed).len(), 1, "{setting} is absent");
        }
    }
}

/// What the earlier implementation's unit had: every run with a limit was refused or unlimited, and JITs were killed.
#[test]
fn the_hardening_that_broke_sandboxes_before_is_refused() {
    let unit = "[Unit]\nDescription=x\n[Service]\nType=exec\nNoNewPrivileges=yes\nProtectControlGroups = true\n\
                MemoryDenyWriteExecute=on\n# Delegate=yes\nRestrictNamespaces=yes\nProtectKernelTunables=1\n";
    let found = complaints(&settings(unit, "Service"));
    for setting in ["ProtectControlGroups", "MemoryDenyWriteExecute", "Delegate", "RestrictNamespaces"] {
        assert!(found.iter().any(|line| line.starts_with(&format!("{setting}="))), "{setting}: {found:#?}");
    }
}

#[test]
fn systemd_waits_longer_than_the_daemon_takes_to_stop() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.yaml");
    fs::write(&path, "name: default\n").unwrap();
    let config = Config::load(&path, Platform::Linux, &|_| None).unwrap();
    let longest = config.shutdown_timeout.unwrap()
        + nexusd::directive::stop::CANCEL_GRACE
        + nexusd::directive::SHIP_WITHIN
        + nexusd::daemon::FLUSH_WITHIN;
    let unit = service("nexusd.service");
    let waits = parse_duration(value(&unit, "TimeoutStopSec").unwrap()).unwrap();
    assert!(waits >= longest + Duration::from_secs(5), "TimeoutStopSec is {waits:?}, the daemon may take {longest:?}");
}

#[test]
fn the_units_agree_with_the_daemon_and_its_documents() {
    let unit = service("nexusd.service");
    let example = nexusd::config::example_config(Platform::Linux);
    assert!(value(&unit, "ExecStart").unwrap().ends_with("nexusd -config /etc/nexusd/config.yaml"));
    // The folder that systemd makes and leaves writable is that of the example's work_dir.
    let state = format!("/var/lib/{}", value(&unit, "StateDirectory").unwrap());
    assert!(example.contains(&format!("work_dir: \"{state}/")), "{state}");
    // limits.nofile is refused above this, and an ordinary user cannot go beyond the unit's limit.
    assert_eq!(value(&unit, "LimitNOFILE"), Some("1048576"));
    for (name, file) in [("nexusd", "nexusd.service"), ("mothership", "mothership.service")] {
        assert_eq!(value(&service(file), "User"), Some(name));
        let users = fs::read_to_string(shipped(&format!("{name}.sysusers.conf"))).unwrap();
        assert!(users.lines().any(|line| line.starts_with(&format!("u {name} "))), "{name}: {users}");
        let sandbox = users.lines().any(|line| line.starts_with("u nexus-sandbox "));
        assert_eq!(sandbox, name == "nexusd", "{users}");
    }
}

/// systemd's own measure of what a service could do to its machine, from 0 (nothing) to 10.
fn exposure(unit: &Path) -> f64 {
    let output = Command::new("systemd-analyze").args(["security", "--offline=true", "--no-pager"]).arg(unit).output();
    let report = String::from_utf8(output.unwrap().stdout).unwrap();
    let (_, last) = report.rsplit_once("Overall exposure level for ").unwrap();
    last.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_units_leave_little_exposed() {
    require!(Systemd);
    for (name, line) in
        [("nexusd.service", "\nProtectSystem=strict"), ("mothership.service", "\nCapabilityBoundingSet=")]
    {
        let found = exposure(&shipped(name));
        assert!(found < 4.0, "{name}: {found}");
        // Control: a line less is more.
        let dir = tempfile::tempdir().unwrap();
        let changed = dir.path().join(name);
        fs::write(&changed, fs::read_to_string(shipped(name)).unwrap().replace(line, "")).unwrap();
        assert!(exposure(&changed) > found, "{name} without {line}");
    }
}

#[test]
fn systemd_understands_every_line() {
    require!(Systemd);
    let dir = tempfile::tempdir().unwrap();
    for name in ["nexusd.service", "mothership.service"] {
        let text = fs::read_to_string(shipped(name)).unwrap();
        // It looks for the program, which is not installed here.
        let text = text.replace("ExecStart=/usr/local/bin/", "ExecStart=/usr/bin/env ");
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let verify = |path: &Path| {
            let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(path).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            // It reads the machine's other units too, and says what is wrong with those.
            said.lines().filter(|line| line.contains(name)).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(verify(&path), Vec::<String>::new());
        let slip = fs::read_to_string(&path).unwrap().replace("\nUMask=", "\nUmask=");
        fs::write(&path, slip).unwrap();
        assert!(verify(&path).iter().any(|line| line.contains("Umask")), "a slip is seen");
    }
}
