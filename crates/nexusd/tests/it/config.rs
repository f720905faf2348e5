//! Configuration files on a real disk: what is wrong with them, all at once.

use std::path::Path;

use nexusd::config::{Config, ConfigError, ConfigSource, IdentityError, Platform};

fn environment(name: &str) -> Option<String> {
    match name {
        "HOME" => Some("/home/nexus".to_owned()),
        "TOKEN" => Some("hunter2".to_owned()),
        _ => None,
    }
}

fn load(dir: &Path, text: &[u8]) -> Result<Config, ConfigError> {
    let path = dir.join("config.yaml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path, Platform::Linux, &environment)
}

/// Each is a file an operator has written, or could have.
const BROKEN: &[(&str, &str)] = &[
    ("a slip of the finger", "poll:\n  long_pol_timeout: 25s\n"),
    (
        "three mistakes, three problems",
        "servr_url: https://m\npoll:\n  max_directives_to_claim: 9\nlog:\n  chunk_bytes: many\n",
    ),
    ("a key in the wrong place", "long_poll_timeout: 25s\nlog:\n  log_level: debug\n"),
    ("another program's dash", "log-level: debug\n"),
    ("nothing like any key", "frobnicate: 1\nbwrap:\n  frobnicate: 1\n"),
    (
        "a number without a unit",
        "poll:\n  long_poll_timeout: 25\n  retry_backoff: 2 seconds\nheartbeat:\n  interval: 1.5s\n",
    ),
    (
        "durations out of range",
        "poll:\n  long_poll_timeout: 1h\negress:\n  idle_timeout: 500ms\nretention:\n  facility_ttl: 5s\n",
    ),
    (
        "numbers out of range",
        "poll:\n  max_directives_to_claim: 0\nlog:\n  chunk_bytes: 262145\n  max_output_bytes: 10\nlimits:\n  cpu: 2\n",
    ),
    (
        "numbers that are none",
        "max_concurrent_directives: -1\nmin_free_bytes: 1.5GiB\nlimits:\n  pids: \"100\"\n  nofile: 0x10\n",
    ),
    ("flags that are none", "rootfs:\n  auto: yes\nobservability:\n  enabled: \"true\"\ndebug_tape:\n  enabled: 1\n"),
    (
        "lists and mappings in each other's place",
        "supported_sandbox_profiles: untrusted\nlabels: [a, b]\nname: {first: x}\npoll: 25s\noperator:\n  net_deny:\n    - [a]\n",
    ),
    ("profiles", "supported_sandbox_profiles: [untrused, darwin-automation, host, host]\n"),
    ("no profile", "supported_sandbox_profiles: []\n"),
    (
        "words",
        "untrusted_driver: docker\nlog_level: warning\ncontainer:\n  runtime: podmen\n  proxy_mode: none\nbwrap:\n  bridge: built-in\noperator:\n  net_ceiling: all\n",
    ),
    ("plain http off loopback", "server_url: http://mothership.example.com\n"),
    (
        "addresses",
        "server_url: mothership.example.com\nproxy_url: socks5://u:hunter2@proxy\nobservability:\n  listen_addr: 9090\n",
    ),
    ("half a pair", "tls:\n  client_cert_file: /etc/nexusd/client.pem\n"),
    ("variables", "name: ${NAME}\nterritory_id: ${TOKEN\nwork_dir: ${1}\nlog_level: ${TOKEN}\n"),
    (
        "allowlist entries",
        "operator:\n  net_deny:\n    - 1.2.3.4:443\n    - example.com\n    - Example.com:443\n    - example.com.:443\n",
    ),
    (
        "address ranges",
        "egress:\n  allow_private: [10.1.2.3/16, 10.0.0.0/8, 10.0.0.0/8, 0.0.0.0/0, lan]\n  sni_check_ports: [443, 0, 65536]\n",
    ),
    (
        "secret places",
        "work_dir: /srv/nexus\nbwrap:\n  extra_ro_paths: [/opt, /etc, /var/lib/x, /, /srv, opt, /opt/../etc]\n",
    ),
    ("roots that hold the daemon's own files", "work_dir: /srv/nexus/work\nbwrap:\n  rootfs_path: /srv/nexus\n"),
    ("a root in the work_dir", "work_dir: /srv/nexus\nbwrap:\n  rootfs_path: /srv/nexus/root\n"),
    (
        "keys written as paths",
        "poll.max_directives_to_claim: 3\nlimits.memory_mb: 5\nrootfs:\n  amd64.url: https://x\nrootfs.arm64: {url: https://x}\npoll.long_pol_timeout: 1s\n",
    ),
    (
        "a socket path too long",
        "bwrap:\n  proxy_socket_dir: /var/lib/nexusd/a-directory-name/that-is-much-longer/than-any-socket-path-may-ever-be-on-linux\n",
    ),
    ("timeouts that contradict", "limits:\n  default_timeout: 2h\n  max_timeout: 1h\n"),
    ("more claimed than there are slots", "max_concurrent_directives: 2\npoll:\n  max_directives_to_claim: 3\n"),
    ("overflow out of the facility", "log_overflow:\n  dir: ../../etc\n"),
    ("overflow into the work tree", "log_overflow:\n  dir: logs\n"),
    ("users", "sandbox_user: root\n"),
    ("digests and archives", "rootfs:\n  amd64:\n    sha256: abc\n    url: ftp://x\n  arm:\n    url: https://x\n"),
    ("images", "container:\n  image: --privileged\n  run_args: [\"\", -d, \"--network=host\"]\n"),
    ("paths", "work_dir: ~other/x\ntls:\n  ca_file: ~\nbwrap:\n  bwrap_path: \"\"\n"),
    ("an empty work_dir", "work_dir: \"\"\n"),
    ("written twice", "name: a\npoll:\n  retry_backoff: 1s\n  retry_backoff: 2s\nname: b\n"),
    ("tabs", "poll:\n\tlong_poll_timeout: 25s\n"),
    ("an open quote", "name: \"nexus\nwork_dir: /srv\n"),
    ("no mapping at all", "- server_url: https://m\n"),
    ("two documents", "name: a\n---\nname: b\n"),
    ("tags and merges", "name: !secret x\nbase: &b {a: 1}\npoll:\n  <<: *b\n"),
    ("an undefined alias", "name: *n\n"),
    ("control characters", "name: \"a\\u001b[31mb\"\n\"k\\u001b\\n\": 1\n"),
    (
        "firecracker",
        "untrusted_driver: firecracker\nfirecracker:\n  vcpus: 0\n  mem_size_mib: 8\n  workspace_size_mib: lots\n  kernel: /x\n",
    ),
];

#[test]
fn every_broken_file_says_what_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let mut shown = String::new();
    for (what, text) in BROKEN {
        let error = load(dir.path(), text.as_bytes()).map(|_| ()).unwrap_err();
        let ConfigError::Invalid(problems) = &error else { panic!("{what}: {error}") };
        assert!(!problems.list.is_empty());
        let text = error.to_string().replace(&format!("{}/", dir.path().display()), "");
        assert!(!text.contains("hunter2"), "{what}: {text}");
        assert!(text.lines().all(|line| line.starts_with("config.yaml:")), "{what}: {text}");
        shown.push_str(&format!("# {what}\n{text}\n\n"));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let error = load(dir.path(), b"name: ok\nlabels: {a: \xff}\n").unwrap_err().to_string();
    assert!(error.ends_with("config.yaml:2:13: not UTF-8 from here on: save the file as UTF-8"), "{error}");
    let error = load(dir.path(), "#".repeat(2 << 20).as_bytes()).unwrap_err();
    assert!(matches!(error, ConfigError::TooLarge { .. }), "{error}");

    let missing = dir.path().join("none.yaml");
    let source = |named| ConfigSource { path: missing.clone(), named };
    let load = |named| Config::load_if_there(&source(named), Platform::Linux, &environment);
    assert!(load(false).unwrap().is_none());
    assert!(matches!(load(true), Err(ConfigError::Missing { .. })));
    let directory = Config::load(dir.path(), Platform::Linux, &environment).unwrap_err();
    assert!(matches!(directory, ConfigError::Unreadable { .. }), "{directory}");
}

#[test]
fn paths_start_from_the_files_own_folder() {
    let dir = tempfile::tempdir().unwrap();
    let config =
        load(dir.path(), b"work_dir: ./f\ndebug_tape: {path: ~/tape}\nbwrap: {bwrap_path: tools/bwrap}\n").unwrap();
    assert_eq!(config.work_dir, dir.path().join("f"));
    assert_eq!(config.bwrap.proxy_socket_dir, dir.path().join("f/.proxy-sockets"));
    assert_eq!(config.bwrap.bwrap_path, dir.path().join("tools/bwrap"));
    assert_eq!(config.debug_tape.path, Path::new("/home/nexus/tape"));
}

#[test]
fn the_identity_is_one_or_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let pair = "tls: {client_cert_file: c/client.pem, client_key_file: c/client-key.pem}\n";
    assert!(matches!(load(dir.path(), b"").unwrap().identity(), Err(IdentityError::None)));
    let header = load(dir.path(), b"territory_id: t-1").unwrap().identity().unwrap();
    assert_eq!(header.territory_id().unwrap().as_str(), "t-1");

    assert!(load(dir.path(), pair.as_bytes()).unwrap().identity().unwrap().territory_id().is_none());
    std::fs::create_dir(dir.path().join("c")).unwrap();
    let record = dir.path().join("c/territory.json");
    std::fs::write(&record, r#"{"territory_id": "t-2", "new_field": 1}"#).unwrap();
    let identity = load(dir.path(), pair.as_bytes()).unwrap().identity().unwrap();
    assert_eq!(identity.territory_id().unwrap().as_str(), "t-2");
    let same = format!("{pair}territory_id: t-2");
    assert!(load(dir.path(), same.as_bytes()).unwrap().identity().is_ok());
    let other = format!("{pair}territory_id: t-1");
    let error = load(dir.path(), other.as_bytes()).unwrap().identity().unwrap_err();
    assert!(matches!(error, IdentityError::Differs { .. }), "{error}");
    for broken in ["", "{}", r#"{"territory_id": "../x"}"#, "[]"] {
        std::fs::write(&record, broken).unwrap();
        let error = load(dir.path(), pair.as_bytes()).unwrap().identity().unwrap_err();
        assert!(matches!(error, IdentityError::Record { .. }), "{broken}: {error}");
    }
}
