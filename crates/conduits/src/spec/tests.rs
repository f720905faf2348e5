use super::*;
use crate::capability::{NetMode, Selector};
use proptest::prelude::*;

fn base() -> Value {
    json!({"directive_id": "d1", "facility": {"id": "f1"}, "command": "true"})
}

/// The base with one field, named by a path with dots, set to a value.
fn with(path: &str, value: Value) -> Value {
    let mut spec = base();
    let mut place = &mut spec;
    for key in path.split('.') {
        place = &mut place[key];
    }
    *place = value;
    spec
}

fn error(value: &Value) -> String {
    let error = DirectiveSpec::from_value(value).expect_err(&value.to_string()).to_string();
    assert!(!error.chars().any(char::is_control), "more than one line: {error:?}");
    error
}

#[test]
fn the_smallest_specification_gets_the_closed_defaults() {
    let spec = DirectiveSpec::from_value(&base()).unwrap();
    let want = DirectiveSpec {
        directive_id: "d1".parse().unwrap(),
        facility: FacilityRef { id: "f1".parse().unwrap(), mount: "/workspace".to_owned(), repo_url: None },
        sandbox_profile: SandboxProfile::Untrusted,
        command: "true".to_owned(),
        shell: "/bin/sh".to_owned(),
        cwd: String::new(),
        timeout_seconds: None,
        limits: SpecLimits::default(),
        net: NetCapability::default(),
        fs: None,
        artifacts: ArtifactSpec::default(),
        env: BTreeMap::new(),
    };
    assert_eq!(spec, want);
    assert_eq!(DirectiveSpec::from_value(&spec.to_value()).unwrap(), spec);
}

#[test]
fn the_shell_where_none_is_named_is_the_profile_s() {
    for (profile, shell) in
        [("untrusted", "/bin/sh"), ("trusted", "/bin/sh"), ("host", "/bin/sh"), ("darwin-automation", "/bin/zsh")]
    {
        let mut spec = base();
        spec["sandbox_profile"] = json!(profile);
        assert_eq!(DirectiveSpec::from_value(&spec).unwrap().shell, shell, "{profile}");
        spec["shell"] = json!("/bin/bash");
        assert_eq!(DirectiveSpec::from_value(&spec).unwrap().shell, "/bin/bash", "{profile}");
    }
}

#[test]
fn zero_values_of_other_servers_equal_absence() {
    let spec = json!({
        "directive_id": "d1", "facility": {"id": "f1", "mount": "", "repo_url": ""}, "command": "true",
        "sandbox_profile": "", "shell": "", "cwd": "", "timeout_seconds": 0,
        "limits": {"cpu": 0, "memory_mb": 0, "disk_mb": 0, "max_output_bytes": 0, "max_diff_bytes": 0},
        "capabilities": {"net": null, "fs": null, "devices": null}, "artifacts": {"collect": null, "always_diff": null},
        "env": {"A": null}, "unknown": {"x": 1},
    });
    let null = json!({
        "directive_id": "d1", "facility": {"id": "f1", "mount": null, "repo_url": null}, "command": "true",
        "sandbox_profile": null, "shell": null, "cwd": null, "timeout_seconds": null, "limits": null,
        "capabilities": null, "artifacts": null, "env": null,
    });
    let smallest = DirectiveSpec::from_value(&base()).unwrap();
    assert_eq!(DirectiveSpec::from_value(&spec).unwrap(), smallest);
    assert_eq!(DirectiveSpec::from_value(&null).unwrap(), smallest);
}

#[test]
fn a_full_specification_reads_and_writes_back() {
    let value = json!({
        "directive_id": "d1",
        "facility": {"id": "f1", "mount": "/workspace", "repo_url": "https://u:pw@example.com/r.git"},
        "sandbox_profile": "trusted", "command": "make\ntest", "shell": "/bin/bash", "cwd": "src",
        "timeout_seconds": 60,
        "limits": {"cpu": 1500, "memory_mb": 512, "disk_mb": 100, "max_output_bytes": 1000, "max_diff_bytes": 10},
        "capabilities": {
            "net": {"mode": "allowlist", "allow": ["example.com:443"]},
            "fs": {"read": ["host:/opt/data"], "write": ["workspace:**"]},
        },
        "artifacts": {"collect": ["target/**/*.log"], "always_diff": true},
        "env": {"RUST_LOG": "info", "EMPTY": ""},
    });
    let spec = DirectiveSpec::from_value(&value).unwrap();
    assert_eq!(spec.limits.cpu_millicores, Some(1500));
    assert_eq!((spec.net.mode, spec.net.allow.len()), (NetMode::Allowlist, 1));
    assert_eq!(spec.fs.as_ref().unwrap().read, [Selector::Host("/opt/data".to_owned())]);
    assert_eq!(spec.env.values().map(String::as_str).collect::<Vec<_>>(), ["", "info"]);
    assert_eq!(spec.to_value(), value);
    assert!(!format!("{spec:?}").contains("pw@"), "{spec:?}");
}

