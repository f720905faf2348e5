//! The frames between the daemon and the helper: a pure codec over a stream of bytes.
//!
//! ```text
//!  version  kind  length (u32, little endian)  payload
//!     1      1              4                  length
//! ```
//! ```text
//!  daemon                          helper
//!    │ ── Plan ──────────────────────► │  sets up
//!    │ ◄─────────── Network (+ fd) ── │  where the plan asks for it
//!    │ ◄────────── Listener (+ fd) ── │  with the built-in bridge
//!    │ ◄────────────────── Ready ──── │  or Failed
//!    │ ── Release ──────────────────► │  runs the command
//!    │ ── Signal ───────────────────► │  any time
//!    │ ◄───────────────── Exited ──── │  and ends
//! ```
//! Promises: a frame is bounded before a byte of it is kept; anything that is not exactly a frame is an error and the
//! stream is over; decoding what was encoded gives the same frame.

use alloc::vec;
use alloc::vec::Vec;
use core::error::Error;
use core::fmt::{Display, Formatter, Result as FormatResult};

/// The version that both ends speak. They are built together, so there is one.
pub const VERSION: u8 = 1;

/// Largest payload toward the helper: a command and an environment at the size the kernel takes.
pub const MAX_TO_HELPER: usize = 2 * 1024 * 1024;

/// Largest payload from the helper.
pub const MAX_FROM_HELPER: usize = 256;

/// Bytes before the payload.
const HEADER: usize = 6;

/// Most variables, and most paths, in a plan.
const MAX_LIST: usize = 65_536;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Daemon: what to set up and to run.
    Plan(Plan),
    /// Daemon: run it.
    Release,
    /// Daemon: send this to everything in the sandbox.
    Signal(Order),
    /// Helper: a descriptor comes along, listening on the proxy's port.
    Listener,
    /// Helper: a descriptor comes along, its network namespace.
    Network,
    /// Helper: everything is set up, the command waits.
    Ready,
    /// Helper: the command has ended.
    Exited(Ended),
    /// Helper: something could not be set up; nothing ran.
    Failed(Failed),
}

/// What the helper sets up and runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// How connections reach the proxy.
    pub bridge: Bridge,
    /// Directory to run in; empty: where the helper was started.
    pub cwd: Vec<u8>,
    /// Absolute path of the shell.
    pub shell: Vec<u8>,
    /// What follows `-c`.
    pub script: Vec<u8>,
    /// `NAME=value` each.
    pub environment: Vec<Vec<u8>>,
    /// The only trees that Landlock lets the command write, where there are any.
    pub writable: Vec<Vec<u8>>,
    /// Processes and threads that there may be in the sandbox's user namespace (RLIMIT_NPROC); 0: no such limit.
    pub processes: u64,
    /// The network is the sandbox's own: the helper refuses the command sockets that no network namespace holds, where nobody
    /// else does.
    pub own_network: bool,
}

/// How connections reach the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Bridge {
    /// They do not.
    #[default]
    None,
    /// The helper listens and passes the listening socket to the daemon.
    Builtin,
    /// The same, and it passes its network namespace before: the daemon makes further sockets there.
    BuiltinWithNetwork,
    /// socat listens and forwards to a socket.
    Socat {
        /// socat's path inside the sandbox.
        program: Vec<u8>,
        /// The socket's path inside the sandbox.
        socket: Vec<u8>,
    },
}

/// An order of the daemon's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// SIGTERM to every process.
    Terminate,
    /// SIGKILL to every process.
    Kill,
}

/// How the command ended and what it used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub how: How,
    /// Processor time in user mode of all processes that were waited for, in microseconds.
    pub user_micros: u64,
    /// The same in the kernel.
    pub system_micros: u64,
    /// Peak resident size of the largest process, in KiB.
    pub max_rss_kib: u64,
    /// How often the kernel killed for want of memory, where the helper alone can tell (containers); else 0.
    pub oom_kills: u64,
    /// The same of processes that were refused.
    pub pids_refused: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

