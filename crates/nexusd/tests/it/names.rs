//! Names for programs that know no proxy: real sandboxes, a network of the test's own, origins on public addresses.

mod garbage;
mod reach;
mod refused;
mod rights;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use testkit::netbed::QueryType;
use testkit::{NetBed, Output, Process, TcpBehaviour, TcpOrigin, WorkDir};

use crate::bed::nexusd;

/// Long enough for a loaded machine; nothing waits for it unless something is wrong.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// An address of each family that the origins of these tests are on.
pub(crate) const FOUR: &str = "93.184.216.34";
pub(crate) const SIX: &str = "2606:2800:220:1::1";

/// What every script here begins with. A resolver that waits for an answer does so for 2 s: nothing here may take as long.
const PRELUDE: &str = r#"
import socket, sys, time
def look(name, family=socket.AF_UNSPEC):
    began = time.monotonic()
    try:
        found = sorted({a[4][0] for a in socket.getaddrinfo(name, 443, family, socket.SOCK_STREAM)})
    except socket.gaierror as error:
        found = {-2: "absent", -3: "again"}.get(error.errno, str(error))
    if time.monotonic() - began > 1.9: found = "slow"
    return found
def talk(host, port, family=socket.AF_UNSPEC, say=b""):
    began = time.monotonic()
    try:
        *_, address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0]
        with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as s:
            s.connect(address)
            s.sendall(say)
            s.shutdown(socket.SHUT_WR)
            got = b""
            while part := s.recv(65536): got += part
            return got.decode()
    except ConnectionRefusedError: return "refused"
    except (ConnectionResetError, BrokenPipeError): return "reset"
    except socket.gaierror: return "no name" if time.monotonic() - began < 1.9 else "slow"
    except OSError as error: return error.strerror
"#;

pub(crate) struct Bed {
    pub(crate) net: NetBed,
    pub(crate) dir: WorkDir,
}

/// How a run ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let bed = Self { net: NetBed::new().unwrap(), dir: WorkDir::new() };
        bed.config("");
        bed
    }

    /// Lines of the configuration that `nexusd run` reads.
    pub(crate) fn config(&self, lines: &str) {
        let ceiling = "operator: {net_ceiling: unrestricted}";
        self.dir.write("config.yaml", format!("min_free_bytes: 0\n{ceiling}\n{lines}"));
    }

    /// An origin at both addresses that says `hello` and the port, and closes.
    pub(crate) fn hello(&self, port: u16) -> [TcpOrigin; 2] {
        [FOUR, SIX].map(|host| {
            let address = SocketAddr::new(host.parse().unwrap(), port);
            let hello = TcpBehaviour::AnswerAfterEof(format!("hello {port}").into_bytes());
            TcpOrigin::start_on(self.net.far_listener(address), hello)
        })
    }

    /// The names that the name server was asked for, but for the one by which the daemon learns what its own network
    /// translates addresses by (RFC 7050).
    pub(crate) fn asked(&self) -> Vec<String> {
        let addresses = [QueryType::A, QueryType::Aaaa];
        let mut names: Vec<String> = self
            .net
            .dns()
            .asked()
            .into_iter()
            .filter(|(name, kind)| addresses.contains(kind) && name != "ipv4only.arpa")
            .map(|(name, _)| name)
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// `nexusd run` with these flags and words, by a command that ends with the program it starts.
    pub(crate) fn run_by(&self, before: &[&str], flags: &[&str], words: &[&str]) -> Ran {
        let program = nexusd();
        let mut command = Command::new(before.first().map_or(program.get_program(), |first| first.as_ref()));
        if let Some(rest) = before.get(1..) {
            command.args(rest).arg(program.get_program());
        }
        command.current_dir(self.dir.path()).arg("run").args(flags).arg("--").args(words);
        let mut process = self.spawn(command);
        let code = process.wait(SOON).code();
        Ran { code, stdout: process.text(Output::Stdout), stderr: process.text(Output::Stderr) }
    }

    fn spawn(&self, command: Command) -> Process {
        self.net.spawn_near(command)
    }

    /// A shell script, with an allowlist.
    pub(crate) fn sh(&self, allow: &[&str], script: &str) -> Ran {
        let flags: Vec<&str> = allow.iter().flat_map(|entry| ["--allow", entry]).collect();
        self.run_by(&[], &flags, &[script])
    }

    /// A Python script behind [`PRELUDE`]; what it printed, which must come with code 0.
    pub(crate) fn python(&self, allow: &[&str], script: &str) -> (Vec<String>, String) {
        let flags: Vec<&str> = allow.iter().flat_map(|entry| ["--allow", entry]).collect();
        self.python_by(&[], &flags, script)
    }

    pub(crate) fn python_by(&self, before: &[&str], flags: &[&str], script: &str) -> (Vec<String>, String) {
        let ran = self.run_by(before, flags, &["/usr/bin/python3", "-c", &format!("{PRELUDE}{script}")]);
        assert_eq!(ran.code, Some(0), "{} {}", ran.stdout, ran.stderr);
        (ran.stdout.lines().map(str::to_owned).collect(), ran.stderr)
    }
}
