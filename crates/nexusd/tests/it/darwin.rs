//! The profile darwin-automation, on a daemon that takes this machine for a Mac, with stand-ins for the Mac's tools.
//!
//! The program itself asks the machine that it was built for, and nothing that a user could set tells it otherwise. So the
//! daemon here is this very test program, started again: it hands the library other values than `main` does.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nexusd::client::{ClientSettings, Mothership};
use nexusd::config::{Config, LogFormat, LogLevel, Platform};
use nexusd::daemon::{self, Start};
use nexusd::engine::Surroundings;
use nexusd::signals::Signals;
use sandbox::{ConsentAnswers, DarwinSettings, HostHelper, Machine, Starts};
use serde_json::json;
use testkit::{Output, StubOptions, WorkDir, require};

use crate::bed::{Bed, SOON};

/// Where the stand-ins are, beside the configuration.
const TOOLS: &str = "mac";

/// The command that is a Mac's daemon but for `-config PATH`; its tools are put into `dir`.
pub(crate) fn mac_daemon(dir: &WorkDir) -> Command {
    std::fs::create_dir_all(dir.join(TOOLS)).unwrap();
    for name in ["osascript", "shortcuts"] {
        let path = dir.write(Path::new(TOOLS).join(name), "#!/bin/sh\necho \"${0##*/}: $*\"\n");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "darwin::the_daemon_of_a_mac", "--ignored", "--nocapture", "--"]);
    command
}

fn bed() -> Bed {
    Bed::started_by(StubOptions::full(), "", mac_daemon)
}