/// What could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The step.
    pub step: Step,
    /// The kernel's errno; 0 where there is none.
    pub errno: u16,
}

/// A step of the set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Listening on the proxy's port.
    Listen = 1,
    /// Passing the listening socket.
    PassListener = 2,
    /// Starting socat.
    StartSocat = 3,
    /// Waiting for socat to listen.
    AwaitSocat = 4,
    /// Entering the working directory.
    EnterCwd = 5,
    /// Making the command's process.
    Fork = 6,
    /// Reading the plan.
    Plan = 7,
    /// Opening the network namespace.
    OpenNetwork = 8,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Another version.
    Version(u8),
    /// No such kind.
    Kind(u8),
    /// A payload larger than this direction allows.
    TooLarge(u32),
    /// A payload that does not say what its kind must say.
    Payload(u8),
}

impl Display for FrameError {
    fn fmt(&self, f: &mut Formatter<'_>) -> FormatResult {
        match self {
            Self::Version(version) => write!(f, "frame of version {version}, expected {VERSION}"),
            Self::Kind(kind) => write!(f, "frame of unknown kind {kind}"),
            Self::TooLarge(length) => write!(f, "frame of {length} bytes is too large"),
            Self::Payload(kind) => write!(f, "frame of kind {kind} has a malformed payload"),
        }
    }
}

impl Error for FrameError {}

mod kind {
    pub(super) const PLAN: u8 = 1;
    pub(super) const RELEASE: u8 = 2;
    pub(super) const SIGNAL: u8 = 3;
    pub(super) const LISTENER: u8 = 16;
    pub(super) const READY: u8 = 17;
    pub(super) const EXITED: u8 = 18;
    pub(super) const FAILED: u8 = 19;
    pub(super) const NETWORK: u8 = 20;
}

impl Frame {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let kind = match self {
            Self::Plan(plan) => {
                plan.write(&mut payload);
                kind::PLAN
            }
            Self::Release => kind::RELEASE,
            Self::Signal(order) => {
                payload.push(if *order == Order::Terminate { 15 } else { 9 });
                kind::SIGNAL
            }
            Self::Listener => kind::LISTENER,
            Self::Network => kind::NETWORK,
            Self::Ready => kind::READY,
            Self::Exited(ended) => {
                let (tag, value) = match ended.how {
                    How::Code(code) => (0, code),
                    How::Signal(signal) => (1, signal),
                };
                payload.extend([tag, value]);
                for number in
                    [ended.user_micros, ended.system_micros, ended.max_rss_kib, ended.oom_kills, ended.pids_refused]
                {
                    payload.extend(number.to_le_bytes());
                }
                kind::EXITED
            }
            Self::Failed(failed) => {
                payload.push(failed.step as u8);
                payload.extend(failed.errno.to_le_bytes());
                kind::FAILED
            }
        };
        let mut bytes = vec![VERSION, kind];
        put_length(&mut bytes, payload.len());
        bytes.extend(payload);
        bytes
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        let mut rest = Reader(payload);
        let frame = match kind {
            kind::PLAN => Plan::read(&mut rest).map(Self::Plan),
            kind::RELEASE => Some(Self::Release),
            kind::SIGNAL => match rest.byte() {
                Some(15) => Some(Self::Signal(Order::Terminate)),
                Some(9) => Some(Self::Signal(Order::Kill)),
                _ => None,
            },
            kind::LISTENER => Some(Self::Listener),
            kind::NETWORK => Some(Self::Network),
            kind::READY => Some(Self::Ready),
            kind::EXITED => Ended::read(&mut rest).map(Self::Exited),
            kind::FAILED => Failed::read(&mut rest).map(Self::Failed),
            _ => return Err(FrameError::Kind(kind)),
        };
        frame.filter(|_| rest.0.is_empty()).ok_or(FrameError::Payload(kind))
    }
}

