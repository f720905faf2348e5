//! `connect HOST PORT`: ssh's ProxyCommand. Joins standard input and output to HOST:PORT through the proxy.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::fmt::{Display, Formatter};

use super::bridge::PORT;
use super::file::{self, Fd};
use super::sys::Errno;
use super::{complain, relay, socket};

/// Longest answer head that is taken from the proxy.
const MAX_HEAD: usize = 16 * 1024;

/// Most of a refusal's text that is shown.
const MAX_TEXT: usize = 2048;

/// Why there is no connection.
enum Failure {
    System(Errno),
    /// The proxy's answer, or that there is none.
    Answer(String),
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::System(error) => write!(f, "{error} (os error {})", error.0),
            Self::Answer(text) => f.write_str(text),
        }
    }
}

/// Runs until the other end has closed; the exit code.
pub(crate) fn run(host: &[u8], port: &[u8]) -> i32 {
    let plain = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_graphic());
    if !plain(host) || !plain(port) {
        complain("nexus: connect: the host and the port must be plain text");
        return 2;
    }
    let target = format!("{}:{}", String::from_utf8_lossy(host), String::from_utf8_lossy(port));
    match join(&target) {
        Ok(()) => 0,
        Err(error) => {
            complain(&format!("nexus: connect to {target}: {error}"));
            1
        }
    }
}

fn join(target: &str) -> Result<(), Failure> {
    let (proxy, answer) = tunnel(target, PORT)?;
    relay::relay(&proxy, answer).map_err(Failure::System)
}

/// Whether the proxy at this port opens a tunnel there; else what it, or the kernel, said, on one line.
pub(crate) fn ask(target: &str, port: u16) -> Result<(), String> {
    match tunnel(target, port) {
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.to_string().lines().collect::<Vec<_>>().join(" ")),
    }
}

/// A tunnel through the proxy, and what came behind its answer.
fn tunnel(target: &str, port: u16) -> Result<(Fd, Vec<u8>), Failure> {
    let proxy = socket::connect(port)?;
    socket::send(proxy.0, format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes(), None)?;
    let mut answer = Vec::with_capacity(relay::ROOM);
    let head = read_head(&proxy, &mut answer)?;
    let line = head.lines().next().unwrap_or_default();
    if line.split(' ').nth(1).is_none_or(|status| !status.starts_with('2')) {
        while answer.len() < MAX_TEXT && file::read_more(proxy.0, &mut answer).is_ok_and(|count| count > 0) {}
        answer.truncate(MAX_TEXT);
        return Err(Failure::Answer(format!("{line}\n{}", String::from_utf8_lossy(&answer).trim())));
    }
    Ok((proxy, answer))
}

/// The answer up to the empty line. What came behind it belongs to the tunnel and stays in the buffer.
fn read_head(proxy: &Fd, answer: &mut Vec<u8>) -> Result<String, Failure> {
    loop {
        let end = answer.windows(4).take(MAX_HEAD).position(|part| part == b"\r\n\r\n").map(|at| at + 4);
        if let Some(end) = end {
            let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
            answer.drain(..end);
            return Ok(head);
        }
        if answer.len() >= MAX_HEAD || file::read_more(proxy.0, answer)? == 0 {
            return Err(Failure::Answer(String::from("the proxy gave no answer")));
        }
    }
}