fn expect_messages(cases: &[(Value, &str)]) {
    for (value, message) in cases {
        assert_eq!(error(value), *message);
    }
}

/// Each fault gives one line with the field, the value and the mend: here and in the three tests that follow.
#[test]
fn faults_of_identity_and_command() {
    let cases = [
        (json!("x"), "spec: \"x\" is not an object"),
        (json!(null), "spec: null is not an object"),
        (with("directive_id", json!(null)), "directive_id is missing: name it"),
        (with("directive_id", json!(7)), "directive_id: 7 is not a string"),
        (with("facility", json!(null)), "facility.id is missing: name it"),
        (with("facility", json!("f1")), "facility: \"f1\" is not an object"),
        (
            with("facility.id", json!("../x")),
            "facility.id: \"../x\" is not a facility id: it begins with '.'; use letters, digits, '_' and '-', beginning with a letter or digit",
        ),
        (
            with("facility.mount", json!("/etc")),
            "facility.mount: \"/etc\" is not where facilities are mounted; use /workspace or leave it out",
        ),
        (
            with("facility.repo_url", json!("ext::sh")),
            "facility.repo_url: \"ext\" repositories are not taken; use https://, http://, ssh://, git:// or user@host:path",
        ),
        (
            with("sandbox_profile", json!("root")),
            "sandbox_profile: \"root\" is not a sandbox profile; use one of untrusted, trusted, host, darwin-automation",
        ),
        (with("sandbox_profile", json!(1)), "sandbox_profile: 1 is not a string"),
        (with("command", json!("")), "command is missing: write the command line to run"),
        (with("command", json!(["ls"])), "command: an array is not a string"),
        (with("command", json!("a\0b")), "command: \"a\\0b\" contains a NUL byte; remove it"),
        (with("shell", json!("bash")), "shell: \"bash\" is not an absolute path; write it in full, such as /bin/sh"),
        (
            with("shell", json!("/bin/sh\n")),
            "shell: \"/bin/sh\\n\" is too long or contains a control character; name an executable",
        ),
        (with("cwd", json!("a\0")), "cwd: \"a\\0\" contains a NUL byte; remove it"),
    ];
    expect_messages(&cases);
}

#[test]
fn faults_of_time_and_limits() {
    let cases = [
        (with("timeout_seconds", json!(-1)), "timeout_seconds: -1 is not a whole number of 0 or more"),
        (with("timeout_seconds", json!(1.5)), "timeout_seconds: 1.5 is not a whole number of 0 or more"),
        (with("timeout_seconds", json!("60")), "timeout_seconds: \"60\" is not a whole number of 0 or more"),
        (with("limits", json!([])), "limits: an array is not an object"),
        (with("limits.cpu", json!(-5)), "limits.cpu: -5 is not a whole number of 0 or more"),
        (with("limits.memory_mb", json!(0.5)), "limits.memory_mb: 0.5 is not a whole number of 0 or more"),
        (with("limits.disk_mb", json!(true)), "limits.disk_mb: true is not a whole number of 0 or more"),
        (
            with("limits.max_output_bytes", json!("1")),
            "limits.max_output_bytes: \"1\" is not a whole number of 0 or more",
        ),
        (with("limits.max_diff_bytes", json!(-1)), "limits.max_diff_bytes: -1 is not a whole number of 0 or more"),
    ];
    expect_messages(&cases);
}

#[test]
fn faults_of_capabilities() {
    let cases = [
        (with("capabilities", json!("all")), "capabilities: \"all\" is not an object"),
        (
            with("capabilities.net", json!({"mode": "allowlist"})),
            "capabilities.net.allow is missing: mode allowlist needs it; list host:port entries, or set mode to none",
        ),
        (
            with("capabilities.net", json!({"mode": "allowlist", "allow": ["1.2.3.4:443"]})),
            "capabilities.net.allow[0]: \"1.2.3.4:443\": \"1.2.3.4\" is an IP address or reads as one; write a domain name, addresses are never allowed",
        ),
        (
            with("capabilities.fs", json!({"write": ["/etc"]})),
            "capabilities.fs.write[0]: \"/etc\" is not a selector; use workspace:**, workspace:/path or host:/absolute/path",
        ),
        (
            with("capabilities.fs", json!({"read": ["host:/etc"]})),
            "capabilities.fs.read: \"host:/etc\" reaches outside the workspace, which profile untrusted does not; use workspace selectors, or profile trusted or host",
        ),
    ];
    expect_messages(&cases);
}

