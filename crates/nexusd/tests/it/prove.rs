//! `nexusd doctor --prove`: what is promised is proved, and a sandbox that was weakened on purpose is found out.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::Value;
use testkit::{Containers, WorkDir, require};

use crate::bed::{nexusd, ordinary_user_s};

/// Of each profile, of each class: the state and the detail.
type Proved = BTreeMap<String, BTreeMap<String, (String, String)>>;

fn proved(output: &Output) -> Proved {
    let text = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let page: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {stderr}"));
    let string = |value: &Value| value.as_str().unwrap().to_owned();
    let mut proved = Proved::new();
    for profile in page["profiles"].as_array().unwrap() {
        let checks = profile["checks"].as_array().unwrap().iter();
        let checks = checks.map(|check| (string(&check["name"]), (string(&check["state"]), string(&check["detail"]))));
        proved.insert(string(&profile["profile"]), checks.collect());
    }
    let leaked = proved.values().flat_map(BTreeMap::values).any(|(state, _)| state == "fail");
    assert_eq!(page["passed"], !leaked, "{text}");
    assert_eq!(output.status.code(), Some(i32::from(leaked)), "{text} {stderr}");
    proved
}

/// The classes in this state.
fn those<'p>(proved: &'p Proved, profile: &str, state: &str) -> Vec<&'p str> {
    let classes = proved[profile].iter();
    classes.filter(|(_, (its, _))| its == state).map(|(name, _)| name.as_str()).collect()
}

fn config(dir: &WorkDir, keys: &str) -> String {
    let path = dir.join("config.yaml");
    std::fs::write(&path, format!("server_url: \"http://127.0.0.1:1\"\nwork_dir: {}\n{keys}", dir.join("w").display()))
        .unwrap();
    path.display().to_string()
}

/// A network of the test's own, in which the metadata address answers, and the host has an address beside loopback's.
const NETWORK: &str = r#"ip link set lo up
ip address add 169.254.169.254/32 dev lo
ip address add 192.0.2.7/32 dev lo
python3 -m http.server 80 --bind 169.254.169.254 >/dev/null 2>&1 &
server=$!
until (exec 3<>/dev/tcp/169.254.169.254/80) 2>/dev/null; do sleep 0.05; done
"$@"
code=$?
kill $server
exit $code"#;

/// nexusd's proof in that network.
fn prove(dir: &WorkDir, nexusd: &Command, keys: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "bash", "-c", NETWORK, "bash"]).arg(nexusd.get_program()).args(nexusd.get_args());
    command.args(["-config", &config(dir, keys), "doctor", "--prove", "--json"]).current_dir(dir.path());
    command
}

/// Every class, as BTreeMap has them.
const ALL: [&str; 12] = [
    "direct network",
    "host files",
    "host loopback",
    "host processes",
    "host sockets",
    "kernel settings",
    "memory limit",
    "metadata address",
    "nested namespaces",
    "process limit",
    "survivors",
    "through the proxy",
];

#[test]
fn what_is_promised_is_proved_and_nothing_is_left_behind() {
    require!(Bwrap, Root, Cgroups, NetBed, Python);
    let dir = WorkDir::new();
    let temp = dir.join("temp");
    std::fs::create_dir(&temp).unwrap();
    std::fs::set_permissions(&temp, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let mut command = prove(&dir, &nexusd(), "supported_sandbox_profiles: [untrusted, host]\n");
    let proved = proved(&command.env("TMPDIR", &temp).output().unwrap());
    assert_eq!(those(&proved, "untrusted", "pass"), ALL, "{proved:#?}");
    assert_eq!(those(&proved, "host", "pass"), ["memory limit", "process limit", "survivors"], "{proved:#?}");
    assert_eq!(those(&proved, "host", "skip").len(), ALL.len() - 3);
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 0, "nothing stays in the temporary folder");
    assert!(!dir.join("w").exists(), "the daemon's own folder is not its");
}

