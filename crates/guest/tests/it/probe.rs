//! `probe`: what it says of what can be done, and of what cannot.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::helper::install;

fn said(arguments: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(install(&dir)).arg("probe").args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap().trim_end().to_owned())
}

#[test]
fn each_says_what_can_be_done_and_what_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("file"), "x").unwrap();
    let name = format!("nexus-probe-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let _named = UnixListener::bind(path("socket")).unwrap();
    let four = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = four.local_addr().unwrap().port().to_string();
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port().to_string()
    };
    let (file, missing, folder, socket) = (path("file"), path("missing"), path(""), path("socket"));
    let (at_name, no_name) = (format!("@{name}"), format!("@{name}-not"));
    let cases: &[(&[&str], &str)] = &[
        (&["read", &file], "open"),
        (&["read", &folder], "open"),
        (&["read", &missing], "shut No such file or directory"),
        (&["write", &file], "open"),
        (&["write", &folder], "shut Is a directory"),
        (&["write", &missing], "shut No such file or directory"),
        (&["connect", "127.0.0.1", &port], "open"),
        (&["connect", "127.0.0.1", &closed], "shut Connection refused"),
        (&["unix", &socket], "open"),
        (&["unix", &missing], "shut No such file or directory"),
        (&["unix", &at_name], "open"),
        (&["unix", &no_name], "shut Connection refused"),
        (&["memory", "8"], "open"),
        (&["memory", "100000000"], "shut Cannot allocate memory"),
        (&["processes", "3"], "open"),
        (&["signal", "4194999"], "shut No such process"),
        (&["ask", "example.com", "443", &closed], "shut Connection refused (os error 111)"),
    ];
    for (arguments, expected) in cases {
        assert_eq!(said(arguments), (Some(0), (*expected).to_owned()), "{arguments:?}");
    }
    assert_eq!(std::fs::read(path("file")).unwrap(), b"x", "opened, and nothing else");
    for wrong in [&["read"][..], &["bogus"], &["signal", "1"], &["signal", "-1"], &["connect", "name", "1"], &[]] {
        assert_eq!(said(wrong), (Some(2), String::new()), "{wrong:?}");
    }
}

#[test]
fn whoever_stays_holds_the_file_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join("lock");
    assert_eq!(said(&["stay", lock.to_str().unwrap()]), (Some(0), "open".to_owned()));
    let file = std::fs::File::open(&lock).unwrap();
    assert!(file.try_lock().is_err(), "nobody holds it");
    std::fs::remove_file(&lock).unwrap();
    let began = Instant::now();
    while file.try_lock().is_err() {
        assert!(began.elapsed() < Duration::from_secs(20), "it stays for ever");
        std::thread::yield_now();
    }
}
