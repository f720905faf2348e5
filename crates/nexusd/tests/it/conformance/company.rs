//! Cases of what is not the directive itself: the destinations that it may reach, and other directives.

use serde_json::{Value, json};

use super::Setting;
use super::cases::{Case, Check, Step, Then, ends, has, is, run, step};

/// Asks the git server for a page: through the proxy of the environment where there is one. Prints the status line.
const FETCH: &str = r#"p=${HTTPS_PROXY#http://}; user=${p%@*}; [ "$user" = "$p" ] && user=; at=${p##*@}
if [ -z "$p" ]; then echo direct; exec 3<>/dev/tcp/${TARGET%:*}/${TARGET#*:}
else
    exec 3<>/dev/tcp/${at%:*}/${at#*:}; printf 'CONNECT %s HTTP/1.1\r\nHost: %s\r\n' "$TARGET" "$TARGET" >&3
    [ -z "$user" ] || printf 'Proxy-Authorization: Basic %s\r\n' "$(printf %s "$user" | base64 -w0)" >&3
    printf '\r\n' >&3; read -r _ code _ <&3; echo "proxy $code"; while read -r line <&3 && [ "$line" != $'\r' ]; do :; done
fi
printf 'GET /project.git/info/refs?service=git-upload-pack HTTP/1.0\r\n\r\n' >&3; read -r _ code _ <&3; echo "server $code""#;

const UNPROXIED: &[(Setting, &str)] = &[(Setting::Host, "it is, without a proxy")];

fn fetch(net: &Value) -> Vec<Step> {
    vec![step(json!({
        "command": FETCH, "shell": "/bin/bash", "env": { "TARGET": "git.example.test:PORT" }, "capabilities": { "net": net },
    }))]
}

/// The server itself answered: it wants to know who asks.
const FETCHED: Check = Check(|setting, ended| {
    ends(
        ended,
        "succeeded",
        0,
        if setting.is_isolated() { "proxy 200\nserver 401\n" } else { "direct\nserver 401\n" },
    )?;
    if !setting.is_isolated() {
        return Ok(());
    }
    is("counted", &ended[0].report.artifacts_manifest["egress"]["allowed"], &json!(1))
});

/// Holds the facility until the other steps are over.
fn held() -> Step {
    Step { fields: json!({ "command": "echo up; sleep 600" }), then: Then::Hold("up") }
}

pub(super) const CASES: &[Case] = &[
    Case {
        name: "network allowlist, what is on it",
        promise: "is reached",
        instead: UNPROXIED,
        steps: |_| fetch(&json!({ "mode": "allowlist", "allow": ["git.example.test:PORT"] })),
        check: FETCHED,
    },
    Case {
        name: "network unrestricted",
        promise: "any name is reached",
        instead: UNPROXIED,
        steps: |_| fetch(&json!({ "mode": "unrestricted" })),
        check: FETCHED,
    },
    Case {
        name: "two in one facility",
        promise: "one after the other",
        instead: &[],
        steps: |_| {
            let first =
                Step { fields: json!({ "command": "echo up; sleep 0.5; echo one > f" }), then: Then::GoOn("up") };
            vec![first, step(json!({ "command": "cat f" }))]
        },
        check: Check(|_, ended| {
            is("the first", ended[0].outcome(), ("succeeded", 0, "up\n"))?;
            is("the second", ended[1].outcome(), ("succeeded", 0, "one\n"))
        }),
    },
    Case {
        name: "two facilities",
        promise: "at the same time",
        instead: &[],
        steps: |_| vec![held(), step(json!({ "command": "ls", "facility": { "id": "another" } }))],
        check: Check(|_, ended| {
            is("the second", ended[1].outcome(), ("succeeded", 0, ""))?;
            is("the first", ended[0].outcome(), ("canceled", 143, "up\n"))
        }),
    },
    Case {
        name: "handed to a less trusted profile",
        promise: "which may use the files; after that this one is refused there",
        instead: &[
            (Setting::BwrapHostUsr, "there is none"),
            (Setting::BwrapRootfs, "there is none"),
            (Setting::DarwinStandIns, "there is none on a Mac"),
        ],
        steps: |setting| {
            let mut steps = run("mkdir d; echo one > d/f; chmod 600 d/f");
            if setting.has_less_trusted() {
                steps.push(step(json!({ "command": "cat d/f; echo two >> d/f", "sandbox_profile": "untrusted" })));
            }
            steps.push(step(json!({ "command": "cat d/f" })));
            steps
        },
        check: Check(|setting, ended| {
            if !setting.has_less_trusted() {
                return ends(ended, "succeeded", 0, "one\n");
            }
            is("the less trusted one", ended[1].outcome(), ("succeeded", 0, "one\n"))?;
            ends(ended, "failed", 1, "")?;
            has("stderr", &ended[2].stderr, "was written to by profile `untrusted`, which is less trusted")
        }),
    },
];
