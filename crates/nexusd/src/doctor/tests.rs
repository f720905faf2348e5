//! The look, to the character, and what each fact turns into.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sandbox::{CgroupLayer, Health, Permission, Permissions};

use super::facts::{Container, Facts, PinnedRoot};
use super::kernel::Kernel;
use super::mothership::Contact;
use super::programs::Ran;
use super::report::{Report, Row};
use super::rows::rows;
use crate::config::{Config, Platform, Surroundings};
use crate::credentials::Credentials;

fn said(text: &str) -> Ran {
    Ran::Ended { success: true, output: format!("{text}\n") }
}

fn config(platform: Platform, text: &str) -> Config {
    let surroundings = Surroundings {
        platform,
        environment: &|_| None,
        folder: PathBuf::from("/etc/nexusd"),
        home: Some(PathBuf::from("/root")),
    };
    Config::from_text("config.yaml", text, &surroundings).unwrap()
}

fn healthy() -> Health {
    Health { healthy: true, version: "bubblewrap 0.8.0".to_owned(), reason: None, details: BTreeMap::new() }
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// A good Linux machine without a configuration.
fn good() -> Facts {
    Facts {
        platform: Platform::Linux,
        config: None,
        config_path: PathBuf::from("config.yaml"),
        config_error: None,
        git: said("git version 2.39.5"),
        bwrap: said("bubblewrap 0.8.0"),
        socat: said("socat by Gerhard Rieger\nsocat version 1.7.4.4 on 06 Nov 2022 08:15:51"),
        engine: said("podman version 4.3.1"),
        osascript: Ran::Missing,
        shortcuts: Ran::Missing,
        permissions: Err("not asked".to_owned()),
        kernel: Kernel {
            userns_clone: Some("1".to_owned()),
            max_user_namespaces: Some("95848".to_owned()),
            apparmor_restrict: None,
            seccomp_actions: Some("kill_process kill_thread trap errno user_notif trace log allow".to_owned()),
            landlock_abi: Some(7),
        },
        cgroups: Ok(CgroupLayer::V2(owned(&["memory", "cpu", "pids"]))),
        bwrap_health: Some(Ok(healthy())),
        container: Container::Works,
        disk: Ok((PathBuf::from("/var/lib/nexusd"), 42 << 30)),
        disk_limit: Ok(()),
        root_is_there: false,
        pinned_root: None,
        credentials: Credentials::None,
        contact: Contact::NotAsked("no configuration file".to_owned()),
        now: 1_800_000_000,
    }
}

/// A good Mac without a configuration, where automation is allowed so far and the rest is.
fn a_mac(automation: Permission) -> Facts {
    let granted = Permission::Granted;
    Facts {
        platform: Platform::Macos,
        osascript: said(""),
        shortcuts: said("OVERVIEW"),
        permissions: Ok(Permissions { automation, accessibility: granted, screen_recording: granted }),
        ..good()
    }
}

fn row(facts: &Facts, name: &str) -> Row {
    rows(facts).into_iter().find(|row| row.name == name).unwrap()
}

fn report(facts: &Facts) -> Report {
    Report { rows: rows(facts) }
}

#[test]
fn a_good_linux_machine_without_a_configuration() {
    let report = report(&good());
    assert!(!report.failed());
    insta::assert_snapshot!(report.render());
}

/// The guide's own picture: its seven rows, its rule, its last line.
#[test]
fn the_guides_rows_come_first_to_the_character() {
    let text = report(&good()).render();
    let expected = "nexusd doctor
──────────────────────────────────────────────────
  ✓ git                       git version 2.39.5
  ✓ bwrap                     bubblewrap 0.8.0
  ✓ socat                     socat version 1.7.4.4
  ✓ podman                    podman version 4.3.1
  ✓ user_namespaces           enabled
  ✓ apparmor_userns           unrestricted
  ✓ bwrap_functional          sandbox invocation succeeded
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.ends_with("──────────────────────────────────────────────────\n  All checks passed.\n"), "{text}");
}

#[test]
fn a_good_mac_has_exactly_the_guides_rows() {
    let facts = a_mac(Permission::Granted);
    let expected = "nexusd doctor
──────────────────────────────────────────────────
  ✓ git                       git version 2.39.5
  ✓ osascript                 found
  ✓ shortcuts                 found
  ─ bwrap                     not applicable on macOS
  ─ socat                     not applicable on macOS
──────────────────────────────────────────────────
  All checks passed.
";
    assert_eq!(report(&facts).render(), expected);
    let bare = Facts { osascript: Ran::Missing, git: Ran::Missing, ..facts };
    insta::assert_snapshot!(report(&bare).render());
}

