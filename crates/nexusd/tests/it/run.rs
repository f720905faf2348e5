//! `nexusd run`: the same line without a control plane.

use std::io::{Read as _, Write as _};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use testkit::{Output as Stream, Process, WorkDir, require};

use crate::bed::{Bed, SOON, nexusd};

fn run(args: &[&str]) -> Output {
    let dir = WorkDir::new();
    nexusd().current_dir(dir.path()).arg("run").args(args).output().unwrap()
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn streams_and_code_are_the_commands() {
    require!(Bwrap);
    let output = run(&["--", "echo out; echo err >&2; exit 7"]);
    assert_eq!(texts(&output), (Some(7), "out\n".into(), "err\n".into()));
    let output = run(&["--profile", "host", "--", "echo", "two words", "$HOME"]);
    assert_eq!(texts(&output), (Some(0), "two words $HOME\n".into(), String::new()));
}

#[test]
fn bytes_are_exact() {
    require!(Bwrap);
    let output = run(&["--", "head -c 3000000 /dev/zero | tr '\\0' '\\377'; printf end"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout.len(), 3_000_003);
    assert!(output.stdout[..3_000_000].iter().all(|&byte| byte == 0xff));
}

#[test]
fn a_denied_destination_is_explained() {
    require!(Bwrap);
    let (code, _, stderr) = texts(&run(&[
        "--allow",
        "example.com:443",
        "--",
        "nexus=1; (exec 3<>/dev/tcp/x/1) 2>/dev/null; \
        printf 'CONNECT other.example:443 HTTP/1.1\\r\\nHost: other.example:443\\r\\n\\r\\n' | socat - TCP:127.0.0.1:9080 | grep -q NOT_IN_ALLOWLIST",
    ]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("[egress] denied other.example:443 (NOT_IN_ALLOWLIST)"), "{stderr}");
}

#[test]
fn the_timeout_and_the_facility_are_kept() {
    require!(Bwrap);
    let (code, _, stderr) = texts(&run(&["--timeout", "500ms", "--", "sleep 20"]));
    assert_eq!(code, Some(124), "{stderr}");
    let dir = WorkDir::new();
    let facility = dir.join("f");
    std::fs::create_dir(&facility).unwrap();
    let facility = facility.to_str().unwrap();
    assert_eq!(run(&["--facility", facility, "--", "echo kept > file"]).status.code(), Some(0));
    assert_eq!(texts(&run(&["--facility", facility, "--", "cat file"])).1, "kept\n");
}

/// Only ever on a folder of the test's own: what this guards against gave a whole host away.
#[test]
fn a_folder_with_files_in_it_is_never_given_away() {
    require!(Root, Bwrap);
    let dir = WorkDir::new();
    let facility = dir.join("precious");
    std::fs::create_dir_all(facility.join("below")).unwrap();
    std::fs::write(facility.join("below/file"), "x").unwrap();
    let (code, stdout, stderr) = texts(&run(&["--facility", facility.to_str().unwrap(), "--", "echo ran"]));
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("does not give away"), "{stderr}");
    for path in ["", "below", "below/file"] {
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(facility.join(path)).unwrap());
        assert_eq!(owner, 0, "{path:?} changed its owner");
    }
}

#[test]
fn bad_input_is_one_clear_line() {
    for (args, code, named) in [
        (&["--profile", "gentle", "--", "true"][..], 2, "gentle"),
        (&["--allow", "1.2.3.4:443", "--", "true"], 2, "1.2.3.4"),
        (&["--timeout", "soon", "--", "true"], 2, "soon"),
        (&["--facility", "/no/such/folder", "--", "true"], 1, "/no/such/folder"),
    ] {
        let (got, stdout, stderr) = texts(&run(args));
        assert_eq!((got, stdout.as_str()), (Some(code), ""), "{args:?}: {stderr}");
        assert!(stderr.contains(named), "{args:?}: {stderr}");
    }
}

#[test]
fn output_that_cannot_be_written_is_no_success() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let run = |to: std::process::Stdio| {
        nexusd().current_dir(dir.path()).args(["run", "--", "echo hi"]).stdout(to).output().unwrap()
    };
    let (code, _, stderr) = texts(&run(full.into()));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("stdout cannot be written"), "{stderr}");
    // Control: where there is room, it is one.
    let room = std::fs::File::create(dir.join("out")).unwrap();
    assert_eq!(run(room.into()).status.code(), Some(0));
    assert_eq!(std::fs::read_to_string(dir.join("out")).unwrap(), "hi\n");
}

