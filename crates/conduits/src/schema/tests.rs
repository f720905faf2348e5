use super::*;
use crate::capability::{FsCapability, NetCapability};
use proptest::prelude::*;
use std::path::PathBuf;

fn committed(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol").join(name)
}

/// The committed files are what the code says. `NEXUS_UPDATE_SCHEMAS=1 cargo test -p conduits schema` writes them anew.
#[test]
#[expect(clippy::disallowed_methods, reason = "a switch of the test run, not of the product")]
fn the_committed_files_are_up_to_date() {
    for (name, schema) in
        [("net-capability.schema.json", net_capability()), ("fs-capability.schema.json", fs_capability())]
    {
        let text = to_file_text(&schema);
        if std::env::var_os("NEXUS_UPDATE_SCHEMAS").is_some() {
            std::fs::write(committed(name), &text).unwrap();
        }
        let file = std::fs::read_to_string(committed(name)).unwrap_or_default();
        assert_eq!(file, text, "{name} is out of date; run NEXUS_UPDATE_SCHEMAS=1 cargo test -p conduits schema");
    }
}

fn agree(schema: &jsonschema::Validator, value: &Value, parsed: Result<(), String>) {
    assert_eq!(schema.is_valid(value), parsed.is_ok(), "{value}: the parser says {parsed:?}");
}

fn net_agrees(schema: &jsonschema::Validator, value: &Value) -> bool {
    let parsed = NetCapability::from_value(value).map(|_| ()).map_err(|e| e.to_string());
    let good = parsed.is_ok();
    agree(schema, value, parsed);
    good
}

#[test]
fn net_schema_and_parser_agree() {
    let schema = jsonschema::draft202012::new(&net_capability()).unwrap();
    assert!(jsonschema::draft202012::meta::is_valid(&net_capability()));
    let good = [
        json!({"mode": "none"}),
        json!({"mode": "unrestricted", "preset": "loose"}),
        json!({"mode": "none", "allow": null, "preset": null, "ttl_seconds": null, "x_ext": null}),
        json!({"mode": "allowlist", "allow": []}),
        json!({"mode": "allowlist", "allow": ["example.com:443", "example.com:443"], "ttl_seconds": 1}),
        json!({"mode": "none", "ttl_seconds": 86_400, "x_ext": {"x_a": {"y": []}}}),
    ];
    let bad = [
        json!(null),
        json!("none"),
        json!([]),
        json!({}),
        json!({"mode": null}),
        json!({"mode": "NONE"}),
        json!({"mode": "allowlist"}),
        json!({"mode": "allowlist", "allow": null}),
        json!({"mode": "allowlist", "allow": {}}),
        json!({"mode": "allowlist", "allow": [1]}),
        json!({"mode": "allowlist", "allow": [null]}),
        json!({"mode": "none", "allow": []}),
        json!({"mode": "unrestricted", "allow": ["example.com:443"]}),
        json!({"mode": "none", "preset": "lose"}),
        json!({"mode": "none", "ttl_seconds": 0}),
        json!({"mode": "none", "ttl_seconds": 86_401}),
        json!({"mode": "none", "ttl_seconds": -1}),
        json!({"mode": "none", "ttl_seconds": 1.5}),
        json!({"mode": "none", "ttl_seconds": "1"}),
        json!({"mode": "none", "x_ext": {"y": 1}}),
        json!({"mode": "none", "x_ext": [1]}),
        json!({"mode": "none", "deny": []}),
        json!({"mode": "allowlist", "allow": vec!["example.com:443"; MAX_ALLOW_ENTRIES + 1]}),
    ];
    assert!(good.iter().all(|value| net_agrees(&schema, value)));
    assert!(!bad.iter().any(|value| net_agrees(&schema, value)));
}