#[test]
fn an_ordinary_user_s_proof_says_what_it_cannot_prove() {
    require!(Bwrap, Root, Userns, NetBed, Python);
    let dir = WorkDir::new();
    let user = ordinary_user_s(&dir);
    let proved = proved(&prove(&dir, &user, "supported_sandbox_profiles: [untrusted]\n").output().unwrap());
    assert_eq!(those(&proved, "untrusted", "fail"), Vec::<&str>::new(), "{proved:#?}");
    let (state, detail) = &proved["untrusted"]["kernel settings"];
    assert!(state == "skip" && detail.contains("proves nothing"), "{detail}");
    let passed = those(&proved, "untrusted", "pass");
    for class in ["host files", "host loopback", "nested namespaces", "survivors", "through the proxy"] {
        assert!(passed.contains(&class), "{class}: {proved:#?}");
    }
}

#[test]
fn containers_are_proved_as_their_network_is() {
    require!(Podman, Root, Cgroups, NetBed, Python);
    let dir = WorkDir::new();
    for (network, open) in [
        ("isolated", &["nested namespaces"][..]),
        (
            "host",
            &[
                "direct network",
                "host loopback",
                "host sockets",
                "metadata address",
                "nested namespaces",
                "through the proxy",
            ],
        ),
    ] {
        let keys = format!(
            "supported_sandbox_profiles: [trusted]\ncontainer: {{image: \"{}\", network: {network}}}\n",
            Containers::IMAGE
        );
        let mut command = prove(&dir, &nexusd(), &keys);
        let proved = proved(&command.envs(Containers::of_tests().environment()).output().unwrap());
        assert_eq!(those(&proved, "trusted", "skip"), open, "{network}: {proved:#?}");
        assert_eq!(those(&proved, "trusted", "pass").len(), ALL.len() - open.len(), "{network}: {proved:#?}");
    }
}

#[test]
fn a_profile_whose_driver_does_not_work_is_not_proved() {
    let dir = WorkDir::new();
    let config = config(&dir, "supported_sandbox_profiles: [untrusted]\nbwrap: {bwrap_path: /nowhere/bwrap}\n");
    let mut command = nexusd();
    command.args(["-config", &config, "doctor", "--prove"]).current_dir(dir.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("✗ sandbox") && text.contains("cannot be proved") && text.contains("/nowhere/bwrap"),
        "{text}"
    );
}

/// bubblewrap, without some of its arguments.
fn bwrap_without(dir: &WorkDir, arguments: &str) -> String {
    let path = dir.join("bwrap");
    let script = format!(
        r#"#!/bin/bash
[ "$1" = --version ] && exec bwrap --version
args=()
for arg; do
    case " {arguments} " in *" $arg "*) ;; *) args+=("$arg") ;; esac
done
exec bwrap "${{args[@]}}"
"#
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    format!("bwrap: {{bwrap_path: {}}}\n", path.display())
}

#[test]
fn a_weakened_sandbox_is_found_out() {
    require!(Bwrap, Root, Cgroups, NetBed, Python);
    let dir = WorkDir::new();
    // Where an operator may show a folder to sandboxes.
    let temp = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o1777)).tempdir_in("/opt");
    let temp = temp.unwrap();
    let shown = format!("bwrap: {{extra_ro_paths: [{}]}}\n", temp.path().display());
    let network = &["direct network", "host loopback", "host sockets", "metadata address"][..];
    for (weakness, without, leaks) in [
        ("none", Some("-"), &[][..]),
        ("the host's network", Some("--unshare-net"), network),
        ("namespaces and system calls", Some("--disable-userns --seccomp 7"), &["nested namespaces"]),
        ("the host's temporary folder", None, &["host files"]),
    ] {
        let keys = without.map_or_else(|| shown.clone(), |arguments| bwrap_without(&dir, arguments));
        let keys = format!("supported_sandbox_profiles: [untrusted]\n{keys}");
        let mut command = prove(&dir, &nexusd(), &keys);
        let proved = proved(&command.env("TMPDIR", temp.path()).output().unwrap());
        assert_eq!(those(&proved, "untrusted", "fail"), leaks, "{weakness}: {proved:#?}");
        for leak in leaks {
            assert!(proved["untrusted"][*leak].1.starts_with("LEAK: "), "{weakness}: {proved:#?}");
        }
    }
}
