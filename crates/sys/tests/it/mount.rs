//! Mount namespaces, made while others do what they like.
#![allow(unsafe_code, reason = "a child that lingers between fork and exec is made by no safe call")]

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sys::mount::{Entry, Namespace, namespace};
use testkit::require;

/// A process that is forked while a file is written holds it open until it executes its program, and the kernel makes no
/// mount read-only that is written to: it is sealed all the same, a moment later.
#[test]
fn a_namespace_is_sealed_while_others_fork() {
    require!(Root);
    let done = AtomicBool::new(false);
    let forks = || {
        while !done.load(Ordering::Relaxed) {
            let mut child = Command::new("true");
            // SAFETY: between fork and exec the child sleeps and does nothing else.
            unsafe {
                child.pre_exec(|| {
                    std::thread::sleep(Duration::from_millis(5));
                    Ok(())
                });
            }
            assert!(child.status().unwrap().success());
        }
    };
    let file = |number: usize| Entry::File {
        at: PathBuf::from(format!("/root/{number}")),
        content: vec![b'x'; 64 * 1024].into(),
        mode: 0o444,
    };
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(forks);
        }
        for _ in 0..10 {
            let stage = tempfile::tempdir().unwrap();
            let sealed = (0..40).map(file).collect();
            let wanted = Namespace { own: Vec::new(), sealed_at: "/root".into(), sealed };
            let made = namespace(stage.path(), wanted).unwrap().made();
            if made.is_err() {
                done.store(true, Ordering::Relaxed);
            }
            made.unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}
