//! `nexusd rootfs ensure` and `nexusd run`, the real program.

use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use testkit::archive::{debian_archive, listing, sha256_hex, xz};
use testkit::{Output as Stream, Process, TarBytes, TestCa, require};

use super::server::{Reply, Server};
use super::{Bed, assert_installed, packed};
use crate::bed::{SOON, nexusd};

const TAG: &str = "\"one\"";

impl Bed {
    /// The configuration that wants this archive.
    pub(super) fn configure(&self, url: &str, archive: &[u8], keys: &str) {
        self.configure_digest(url, &sha256_hex(archive), keys);
    }

    fn configure_digest(&self, url: &str, digest: &str, keys: &str) {
        let text = format!(
            "min_free_bytes: 0\nrootfs:\n  auto: true\n  cache_dir: ./cache\n  {ARCH}:\n    url: \"{url}\"\n    sha256: \
             {digest}\n{keys}"
        );
        self.dir.write("config.yaml", text);
    }

    /// `nexusd` with this bed's configuration, and nothing of the environment's that would change what it does.
    pub(super) fn nexusd(&self, args: &[&str]) -> Command {
        let mut command = nexusd();
        command.arg("-config").arg(self.dir.join("config.yaml")).args(args).current_dir(self.dir.path());
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command
    }

    fn ensured(&self) -> (Option<i32>, String, String) {
        texts(self.nexusd(&["rootfs", "ensure"]).output().unwrap())
    }

    /// What a person reads, with the names of this run taken out.
    fn shown(&self, texts: &(Option<i32>, String, String), server: Option<&Server>) -> String {
        let (code, stdout, stderr) = texts;
        // How far it came is a matter of chance.
        let stderr: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("nexusd: rootfs: ")).collect();
        let stderr = stderr.join("\n");
        let mut text = format!("{}\n── stdout\n{stdout}── stderr\n{stderr}", code.unwrap());
        if let Some(server) = server {
            text = text.replace(&server.address().to_string(), "SERVER");
        }
        text.replace(self.dir.path().to_str().unwrap(), "DIR").replace(ARCH, "ARCH")
    }
}

const ARCH: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