#[test]
fn what_a_mac_lacks_is_said_with_its_mend() {
    let intel = "it needs macOS on Apple Silicon, and this is macos on x86_64";
    let with = |text| Some(config(Platform::Macos, text));
    let base = || a_mac(Permission::Granted);
    let table = [
        ("nothing is decided yet", a_mac(Permission::NotAsked), false),
        ("one permission is missing", a_mac(Permission::NotGranted), false),
        ("System Events does not run", a_mac(Permission::TargetNotRunning), false),
        ("no answer", a_mac(Permission::Unknown(None)), false),
        ("an Intel Mac", Facts { permissions: Err(intel.to_owned()), ..base() }, true),
        (
            "an old macOS",
            Facts { shortcuts: Ran::Missing, permissions: Err("shortcuts is not found".to_owned()), ..base() },
            true,
        ),
        (
            "automation is not offered",
            Facts {
                config: with("supported_sandbox_profiles: [host]"),
                osascript: Ran::Missing,
                shortcuts: Ran::Missing,
                permissions: Err("not offered".to_owned()),
                ..base()
            },
            false,
        ),
        ("osascript hangs", Facts { osascript: Ran::Failed("did not answer within 5 s".to_owned()), ..base() }, true),
    ];
    let mut shown = String::new();
    for (what, facts, failed) in table {
        let report = report(&facts);
        assert_eq!((report.failed(), report.rows.len()), (failed, 5), "{what}: {}", report.render());
        shown += &format!("{what}\n{}", report.render());
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn a_bad_machine_is_told_how_to_mend_each_row() {
    let facts = Facts {
        config: Some(config(
            Platform::Linux,
            "supported_sandbox_profiles: [untrusted, trusted]\nbwrap: {bridge: socat, rootfs_path: /srv/root}\nmin_free_bytes: 50GiB",
        )),
        git: Ran::Missing,
        bwrap: Ran::Failed("did not answer within 5 s".to_owned()),
        socat: Ran::Missing,
        engine: Ran::Missing,
        kernel: Kernel {
            userns_clone: Some("0".to_owned()),
            apparmor_restrict: Some("1".to_owned()),
            ..Kernel::default()
        },
        cgroups: Ok(CgroupLayer::V1(owned(&["pids"]))),
        bwrap_health: Some(Ok(Health {
            healthy: false,
            version: String::new(),
            reason: Some("bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted".to_owned()),
            details: BTreeMap::new(),
        })),
        credentials: Credentials::Pair { not_before: 0, not_after: 1_700_000_000 },
        contact: Contact::Failed("connection refused\u{1b}[31m".to_owned()),
        ..good()
    };
    let report = report(&facts);
    assert!(report.failed());
    let text = report.render();
    assert!(!text.contains('\u{1b}'), "{text:?}");
    insta::assert_snapshot!(text);
    for row in &report.rows {
        assert_eq!(row.mend.is_some(), matches!(row.state, super::State::Fail | super::State::Warn), "{row:?}");
    }
}

#[test]
fn only_what_the_configuration_needs_can_fail() {
    let facts = Facts {
        config: Some(config(Platform::Linux, "supported_sandbox_profiles: [host]")),
        bwrap: Ran::Missing,
        socat: Ran::Missing,
        engine: Ran::Missing,
        kernel: Kernel {
            userns_clone: Some("0".to_owned()),
            apparmor_restrict: Some("1".to_owned()),
            ..Kernel::default()
        },
        cgroups: Err("there are no drivers".to_owned()),
        bwrap_health: None,
        container: Container::NotAsked,
        contact: Contact::Answered { ahead_seconds: Some(1) },
        ..good()
    };
    let report = report(&facts);
    assert!(!report.failed(), "{}", report.render());
    insta::assert_snapshot!(report.render());
}

#[test]
fn json_says_the_same() {
    let report = report(&Facts { git: Ran::Missing, ..good() });
    let json = report.to_json();
    assert_eq!(json["passed"], false);
    let expected = serde_json::json!({
        "name": "git", "state": "fail", "detail": "not found", "mend": "sudo apt install -y git",
    });
    assert_eq!(json["checks"][0], expected);
    assert_eq!(json["checks"].as_array().unwrap().len(), report.rows.len());
    assert!(json["checks"][1].get("mend").is_none());
}

#[allow(clippy::too_many_lines, reason = "a table")]
#[test]
fn single_facts() {
    let with = |text: &str| Some(config(Platform::Linux, text));
    let base = || Facts { config: with(""), contact: Contact::Answered { ahead_seconds: None }, ..good() };
    let skew = |ahead| Facts { contact: Contact::Answered { ahead_seconds: Some(ahead) }, ..base() };
    let ends = |not_after| Facts { credentials: Credentials::Pair { not_before: 0, not_after }, ..base() };
    let url = || "https://a.example/root.tar.xz".to_owned();
    let pinned = |root, name: &str| {
        row(&Facts { config: with("rootfs: {auto: true}"), pinned_root: Some(root), ..base() }, name)
    };
    let day = 86_400;
    let table = [
        (
            "docker without an engine",
            row(
                &Facts {
                    config: with("supported_sandbox_profiles: [trusted]\ncontainer: {runtime: docker}"),
                    container: Container::Broken(
                        "docker: Cannot connect to the Docker daemon (sudo systemctl start docker)".to_owned(),
                    ),
                    ..base()
                },
                "container_functional",
            ),
        ),
        (
            "docker missing",
            row(
                &Facts {
                    config: with("supported_sandbox_profiles: [trusted]\ncontainer: {runtime: docker}"),
                    engine: Ran::Missing,
                    ..base()
                },
                "docker",
            ),
        ),
        ("podman missing, nothing configured", row(&Facts { engine: Ran::Missing, ..good() }, "podman")),
        (
            "restricted by AppArmor, yet bwrap works",
            row(
                &Facts { kernel: Kernel { apparmor_restrict: Some("1".to_owned()), ..good().kernel }, ..base() },
                "apparmor_userns",
            ),
        ),
        ("socat missing, built-in bridge", row(&Facts { socat: Ran::Missing, ..base() }, "socat")),
        (
            "user namespaces at zero",
            row(
                &Facts { kernel: Kernel { max_user_namespaces: Some("0".to_owned()), ..good().kernel }, ..base() },
                "user_namespaces",
            ),
        ),
        (
            "cgroups not delegated",
            row(
                &Facts {
                    cgroups: Ok(CgroupLayer::None("/sys/fs/cgroup/x.slice is not delegated".to_owned())),
                    ..base()
                },
                "cgroups",
            ),
        ),
        ("cgroups unknown", row(&Facts { cgroups: Err("there are no drivers".to_owned()), ..base() }, "cgroups")),
        (
            "cgroup v1",
            row(&Facts { cgroups: Ok(CgroupLayer::V1(owned(&["memory", "cpu", "pids"]))), ..base() }, "cgroups"),
        ),
        (
            "cgroup v2, in part",
            row(&Facts { cgroups: Ok(CgroupLayer::V2(owned(&["memory", "pids"]))), ..base() }, "cgroups"),
        ),
        (
            "firecracker instead of bwrap",
            row(
                &Facts { config: with("untrusted_driver: firecracker"), bwrap_health: None, ..base() },
                "bwrap_functional",
            ),
        ),
        ("firecracker is not built", row(&Facts { config: with("untrusted_driver: firecracker"), ..base() }, "config")),
        ("insecure TLS", row(&Facts { config: with("tls: {insecure_skip_verify: true}"), ..base() }, "config")),
        ("open metrics", row(&Facts { config: with("observability: {enabled: true}"), ..base() }, "config")),
        (
            "broken configuration",
            row(
                &Facts {
                    config: None,
                    config_error: Some("config.yaml:1:1: a: unknown key\nconfig.yaml:2:1: b: unknown key".to_owned()),
                    ..good()
                },
                "config",
            ),
        ),
        ("clocks agree", row(&skew(-3), "mothership")),
        ("half a minute ahead", row(&skew(-45), "mothership")),
        ("an hour behind", row(&skew(3600), "mothership")),
        ("certificate in date", row(&ends(1_800_000_000 + 30 * day), "tls")),
        ("certificate ends soon", row(&ends(1_800_000_000 + 2 * day), "tls")),
        ("certificate ended", row(&ends(1_800_000_000), "tls")),
        (
            "certificate of tomorrow",
            row(
                &Facts {
                    credentials: Credentials::Pair { not_before: 1_800_000_000 + day, not_after: i64::MAX },
                    ..base()
                },
                "tls",
            ),
        ),
        ("pinned root, there", pinned(PinnedRoot::There("/var/cache/0123/root".into()), "rootfs")),
        (
            "pinned root, to be fetched",
            pinned(PinnedRoot::ToBeFetched { url: url(), bytes: Some(200 << 20) }, "rootfs"),
        ),
        (
            "the sandbox of the check meanwhile",
            pinned(PinnedRoot::ToBeFetched { url: url(), bytes: None }, "bwrap_functional"),
        ),
        ("pinned root, out of reach", pinned(PinnedRoot::OutOfReach { url: url(), why: "dns error".into() }, "rootfs")),
        ("pinned root, folder of another", pinned(PinnedRoot::Unusable("/x belongs to uid 7".into()), "rootfs")),
        (
            "own root",
            row(&Facts { config: with("bwrap: {rootfs_path: /srv/root}"), root_is_there: true, ..base() }, "rootfs"),
        ),
        ("no quotas", row(&Facts { disk_limit: Err("nexusd is not root".to_owned()), ..base() }, "disk_limit")),
    ];
    let shown: String = table
        .into_iter()
        .map(|(what, row)| {
            format!(
                "{what}\n{}",
                Report { rows: vec![row] }
                    .render()
                    .lines()
                    .skip(2)
                    .take_while(|l| !l.starts_with('─'))
                    .map(|l| format!("{l}\n"))
                    .collect::<String>()
            )
        })
        .collect();
    insta::assert_snapshot!(shown);
}
