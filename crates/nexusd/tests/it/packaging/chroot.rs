//! A fresh Debian for one test: the tests' root directory with a layer of its own above it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// The layer, which keeps what was done from one command to the next.
pub(super) struct Chroot {
    dir: tempfile::TempDir,
}

impl Chroot {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["upper", "work", "root"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        Self { dir }
    }

    /// A shell outside, which finds the root in `$ROOT`; with a network, processes and mounts of its own.
    pub(super) fn beside(&self, script: &str) -> Output {
        let mount = "ROOT=$1/root && export ROOT && \
                     mount -t overlay overlay -o \"lowerdir=$2,upperdir=$1/upper,workdir=$1/work\" \"$ROOT\" && \
                     mount -t proc proc \"$ROOT/proc\" && cd / && eval \"$3\"";
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--net",
            "--ipc",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            mount,
            "sh",
        ]);
        command.arg(self.dir.path()).arg(testkit::require::test_rootfs()).arg(script);
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive").output().unwrap()
    }

    /// A shell inside.
    pub(super) fn run(&self, script: &str) -> Output {
        self.beside(&format!("exec chroot \"$ROOT\" sh -euc '{}'", script.replace('\'', r"'\''")))
    }

    /// What it prints, both streams; it must succeed.
    pub(super) fn must(&self, script: &str) -> String {
        let output = self.run(script);
        let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{script}: {}\n{said}", output.status);
        said
    }

    /// Puts a file or folder of this machine there.
    pub(super) fn bring(&self, from: &Path, to: &str) {
        let to = self.dir.path().join("upper").join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        assert!(Command::new("cp").arg("-R").arg(from).arg(to).status().unwrap().success());
    }

    /// A program that writes down with what it was called, and that a systemd seems to run.
    pub(super) fn pretend_systemd(&self) {
        self.must(
            "mkdir -p /run/systemd/system /usr/local/bin && cd /usr/local/bin && \
             printf '#!/bin/sh\\necho \"$@\" >>/tmp/systemctl\\n' >systemctl && chmod 755 systemctl",
        );
    }

    /// How systemctl was called since the last time that this was asked.
    pub(super) fn systemctl(&self) -> Vec<String> {
        let calls = self.must("cat /tmp/systemctl 2>/dev/null || :; rm -f /tmp/systemctl");
        calls.lines().map(str::to_owned).collect()
    }

    /// Every file and folder, and every user and group, but for what dpkg and the shadow tools keep for themselves.
    pub(super) fn everything(&self) -> Vec<String> {
        let listing = self.must(
            "find / -xdev \\( -path /proc -o -path /tmp -o -path /run -o -path /var/lib/dpkg -o -path /var/log \
             -o -path /var/backups -o -path /release \\) -prune -o -print; cut -d : -f 1 /etc/passwd /etc/group /etc/shadow",
        );
        let own = |line: &str| line.starts_with("/etc/") && (line.ends_with('-') || line.ends_with("/.pwd.lock"));
        let mut lines: Vec<String> = listing.lines().filter(|line| !own(line)).map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

/// What is in the one listing and not in the other.
pub(super) fn more(listing: &[String], than: &[String]) -> Vec<String> {
    listing.iter().filter(|line| !than.contains(line)).cloned().collect()
}