fn texts(output: Output) -> (Option<i32>, String, String) {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn it_prints_the_root_and_needs_no_network_the_second_time() {
    let (bed, file) = (Bed::new(), packed());
    let server = Server::honest(&file);
    bed.configure(&server.url(), &file, "");
    let root = bed.cache().join(sha256_hex(&file)).join("root");
    let (code, stdout, stderr) = bed.ensured();
    assert_eq!((code, stdout), (Some(0), format!("{}\n", root.display())), "{stderr}");
    assert!(stderr.lines().all(|line| line.starts_with("nexusd: rootfs: ")), "{stderr}");
    assert_installed(&root);
    drop(server);
    assert_eq!(bed.ensured(), (Some(0), format!("{}\n", root.display()), String::new()));
}

#[test]
fn failures_in_words() {
    let (bed, file) = (Bed::new(), packed());
    let other = TarBytes::new().file("other", 0o644, b"").tar_xz();
    let mut shown = Vec::new();

    let server = Server::honest(&other);
    bed.configure(&server.url(), &file, "");
    let digests = bed.shown(&bed.ensured(), Some(&server));
    shown.push(digests.replace(&sha256_hex(&file), "EXPECTED").replace(&sha256_hex(&other), "FOUND"));
    assert_eq!(bed.left(), Vec::<String>::new());

    let hostile = TarBytes::new().dir("usr", 0o755).link("usr/out", "../../etc").tar_xz();
    let server = Server::honest(&hostile);
    bed.configure(&server.url(), &hostile, "");
    shown.push(bed.shown(&bed.ensured(), Some(&server)));
    assert_eq!(bed.left(), Vec::<String>::new());

    let server = Server::start(|_, _| Reply::status(404));
    bed.configure(&server.url(), &file, "");
    shown.push(bed.shown(&bed.ensured(), Some(&server)));

    bed.configure("http://127.0.0.1:1/root.tar.xz", &file, "");
    shown.push(bed.shown(&bed.ensured(), None));

    bed.configure_digest("ftp://a.example/x", "abc", "");
    shown.push(bed.shown(&bed.ensured(), None));

    std::fs::remove_file(bed.dir.join("config.yaml")).unwrap();
    shown.push(bed.shown(&bed.ensured(), None));
    insta::assert_snapshot!(shown.join("\n\n"));
}

/// Two processes: one fetches, the other waits, says for whom, and uses what is there.
#[test]
fn one_of_two_processes_fetches() {
    let (bed, file) = (Bed::new(), packed());
    let served = file.clone();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let server = Server::start(move |_, asked| {
        gate.lock().unwrap().recv_timeout(SOON).unwrap();
        Reply::of(&served, TAG, asked)
    });
    bed.configure(&server.url(), &file, "");
    let mut first = Process::spawn(&mut bed.nexusd(&["rootfs", "ensure"]));
    drop(first.wait_for_line(Stream::Stderr, "asking the server", SOON));
    let mut second = Process::spawn(&mut bed.nexusd(&["rootfs", "ensure"]));
    drop(second.wait_for_line(Stream::Stderr, &format!("waiting for process {}", first.id()), SOON));
    go.send(()).unwrap();
    for process in [&mut first, &mut second] {
        let status = process.wait(SOON);
        assert!(status.success(), "{}", process.text(Stream::Stderr));
    }
    assert_eq!(first.text(Stream::Stdout), second.text(Stream::Stdout));
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_signal_ends_it_and_the_next_run_goes_on() {
    let (bed, file) = (Bed::new(), packed());
    let served = file.clone();
    let server = Server::start(move |number, asked| {
        let reply = Reply::of(&served, TAG, asked);
        if number == 0 { reply.stalled(200_000) } else { reply }
    });
    bed.configure(&server.url(), &file, "");
    let mut process = Process::spawn(&mut bed.nexusd(&["rootfs", "ensure"]));
    drop(process.wait_for_line(Stream::Stderr, "fetching", SOON));
    process.signal(Signal::TERM);
    assert_eq!(process.wait(SOON).code(), Some(1));
    let said = process.text(Stream::Stderr);
    assert!(
        said.ends_with("nexusd: interrupted; what has come is kept, and the next try goes on from there\n"),
        "{said}"
    );
    let (code, _, stderr) = bed.ensured();
    assert_eq!(code, Some(0), "{stderr}");
    let from = server.ranges()[1].unwrap();
    assert!(from > 0 && from <= 200_000, "{from}");
}

/// Killed while it unpacks, it leaves half a tree, which the next run sweeps.
#[test]
fn a_kill_leaves_nothing_that_the_next_run_does_not_mend() {
    let (bed, file) = (Bed::new(), packed());
    let server = Server::honest(&file);
    bed.configure(&server.url(), &file, "");
    let digest = sha256_hex(&file);
    let half = bed.cache().join(format!("{digest}.new/root/usr"));
    std::fs::create_dir_all(&half).unwrap();
    std::fs::write(half.join("half"), "x").unwrap();
    std::fs::create_dir_all(bed.cache().join(&digest).join("root")).unwrap();
    let (code, _, stderr) = bed.ensured();
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(bed.left(), std::slice::from_ref(&digest));
    assert_installed(&bed.cache().join(digest).join("root"));
}

/// A daemon's umask says nothing about a tree that other users' sandboxes read.
#[test]
fn a_strict_umask_does_not_close_the_tree() {
    let (bed, file) = (Bed::new(), packed());
    let server = Server::honest(&file);
    bed.configure(&server.url(), &file, "");
    let mut strict = Command::new("/bin/sh");
    strict.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(env!("CARGO_BIN_EXE_nexusd"));
    strict.args(["rootfs", "ensure", "--config"]).arg(bed.dir.join("config.yaml"));
    let (code, _, stderr) = texts(strict.output().unwrap());
    assert_eq!(code, Some(0), "{stderr}");
    let names = listing(&bed.cache());
    let digest = sha256_hex(&file);
    for expected in [format!("{digest}/ 755"), format!("{digest}/root/ 755"), format!("{digest}/root/usr/ 755")] {
        assert!(names.contains(&expected), "{names:?}");
    }
    assert!(names.contains(&format!("{digest}/root/usr/noise 644 500000")), "{names:?}");
}

#[test]
fn https_and_the_environments_proxy() {
    let (bed, file) = (Bed::new(), packed());
    let ca = TestCa::new();
    let served = file.clone();
    let router = axum::Router::new().fallback(move || async move { served });
    let tls = ca.server_config(&["127.0.0.1"], testkit::tls::ClientCertificates::Ignored);
    let https = testkit::server::serve_http(testkit::server::loopback(), Some(tls), router).unwrap();
    bed.configure(&format!("https://{}/root.tar.xz", https.address()), &file, "");
    // Nobody here trusts this authority: the control.
    let (code, _, stderr) = bed.ensured();
    assert_eq!(code, Some(1));
    assert!(stderr.contains("certificate"), "{stderr}");
    let roots = bed.dir.write("ca.pem", ca.pem());
    let trusted = bed.nexusd(&["rootfs", "ensure"]).env("SSL_CERT_FILE", &roots).output().unwrap();
    assert_eq!(texts(trusted).0, Some(0));

    let bed = Bed::new();
    let proxy = Server::honest(&file);
    bed.configure("http://archives.invalid/root.tar.xz", &file, "");
    let through = format!("http://{}", proxy.address());
    let proxied = bed.nexusd(&["rootfs", "ensure"]).env("HTTP_PROXY", &through).output().unwrap();
    assert_eq!(texts(proxied).0, Some(0));
    assert_eq!(proxy.asked()[0].line, "GET http://archives.invalid/root.tar.xz HTTP/1.1");
    // The configuration's proxy counts, not the environment's.
    let bed = Bed::new();
    bed.configure("http://archives.invalid/root.tar.xz", &file, &format!("proxy_url: \"{through}\"\n"));
    let proxied = bed.nexusd(&["rootfs", "ensure"]).env("HTTP_PROXY", "http://127.0.0.1:1").output().unwrap();
    assert_eq!(texts(proxied).0, Some(0));
    assert_eq!(proxy.asked().len(), 2);
}

#[test]
fn a_terminal_gets_a_bar() {
    let (bed, file) = (Bed::new(), packed());
    let served = file.clone();
    let server = Server::start(move |number, asked| {
        let reply = Reply::of(&served, TAG, asked);
        if number == 0 { reply.stalled(served.len() / 2) } else { reply }
    });
    bed.configure(&server.url(), &file, "");
    let (terminal, side) = pty();
    let mut command = bed.nexusd(&["rootfs", "ensure"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::from(side)).spawn().unwrap();
    drop(command);
    let mut terminal = std::fs::File::from(terminal);
    let mut seen = String::new();
    let end = std::time::Instant::now() + SOON;
    let mut piece = [0; 4096];
    while !seen.contains("50 % [####") {
        assert!(std::time::Instant::now() < end, "{seen:?}");
        let count = terminal.read(&mut piece).unwrap();
        seen.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::INT).unwrap();
    // The end of a terminal is an error (EIO) on Linux.
    while let Ok(count @ 1..) = terminal.read(&mut piece) {
        seen.push_str(&String::from_utf8_lossy(&piece[..count]));
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let bar = seen.split('\r').find(|line| line.contains("50 % [####")).unwrap();
    assert!(bar.starts_with("fetching   50 % [####") && bar.contains(" of 0.4 MiB  "), "{bar:?}");
    assert!(bar.ends_with("\x1b[K") && bar.chars().count() < 80 + 3, "{bar:?}");
    // The bar is wiped before the last words.
    assert!(seen.contains("\r\x1b[Knexusd: interrupted"), "{seen:?}");
}

/// A terminal of 80 columns.
fn pty() -> (OwnedFd, OwnedFd) {
    use rustix::fs::{Mode, OFlags};
    let ours = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::grantpt(&ours).unwrap();
    rustix::pty::unlockpt(&ours).unwrap();
    let name = rustix::pty::ptsname(&ours, Vec::new()).unwrap();
    let theirs = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&theirs, size).unwrap();
    (ours, theirs)
}

/// Memory does not grow with the archive, here one that unpacks to 512 MiB.
#[test]
fn memory_is_bounded_whatever_the_size() {
    let bed = Bed::new();
    // Each file in streams of its own, so that the zeros are packed once.
    const SIZE: usize = 64 << 20;
    let zeros = xz(&vec![0; SIZE]);
    let mut archive = Vec::new();
    for n in 0..8 {
        let header = TarBytes::new().header(b'0', &format!("zeros-{n}"), "", 0o644, SIZE as u64);
        archive.extend(xz(&header.unfinished()));
        archive.extend(&zeros);
    }
    archive.extend(TarBytes::new().tar_xz());
    let peak = peak_of(&bed, &archive);
    println!("peak memory: {peak} KiB");
    assert!(peak > 5_000, "the control: {peak} KiB");
    assert!(peak < 64 * 1024, "{peak} KiB");
    let unpacked = listing(&bed.cache().join(sha256_hex(&archive)).join("root"));
    assert_eq!(unpacked.len(), 8);
    assert_eq!(unpacked[7], "zeros-7 644 67108864");
}

/// The most memory that the program had, in KiB, as the kernel counts it.
fn peak_of(bed: &Bed, archive: &[u8]) -> u64 {
    let path = bed.dir.join("archive.tar.xz");
    std::fs::write(&path, archive).unwrap();
    bed.configure(&format!("file://{}", path.display()), archive, "");
    let mut child = bed.nexusd(&["rootfs", "ensure"]).stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        // The peak only grows: the last look before the end misses next to nothing.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        peak = kib.unwrap_or(peak);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return peak;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A command in the pinned root, with everything that a person has: an archive and its digest.
#[test]
fn run_fetches_the_root_and_uses_it() {
    require!(Rootfs, Bwrap);
    let bed = Bed::new();
    let archive = std::fs::read(debian_archive()).unwrap();
    let server = Server::honest(&archive);
    bed.configure(&server.url(), &archive, "");
    // Only a root of its own has a /var: the host's /usr comes without.
    let run = |bed: &Bed| {
        texts(bed.nexusd(&["run", "--", "test -d /var/lib/dpkg && . /etc/os-release && echo $ID"]).output().unwrap())
    };
    assert_eq!(run(&bed), (Some(0), "debian\n".to_owned(), String::new()));
    assert_eq!(server.asked().len(), 1);
    drop(server);
    assert_eq!(run(&bed), (Some(0), "debian\n".to_owned(), String::new()));
    // The control: without the pinned root there is none.
    bed.dir.write("config.yaml", "min_free_bytes: 0\n");
    assert_eq!(run(&bed).0, Some(1));
}

#[test]
fn run_without_the_root_is_one_error_and_no_other_root() {
    require!(Bwrap);
    let (bed, file) = (Bed::new(), packed());
    bed.configure("http://127.0.0.1:1/root.tar.xz", &file, "");
    let (code, stdout, stderr) = texts(bed.nexusd(&["run", "--", "echo ran"]).output().unwrap());
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("nexusd: cannot fetch the sandboxes' root from http://127.0.0.1:1/"), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    // A profile that does not use it does not wait for it.
    let host = bed.nexusd(&["run", "--profile", "host", "--", "echo ran"]).output().unwrap();
    assert_eq!(texts(host).1, "ran\n");
}
