//! The way to the proxy: a listening socket on 127.0.0.1:9080 of the sandbox's own network.
//!
//! The built-in bridge makes the socket and passes it to the daemon, whose proxy accepts on it: there is no relay to
//! flood, and nothing of the daemon's to connect to. socat, where the configuration asks for it, listens instead.

use std::ffi::CString;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use super::{command, os};
use crate::frame::{Bridge, Frame, Step};

/// The proxy's port, as `guest::PROXY_PORT` has it.
pub(crate) const PORT: u16 = 9080;

/// How long socat may take to listen.
const SOCAT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked at.
const SOCAT_STEP: i32 = 2;

/// A listening socket in /proc/net/tcp: 127.0.0.1:9080, any peer, state 0A.
const LISTENING: &str = "0100007F:2378 00000000:0000 0A";

/// Sets the bridge up; gives socat's pid where it is one.
pub(crate) fn set_up(bridge: &Bridge, control: i32) -> Result<Option<i32>, (Step, i32)> {
    match bridge {
        Bridge::None => Ok(None),
        Bridge::Builtin => {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
                .map_err(|error| (Step::Listen, error.raw_os_error().unwrap_or(0)))?;
            if os::send(control, &Frame::Listener.encode(), Some(listener.as_raw_fd())) {
                Ok(None)
            } else {
                Err((Step::PassListener, os::errno()))
            }
        }
        Bridge::Socat { program, socket } => socat(program, socket).map(Some),
    }
}

fn socat(program: &[u8], socket: &[u8]) -> Result<i32, (Step, i32)> {
    let string = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let listen = format!("TCP-LISTEN:{PORT},bind=127.0.0.1,fork,reuseaddr,max-children=256");
    let connect = [b"UNIX-CONNECT:".as_slice(), socket].concat();
    let argv = [string(program), string(listen.as_bytes()), string(&connect)];
    let pid = command::start_program(&argv).map_err(|errno| (Step::StartSocat, errno))?;
    let begin = Instant::now();
    while begin.elapsed() < SOCAT_TIMEOUT {
        if std::fs::read_to_string("/proc/net/tcp").is_ok_and(|table| table.contains(LISTENING)) {
            return Ok(pid);
        }
        if let Some((ended, _)) = os::wait_any()
            && ended == pid
        {
            return Err((Step::StartSocat, 0));
        }
        os::poll_two(-1, -1, SOCAT_STEP);
    }
    Err((Step::AwaitSocat, 0))
}