impl Plan {
    fn write(&self, out: &mut Vec<u8>) {
        match &self.bridge {
            Bridge::None => out.push(0),
            Bridge::Builtin => out.push(1),
            Bridge::BuiltinWithNetwork => out.push(3),
            Bridge::Socat { program, socket } => {
                out.push(2);
                put_bytes(out, program);
                put_bytes(out, socket);
            }
        }
        for field in [&self.cwd, &self.shell, &self.script] {
            put_bytes(out, field);
        }
        for list in [&self.environment, &self.writable] {
            put_length(out, list.len());
            for item in list {
                put_bytes(out, item);
            }
        }
        out.extend(self.processes.to_le_bytes());
        out.push(u8::from(self.own_network));
    }

    fn read(rest: &mut Reader<'_>) -> Option<Self> {
        let bridge = match rest.byte()? {
            0 => Bridge::None,
            1 => Bridge::Builtin,
            2 => Bridge::Socat { program: rest.text()?, socket: rest.text()? },
            3 => Bridge::BuiltinWithNetwork,
            _ => return None,
        };
        let (cwd, shell, script) = (rest.text()?, rest.text()?, rest.text()?);
        let (environment, writable) = (rest.list()?, rest.list()?);
        let processes = rest.number()?;
        let own_network = match rest.byte()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(Self { bridge, cwd, shell, script, environment, writable, processes, own_network })
    }
}

impl Ended {
    fn read(rest: &mut Reader<'_>) -> Option<Self> {
        let (tag, value) = (rest.byte()?, rest.byte()?);
        let how = match tag {
            0 => How::Code(value),
            1 if (1..=64).contains(&value) => How::Signal(value),
            _ => return None,
        };
        let (user_micros, system_micros, max_rss_kib) = (rest.number()?, rest.number()?, rest.number()?);
        let (oom_kills, pids_refused) = (rest.number()?, rest.number()?);
        Some(Self { how, user_micros, system_micros, max_rss_kib, oom_kills, pids_refused })
    }
}

impl Failed {
    fn read(rest: &mut Reader<'_>) -> Option<Self> {
        let step = match rest.byte()? {
            1 => Step::Listen,
            2 => Step::PassListener,
            3 => Step::StartSocat,
            4 => Step::AwaitSocat,
            5 => Step::EnterCwd,
            6 => Step::Fork,
            7 => Step::Plan,
            8 => Step::OpenNetwork,
            _ => return None,
        };
        let errno = u16::from_le_bytes(rest.take(2)?.try_into().ok()?);
        Some(Self { step, errno })
    }
}

/// Lengths of what fits a frame fit 32 bits; a longer one is written as a length that no decoder takes.
fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend(bytes);
}

/// What is left of a payload.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(count)?;
        self.0 = tail;
        Some(head)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn length(&mut self) -> Option<usize> {
        usize::try_from(u32::from_le_bytes(self.take(4)?.try_into().ok()?)).ok()
    }

    fn number(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    /// Bytes without NUL: all of them become arguments, variables and paths.
    fn text(&mut self) -> Option<Vec<u8>> {
        let length = self.length()?;
        self.take(length).filter(|bytes| !bytes.contains(&0)).map(<[u8]>::to_vec)
    }

    fn list(&mut self) -> Option<Vec<Vec<u8>>> {
        let count = self.length().filter(|&count| count <= MAX_LIST)?;
        (0..count).map(|_| self.text()).collect()
    }
}

/// Puts frames together from pieces of a stream.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    max: usize,
}

impl Decoder {
    /// A decoder that takes payloads of at most `max` bytes.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { buffer: Vec::new(), max }
    }

    /// Takes the next piece of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend(bytes);
    }

    /// The next whole frame, if there is one. After an error the stream is over.
    ///
    /// # Errors
    /// What came is no frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((header, rest)) = self.buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [version, kind, length @ ..] = *header;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let length = u32::from_le_bytes(length);
        let Some(size) = usize::try_from(length).ok().filter(|&size| size <= self.max) else {
            return Err(FrameError::TooLarge(length));
        };
        let Some(payload) = rest.get(..size) else { return Ok(None) };
        let frame = Frame::decode(kind, payload)?;
        self.buffer.drain(..HEADER + size);
        Ok(Some(frame))
    }
}
