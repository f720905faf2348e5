//! The driver of a Mac's desktop, with stand-ins for its tools. How its runs end is in `endings`, with the other drivers.

use std::time::{Duration, Instant};

use sandbox::{DarwinSettings, Driver, LaunchError, Machine, NetworkLayer, NetworkPath, WorkspaceAccess};

use crate::bed::{Bed, Run, a_mac, processes_with};

#[tokio::test]
async fn its_commands_find_the_tools() {
    let bed = Bed::new();
    let folders: Vec<_> = bed.drivers.tool_folders(Driver::DarwinAutomation).collect();
    let mac = bed.dir.path().join("mac");
    assert_eq!(folders, [mac.as_path(), mac.as_path()]);
    assert_eq!(bed.drivers.tool_folders(Driver::Host).count(), 0);
    let path = ("PATH".to_owned(), format!("/usr/bin:/bin:{}", mac.display()));
    let script =
        "osascript -e 'tell application \"Finder\" to activate'; shortcuts run 'Make it so' | cat; echo done >&2";
    let outcome = bed.run(Run { environment: vec![path], ..Run::darwin(script) }).await;
    assert_eq!(
        (outcome.exit.code, outcome.stdout.as_str(), outcome.stderr.as_str()),
        (0, "osascript -e tell application \"Finder\" to activate\nshortcuts run Make it so\n", "done\n")
    );
}

#[tokio::test]
async fn a_tool_that_hangs_ends_with_its_run() {
    let bed = Bed::new();
    let begun = Instant::now();
    let script = "trap '' TERM; (trap '' TERM; sleep 8601) & sleep 8601";
    let outcome = bed.run(Run { timeout: Duration::from_millis(200), ..Run::darwin(script) }).await;
    assert_eq!(outcome.exit.code, 124);
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(processes_with("sleep\x008601").is_empty());
}

#[tokio::test]
async fn what_holds_the_output_is_waited_for_and_named() {
    let outcome = Bed::new().run(Run::darwin("(sleep 8602; echo never) & echo early")).await;
    assert_eq!((outcome.exit.code, outcome.stdout.as_str()), (0, "early\n"));
    assert!(outcome.exit.note.unwrap_or_default().contains("held its output for 2 s more"));
}

#[tokio::test]
async fn it_claims_no_isolation_and_takes_no_promise_of_it() {
    let bed = Bed::new();
    for run in [
        Run { access: WorkspaceAccess::ReadOnly, ..Run::darwin("true") },
        Run { network: Some(NetworkPath::Isolated), ..Run::darwin("true") },
    ] {
        let refused = bed.start(run).await;
        assert!(matches!(refused, Err(LaunchError::Unsupported { driver: "darwin-automation", .. })), "{refused:?}");
    }
    let (handle, _out, _err) = bed.start(Run::darwin("true")).await.unwrap();
    let layers = handle.layers();
    assert_eq!((layers.driver, layers.namespaces.len(), layers.network), ("darwin-automation", 0, NetworkLayer::Host));
    handle.abandon();
}

/// Its default shell is not everywhere: without it a run ends as with any shell that is missing.
#[tokio::test]
async fn a_shell_that_is_missing_is_127_and_named() {
    let outcome = Bed::new().run(Run { shell: "/bin/no-such-zsh".into(), ..Run::darwin("true") }).await;
    assert_eq!(outcome.exit.code, 127);
    assert_eq!(outcome.stderr, "nexus: /bin/no-such-zsh: No such file or directory\n");
}

#[tokio::test]
async fn its_health_says_where_the_tools_are_and_what_they_may_do() {
    let bed = Bed::new();
    let health = bed.drivers.health(Driver::DarwinAutomation).await;
    assert!(health.healthy, "{:?}", health.reason);
    let mac = bed.dir.path().join("mac");
    for (name, said) in [
        ("osascript", mac.join("osascript").display().to_string()),
        ("shortcuts", mac.join("shortcuts").display().to_string()),
        ("automation", "not asked yet".to_owned()),
        ("accessibility", "granted".to_owned()),
        ("screen_recording", "not granted".to_owned()),
    ] {
        assert_eq!(health.details.get(name), Some(&said), "{name}");
    }
}

#[tokio::test]
async fn it_is_not_there_on_another_machine_or_without_a_tool() {
    let elsewhere = |machine| Bed::with(move |settings| settings.darwin = Ok(DarwinSettings { machine, ..a_mac() }));
    let linux = Machine { system: "linux", processor: "x86_64" };
    let intel = Machine { system: "macos", processor: "x86_64" };
    let without = |name: &'static str| {
        Bed::with(move |settings| std::fs::remove_file(settings.runtime_dir.with_file_name("mac").join(name)).unwrap())
    };
    for (bed, reason) in [
        (elsewhere(linux), "it needs macOS on Apple Silicon, and this is linux on x86_64"),
        (elsewhere(intel), "it needs macOS on Apple Silicon, and this is macos on x86_64"),
        (
            without("osascript"),
            "osascript is not found on nexusd's PATH: install the Xcode Command Line Tools: xcode-select --install",
        ),
        (
            without("shortcuts"),
            "shortcuts is not found on nexusd's PATH: it comes with macOS 12 and later: update macOS",
        ),
    ] {
        let health = bed.drivers.health(Driver::DarwinAutomation).await;
        assert_eq!((health.healthy, health.reason.as_deref()), (false, Some(reason)));
        let refused = bed.start(Run::darwin("true")).await.map(drop).unwrap_err().to_string();
        assert_eq!(refused, format!("driver darwin-automation is not available: {reason}"));
    }
    // What a daemon asks about itself is this machine.
    assert_eq!(DarwinSettings::of_this_machine().machine, Machine::this());
}