#[test]
fn the_entry_pattern_and_parser_agree() {
    let schema = jsonschema::draft202012::new(&net_capability()).unwrap();
    let long =
        ["a".repeat(63), "a".repeat(64), "a.".repeat(126) + "a", "a.".repeat(126) + "aa", "a.".repeat(125) + "aaa."];
    let mut hosts = vec![
        "example.com",
        "EXAMPLE.com.",
        "example.com..",
        "*.example.com",
        "*.com",
        "*.localhost",
        "*",
        "*.",
        "localhost",
        "LocalHost.",
        "localhosts",
        "com",
        "",
        ".",
        "a..b",
        ".a.b",
        "-a.b",
        "a-.b",
        "a.b-",
        "a--b.c",
        "a_b.c",
        "a.b:1",
        "1.2.3.4",
        "1.2.3.4.",
        "0x7f.1",
        "0X7F.0x1",
        "a.0x",
        "a.0x1.",
        "a.0xg",
        "a.0",
        "a.0a",
        "2130706433",
        "127.1",
        "[::1]",
        "::1",
        "bücher.example",
        "a.b\n",
        "\na.b",
        "a b.c",
        "a.*.b",
        "**.a.b",
        "*.*.a.b",
        "*.1.2.3.4",
        "*.0x7f.1",
        "a.b/",
        "u@a.b",
        "xn--a.b",
    ];
    let labels: Vec<String> =
        long.iter().flat_map(|label| [label.clone(), format!("{label}.com"), format!("*.{label}")]).collect();
    hosts.extend(labels.iter().map(String::as_str));
    let ports = [
        "1", "9", "10", "443", "9999", "10000", "59999", "60000", "65535", "65536", "65540", "65600", "66000", "70000",
        "99999", "100000", "0", "0443", "+1", "-1", "", "a", " 1", "1 ", "1\n", "４",
    ];
    for host in hosts {
        net_agrees(&schema, &json!({"mode": "allowlist", "allow": [format!("{host}:443")]}));
        net_agrees(&schema, &json!({"mode": "allowlist", "allow": [host]}));
    }
    for port in ports {
        net_agrees(&schema, &json!({"mode": "allowlist", "allow": [format!("example.com:{port}")]}));
    }
}

fn fs_agrees(schema: &jsonschema::Validator, value: &Value) -> bool {
    let parsed = FsCapability::from_value(value).map(|_| ()).map_err(|e| e.to_string());
    let good = parsed.is_ok();
    agree(schema, value, parsed);
    good
}

#[test]
fn fs_schema_and_parser_agree() {
    let schema = jsonschema::draft202012::new(&fs_capability()).unwrap();
    assert!(jsonschema::draft202012::meta::is_valid(&fs_capability()));
    let good = [
        json!({}),
        json!({"read": null, "write": ["workspace:**"], "writable_roots": ["/srv/a"], "read_only_subpaths": []}),
        json!({"read": ["host:/etc/ssl/", "workspace:/a b/[id]"]}),
    ];
    let bad = [
        json!(null),
        json!([]),
        json!({"deny": []}),
        json!({"read": "workspace:**"}),
        json!({"read": [1]}),
        json!({"read": [null]}),
        json!({"read": vec!["workspace:**"; MAX_FS_ENTRIES + 1]}),
    ];
    assert!(good.iter().all(|value| fs_agrees(&schema, value)));
    assert!(!bad.iter().any(|value| fs_agrees(&schema, value)));
    let paths = [
        "",
        "/",
        "//",
        "/a",
        "/a/",
        "/a//",
        "//a",
        "/a//b",
        "/.",
        "/..",
        "/./a",
        "/a/.",
        "/a/..",
        "/a/../b",
        "/...",
        "/..a",
        "/.a",
        "/a.",
        "/a*",
        "/**",
        "a",
        "a/b",
        "./a",
        "/a b",
        "/a\tb",
        "/a\nb",
        "/a\u{a0}b",
        "/a\u{85}b",
        "/a\u{2003}b",
        "/a\u{3000}b",
        "/a\u{feff}b",
        "/a\u{0}b",
        "/a\u{7f}",
        "/é",
        "/a:b",
        "/a\n",
        "/../",
        "/./",
    ];
    for path in paths {
        for text in [format!("workspace:{path}"), format!("host:{path}"), format!("other:{path}"), path.to_owned()] {
            fs_agrees(&schema, &json!({"write": [text]}));
        }
        fs_agrees(&schema, &json!({"writable_roots": [path]}));
        fs_agrees(&schema, &json!({"read_only_subpaths": [path]}));
    }
}

proptest! {
    #[test]
    fn any_entry_gets_one_answer(host in "[a0.x*-]{0,12}|[A-Za-z0-9.*-]{0,30}|\\PC{0,10}", port in "[0-9]{0,6}") {
        let schema = jsonschema::draft202012::new(&net_capability()).unwrap();
        net_agrees(&schema, &json!({"mode": "allowlist", "allow": [format!("{host}:{port}")]}));
    }

    #[test]
    fn any_path_gets_one_answer(path in "[/a.* \\n]{0,10}|\\PC{0,12}") {
        let schema = jsonschema::draft202012::new(&fs_capability()).unwrap();
        fs_agrees(&schema, &json!({"read": [format!("workspace:{path}")], "writable_roots": [path]}));
    }
}
