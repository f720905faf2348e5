//! Joins standard input and output to a connection, both directions at once, each through a buffer of its own.
//!
//! ```text
//!  stdin ──▶ up ──▶ connection      the end of stdin half-closes the connection
//! stdout ◀── down ◀── connection    the connection's end is the end
//! ```
//! Neither direction waits for the other. Standard input and output may be shared with other processes, so their blocking is
//! left as it is: they are read and written when they are ready, and written no more at once than a ready pipe takes.

use alloc::vec::Vec;

use super::file::{self, Fd};
use super::socket::{self, POLLIN, POLLOUT, Watched};
use super::sys::Errno;

const STDIN: i32 = 0;
const STDOUT: i32 = 1;

/// Room of each direction.
pub(crate) const ROOM: usize = 32 * 1024;

/// A pipe that is ready takes this many bytes without blocking (PIPE_BUF, pipe(7)).
const PIPE_TAKES: usize = 4096;

/// Bytes on their way: what was read, and how much of it was written.
struct Pending {
    bytes: Vec<u8>,
    written: usize,
}

impl Pending {
    fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, written: 0 }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// Marks bytes as written. An empty buffer begins anew, so it never grows.
    fn wrote(&mut self, count: usize) {
        self.written += count;
        if self.is_empty() {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.bytes.clear();
        self.written = 0;
    }
}

struct Relay<'a> {
    connection: &'a Fd,
    up: Pending,
    down: Pending,
    /// Whether more may come from standard input.
    input: bool,
    /// Whether more may come from the connection.
    connected: bool,
}

/// Copies until the connection ends, beginning with what has been received already.
pub(crate) fn relay(connection: &Fd, received: Vec<u8>) -> Result<(), Errno> {
    let (up, down) = (Pending::new(Vec::with_capacity(ROOM)), Pending::new(received));
    let mut relay = Relay { connection, up, down, input: true, connected: true };
    while relay.connected || !relay.down.is_empty() {
        let mut watched = relay.wishes();
        socket::poll(&mut watched, -1);
        let [input, connection, output] = watched;
        if input.is_ready() {
            relay.read();
        }
        if connection.is_ready() {
            relay.send();
            relay.receive()?;
        }
        if output.is_ready() {
            relay.write()?;
        }
    }
    Ok(())
}

impl Relay<'_> {
    /// What to wait for: a direction reads only when all it had read is written.
    fn wishes(&self) -> [Watched; 3] {
        let when = |wish: bool, events: i16| if wish { events } else { 0 };
        let read = when(self.input && self.up.is_empty(), POLLIN);
        let receive = when(self.connected && self.down.is_empty(), POLLIN);
        let send = when(!self.up.is_empty(), POLLOUT);
        let write = when(!self.down.is_empty(), POLLOUT);
        [Watched::new(STDIN, read), Watched::new(self.connection.0, receive | send), Watched::new(STDOUT, write)]
    }

    fn read(&mut self) {
        match file::read_more(STDIN, &mut self.up.bytes) {
            Err(Errno::EAGAIN) => {}
            Ok(0) | Err(_) => self.end_input(),
            Ok(_) => {}
        }
    }

    /// The other side learns of the end of input by the half-closed connection, whatever the reason.
    fn end_input(&mut self) {
        self.input = false;
        self.up.forget();
        socket::end_sending(self.connection.0);
    }

    fn send(&mut self) {
        if self.up.is_empty() {
            return;
        }
        match socket::send_some(self.connection.0, self.up.rest()) {
            Ok(count) => self.up.wrote(count),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.end_input(),
        }
    }

    fn receive(&mut self) -> Result<(), Errno> {
        if !self.connected || !self.down.is_empty() {
            return Ok(());
        }
        match socket::receive_some(self.connection.0, &mut self.down.bytes) {
            Ok(0) => self.connected = false,
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Errno> {
        let rest = self.down.rest();
        let written = match socket::write_some(STDOUT, rest) {
            Err(Errno::ENOTSOCK) => file::write(STDOUT, rest.get(..PIPE_TAKES).unwrap_or(rest)),
            other => other,
        };
        match written {
            Ok(count) => self.down.wrote(count),
            // Without a standard output, what comes is for nobody.
            Err(Errno::EBADF) => self.down.forget(),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
