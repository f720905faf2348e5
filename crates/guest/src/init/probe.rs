//! `probe KIND …`: tries one thing that a sandbox must not let happen, and says how it went. `nexusd doctor --prove` runs it
//! inside and outside; it can do nothing that any other program there could not.
//!
//! ```text
//! read PATH          open a file or folder        connect ADDRESS PORT       TCP, at most two seconds
//! write PATH         open it for writing          unix PATH                  a Unix socket; @NAME is an abstract one
//! signal PID         SIGTERM to it                ask HOST PORT [PROXY]      a tunnel through the proxy at that port
//! namespace KIND     user, mount: a new one       memory MIB                 as much, every page touched
//! stay PATH          a process that stays, with a lock on that file          processes COUNT   as many at once
//! wait               waits a minute
//! ```
//!
//! One line on standard output: `open` when it could be done, `shut` and the reason when it could not. Whoever is killed says
//! neither.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec::Vec;
use core::net::IpAddr;

use super::sys::{BestEffort as _, Errno};
use super::{bridge, connect, file, os, socket};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const CLONE_NEWNS: i32 = 0x0002_0000;
const CLONE_NEWUSER: i32 = 0x1000_0000;

/// Longest wait for a connection, in milliseconds.
const CONNECT_MILLIS: i32 = 2000;

/// How long a process that stays does so at the most, and how often it looks whether its file is gone, which ends it.
const STAY_MILLIS: i32 = 30_000;
const LOOK_MILLIS: i32 = 50;

/// Room for the page that is touched.
const PAGE: usize = 4096;

/// Runs one; the exit code: 0 when it said how it went, 2 when it is none.
pub(crate) fn run(probe: &[&[u8]]) -> i32 {
    let Some(tried) = attempt(probe) else {
        super::complain("nexus-init: no such probe");
        return 2;
    };
    let line = match tried {
        Ok(()) => String::from("open\n"),
        Err(why) => format!("shut {why}\n"),
    };
    file::write_all(1, line.as_bytes()).best_effort();
    0
}

fn attempt(probe: &[&[u8]]) -> Option<Result<(), String>> {
    let words: Vec<&str> = probe.iter().map(|word| core::str::from_utf8(word).ok()).collect::<Option<_>>()?;
    let tried = match words.as_slice() {
        ["ask", host, port] => return Some(connect::ask(&format!("{host}:{port}"), bridge::PORT)),
        ["ask", host, port, proxy] => return Some(connect::ask(&format!("{host}:{port}"), proxy.parse().ok()?)),
        ["read", path] => file::open(&named(path)?, file::O_NONBLOCK).map(drop),
        ["write", path] => file::open(&named(path)?, file::O_WRONLY | file::O_NONBLOCK).map(drop),
        ["signal", pid] => os::signal_number(pid.parse().ok().filter(|pid| *pid > 1)?, os::SIGTERM),
        ["connect", address, port] => reach(address.parse().ok()?, port.parse().ok()?),
        ["unix", path] => reach_unix(path.as_bytes())?,
        ["namespace", "user"] => os::leave_namespace(CLONE_NEWUSER),
        ["namespace", "mount"] => os::leave_namespace(CLONE_NEWNS),
        ["memory", mib] => take_memory(mib.parse().ok()?),
        ["processes", count] => start_processes(count.parse().ok()?),
        ["stay", path] => stay(&named(path)?),
        ["wait"] => {
            socket::pause(2 * STAY_MILLIS);
            Ok(())
        }
        _ => return None,
    };
    Some(tried.map_err(|error| error.to_string()))
}

fn named(path: &str) -> Option<CString> {
    CString::new(path).ok()
}

/// Connects to an address: struct sockaddr_in, or sockaddr_in6.
fn reach(address: IpAddr, port: u16) -> Result<(), Errno> {
    let mut bytes = Vec::new();
    let family = if address.is_ipv4() { AF_INET } else { AF_INET6 };
    bytes.extend(family.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    match address {
        IpAddr::V4(address) => {
            bytes.extend(address.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(address) => {
            bytes.extend([0; 4]);
            bytes.extend(address.octets());
            bytes.extend([0; 4]);
        }
    }
    socket::connect_to(family, &bytes, CONNECT_MILLIS).map(drop)
}

/// Connects to a Unix socket: struct sockaddr_un, whose path may be 108 bytes.
fn reach_unix(path: &[u8]) -> Option<Result<(), Errno>> {
    let mut bytes = Vec::from(AF_UNIX.to_ne_bytes());
    match path.strip_prefix(b"@") {
        Some(name) => {
            bytes.push(0);
            bytes.extend(name);
        }
        None => {
            bytes.extend(path);
            bytes.push(0);
        }
    }
    (bytes.len() <= 110).then(|| socket::connect_to(AF_UNIX, &bytes, CONNECT_MILLIS).map(drop))
}

fn take_memory(mib: usize) -> Result<(), Errno> {
    let mut memory: Vec<u8> = Vec::new();
    memory.try_reserve_exact(mib.saturating_mul(1024 * 1024)).map_err(|_| Errno::ENOMEM)?;
    for page in memory.spare_capacity_mut().chunks_mut(PAGE) {
        if let Some(first) = page.first_mut() {
            first.write(1);
        }
    }
    // What nobody looks at would not be touched.
    core::hint::black_box(memory.as_ptr());
    Ok(())
}

/// Processes that end with this one: the pipe's other end is closed then.
fn start_processes(count: usize) -> Result<(), Errno> {
    let (wait, held) = file::pipe()?;
    for _ in 0..count {
        if os::fork_process()?.is_none() {
            drop(held);
            socket::poll_two(wait.0, -1, STAY_MILLIS);
            os::exit(0);
        }
    }
    Ok(())
}

/// Leaves a process behind as well as one can: twice forked, a session of its own, deaf to signals, no output held. It holds
/// a lock on the file, which is how it is known, and ends when the file is gone.
fn stay(path: &CString) -> Result<(), Errno> {
    let mine = file::open(path, file::O_WRONLY | file::O_CREAT)?;
    if os::fork_process()?.is_none() {
        os::stand_alone();
        if matches!(os::fork_process(), Ok(None)) {
            file::close_from(0);
            os::stand_alone();
            let held = file::open(path, file::O_WRONLY).and_then(|own| file::lock(&own).map(|()| own));
            for _ in 0..STAY_MILLIS / LOOK_MILLIS {
                if held.is_err() || file::open_file(path).is_err() {
                    break;
                }
                socket::pause(LOOK_MILLIS);
            }
        }
        os::exit(0);
    }
    // It is there once the lock is taken; a second of patience. A lock that this process gets it gives back at once.
    for _ in 0..100 {
        let probe = file::open(path, file::O_WRONLY)?;
        match file::lock(&probe) {
            Err(Errno::EAGAIN) => return Ok(()),
            _ => drop(probe),
        }
        socket::pause(10);
    }
    drop(mine);
    Err(Errno::ETIMEDOUT)
}