#[test]
fn a_facility_behind_a_link_is_the_folder_that_it_leads_to() {
    require!(Bwrap);
    let dir = WorkDir::new();
    std::fs::create_dir(dir.join("folder")).unwrap();
    std::os::unix::fs::symlink("folder", dir.join("link")).unwrap();
    let link = dir.join("link");
    let (code, _, stderr) = texts(&run(&["--facility", link.to_str().unwrap(), "--", "echo x > made"]));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(std::fs::read_to_string(dir.join("folder/made")).unwrap(), "x\n");
    let mine = std::os::unix::fs::MetadataExt::uid(&std::fs::symlink_metadata(&link).unwrap());
    assert_eq!(mine, rustix::process::geteuid().as_raw(), "the link itself changed its owner");
}

#[test]
fn nothing_is_left_of_a_run_whatever_it_closed() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let script = "mkdir -p a/b; touch a/b/x; chmod 0 a/b a";
    let output =
        nexusd().current_dir(dir.path()).env("TMPDIR", dir.path()).args(["run", "--", script]).output().unwrap();
    assert_eq!(texts(&output), (Some(0), String::new(), String::new()));
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_a_killed_run_left_goes_with_the_next_one() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let mut command = nexusd();
    command.current_dir(dir.path()).env("TMPDIR", dir.path()).args(["run", "--", "echo there > x; echo up; sleep 60"]);
    let mut killed = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 3];
    killed.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = || std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left(), 1, "the control: it had no time to remove anything");
    let next = nexusd().current_dir(dir.path()).env("TMPDIR", dir.path()).args(["run", "--", "true"]).output().unwrap();
    assert_eq!(texts(&next), (Some(0), String::new(), String::new()));
    assert_eq!(left(), 0);
}

#[test]
fn profile_host_does_not_work_where_a_sandbox_could_write() {
    require!(Root, Bwrap);
    let dir = WorkDir::new();
    let facility = dir.join("f");
    std::fs::create_dir(&facility).unwrap();
    let with = |profile: &str, script: &str| {
        texts(&run(&["--profile", profile, "--facility", facility.to_str().unwrap(), "--", script]))
    };
    assert_eq!(with("host", "id -u"), (Some(0), "0\n".to_owned(), String::new()), "root's own folder");
    assert_eq!(with("untrusted", "echo planted > Makefile").0, Some(0));
    let (code, stdout, stderr) = with("host", "cat Makefile");
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("belongs to the sandbox's user") && stderr.contains("allow_privilege_mix"), "{stderr}");
}

#[test]
fn a_long_temporary_folder_is_no_matter() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let long = dir.join("x".repeat(130));
    std::fs::create_dir(&long).unwrap();
    let output =
        nexusd().current_dir(dir.path()).env("TMPDIR", &long).args(["run", "--", "echo ran"]).output().unwrap();
    assert_eq!(texts(&output), (Some(0), "ran\n".into(), String::new()));
}

