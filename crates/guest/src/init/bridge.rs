//! The way to the proxy: a listening socket on 127.0.0.1:9080 of the sandbox's own network.
//!
//! The built-in bridge makes the socket and passes it to the daemon, whose proxy accepts on it: there is no relay to
//! flood, and nothing of the daemon's to connect to. Where the daemon asks for it, it gets the network namespace as well,
//! and makes the sockets of the name service there itself: nothing of that runs in here. socat, where the configuration asks for it, listens instead.

use alloc::ffi::CString;
use alloc::format;
use core::time::Duration;

use super::clock::Instant;
use super::sys::Errno;
use super::{command, file, os, socket};
use crate::frame::{Bridge, Frame, Step};

/// The proxy's port, as `guest::PROXY_PORT` has it.
pub(crate) const PORT: u16 = 9080;

/// How long socat may take to listen.
const SOCAT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long socat keeps a connection of which one side has ended, in seconds. By itself it waits half of one for an
/// answer; the proxy has a bound for silence, and that is the one to count.
const SOCAT_HALF_CLOSED: &str = "86400";

/// How often it is looked at.
const SOCAT_STEP: i32 = 2;

/// A listening socket in /proc/net/tcp: 127.0.0.1:9080, any peer, state 0A.
const LISTENING: &[u8] = b"0100007F:2378 00000000:0000 0A";

/// Most of that table that is read. The network is new, so it is short.
const MAX_TABLE: usize = 256 * 1024;

/// Sets the bridge up; gives socat's pid where it is one.
pub(crate) fn set_up(bridge: &Bridge, control: i32) -> Result<Option<i32>, (Step, Errno)> {
    match bridge {
        Bridge::None => Ok(None),
        Bridge::Builtin => listen(control).map(|()| None),
        Bridge::BuiltinWithNetwork => {
            let network = file::open_file(c"/proc/self/ns/net").map_err(|error| (Step::OpenNetwork, error))?;
            let sent = socket::send(control, &Frame::Network.encode(), Some(network.0));
            sent.map_err(|error| (Step::OpenNetwork, error))?;
            listen(control).map(|()| None)
        }
        Bridge::Socat { program, socket } => socat(program, socket).map(Some),
    }
}

fn listen(control: i32) -> Result<(), (Step, Errno)> {
    let listener = socket::listen(PORT).map_err(|error| (Step::Listen, error))?;
    socket::send(control, &Frame::Listener.encode(), Some(listener.0)).map_err(|error| (Step::PassListener, error))
}

fn socat(program: &[u8], path: &[u8]) -> Result<i32, (Step, Errno)> {
    let string = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let listen = format!("TCP-LISTEN:{PORT},bind=127.0.0.1,fork,reuseaddr,max-children=256");
    let connect = [b"UNIX-CONNECT:".as_slice(), path].concat();
    let argv = [program, b"-t", SOCAT_HALF_CLOSED.as_bytes(), listen.as_bytes(), &connect].map(string);
    let pid = command::start_program(&argv).map_err(|error| (Step::StartSocat, error))?;
    let begin = Instant::now();
    while begin.elapsed() < SOCAT_TIMEOUT {
        let table = file::read_file(c"/proc/net/tcp", MAX_TABLE);
        if table.is_ok_and(|table| table.windows(LISTENING.len()).any(|part| part == LISTENING)) {
            return Ok(pid);
        }
        if let Some((ended, _)) = os::wait_any()
            && ended == pid
        {
            return Err((Step::StartSocat, Errno(0)));
        }
        socket::pause(SOCAT_STEP);
    }
    Err((Step::AwaitSocat, Errno(0)))
}
