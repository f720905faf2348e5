//! The cases: what is asked, and what must come of it.

use serde_json::{Value, json};

use super::Setting;
use crate::bed::Ended;

/// One directive of a case, in the facility of the case unless its fields name another.
pub(super) struct Step {
    pub(super) fields: Value,
    pub(super) then: Then,
}

/// What is done once this is in the log of the directive.
#[derive(Clone, Copy)]
pub(super) enum Then {
    /// Its end is waited for.
    Wait,
    /// It is cancelled, and its end waited for.
    Cancel(&'static str),
    /// The next step comes while it runs; its end is waited for after the last.
    GoOn(&'static str),
    /// The same, and it is cancelled then.
    Hold(&'static str),
}

type Verdict = Result<(), String>;

/// Looks at the ends of all steps.
pub(super) struct Check(pub(super) fn(Setting, &[Ended]) -> Verdict);

pub(super) struct Case {
    pub(super) name: &'static str,
    /// What is expected, for the table.
    pub(super) promise: &'static str,
    /// What a setting has instead.
    pub(super) instead: &'static [(Setting, &'static str)],
    pub(super) steps: fn(Setting) -> Vec<Step>,
    pub(super) check: Check,
}

pub(super) fn step(fields: Value) -> Step {
    Step { fields, then: Then::Wait }
}

pub(super) fn run(command: &str) -> Vec<Step> {
    vec![step(json!({ "command": command }))]
}

pub(super) fn is<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Verdict {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found:?}, expected {expected:?}")) }
}

pub(super) fn has(what: &str, text: &str, part: &str) -> Verdict {
    if text.contains(part) { Ok(()) } else { Err(format!("{what} has no {part:?}")) }
}

pub(super) fn ends(ended: &[Ended], status: &str, code: i32, stdout: &str) -> Verdict {
    let last = ended.last().ok_or("nothing ran")?;
    is("the end", last.outcome(), (status, code, stdout))
}

fn ended_by(ended: &Ended) -> &str {
    ended.report.artifacts_manifest["ended_by"].as_str().unwrap_or("")
}

/// A case of one command with one end.
macro_rules! command {
    ($name:literal, $promise:literal, $command:expr, $status:literal, $code:literal, $stdout:expr) => {
        Case {
            name: $name,
            promise: $promise,
            instead: &[],
            steps: |_| run($command),
            check: Check(|_, ended| ends(ended, $status, $code, $stdout)),
        }
    };
}

const NOT_NARROWED: &[(Setting, &str)] = &[(Setting::Host, "refused: a process of the host is not held to it")];
const SOFT: &[(Setting, &str)] =
    &[(Setting::Host, "not enforced, and said so"), (Setting::ContainerHost, "asked for, and said to be no more")];

