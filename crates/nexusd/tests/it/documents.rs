//! What the documents tell a new user to type is typed here: every block that is marked `sh run`, in its order, in a network of
//! its own and an empty home.

use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::{WorkDir, require};

use crate::identity::bed::mothership_program;

fn document(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
}

/// The marked blocks, one after the other.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match &mut block {
            None if line == "```sh run" => block = Some(String::new()),
            None => {}
            Some(_) if line == "```" => blocks.extend(block.take()),
            Some(block) => {
                block.push_str(line);
                block.push('\n');
            }
        }
    }
    blocks
}

/// Types them; what was printed. They end with the first command that fails, and so does this.
fn typed(dir: &WorkDir, blocks: &[String]) -> String {
    for (name, program) in
        [("nexusd", PathBuf::from(env!("CARGO_BIN_EXE_nexusd"))), ("mothership", mothership_program())]
    {
        std::os::unix::fs::symlink(program, dir.join(name)).unwrap();
    }
    // What they begin stays until the end; building is not what is tried.
    let script = format!(
        "ip link set lo up\nmake() {{ :; }}\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\nset -eux\n{}",
        blocks.concat()
    );
    let mut command = Command::new("timeout");
    command.args(["90", "unshare", "--net", "bash", "-c", &script]).current_dir(dir.path()).env("HOME", dir.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    said
}

#[test]
fn what_the_readme_tells_to_type_works() {
    require!(Root, Bwrap, NetBed);
    let dir = WorkDir::new();
    let blocks = blocks(&document("README.md"));
    assert_eq!(blocks.len(), 2, "{blocks:?}");
    let said = typed(&dir, &blocks);
    for expected in ["uid=1000", "Nothing leaked", "hello", "succeeded"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn what_the_deployment_guide_tells_to_type_works() {
    require!(Root, Bwrap, NetBed, Curl);
    let dir = WorkDir::new();
    let blocks = blocks(&document("docs/deployment.md"));
    assert!(blocks.len() >= 8, "{blocks:?}");
    let said = typed(&dir, &blocks);
    for expected in
        ["config.yaml: ok", "ready             yes", "hello", "succeeded", "drained; 0 directives", "taking on"]
    {
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn a_command_that_fails_is_noticed() {
    require!(Root, NetBed);
    let text = "```sh run\ntrue\nfalse\necho never\n```\n```sh\necho unmarked\n```\n";
    assert_eq!(blocks(text), ["true\nfalse\necho never\n"]);
    let dir = WorkDir::new();
    let failed = std::panic::catch_unwind(|| typed(&dir, &blocks(text)));
    let why = failed.unwrap_err().downcast::<String>().unwrap();
    assert!(why.contains("+ false") && !why.contains("+ echo never"), "{why}");
}
