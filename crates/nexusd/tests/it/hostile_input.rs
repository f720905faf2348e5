//! Specifications that must not run: each ends `failed` with exit code 1 and one line that says what is wrong.

use serde_json::json;
use testkit::{StubOptions, require};

use crate::bed::Bed;

#[tokio::test]
async fn bad_specifications_end_failed_with_one_line() {
    require!(Bwrap);
    let bed = Bed::new();
    let cases = [
        ("unknown profile", json!({"sandbox_profile": "gentle"}), "gentle"),
        ("facility outside", json!({"facility": {"id": "../x"}}), "../x"),
        ("facility with a dot", json!({"facility": {"id": "a.b"}}), "a.b"),
        ("no facility", json!({"facility": null}), "facility"),
        ("cwd outside", json!({"cwd": "../.."}), "../.."),
        ("cwd missing", json!({"cwd": "not/there"}), "not/there"),
        ("cwd absolute", json!({"cwd": "/etc"}), "/etc"),
        (
            "address in the allowlist",
            json!({"capabilities": {"net": {"mode": "allowlist", "allow": ["1.2.3.4:443"]}}}),
            "1.2.3.4",
        ),
        ("allowlist without allow", json!({"capabilities": {"net": {"mode": "allowlist"}}}), "allow"),
        ("unknown capability", json!({"capabilities": {"net": {"mode": "none", "extra": 1}}}), "extra"),
        ("above the ceiling", json!({"capabilities": {"net": {"mode": "unrestricted"}}}), "net_ceiling"),
        ("NUL in the command", json!({"command": "echo a\0b"}), "command"),
        ("no command", json!({"command": null}), "command"),
        ("relative shell", json!({"shell": "sh"}), "shell"),
        ("negative timeout", json!({"timeout_seconds": -1}), "timeout_seconds"),
        ("timeout too long", json!({"timeout_seconds": 1_000_000}), "max_timeout"),
        ("more memory than there is", json!({"limits": {"memory_mb": 1_000_000_000}}), "memory_mb"),
        ("loader variable", json!({"env": {"LD_PRELOAD": "x"}}), "LD_PRELOAD"),
        ("variable of ours", json!({"env": {"CYBROS_X": "x"}}), "CYBROS_X"),
        (
            "host path for untrusted",
            json!({"capabilities": {"net": {"mode": "none"}, "fs": {"read": ["host:/etc"]}}}),
            "host:/etc",
        ),
        ("clone by a helper", json!({"facility": {"id": "f", "repo_url": "ext::sh -c id"}}), "repo"),
        ("not an object", json!({"limits": 7}), "limits"),
    ];
    for (name, fields, named) in cases {
        let ended = bed.run(fields).await;
        assert_eq!(ended.outcome(), ("failed", 1, ""), "{name}: {}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{name}: {}", ended.stderr);
        assert!(ended.stderr.contains(named), "{name}: {}", ended.stderr);
    }
    // The control: the same bed runs what is right.
    assert_eq!(bed.run(json!({"command": "echo fine"})).await.outcome(), ("succeeded", 0, "fine\n"));
    assert_eq!(bed.stub.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_shell_ends_with_127_and_its_line() {
    require!(Bwrap);
    let bed = Bed::new();
    for profile in ["untrusted", "host"] {
        let ended = bed.run(json!({"shell": "/bin/no-such-shell", "sandbox_profile": profile})).await;
        assert_eq!(ended.outcome(), ("failed", 127, ""), "{profile}");
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains("/bin/no-such-shell"), "{}", ended.stderr);
    }
}

#[tokio::test]
async fn nothing_falls_back_to_a_weaker_profile() {
    require!(Bwrap);
    let bed = Bed::with(StubOptions::full(), "supported_sandbox_profiles: [untrusted, trusted]\n");
    let witness = bed.dir.join("witness");
    let command = format!("touch {}", witness.display());
    for profile in ["host", "trusted", "darwin-automation"] {
        let ended = bed.run(json!({"sandbox_profile": profile, "command": command})).await;
        assert_eq!(ended.outcome(), ("failed", 1, ""), "{profile}: {}", ended.stderr);
        assert!(ended.stderr.contains(profile), "{profile}: {}", ended.stderr);
        assert!(!witness.exists(), "{profile} ran on the host");
    }
    // Without a profile a directive is untrusted: it sees itself confined, and the host does not see its file.
    let ended = bed
        .run(json!({"command": format!("{command}; echo $CYBROS_SANDBOX_PROFILE; grep Seccomp: /proc/self/status")}))
        .await;
    assert_eq!(ended.stdout, "untrusted\nSeccomp:\t2\n", "{}", ended.stderr);
    assert!(!witness.exists(), "an untrusted directive wrote on the host");
    // The control: a daemon that offers host does run it there.
    let other = Bed::new();
    let ended = other.run(json!({"sandbox_profile": "host", "command": command})).await;
    assert_eq!(ended.outcome(), ("succeeded", 0, ""), "{}", ended.stderr);
    assert!(witness.exists());
}