/// Asks the proxy of the environment for a tunnel, with its credential where it has one; prints the status line.
const CONNECT: &str = r#"p=${HTTPS_PROXY#http://}; user=${p%@*}; [ "$user" = "$p" ] && user=; at=${p##*@};
exec 3<>/dev/tcp/${at%:*}/${at#*:}; printf 'CONNECT %s HTTP/1.1\r\nHost: %s\r\n' "$TARGET" "$TARGET" >&3
[ -z "$user" ] || printf 'Proxy-Authorization: Basic %s\r\n' "$(printf %s "$user" | base64 -w0)" >&3
printf '\r\n' >&3; read -r line <&3; printf '%s\n' "${line%$'\r'}""#;

fn connect(net: &Value, target: &str) -> Vec<Step> {
    vec![step(json!({
        "command": CONNECT, "shell": "/bin/bash", "env": { "TARGET": target }, "capabilities": { "net": net },
    }))]
}

pub(super) const CASES: &[Case] = &[
    command!("exit 0", "succeeded, 0", "exit 0", "succeeded", 0, ""),
    command!("exit 1", "failed, 1", "exit 1", "failed", 1, ""),
    command!("exit 255", "failed, 255", "exit 255", "failed", 255, ""),
    command!("not executable", "126", "> plain; ./plain", "failed", 126, ""),
    command!("no such command", "127", "no-such-command", "failed", 127, ""),
    command!("killed by SIGKILL", "137", "kill -KILL $$", "failed", 137, ""),
    command!("killed by SIGTERM", "143", "kill -TERM $$", "failed", 143, ""),
    command!(
        "killed by SIGSEGV",
        "139, and no core file",
        "ulimit -c unlimited 2>/dev/null; sh -c 'kill -SEGV $$' 2>/dev/null; ls; kill -SEGV $$",
        "failed",
        139,
        ""
    ),
    Case {
        name: "no such shell",
        promise: "127 and a line",
        instead: &[],
        steps: |_| vec![step(json!({ "command": "true", "shell": "/bin/no-such-shell" }))],
        check: Check(|_, ended| {
            ends(ended, "failed", 127, "")?;
            has("stderr", &ended[0].stderr, "/bin/no-such-shell: No such file or directory")
        }),
    },
    Case {
        name: "another shell",
        promise: "the one that was asked for",
        instead: &[],
        steps: |_| vec![step(json!({ "command": "echo ${BASH_VERSION:+bash} $0", "shell": "/bin/bash" }))],
        check: Check(|_, ended| ends(ended, "succeeded", 0, "bash /bin/bash\n")),
    },
    Case {
        name: "both streams",
        promise: "apart, byte for byte",
        instead: &[],
        steps: |_| run("echo out; echo err >&2; printf 'no end'"),
        check: Check(|_, ended| {
            ends(ended, "succeeded", 0, "out\nno end")?;
            has("stderr", &ended[0].stderr, "err\n")
        }),
    },
    Case {
        name: "binary output",
        promise: "every byte counted",
        instead: &[],
        steps: |_| run("printf '\\377\\000\\001\\r\\n\\377'"),
        check: Check(|_, ended| is("bytes", &ended[0].report.artifacts_manifest["log"]["stdout"]["bytes"], &json!(6))),
    },
    Case {
        name: "10 MB",
        promise: "whole",
        instead: &[],
        steps: |_| run("head -c 10485760 /dev/zero | tr '\\0' x"),
        check: Check(|_, ended| {
            is("the status", ended[0].outcome().0, "succeeded")?;
            is("bytes", ended[0].stdout.bytes().filter(|&byte| byte == b'x').count(), 10_485_760)
        }),
    },
    Case {
        name: "both at once",
        promise: "each whole and in its order",
        instead: &[],
        steps: |_| run("(seq 100000 >&2) & seq 100000; wait"),
        check: Check(|_, ended| {
            let expected: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
            is("stdout whole", ended[0].stdout == expected, true)?;
            is("stderr whole", ended[0].stderr.contains(&expected), true)
        }),
    },
    command!("no output", "none", ":", "succeeded", 0, ""),
    Case {
        name: "the proxy's credential",
        promise: "is not in the log",
        instead: &[],
        steps: |_| run("env | grep -c nexus: ; echo $HTTP_PROXY | sed 's/.*nexus/nexus/'"),
        check: Check(|setting, ended| {
            let shown = ended[0].stdout.lines().last().unwrap_or_default();
            // The control: there is one, where others could reach the proxy.
            is("has one", !ended[0].stdout.starts_with('0'), setting == Setting::ContainerHost)?;
            is("shown", shown.starts_with("nexus:"), false)
        }),
    },
    command!("unicode", "as it is", "printf 'grüße 東京 🦀\\n'", "succeeded", 0, "grüße 東京 🦀\n"),
    Case {
        name: "where it starts",
        promise: "in the workspace",
        instead: &[(Setting::Host, "in the facility's own path")],
        steps: |_| run("pwd; echo $CYBROS_WORKSPACE"),
        check: Check(|setting, ended| {
            let lines: Vec<_> = ended[0].stdout.lines().collect();
            is("pwd and variable", lines.first(), lines.last())?;
            let pwd = lines.first().copied().unwrap_or_default();
            if setting.is_isolated() { is("pwd", pwd, "/workspace") } else { has("pwd", pwd, "/w/f-") }
        }),
    },
    Case {
        name: "cwd relative",
        promise: "beneath the workspace",
        instead: &[],
        steps: |_| {
            let make = step(json!({ "command": "mkdir -p a/b" }));
            vec![make, step(json!({ "command": "pwd | grep -o 'a/b$'", "cwd": "a/b" }))]
        },
        check: Check(|_, ended| ends(ended, "succeeded", 0, "a/b\n")),
    },
    Case {
        name: "cwd absolute",
        promise: "/workspace/x is beneath the workspace",
        instead: &[],
        steps: |_| {
            let make = step(json!({ "command": "mkdir -p a" }));
            vec![make, step(json!({ "command": "pwd | grep -o 'a$'", "cwd": "/workspace/a" }))]
        },
        check: Check(|_, ended| ends(ended, "succeeded", 0, "a\n")),
    },
    Case {
        name: "cwd outside",
        promise: "refused",
        instead: &[],
        steps: |_| vec![step(json!({ "command": "echo ran", "cwd": "../.." }))],
        check: Check(|_, ended| {
            ends(ended, "failed", 1, "")?;
            has("stderr", &ended[0].stderr, "../..")
        }),
    },
    Case {
        name: "cwd missing",
        promise: "refused",
        instead: &[],
        steps: |_| vec![step(json!({ "command": "echo ran", "cwd": "nowhere" }))],
        check: Check(|_, ended| {
            ends(ended, "failed", 1, "")?;
            has("stderr", &ended[0].stderr, "nowhere")
        }),
    },
    Case {
        name: "cwd by a link",
        promise: "refused where it leads out",
        instead: &[],
        steps: |_| {
            let make = step(json!({ "command": "ln -s / out" }));
            vec![make, step(json!({ "command": "echo ran", "cwd": "out/etc" }))]
        },
        check: Check(|_, ended| ends(ended, "failed", 1, "")),
    },
    Case {
        name: "environment",
        promise: "exactly the standard one",
        instead: &[(Setting::Host, "the same without proxy and caches")],
        steps: |_| {
            vec![step(json!({ "command": "env -u PWD -u SHLVL -u _ | cut -d= -f1 | sort", "shell": "/bin/sh" }))]
        },
        check: Check(|setting, ended| {
            let mut names = vec![
                "CI",
                "CYBROS_DIRECTIVE_ID",
                "CYBROS_FACILITY_ID",
                "CYBROS_NEXUS",
                "CYBROS_SANDBOX_PROFILE",
                "CYBROS_TERRITORY_ID",
                "CYBROS_WORKSPACE",
                "GIT_PAGER",
                "HOME",
                "LANG",
                "LC_ALL",
                "NO_COLOR",
                "PAGER",
                "PATH",
                "TERM",
            ];
            if setting.is_isolated() {
                names.extend(["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "XDG_CACHE_HOME"]);
                names.extend(["http_proxy", "https_proxy", "no_proxy", "npm_config_cache"]);
            }
            let found: std::collections::BTreeSet<_> = ended[0].stdout.lines().collect();
            is("the names", found, names.into_iter().collect())
        }),
    },
    Case {
        name: "own variables",
        promise: "as given",
        instead: &[],
        steps: |_| {
            let odd = "a \"b\" 'c' $d `e` \\ \n=ü";
            vec![step(json!({ "command": "printf %s \"$ODD\"", "env": { "ODD": odd } }))]
        },
        check: Check(|_, ended| ends(ended, "succeeded", 0, "a \"b\" 'c' $d `e` \\ \n=ü")),
    },
    Case {
        name: "large environment",
        promise: "100 KB in one variable",
        instead: &[],
        steps: |_| {
            vec![step(json!({ "command": "printf %s \"$BIG\" | wc -c", "env": { "BIG": "x".repeat(100_000) } }))]
        },
        check: Check(|_, ended| ends(ended, "succeeded", 0, "100000\n")),
    },
    Case {
        name: "every character",
        promise: "reaches the shell as it is",
        instead: &[],
        steps: |_| {
            let all: String = (1_u8..128).filter(|byte| *byte != b'\n').map(char::from).collect();
            vec![step(
                json!({ "command": format!("tail -n +1 <<'THE END' | md5sum | cut -c1-32\n{all}é\u{10ffff}\nTHE END") }),
            )]
        },
        // Of the same bytes, by md5sum outside.
        check: Check(|_, ended| ends(ended, "succeeded", 0, "34793627e32d8a63653019612dba5d0e\n")),
    },
    command!(
        "quotes",
        "are not pasted anywhere",
        "echo \"'\"'\"`\\$'; echo $((1+1)) # '",
        "succeeded",
        0,
        "'\"`\\$\n2\n"
    ),
    command!("like an option", "a command all the same", "-x 2>/dev/null; echo $?", "succeeded", 0, "127\n"),
    Case {
        name: "100 KB of command",
        promise: "runs",
        instead: &[],
        steps: |_| run(&format!("echo begin; : {}; echo end", "x".repeat(100_000))),
        check: Check(|_, ended| ends(ended, "succeeded", 0, "begin\nend\n")),
    },
    command!("standard input", "empty", "wc -c", "succeeded", 0, "0\n"),
    command!("umask", "0022", "umask; > f; stat -c %a f", "succeeded", 0, "0022\n644\n"),
    command!("no descriptors", "but three", "ls /proc/self/fd | wc -l", "succeeded", 0, "4\n"),
    Case {
        name: "user",
        promise: "not root, no capability",
        instead: &[(Setting::Host, "the daemon's own")],
        steps: |_| run("[ $(id -u) = 0 ] && echo root; grep CapEff /proc/self/status | tr -d '\\t'"),
        check: Check(|setting, ended| {
            if !setting.is_isolated() {
                return has("stdout", &ended[0].stdout, "root");
            }
            is("stdout", ended[0].stdout.as_str(), "CapEff:0000000000000000\n")
        }),
    },
    Case {
        name: "temporary files",
        promise: "a /tmp of its own, gone after",
        instead: &[(Setting::Host, "the host's")],
        steps: |setting| {
            let tidy = if setting.is_isolated() { "" } else { "; rm /tmp/nexus-conformance" };
            let again = format!("cat /tmp/nexus-conformance 2>/dev/null || echo none{tidy}");
            vec![step(json!({ "command": "echo here > /tmp/nexus-conformance" })), step(json!({ "command": again }))]
        },
        check: Check(|setting, ended| {
            let seen = if setting.is_isolated() { "none\n" } else { "here\n" };
            ends(ended, "succeeded", 0, seen)
        }),
    },
    Case {
        name: "memory",
        promise: "the limit kills, and is named",
        instead: &[],
        steps: |_| vec![step(json!({ "command": "exec tail /dev/zero", "limits": { "memory_mb": 64 } }))],
        check: Check(|_, ended| {
            is("the end", ended[0].outcome(), ("failed", 137, ""))?;
            is("ended_by", ended_by(&ended[0]), "oom")
        }),
    },
    Case {
        name: "disk",
        promise: "the limit ends with 125",
        instead: &[],
        steps: |_| {
            let fill = "while :; do head -c 1000000 /dev/zero >> f || exit; sleep 0.01; done";
            vec![step(json!({ "command": fill, "limits": { "disk_mb": 10 } }))]
        },
        check: Check(|_, ended| {
            is("the code", ended[0].outcome().1, 125)?;
            is("ended_by", ended_by(&ended[0]), "disk")
        }),
    },
    Case {
        name: "processor",
        promise: "half of one takes twice as long",
        instead: &[],
        steps: |_| {
            let spin = "b=${EPOCHREALTIME/.}; while read -r a _ < /proc/self/schedstat; [ $a -lt 500000000 ]; do :; done; \
                        [ $(( ${EPOCHREALTIME/.} - b )) -gt 850000 ] && echo slowed";
            vec![step(json!({ "command": spin, "shell": "/bin/bash", "limits": { "cpu": 500 } }))]
        },
        check: Check(|_, ended| ends(ended, "succeeded", 0, "slowed\n")),
    },
    Case {
        name: "timeout",
        promise: "timed_out, 124, everything inside ended",
        instead: &[],
        steps: |_| {
            let first = "echo before; (trap '' TERM; while sleep 0.1; do date +%s%N > beat; done) & sleep 60";
            let look = step(json!({ "command": "cp beat a; sleep 0.5; cmp beat a && echo quiet" }));
            vec![step(json!({ "command": first, "timeout_seconds": 1 })), look]
        },
        check: Check(|_, ended| {
            is("the first", ended[0].outcome(), ("timed_out", 124, "before\n"))?;
            ends(ended, "succeeded", 0, "quiet\n")
        }),
    },
    Case {
        name: "cancel",
        promise: "SIGTERM, and the command's own code",
        instead: &[],
        steps: |_| {
            let command = "trap 'echo asked; exit 9' TERM; echo up; while :; do sleep 0.05; done";
            vec![Step { fields: json!({ "command": command }), then: Then::Cancel("up") }]
        },
        check: Check(|_, ended| ends(ended, "canceled", 9, "up\nasked\n")),
    },
    Case {
        name: "cancel of the deaf",
        promise: "SIGKILL after the grace, 137",
        instead: &[],
        steps: |_| {
            let command = "trap '' TERM; echo up; while :; do sleep 0.05; done";
            vec![Step { fields: json!({ "command": command }), then: Then::Cancel("up") }]
        },
        check: Check(|_, ended| ends(ended, "canceled", 137, "up\n")),
    },
    Case {
        name: "left in the background",
        promise: "ended with the command",
        instead: &[(Setting::Host, "the same, after 2 s in which its output is waited for, and said so")],
        steps: |_| {
            // The second step sees whether the first one's child still writes.
            let first = "(while sleep 0.1; do date +%s%N > beat; done) & sleep 0.3; echo done";
            vec![
                step(json!({ "command": first })),
                step(json!({ "command": "cp beat a; sleep 0.5; cmp beat a && echo quiet" })),
            ]
        },
        check: Check(|setting, ended| {
            is("the first", ended[0].outcome(), ("succeeded", 0, "done\n"))?;
            ends(ended, "succeeded", 0, "quiet\n")?;
            if setting.is_isolated() { Ok(()) } else { has("stderr", &ended[0].stderr, "held its output for 2 s more") }
        }),
    },
    Case {
        name: "daemonised",
        promise: "ended with the command",
        instead: &[],
        steps: |_| {
            let first = "setsid sh -c '(while sleep 0.1; do date +%s%N > beat; done) >/dev/null 2>&1 &' >/dev/null 2>&1; sleep 0.3";
            vec![
                step(json!({ "command": first })),
                step(json!({ "command": "cp beat a; sleep 0.5; cmp beat a && echo quiet" })),
            ]
        },
        check: Check(|_, ended| ends(ended, "succeeded", 0, "quiet\n")),
    },
    Case {
        name: "the facility again",
        promise: "what one directive wrote the next may change",
        instead: &[],
        steps: |_| {
            let first = "mkdir d; echo one > d/f; chmod 600 d/f";
            vec![step(json!({ "command": first })), step(json!({ "command": "cat d/f; echo two >> d/f; rm -r d; ls" }))]
        },
        check: Check(|_, ended| ends(ended, "succeeded", 0, "one\n")),
    },
    Case {
        name: "artifacts",
        promise: "listed with size and digest, no links followed",
        instead: &[],
        steps: |_| {
            let make = "mkdir out; printf abc > out/a.txt; ln -s /etc/passwd out/b.txt; > out/c.bin";
            vec![step(json!({ "command": make, "artifacts": { "collect": ["out/*.txt"] } }))]
        },
        check: Check(|_, ended| {
            let found = &ended[0].report.artifacts_manifest["artifacts"];
            is("how many", found.as_array().map(Vec::len), Some(1))?;
            is("path", &found[0]["path"], &json!("out/a.txt"))?;
            let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
            is("sha256", &found[0]["sha256"], &json!(digest))
        }),
    },
    Case {
        name: "read only",
        promise: "nothing of the workspace can be written",
        instead: NOT_NARROWED,
        steps: |_| {
            let fs = json!({ "net": { "mode": "none" }, "fs": { "read": ["workspace:**"] } });
            vec![
                step(json!({ "command": "echo one > f" })),
                step(json!({ "command": "cat f; (> g) 2>/dev/null || echo no", "capabilities": fs })),
            ]
        },
        check: Check(|setting, ended| {
            if !setting.is_isolated() {
                ends(ended, "failed", 1, "")?;
                return has("stderr", &ended[1].stderr, "fs");
            }
            ends(ended, "succeeded", 0, "one\nno\n")
        }),
    },
    Case {
        name: "a part of the workspace",
        promise: "the rest is not there",
        instead: NOT_NARROWED,
        steps: |_| {
            let fs = json!({
                "net": { "mode": "none" }, "fs": { "read": ["workspace:/src"], "write": ["workspace:/out"] },
            });
            vec![
                step(json!({ "command": "mkdir src out; echo kept > src/a; echo hidden > b" })),
                step(
                    json!({ "command": "ls; cat src/a; (> src/b) 2>/dev/null || echo no; > out/c", "capabilities": fs }),
                ),
                step(json!({ "command": "ls out" })),
            ]
        },
        check: Check(|setting, ended| {
            if !setting.is_isolated() {
                return is("the end", ended[1].outcome(), ("failed", 1, ""));
            }
            is("the second", ended[1].outcome(), ("succeeded", 0, "out\nsrc\nkept\nno\n"))?;
            ends(ended, "succeeded", 0, "c\n")
        }),
    },
    Case {
        name: "network none",
        promise: "no way out, also past the proxy",
        instead: SOFT,
        steps: |_| {
            let past = "(echo > /dev/tcp/127.0.0.2/9) 2>&1 | grep -o 'unreachable\\|refused'; cut -d: -f1 /proc/net/dev | tail -n +3 | wc -l";
            vec![
                step(json!({ "command": past, "shell": "/bin/bash" })),
                connect(&json!({ "mode": "none" }), "git.example.test:80").remove(0),
            ]
        },
        check: Check(|setting, ended| {
            let devices: u32 = ended[0].stdout.lines().last().and_then(|line| line.parse().ok()).unwrap_or(0);
            is(
                "alone",
                devices == 1,
                matches!(
                    setting,
                    Setting::BwrapHostUsr | Setting::BwrapRootfs | Setting::ContainerIsolated | Setting::Docker
                ),
            )?;
            if !setting.is_isolated() { Ok(()) } else { has("the proxy's answer", &ended[1].stdout, "HTTP/1.1 403") }
        }),
    },
    Case {
        name: "somebody else's proxy",
        promise: "is none that others reach",
        instead: &[
            (Setting::Host, "there is none"),
            (Setting::ContainerHost, "asks for the credential of its run (407)"),
        ],
        steps: |_| {
            let nobody = CONNECT.replace("user=${p%@*};", "user=;").replace(r#"[ "$user" = "$p" ] && user=;"#, "");
            vec![step(json!({ "command": nobody, "shell": "/bin/bash", "env": { "TARGET": "git.example.test:80" } }))]
        },
        check: Check(|setting, ended| match setting.like() {
            Setting::Host => is("an answer", ended[0].stdout.as_str(), "\n"),
            Setting::ContainerHost => has("the proxy's answer", &ended[0].stdout, "HTTP/1.1 407"),
            _ => has("the proxy's answer", &ended[0].stdout, "HTTP/1.1 403"),
        }),
    },
    Case {
        name: "network allowlist",
        promise: "others are denied, with a line that says why",
        instead: &[(Setting::Host, "not enforced, and said so")],
        steps: |_| connect(&json!({ "mode": "allowlist", "allow": ["ok.example.test:80"] }), "git.example.test:80"),
        check: Check(|setting, ended| {
            has("stderr", &ended[0].stderr, "[egress]")?;
            if !setting.is_isolated() {
                return is("an answer", ended[0].stdout.as_str(), "\n");
            }
            has("the proxy's answer", &ended[0].stdout, "HTTP/1.1 403")?;
            has("stderr", &ended[0].stderr, "(NOT_IN_ALLOWLIST)")?;
            is("counted", &ended[0].report.artifacts_manifest["egress"]["denied"], &json!(1))
        }),
    },
    Case {
        name: "a clone, and the diff of what was done to it",
        promise: "changed, new, deleted, binary and renamed files",
        instead: &[],
        steps: |_| {
            let command = "cat greeting; echo two >> greeting; echo new > new; git mv 2>/dev/null; mv old renamed; rm gone; \
                           printf '\\0\\377' > binary";
            vec![step(json!({
                "facility": { "id": "cloned", "repo_url": "http://robot:s3cret%2Fpass@git.example.test:PORT/project.git" },
                "capabilities": { "net": { "mode": "unrestricted" } }, "command": command,
                "artifacts": { "always_diff": true }, "limits": { "max_diff_bytes": 100_000 },
            }))]
        },
        check: Check(|_, ended| {
            ends(ended, "succeeded", 0, "hello\n")?;
            let diff = String::from_utf8(ended[0].report.diff_base64.clone().unwrap_or_default())
                .map_err(|e| e.to_string())?;
            for part in ["+two\n", "new file mode", "deleted file mode", "GIT binary patch", "renamed"] {
                has("the diff", &diff, part)?;
            }
            is("the secret is nowhere", (ended[0].stderr.contains("s3cret"), diff.contains("s3cret")), (false, false))
        }),
    },
];
