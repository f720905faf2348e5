//! `connect HOST PORT`: ssh's ProxyCommand. Joins standard input and output to HOST:PORT through the proxy.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream};

use super::bridge::PORT;
use super::complain;

/// Longest answer head that is taken from the proxy.
const MAX_HEAD: usize = 16 * 1024;

/// Most of a refusal's text that is shown.
const MAX_TEXT: u64 = 2048;

/// Runs until both directions are closed; the exit code.
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

fn join(target: &str) -> io::Result<()> {
    let mut proxy = TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))?;
    proxy.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes())?;
    let head = read_head(&mut proxy)?;
    let line = head.lines().next().unwrap_or_default();
    if line.split(' ').nth(1).is_none_or(|status| !status.starts_with('2')) {
        let mut text = String::new();
        drop(proxy.take(MAX_TEXT).read_to_string(&mut text));
        return Err(io::Error::other(format!("{line}\n{}", text.trim())));
    }
    let upstream = proxy.try_clone()?;
    std::thread::spawn(move || {
        // The other side learns of the end of input by the half-closed connection, whatever the reason.
        drop(copy(&mut io::stdin().lock(), &mut &upstream));
        drop(upstream.shutdown(Shutdown::Write));
    });
    copy(&mut proxy, &mut io::stdout().lock())
}

/// The answer up to the empty line, byte by byte: what follows belongs to the tunnel.
fn read_head(proxy: &mut TcpStream) -> io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD || proxy.read(&mut byte)? == 0 {
            return Err(io::Error::other("the proxy gave no answer"));
        }
        head.extend(byte);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Copies until the end, each piece as it comes.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let count = from.read(&mut buffer)?;
        let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else { return Ok(()) };
        to.write_all(piece)?;
        to.flush()?;
    }
}