/// What an operator wrote down holds for his own runs, too; what is not written down, the flags decide.
#[test]
fn the_configuration_of_the_folder_is_in_force() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let run = |args: &[&str]| texts(&nexusd().current_dir(dir.path()).arg("run").args(args).output().unwrap());
    let (unrestricted, long) = (["--net", "unrestricted", "--", "true"], ["--timeout", "1m", "--", "true"]);
    let files = ["--", "ulimit -n"];
    // Controls: without a file, all of it goes.
    assert_eq!((run(&unrestricted).0, run(&long).0), (Some(0), Some(0)));
    assert_ne!(run(&files).1, "77\n");
    dir.write("config.yaml", "limits: {default_timeout: 10s, max_timeout: 20s, nofile: 77}\nmin_free_bytes: 0\n");
    let (code, _, stderr) = run(&unrestricted);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("operator.net_ceiling"), "{stderr}");
    let (code, _, stderr) = run(&long);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("--timeout 60 s is above limits.max_timeout (20 s)"), "{stderr}");
    assert_eq!(run(&["--timeout", "15s", "--", "ulimit -n"]), (Some(0), "77\n".into(), String::new()));
    // One that is named and not there is no default.
    let (code, _, stderr) = run(&["-config", "other.yaml", "--", "true"]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("other.yaml: no such file"), "{stderr}");
}

#[test]
fn standard_input_arrives_and_ends() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let text = "a line\n".repeat(50_000);
    for profile in ["untrusted", "host"] {
        let mut command = nexusd();
        command.current_dir(dir.path()).args(["run", "--profile", profile, "--", "cat; echo end"]);
        let mut process = Process::start(command.stdin(Stdio::piped()));
        let mut input = process.take_stdin().unwrap();
        input.write_all(text.as_bytes()).unwrap();
        drop(input);
        assert_eq!(process.wait(SOON).code(), Some(0), "{profile}: {}", process.text(Stream::Stderr));
        assert!(process.text(Stream::Stdout) == format!("{text}end\n"), "{profile}");
        // Nothing there is nothing read, and is not waited for.
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert_eq!(texts(&output), (Some(0), "end\n".into(), String::new()), "{profile}");
    }
    // A command that reads nothing is not held up by who writes without end.
    let endless = std::fs::File::open("/dev/zero").unwrap();
    let output = nexusd().current_dir(dir.path()).args(["run", "--", "true"]).stdin(endless).output().unwrap();
    assert_eq!(texts(&output), (Some(0), String::new(), String::new()));
}

/// With the terminal itself a command could type into it (TIOCSTI), or read what was meant for the shell afterwards.
#[test]
fn the_terminal_stays_out_of_the_command_s_reach() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let master = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&master).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    let name = rustix::pty::ptsname(&master, Vec::new()).unwrap();
    let terminal = std::fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    for profile in ["untrusted", "host"] {
        let mut command = nexusd();
        let script = "test -t 0 && echo terminal; read line; echo \"got $line\"";
        command.current_dir(dir.path()).args(["run", "--profile", profile, "--", script]);
        let mut process = Process::start(command.stdin(terminal.try_clone().unwrap()));
        rustix::io::write(&master, b"typed\n").unwrap();
        assert!(process.wait(SOON).success(), "{profile}: {}", process.text(Stream::Stderr));
        assert_eq!(process.text(Stream::Stdout), "got typed\n", "{profile}");
    }
}

#[test]
fn two_runs_do_not_share_a_folder() {
    require!(Bwrap);
    let dir = WorkDir::new();
    std::fs::create_dir(dir.join("f")).unwrap();
    let run = |script: &str| {
        let mut command = nexusd();
        command.current_dir(dir.path()).args(["run", "--facility", "f", "--", script]);
        command
    };
    let mut first = Process::start(run("echo up; read line; true").stdin(Stdio::piped()));
    drop(first.wait_for_line(Stream::Stdout, "up", SOON));
    let (code, stdout, stderr) = texts(&run("echo ran").output().unwrap());
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains(&format!("in use by nexusd, process {}", first.id())), "{stderr}");
    drop(first.take_stdin());
    assert!(first.wait(SOON).success());
    assert_eq!(texts(&run("echo ran").output().unwrap()), (Some(0), "ran\n".into(), String::new()));
}

