//! `nexusd run`: the same line without a control plane.

use std::process::Output;

use testkit::{WorkDir, require};

use crate::bed::nexusd;

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
fn a_long_temporary_folder_is_no_matter() {
    require!(Bwrap);
    let dir = WorkDir::new();
    let long = dir.join("x".repeat(130));
    std::fs::create_dir(&long).unwrap();
    let output =
        nexusd().current_dir(dir.path()).env("TMPDIR", &long).args(["run", "--", "echo ran"]).output().unwrap();
    assert_eq!(texts(&output), (Some(0), "ran\n".into(), String::new()));
}
