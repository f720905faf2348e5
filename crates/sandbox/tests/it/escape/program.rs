//! The attack program: C, linked statically, so that it runs in any root and outside of all.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// One translation unit, in this order.
const SOURCE: &str = concat!(
    include_str!("attack/base.c"),
    include_str!("attack/files.c"),
    include_str!("attack/mounts.c"),
    include_str!("attack/processes.c"),
    include_str!("attack/kernel.c"),
    include_str!("attack/network.c"),
    include_str!("attack/resources.c"),
    include_str!("attack/main.c"),
);

/// The compiled program, made once for each state of its source.
pub(crate) fn compiled() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    SOURCE.hash(&mut hasher);
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let program = dir.join(format!("attack-{:016x}", hasher.finish()));
    if program.exists() {
        return program;
    }
    std::fs::create_dir_all(&dir).unwrap();
    let fresh = tempfile::NamedTempFile::new_in(&dir).unwrap().into_temp_path();
    let mut compiler = Command::new("cc")
        .args(["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-static", "-x", "c", "-", "-o"])
        .arg(&fresh)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    compiler.stdin.take().unwrap().write_all(SOURCE.as_bytes()).unwrap();
    assert!(compiler.wait().unwrap().success(), "the attack program does not compile");
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
    fresh.persist(&program).unwrap();
    program
}

/// `tools/test-vm.sh` takes the program into the machine in the machine from where this says that it is.
#[test]
fn it_compiles() {
    testkit::require!(Compiler);
    println!("attack program: {}", compiled().display());
}