/// The daemon's lock and its memory of who wrote there hold for whoever comes by the command line, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_s_facility_is_taken_as_the_daemon_takes_it() {
    require!(Bwrap);
    let bed = Bed::new();
    let facility = bed.dir.join("w/f");
    let run = |profile: &str| {
        let mut command = nexusd();
        command.current_dir(bed.dir.join("w")).args(["run", "--profile", profile, "--facility", "f", "--", "ls -A"]);
        // No configuration: the folder itself says whose it is.
        texts(&command.output().unwrap())
    };
    let fields = |command: &str, profile: &str| serde_json::json!({ "facility": { "id": "f" }, "command": command, "sandbox_profile": profile });
    let id = bed.queue(fields("echo up; until test -e go; do sleep 0.05; done", "host"));
    bed.stub.log_contains(&id, conduits::LogStream::Stdout, "up", SOON).await;
    let (code, stdout, stderr) = run("host");
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("facility f is in use by another process"), "{stderr}");
    std::fs::write(facility.join("go"), "").unwrap();
    assert_eq!(bed.ended(id).await.report.exit_code, Some(0));
    assert_eq!(run("host").0, Some(0));
    assert_eq!(run("untrusted").0, Some(0));
    // An untrusted command was there: neither a directive nor a run of the host's follows it.
    assert!(run("host").2.contains("less trusted"));
    let ended = bed.run(fields("true", "host")).await;
    assert!(ended.stderr.contains("less trusted"), "{}", ended.stderr);
}

#[test]
fn a_reader_that_leaves_ends_the_command_in_silence() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let mut command = nexusd();
    command.current_dir(dir.path()).args(["run", "--", "while :; do echo more; done"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let began = Instant::now();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 5]).unwrap();
    drop(stdout);
    let output = child.wait_with_output().unwrap();
    assert_eq!(texts(&output), (Some(141), String::new(), String::new()));
    assert!(began.elapsed() < SOON);
}

#[test]
fn json_is_one_line_and_all_of_standard_output() {
    require!(Bwrap);
    let ended = |args: &[&str]| {
        let (code, stdout, stderr) = texts(&run(args));
        assert_eq!(stdout.lines().count(), 1, "{stdout:?}");
        (code, serde_json::from_str::<serde_json::Value>(&stdout).unwrap(), stderr)
    };
    let (code, end, stderr) = ended(&["--json", "--", "echo out; echo err >&2; exit 3"]);
    assert_eq!((code, &end["status"], &end["exit_code"]), (Some(3), &"failed".into(), &3.into()), "{end}");
    // Two pipes, read as they come: which of the lines is first is nobody's promise.
    let mut lines: Vec<_> = stderr.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "out"]);
    assert!(end["artifacts_manifest"]["usage"]["wall_ms"].is_u64(), "{end}");
    let (code, end, stderr) = ended(&["--json", "--facility", "/no/such/folder", "--", "true"]);
    assert_eq!((code, &end["exit_code"]), (Some(1), &1.into()), "{end}");
    assert!(end["error"].as_str().unwrap().contains("/no/such/folder") && stderr.contains("/no/such/folder"), "{end}");
}

#[test]
fn the_first_signal_asks_and_the_second_ends() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let start = |script: &str| {
        let mut command = nexusd();
        let process = Process::start(command.current_dir(dir.path()).args(["run", "--json", "--", script]));
        drop(process.wait_for_line(Stream::Stderr, "up", SOON));
        process
    };
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let mut asked = start("trap 'echo asked; exit 9' TERM; echo up; while :; do sleep 0.05; done");
        asked.signal(signal);
        assert_eq!(asked.wait(SOON).code(), Some(code));
        assert!(asked.text(Stream::Stderr).contains("asked\n"), "{}", asked.text(Stream::Stderr));
        let end: serde_json::Value = serde_json::from_str(&asked.text(Stream::Stdout)).unwrap();
        assert_eq!((&end["status"], &end["exit_code"]), (&"canceled".into(), &9.into()), "{end}");
    }
    // Deaf to the first, it has its grace of 10 s; the second leaves it none.
    let mut deaf = start("trap 'echo deaf' TERM; echo up; while :; do sleep 0.05; done");
    deaf.signal(Signal::INT);
    drop(deaf.wait_for_line(Stream::Stderr, "deaf", SOON));
    let began = Instant::now();
    deaf.signal(Signal::INT);
    assert_eq!(deaf.wait(SOON).code(), Some(130));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
