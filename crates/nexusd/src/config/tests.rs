//! The table against the reader, whole values, and arbitrary input.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::keys::{Default, KEYS};
use super::*;

fn surroundings(platform: Platform) -> Surroundings<'static> {
    Surroundings {
        platform,
        environment: &|name| match name {
            "SLOTS" => Some("3".to_owned()),
            "SECRET" => Some("hunter2".to_owned()),
            _ => None,
        },
        folder: PathBuf::from("/etc/nexusd"),
        home: Some(PathBuf::from("/home/nexus")),
    }
}

fn read(text: &str) -> Result<Config, Problems> {
    Config::from_text("config.yaml", text, &surroundings(Platform::Linux))
}

fn problems(text: &str) -> String {
    read(text).map_or_else(|problems| problems.to_string(), |_| "(no problem)".to_owned())
}

#[test]
fn an_empty_file_is_the_table_of_defaults() {
    for platform in [Platform::Linux, Platform::Macos] {
        let config = Config::from_text("config.yaml", "", &surroundings(platform)).unwrap();
        insta::assert_debug_snapshot!(format!("defaults_{}", platform.title()), config);
    }
}

/// Every default of the table, written out, gives the very configuration of an empty file.
#[test]
fn every_default_of_the_table_reads_as_itself() {
    for platform in [Platform::Linux, Platform::Macos] {
        let implicit = Config::from_text("c", "", &surroundings(platform)).unwrap();
        for key in KEYS {
            let Some(value) = key.default.yaml(platform) else { continue };
            let parts: Vec<&str> = key.path.split('.').collect();
            let mut text = String::new();
            for (depth, part) in parts.iter().enumerate() {
                let value = if depth + 1 == parts.len() { value } else { "" };
                text.push_str(&format!("{}{part}: {value}\n", "  ".repeat(depth)));
            }
            let mut explicit = Config::from_text("c", &text, &surroundings(platform)).unwrap();
            // Naming a limit makes it binding: the one thing that writing a default out changes.
            explicit.limits.pids.origin = implicit.limits.pids.origin;
            explicit.limits.nofile.origin = implicit.limits.nofile.origin;
            assert_eq!(explicit, implicit, "{}", key.path);
        }
    }
}

#[test]
fn the_table_has_each_key_once_and_explains_it() {
    let mut seen = BTreeSet::new();
    for key in KEYS {
        assert!(seen.insert(key.path), "{} stands twice", key.path);
        assert!(key.about.ends_with('.') && !key.about.contains('\n'), "{}: {}", key.path, key.about);
        assert!(key.path.split('.').count() <= 3, "{}", key.path);
        if let Default::Computed(words) = key.default {
            assert!(!words.is_empty(), "{}", key.path);
        }
    }
}

/// The files that the guide names are what the table says, and they are valid, as they are and with every
/// commented key brought to life.
#[test]
fn the_example_files_are_the_tables() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table =
        [(Platform::Linux, "nexus-linux/config.example.yaml"), (Platform::Macos, "nexus-macos/config.example.yaml")];
    for (platform, file) in table {
        let example = example_config(platform);
        let committed = std::fs::read_to_string(root.join(file)).unwrap_or_default();
        assert!(committed == example, "{file} differs: nexusd config example > {file}");
        let config = Config::from_text(file, &example, &surroundings(platform)).unwrap();
        // What it offers is what holds without a file, and a driver of this build serves it.
        let built_in = Config::built_in(platform, &|_| None).unwrap();
        assert_eq!(config.supported_sandbox_profiles, built_in.supported_sandbox_profiles);
        assert!(config.drivers().iter().all(|driver| crate::engine::built(*driver)), "{:?}", config.drivers());

        let (head, rest) = example.split_once("its).\n#\n").or_else(|| example.split_once("with it).\n#\n")).unwrap();
        let live: String = rest
            .lines()
            .map(|line| line.strip_prefix("# ").unwrap_or_default())
            .fold(String::new(), |text, line| text + line + "\n");
        let all = Config::from_text(file, &format!("{head}\n{live}"), &surroundings(platform)).unwrap();
        assert!(all.warnings.is_empty(), "{:?}", all.warnings);
        for key in KEYS {
            let name = key.path.rsplit('.').next().unwrap();
            let on_linux = platform == Platform::Linux;
            assert!(!on_linux || example.contains(&format!("{name}:")), "{} is missing", key.path);
        }
    }
}

