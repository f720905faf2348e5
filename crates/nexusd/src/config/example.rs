//! The example configuration, printed from the table of keys.

use super::Platform;
use super::keys::{Default, KEYS, Key};

/// Longest line before its explanation moves above it, and the column that explanations begin in.
const WIDTH: usize = 120;
const ABOUT_COLUMN: usize = 46;

/// Keys without effect on macOS, by their beginning.
const LINUX_ONLY: &[&str] = &["sandbox_user", "untrusted_driver", "bwrap.", "rootfs.", "container.", "firecracker."];

/// Every key of the platform with its default and its explanation. What a deployment has to set stands at the top
/// with a value of its own; the rest says what holds anyway, commented out.
#[must_use]
pub fn example_config(platform: Platform) -> String {
    let mut out = String::from(match platform {
        Platform::Linux => LINUX_HEAD,
        Platform::Macos => MACOS_HEAD,
    });
    out.push_str(REST);
    let mut open: Vec<&str> = Vec::new();
    let keys = KEYS.iter().filter(|key| platform == Platform::Linux || !linux_only(key));
    for key in keys.filter(|key| !SET_ABOVE.contains(&key.path)) {
        let parts: Vec<&str> = key.path.split('.').collect();
        let (name, sections) = parts.split_last().map_or(("", &parts[..0]), |(name, sections)| (*name, sections));
        let same = open.iter().zip(sections).take_while(|(a, b)| a == b).count();
        if sections.len() != open.len() || same != sections.len() {
            if same == 0 {
                out.push_str("#\n");
            }
            for (depth, section) in sections.iter().enumerate().skip(same) {
                out.push_str(&format!("# {}{section}:\n", "  ".repeat(depth)));
            }
        }
        open = sections.to_vec();
        push_key(&mut out, key, name, &"  ".repeat(sections.len()), platform);
    }
    out
}

fn push_key(out: &mut String, key: &Key, name: &str, indent: &str, platform: Platform) {
    let line = match key.default {
        Default::Computed(words) => {
            let plain = format!("# {indent}{name}:");
            format!("{plain:<ABOUT_COLUMN$} # {} Default: {words}.", key.about)
        }
        default => {
            let value = default.yaml(platform).unwrap_or_default();
            let plain = format!("# {indent}{name}: {value}");
            let whole = format!("{plain:<ABOUT_COLUMN$} # {}", key.about);
            if whole.chars().count() <= WIDTH { whole } else { format!("# {indent}# {}\n{plain}", key.about) }
        }
    };
    out.push_str(&line);
    out.push('\n');
}

fn linux_only(key: &Key) -> bool {
    LINUX_ONLY.iter().any(|start| key.path == *start || start.ends_with('.') && key.path.starts_with(start))
}

/// The keys that the heads set.
const SET_ABOVE: &[&str] = &[
    "server_url",
    "territory_id",
    "name",
    "work_dir",
    "supported_sandbox_profiles",
    "tls.ca_file",
    "tls.client_cert_file",
    "tls.client_key_file",
    "tls.insecure_skip_verify",
];

const LINUX_HEAD: &str = r#"# nexusd on Linux. Every key stands here; `nexusd config check` says what is wrong with a file.
# Durations: 500ms, 25s, 1m30s, 2h. Sizes: bytes, or 512MiB, 1GiB. Relative paths start from this file's folder,
# ~ is the home of the user that nexusd runs as. ${VAR} and ${VAR:-default} expand inside values.

server_url: "https://mothership.example.com"   # The mothership. http:// only on loopback.
territory_id: ""                               # Read from territory.json, which enrolment writes beside the certificate.
name: "nexus-prod-01"                          # The name shown at the mothership.
work_dir: "/var/lib/nexusd/facilities"         # Holds the facilities and the daemon's own state.

supported_sandbox_profiles:                    # What is offered, and nothing else ever runs.
  - untrusted                                  # bubblewrap (or Firecracker): namespaces, hard network
# - trusted                                    # containers: soft network unless container.network is isolated
# - host                                       # plain processes: no isolation

tls:
  ca_file: "/etc/nexusd/ca.pem"                # Verifies the mothership; empty: the system's roots.
  client_cert_file: "/etc/nexusd/client.pem"   # nexusd -enroll-token TOKEN -enroll-out-dir /etc/nexusd
  client_key_file: "/etc/nexusd/client-key.pem"
  insecure_skip_verify: false                  # true: whoever answers can run commands here. Warned about.
"#;

const MACOS_HEAD: &str = r#"# nexusd on macOS. Every key stands here; `nexusd config check` says what is wrong with a file.
# Durations: 500ms, 25s, 1m30s, 2h. Sizes: bytes, or 512MiB, 1GiB. Relative paths start from this file's folder,
# ~ is the home of the user that nexusd runs as. ${VAR} and ${VAR:-default} expand inside values.

server_url: "https://mothership.example.com"   # The mothership. http:// only on loopback.
territory_id: ""                               # Read from territory.json, which enrolment writes beside the certificate.
name: "nexus-macos"                            # The name shown at the mothership.
work_dir: "./facilities"                       # Holds the facilities and the daemon's own state.

supported_sandbox_profiles:                    # What is offered, and nothing else ever runs.
  - darwin-automation                          # plain processes with osascript and shortcuts: no isolation

tls:
  ca_file: "./nexus-credentials/ca.pem"        # Verifies the mothership; empty: the system's roots.
  client_cert_file: "./nexus-credentials/client.pem"   # nexusd -enroll-token TOKEN
  client_key_file: "./nexus-credentials/client-key.pem"
  insecure_skip_verify: false                  # true: whoever answers can run commands here. Warned about.
"#;

const REST: &str = "
# What follows are the defaults: remove the # to change one (a section's own line with it).
#
";