#[test]
#[ignore = "no test: the daemon of those here, which start it with the path of a configuration"]
fn the_daemon_of_a_mac() {
    let mut arguments = std::env::args_os().skip_while(|argument| argument != "-config").skip(1);
    let Some(path) = arguments.next().map(PathBuf::from) else { return };
    let config = Config::load(&path, Platform::Macos, &|name| std::env::var(name).ok()).unwrap();
    nexusd::observe::log::init(LogLevel::Info, LogFormat::Json, true).unwrap();
    let mut settings = ClientSettings::new(config.server_url.to_string());
    settings.territory_header = config.identity().unwrap().territory_id().cloned();
    let mothership = Mothership::new(&settings).unwrap();
    let consent = || Some(ConsentAnswers { automation: -1743, accessibility: true, screen_recording: false });
    let around = Surroundings {
        search_path: format!("/usr/bin:/bin:{}", path.with_file_name(TOOLS).display()),
        home: "/root".to_owned(),
        territory: "t-1".to_owned(),
        container_environment: Vec::new(),
        starts: Starts::Many,
        darwin: DarwinSettings { machine: Machine::apple_silicon(), consent },
        // As on a Mac, where there is no embedded one.
        host_helper: HostHelper::Program(env!("CARGO_BIN_EXE_nexusd").into()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime
        .block_on(async {
            daemon::run(Start { config, around, mothership, tape_writer: None }, Signals::new().unwrap(), |_| None)
                .await
        })
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directive_drives_the_desktop() {
    let bed = bed();
    let command =
        "osascript -e 'beep 2'; shortcuts run \"Let's go\"; echo $CYBROS_SANDBOX_PROFILE $HOME ${PATH##*:}; pwd";
    let id = bed.queue(json!({
        "sandbox_profile": "darwin-automation", "command": command, "shell": "/bin/sh", "facility": { "id": "f" },
    }));
    let ended = bed.ended(id.clone()).await;
    let (tools, facility) = (bed.dir.join(TOOLS), bed.dir.join("w/f"));
    let expected = format!(
        "osascript: -e beep 2\nshortcuts: run Let's go\ndarwin-automation /root {}\n{}\n",
        tools.display(),
        facility.display()
    );
    assert_eq!(ended.outcome(), ("succeeded", 0, expected.as_str()), "{}", ended.stderr);
    let started = bed.stub.directive(&id).started.unwrap();
    let summary = json!(started.effective_capabilities_summary);
    assert_eq!(
        (&summary["net"]["enforced"], &summary["driver"]),
        (&json!(false), &json!("darwin-automation")),
        "{summary}"
    );
}

/// What no Mac lacks may be missing here: either way it is what the profile's default shell does.
#[tokio::test(flavor = "multi_thread")]
async fn the_shell_is_zsh_where_none_is_named() {
    let ended =
        bed().run(json!({ "sandbox_profile": "darwin-automation", "command": "echo ${ZSH_VERSION:+zsh}" })).await;
    if Path::new("/bin/zsh").exists() {
        assert_eq!(ended.outcome(), ("succeeded", 0, "zsh\n"));
    } else {
        assert_eq!(ended.outcome(), ("failed", 127, ""));
        assert!(ended.stderr.contains("/bin/zsh: No such file or directory"), "{}", ended.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_profiles_are_not_a_mac_s() {
    let ended = bed().run(json!({ "sandbox_profile": "untrusted" })).await;
    assert_eq!(ended.outcome(), ("failed", 1, ""));
    assert!(
        ended.stderr.contains("`untrusted` is not offered by this nexusd (offered: darwin-automation)"),
        "{}",
        ended.stderr
    );
}

/// A Mac has no bubblewrap: git looks at a facility with the rights that its commands have.
#[tokio::test(flavor = "multi_thread")]
async fn a_diff_needs_no_sandbox_there() {
    require!(Git);
    let bed = Bed::started_by(StubOptions::full(), "bwrap: {bwrap_path: /nowhere/bwrap}\n", mac_daemon);
    let run = async |command: &str| {
        bed.run(json!({
            "sandbox_profile": "darwin-automation", "shell": "/bin/sh", "command": command, "facility": { "id": "f" },
            "artifacts": { "always_diff": true },
        }))
        .await
    };
    let made =
        run("git init -q . && echo a > a && git add a && git -c user.name=n -c user.email=n@x commit -qm a").await;
    assert_eq!(made.outcome(), ("succeeded", 0, ""), "{}", made.stderr);
    let changed = run("echo b >> a; echo new > 'a new\tone'").await;
    let diff = String::from_utf8(changed.report.diff_base64.unwrap()).unwrap();
    assert!(diff.contains("+b\n") && diff.contains("new file mode"), "{diff}\n{}", changed.stderr);
    let left = std::fs::read_dir(bed.dir.join("w/.nexus")).unwrap().flatten().map(|entry| entry.file_name());
    assert_eq!(left.filter(|name| name.to_string_lossy().starts_with("nexusd-run-")).count(), 0);
}

/// A Mac's kernel ends nobody with his parent: whoever supervises the command hears of the daemon's end.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_a_daemon_that_is_killed() {
    let mut bed = bed();
    let command = "(trap '' TERM HUP; sleep 8701) & (sleep 8702 &) ; echo $$ > pid; echo up; sleep 8703";
    let id = bed.queue(json!({
        "sandbox_profile": "darwin-automation", "shell": "/bin/sh", "command": command, "facility": { "id": "f" },
    }));
    bed.stub.log_contains(&id, conduits::LogStream::Stdout, "up", SOON).await;
    let shell = std::fs::read_to_string(bed.dir.join("w/f/pid")).unwrap();
    let group: i32 = shell.trim().parse().unwrap();
    let members = || sys::processes::all().into_iter().filter(|entry| entry.group == group && !entry.is_zombie).count();
    // The last of them begins after the word.
    let begun = std::time::Instant::now();
    while members() < 4 {
        assert!(begun.elapsed() < SOON, "{} processes", members());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    bed.daemon.kill();
    let begun = std::time::Instant::now();
    while members() > 0 {
        assert!(begun.elapsed() < SOON, "{} processes are left", members());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// As launchd has it: in the foreground, all that it says on standard error, SIGTERM waits for what runs, the end is clean.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_waits_for_what_runs() {
    let mut bed = bed();
    let id = bed.queue(json!({
        "sandbox_profile": "darwin-automation", "shell": "/bin/sh",
        "command": "echo up; while [ ! -e go ]; do sleep 0.02; done; osascript done", "facility": { "id": "f" },
    }));
    bed.stub.log_contains(&id, conduits::LogStream::Stdout, "up", SOON).await;
    bed.daemon.signal(rustix::process::Signal::TERM);
    drop(bed.daemon.wait_for_line(Output::Stderr, "SIGTERM: shutting down", SOON));
    assert!(bed.daemon.is_running());
    std::fs::write(bed.dir.join("w/f/go"), "").unwrap();
    assert_eq!(bed.ended(id).await.outcome(), ("succeeded", 0, "up\nosascript: done\n"));
    assert!(bed.daemon.wait(SOON).success());
}