#[test]
fn the_guides_configuration_reads() {
    let config = read(include_str!("testdata/guide-linux.yaml")).unwrap();
    assert_eq!(config.max_concurrent_directives, 1);
    assert_eq!(config.work_dir, Path::new("/var/lib/nexusd/facilities"));
    assert_eq!(config.bwrap.bwrap_path, Path::new("bwrap"));
    assert!(config.observability.enabled);
    assert_eq!(config.supported_sandbox_profiles.len(), 3);
    let text = include_str!("testdata/guide-firecracker.yaml");
    let config = read(text).unwrap();
    assert_eq!(config.firecracker.kernel_path, Path::new("/home/nexus/.cybros/vmlinux"));
    assert_eq!(config.drivers(), [conduits::DriverKind::Firecracker]);
    let text = include_str!("testdata/guide-macos.yaml");
    let config = Config::from_text("config.yaml", text, &surroundings(Platform::Macos)).unwrap();
    assert_eq!(config.tls.ca_file.as_deref(), Some(Path::new("/etc/nexusd/nexus-credentials/ca.pem")));
}

#[test]
fn variables_expand_in_values_and_never_show_in_messages() {
    let config = read("max_concurrent_directives: ${SLOTS}\nname: \"n-${SLOTS}-${NONE:-x}\"\n").unwrap();
    assert_eq!((config.max_concurrent_directives, config.name.as_str()), (3, "n-3-x"));
    // A quoted placeholder is a number all the same.
    assert_eq!(read("max_concurrent_directives: \"${SLOTS}\"").unwrap().max_concurrent_directives, 3);
    for text in [
        "server_url: ${SECRET}",
        "proxy_url: \"ftp://user:hunter2@h\"",
        "egress: {upstream_proxy: \"user:hunter2@h:1\"}",
        "egress: {upstream_proxy: \"https://user:hunter2@h:1\"}",
        "limits: {pids: ${SECRET}}",
        "work_dir: \"~${SECRET}\"",
        "log_level: ${SECRET}",
    ] {
        let shown = problems(text);
        assert!(shown.starts_with("config.yaml:1:") && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn debug_output_holds_no_credentials() {
    let config = read("proxy_url: http://u:hunter2@p:1\negress: {upstream_proxy: 'http://u:hunter2@q:1'}").unwrap();
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn anchors_are_shared_and_bombs_stay_small() {
    let config = read("name: &n nexus-7\nlabels: {host: *n}").unwrap();
    assert_eq!(config.labels["host"], "nexus-7");

    // A billion laughs: each level ten times the one before.
    let mut bomb = String::from("a0: &a0 [x, x]\n");
    for level in 1..200 {
        let before = level - 1;
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(", ")));
    }
    bomb.push_str("labels: {x: *a199}\n");
    let started = std::time::Instant::now();
    assert!(problems(&bomb).contains("nested too deeply through aliases"));
    assert!(started.elapsed() < std::time::Duration::from_secs(2));
    assert!(problems("labels: &l {x: *l}").contains("an alias inside its own anchor"));
    assert!(problems("name: *nowhere").contains("no anchor &nowhere"));
}

#[test]
fn hostile_sizes_stay_cheap() {
    let started = std::time::Instant::now();
    let deep = "[".repeat(200_000);
    let wide: String = (0..100_000).map(|n| format!("k{n}: 1\n")).collect();
    let long = format!("name: {}", "x".repeat(900_000));
    let long_key = format!("{}: 1", "x".repeat(900));
    let list = format!("operator: {{net_deny: [{}]}}", "a, ".repeat(200_000));
    for text in [deep, wide, long, long_key, list] {
        let shown = problems(&text);
        assert!(shown.len() < 64 * 1024, "{} bytes of message", shown.len());
    }
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
}

/// YAML-shaped noise from the words of the table: reaches much further in than random bytes.
fn yaml() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        prop::sample::select(KEYS.iter().flat_map(|key| key.path.split('.')).collect::<Vec<_>>())
            .prop_map(str::to_owned),
        prop::sample::select(vec![
            "1",
            "-1",
            "25s",
            "true",
            "~",
            "null",
            "[",
            "]",
            "{",
            "}",
            "&a",
            "*a",
            "!!str",
            "!x",
            "<<",
            "|",
            ">",
            "\"",
            "'",
            "${SLOTS}",
            "${NONE}",
            "${",
            "host:443",
            "1.2.3.4/8",
            "---",
            "...",
            "? ",
            "- ",
            "#",
            "\t",
            "\u{feff}",
            "%YAML 1.2",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,6}",
    ];
    let line = (0_usize..4, word.clone(), word)
        .prop_map(|(depth, key, value)| format!("{}{key}: {value}\n", "  ".repeat(depth)));
    prop::collection::vec(line, 0..24).prop_map(|lines| lines.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_yaml_never_panics(text in prop_oneof![yaml(), "\\PC{0,200}", "[ \\-:\\[\\]{}&*!|>'\"%@`#a\n\t,?]{0,60}"]) {
        if let Err(problems) = read(&text) {
            prop_assert!(!problems.list.is_empty());
            // One line a problem, whatever the file holds.
            let shown = problems.to_string();
            prop_assert_eq!(shown.lines().count(), problems.list.len().min(101));
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n'));
        }
    }
}
