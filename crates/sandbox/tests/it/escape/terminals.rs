//! Typing into a terminal that somebody else reads.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::attack::Control::User;
use super::attack::Layer::{Seccomp, Session};
use super::attack::{Act, Verdict, probe};
use super::scene::Scene;
use crate::bed::Run;

/// A terminal: the end that shows, and the end that a program reads.
fn terminal() -> (OwnedFd, OwnedFd) {
    let shows = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&shows).unwrap();
    unlockpt(&shows).unwrap();
    let name = ptsname(&shows, Vec::new()).unwrap();
    let reads = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    (shows, reads)
}

/// Whether something was typed: the terminal shows it.
fn typed(shows: &OwnedFd) -> bool {
    rustix::io::ioctl_fionread(shows).unwrap() > 0
}

fn tiocsti(scene: &Scene) -> Verdict {
    let (shows, reads) = terminal();
    let stdin = Some(reads.try_clone().unwrap());
    let run = Run { shell: "/workspace/attack".into(), stdin, ..Run::sh("tiocsti") };
    let verdict = scene.judged(run);
    if typed(&shows) {
        return Verdict::Broken(format!("the terminal shows it ({verdict:?})"));
    }
    // As root alone: another's terminal is its own.
    if !scene.setting.ordinary {
        let mut control = Command::new(scene.bed.facility().join("attack"));
        let output = control.arg("tiocsti").stdin(Stdio::from(reads)).output().unwrap();
        let soon = scene.block_on(crate::bed::until_true(|| typed(&shows)));
        assert!(soon, "the control: {}", String::from_utf8_lossy(&output.stdout));
    }
    verdict
}

attacks! { Terminals:
    typing, [Seccomp, Session],
        Act::Own(tiocsti),
        "ioctl(TIOCSTI) on a terminal that it was given as its input";
    pasting, [Seccomp],
        probe(&["tioclinux"], User).act(),
        "ioctl(TIOCLINUX): pasting on a console";
}
