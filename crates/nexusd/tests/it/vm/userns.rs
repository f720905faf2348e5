//! User namespaces switched off: doctor, `nexusd run` and directives say so with the guide's words, and all of them mend
//! themselves when the command that they name has been run.

use std::process::{Command, Output};

use serde_json::json;
use testkit::require;
use testkit::wait::patient;

use super::machine::{Said, Setting, Unit, Who, daemon_in, stderr};
use crate::bed::{SOON, nexusd};

/// A setting that is switched off by 0, and the command that mends it.
const SWITCHES: [(&str, &str); 2] = [
    ("kernel.unprivileged_userns_clone", "sudo sysctl kernel.unprivileged_userns_clone=1"),
    ("user.max_user_namespaces", "sudo sysctl user.max_user_namespaces=15000"),
];

fn run(who: Who) -> Output {
    let dir = who.folder();
    let mut run = nexusd();
    run.args(["run", "--", "echo ran"]);
    who.command(run).current_dir(dir.path()).env("TMPDIR", dir.path()).output().unwrap()
}

/// Does what a message told, as root already.
fn obey(mend: &str) {
    let mut words = mend.strip_prefix("sudo ").unwrap().split(' ');
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{mend}: {}", stderr(&output));
}

#[test]
fn each_switch_is_named_and_the_named_command_mends_it() {
    require!(Vm, Bwrap);
    for who in [Who::User, Who::Root] {
        for (setting, mend) in SWITCHES {
            let _before = Setting::set(setting, "0");
            let said = Said::by(who, |doctor| who.command(doctor));
            assert_eq!(said.code, 1, "{who:?} {setting}: {said:?}");
            let row = json!({"name": "user_namespaces", "state": "fail", "detail": format!("disabled ({setting} is 0)"), "mend": mend});
            assert_eq!(*said.row("user_namespaces"), row, "{who:?}");
            let (state, detail) = said.pair("bwrap_functional");
            assert!(state == "fail" && detail.contains(mend), "{who:?} {setting}: {state} {detail}");
            if who == Who::User {
                let output = run(who);
                assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{setting}");
                assert!(stderr(&output).contains(mend), "{setting}: {}", stderr(&output));
            }

            obey(mend);
            let said = Said::by(who, |doctor| who.command(doctor));
            assert_eq!(said.pair("user_namespaces"), ("pass", "enabled"), "{who:?} {setting}");
            assert_eq!(said.pair("bwrap_functional"), ("pass", "sandbox invocation succeeded"), "{who:?} {setting}");
            assert_eq!(said.code, 0, "{who:?} {setting}: {said:?}");
            if who == Who::User {
                let output = run(who);
                assert_eq!(output.stdout, b"ran\n", "{setting}: {}", stderr(&output));
            }
        }
    }
}

#[tokio::test]
async fn a_running_daemon_refuses_with_the_mend_and_goes_on_after_it() {
    require!(Vm, Bwrap);
    let unit = Unit::delegated("userns", Who::User);
    let bed = daemon_in(&unit, Who::User, "");
    let ask = || bed.run(json!({"command": "echo ran"}));
    assert_eq!(ask().await.outcome(), ("succeeded", 0, "ran\n"));
    for (setting, mend) in SWITCHES {
        let _before = Setting::set(setting, "0");
        let ended = ask().await;
        assert_eq!(ended.outcome(), ("failed", 1, ""), "{setting}");
        assert!(ended.stderr.contains(mend), "{setting}: {}", ended.stderr);
        // What needs no namespace goes on.
        let host = bed.run(json!({"command": "echo ran", "sandbox_profile": "host"})).await;
        assert_eq!(host.outcome(), ("succeeded", 0, "ran\n"), "{setting}: {}", host.stderr);
        obey(mend);
        let asked = tokio::time::Instant::now();
        while ask().await.report.status.as_str() != "succeeded" {
            assert!(asked.elapsed() < patient(SOON), "{setting}: it never took up again");
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }
    assert_eq!(bed.stub.violations(), Vec::<String>::new());
}

/// Ranges of subordinate ids are for containers: a sandbox maps the one user it has.
#[tokio::test]
async fn subordinate_ids_are_not_needed_and_not_used() {
    require!(Vm, Bwrap);
    let files = ["/etc/subuid", "/etc/subgid"];
    let unit = Unit::delegated("subuid", Who::User);
    let bed = daemon_in(&unit, Who::User, "");
    let mut seen = Vec::new();
    for ranges in [None, Some("user:100000:65536\n")] {
        for file in files {
            match ranges {
                None => assert!(!std::path::Path::new(file).exists(), "{file}"),
                Some(text) => std::fs::write(file, text).unwrap(),
            }
        }
        let ended = bed.run(json!({"command": "id -u; touch made; stat -c %u made; wc -l < /proc/self/uid_map"})).await;
        assert_eq!(ended.report.status.as_str(), "succeeded", "{}", ended.stderr);
        seen.push(ended.stdout.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    }
    files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    assert_eq!(seen[0], ["1000", "1000", "1"]);
    assert_eq!(seen[0], seen[1]);
}
