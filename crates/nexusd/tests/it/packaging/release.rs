//! `make build-linux` and its neighbours: the scripts with a stand-in for cargo, so that what they do with what was built, and
//! with what cannot be built, is tried in a second.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::{program, said};

const ARCHES: [(&str, &str, &str); 2] = [("amd64", "x86_64", "x86_64"), ("arm64", "aarch64", "aarch64")];

/// This machine in the words of packages, of Rust, and the other one likewise.
pub(super) fn native() -> (&'static str, &'static str) {
    let (name, rust, _) = ARCHES.into_iter().find(|arch| arch.1 == std::env::consts::ARCH).unwrap();
    (name, rust)
}

pub(super) fn foreign() -> (&'static str, &'static str) {
    let (name, rust, _) = ARCHES.into_iter().find(|arch| arch.1 != std::env::consts::ARCH).unwrap();
    (name, rust)
}

/// A copy of what the scripts read, a cargo that "builds" what lies ready, and a rustc that has some targets.
pub(super) struct Yard {
    dir: tempfile::TempDir,
}

impl Yard {
    /// Nothing but words as binaries, and the standard library of `targets`.
    pub(super) fn new(targets: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for part in ["tools", "nexus-linux", "Cargo.toml"] {
            assert!(Command::new("cp").arg("-R").arg(root.join(part)).arg(&tree).status().unwrap().success());
        }
        let yard = Self { dir };
        yard.tool("rustc", "echo \"$YARD/sysroot\"");
        yard.tool(
            "cargo",
            "while [ $# -gt 0 ]; do [ \"$1\" != --target ] || target=$2; shift; done\n\
             mkdir -p \"$CARGO_TARGET_DIR/$target/release\"\n\
             for name in nexusd mothership; do\n\
             cp \"$YARD/ready/$name\" \"$CARGO_TARGET_DIR/$target/release/$name\"\n\
             [ ! -e \"$YARD/ready/words\" ] || echo \"for $target\" >>\"$CARGO_TARGET_DIR/$target/release/$name\"\n\
             done",
        );
        for target in targets {
            fs::create_dir_all(yard.path("sysroot/lib/rustlib").join(target).join("lib")).unwrap();
        }
        fs::create_dir(yard.path("ready")).unwrap();
        for name in ["nexusd", "mothership", "words"] {
            fs::write(yard.path("ready").join(name), format!("{name} ")).unwrap();
        }
        yard
    }

    /// The real programs, without what is only of use to a debugger.
    pub(super) fn with_programs() -> Self {
        let yard = Self::new(&[&format!("{}-unknown-linux-gnu", native().1)]);
        fs::remove_file(yard.path("ready/words")).unwrap();
        for name in ["nexusd", "mothership"] {
            let stripped =
                Command::new("strip").arg("-o").arg(yard.path("ready").join(name)).arg(program(name)).status();
            assert!(stripped.unwrap().success());
        }
        yard
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the scripts made.
    pub(super) fn dist(&self) -> PathBuf {
        self.path("tree/dist")
    }

    fn tool(&self, name: &str, body: &str) {
        let path = self.path("bin").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// One of the scripts in `tools/`.
    pub(super) fn run(&self, script: &str, words: &[&str], variables: &[(&str, &str)]) -> Output {
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(self.path("tree/tools").join(script));
        command.args(words).env("PATH", path).env("YARD", self.dir.path()).env("CARGO_TARGET_DIR", self.path("target"));
        command.envs(variables.iter().copied()).output().unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dist())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.contains("linux") || name.contains("macos"))
            .collect();
        names.sort();
        names
    }

    /// Whether SHA256SUMS names exactly what lies there, and rightly.
    fn sums_hold(&self) -> bool {
        let sums = fs::read_to_string(self.dist().join("SHA256SUMS")).unwrap();
        let mut named: Vec<&str> = sums.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        named.push("SHA256SUMS");
        named.sort_unstable();
        let mut there: Vec<String> =
            fs::read_dir(self.dist()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        there.sort();
        let check = Command::new("sha256sum").args(["--quiet", "-c", "SHA256SUMS"]).current_dir(self.dist()).output();
        named == there && check.unwrap().status.success()
    }
}

#[test]
fn a_target_that_cannot_be_built_is_named_and_the_other_is_built() {
    let ((here, rust), (there, other)) = (native(), foreign());
    let yard = Yard::new(&[&format!("{rust}-unknown-linux-gnu")]);
    // What an earlier run left must not go out with this one.
    fs::create_dir(yard.dist()).unwrap();
    fs::write(yard.dist().join(format!("nexusd-linux-{there}")), "old").unwrap();
    fs::write(yard.dist().join(format!("nexusd_0.0.9_{there}.deb")), "old").unwrap();
    let output = yard.run("build-release.sh", &["linux"], &[]);
    assert_eq!(output.status.code(), Some(1));
    let why = format!(
        "linux-{there} cannot be built here: no Rust standard library for {other}-unknown-linux-gnu (rustup target add \
         {other}-unknown-linux-gnu)\n"
    );
    assert_eq!(said(&output), why);
    assert_eq!(yard.names(), [format!("mothership-linux-{here}"), format!("nexusd-linux-{here}")]);
    for name in ["install.sh", "nexusd.service", "mothership.sysusers.conf", "nexusd-as-root.conf"] {
        assert!(yard.dist().join(name).exists(), "{name}: install.sh needs it");
    }
    assert!(yard.sums_hold());
    // Control: what is changed afterwards is seen.
    fs::write(yard.dist().join(format!("nexusd-linux-{here}")), "other").unwrap();
    assert!(!yard.sums_hold());
}

#[test]
fn both_are_built_where_both_can_be() {
    let (_, rust) = native();
    let (_, other) = foreign();
    let yard = Yard::new(&[&format!("{rust}-unknown-linux-gnu"), &format!("{other}-unknown-linux-gnu")]);
    // Without the linker of the other one, that is what is missing.
    let output = yard.run("build-release.sh", &["linux"], &[]);
    if output.status.code() == Some(1) {
        assert!(
            said(&output).contains(&format!("no {other}-linux-gnu-gcc (apt-get install gcc-")),
            "{}",
            said(&output)
        );
    }
    yard.tool(&format!("{other}-linux-gnu-gcc"), "");
    let output = yard.run("build-release.sh", &["linux"], &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        yard.names(),
        ["mothership-linux-amd64", "mothership-linux-arm64", "nexusd-linux-amd64", "nexusd-linux-arm64"]
    );
    let built = fs::read_to_string(yard.dist().join("nexusd-linux-arm64")).unwrap();
    assert_eq!(built, "nexusd for aarch64-unknown-linux-gnu\n");
    assert!(yard.sums_hold());
}

#[test]
fn the_mac_s_binary_needs_a_mac() {
    let yard = Yard::new(&["aarch64-apple-darwin"]);
    let output = yard.run("build-release.sh", &["macos"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).starts_with("the macOS binary cannot be built here: it needs "), "{}", said(&output));
    assert_eq!(yard.run("build-release.sh", &["windows"], &[]).status.code(), Some(2));
}