/// A capability is never ignored; other fields of a newer server are.
#[test]
fn an_unknown_capability_is_refused_and_other_unknown_fields_are_not() {
    expect_messages(&[
        (
            with("capabilities.fss", json!({"write": []})),
            "capabilities.\"fss\": unknown field; remove it or use one of net, fs",
        ),
        (
            with("capabilities", json!({"net": {"mode": "none"}, "a\nb": false})),
            "capabilities.\"a\\nb\": unknown field; remove it or use one of net, fs",
        ),
    ]);
    for path in ["limits.gpu", "artifacts.sign", "facility.region", "priority"] {
        let smallest = DirectiveSpec::from_value(&base()).unwrap();
        assert_eq!(DirectiveSpec::from_value(&with(path, json!(1))).unwrap(), smallest, "{path}");
    }
}

#[test]
fn faults_of_artifacts_and_environment() {
    let cases = [
        (with("artifacts.collect", json!("*.log")), "artifacts.collect: \"*.log\" is not an array of strings"),
        (with("artifacts.collect", json!(["a", 1])), "artifacts.collect[1]: 1 is not a string"),
        (
            with("artifacts.collect", json!(["a/../../b"])),
            "artifacts.collect[0]: \"a/../../b\" leads out of the workspace; write it without '..'",
        ),
        (with("artifacts.always_diff", json!("yes")), "artifacts.always_diff: \"yes\" is not true or false"),
        (with("env", json!(["A=1"])), "env: an array is not an object"),
        (with("env", json!({"A": 1})), "env.A: 1 is not a string"),
        (with("env", json!({"A": "x\0"})), "env.A: \"x\\0\" contains a NUL byte; remove it"),
        (
            with("env", json!({"LD_PRELOAD": "x"})),
            "env: \"LD_PRELOAD\" steers the dynamic linker and is not taken; set it inside the command where it is needed",
        ),
        (
            with("env", json!({"http_proxy": "x"})),
            "env: \"http_proxy\" is set by the sandbox itself; remove it or choose another name",
        ),
    ];
    expect_messages(&cases);
}

#[test]
fn sizes_that_execve_would_refuse_are_refused_before() {
    assert!(DirectiveSpec::from_value(&with("command", json!("x".repeat(MAX_ARGUMENT_BYTES)))).is_ok());
    assert_eq!(
        error(&with("command", json!("x".repeat(MAX_ARGUMENT_BYTES + 1)))),
        "command has 131072 bytes; at most 131071 are taken; put a long script into a file of the facility"
    );
    assert!(DirectiveSpec::from_value(&with("env", json!({"A": "x".repeat(MAX_ARGUMENT_BYTES - 2)}))).is_ok());
    assert!(
        error(&with("env", json!({"A": "x".repeat(MAX_ARGUMENT_BYTES - 1)}))).starts_with("env.A has 131072 bytes")
    );
    let many: Map<String, Value> = (0..9).map(|n| (format!("V{n}"), json!("x".repeat(120_000)))).collect();
    assert!(error(&with("env", json!(many))).starts_with("env has 1080027 bytes; at most 1048576 are taken"));
    assert!(error(&with("artifacts.collect", json!(vec!["a"; 257]))).starts_with("artifacts.collect has 257 patterns"));
}

#[test]
fn the_reach_into_the_host_belongs_to_trusted_and_host() {
    let with_profile = |profile: &str| {
        let mut spec = with("capabilities.fs", json!({"writable_roots": ["/srv"]}));
        spec["sandbox_profile"] = json!(profile);
        DirectiveSpec::from_value(&spec).is_ok()
    };
    let allowed: Vec<bool> = SandboxProfile::ALL.iter().map(|profile| with_profile(profile.as_str())).collect();
    assert_eq!(allowed, [false, true, true, false]);
}

#[test]
fn credentials_in_a_refused_url_are_not_repeated() {
    let message = error(&with("facility.repo_url", json!("https://u:s3cret@-h/a")));
    assert!(!message.contains("s3cret"), "{message}");
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z_]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const PATHS: [&str; 22] = [
    "directive_id",
    "facility",
    "facility.id",
    "facility.mount",
    "facility.repo_url",
    "sandbox_profile",
    "command",
    "shell",
    "cwd",
    "timeout_seconds",
    "limits",
    "limits.cpu",
    "capabilities",
    "capabilities.net",
    "capabilities.net.mode",
    "capabilities.fs",
    "capabilities.fs.read",
    "artifacts",
    "artifacts.collect",
    "artifacts.always_diff",
    "env",
    "env.A",
];

proptest! {
    #[test]
    fn any_json_in_any_field_gives_a_value_or_one_line(path in prop::sample::select(&PATHS[..]), value in json_value()) {
        match DirectiveSpec::from_value(&with(path, value)) {
            Ok(spec) => prop_assert_eq!(DirectiveSpec::from_value(&spec.to_value()).unwrap(), spec),
            Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control), "{}", error),
        }
    }
}
