//! Sockets.

use alloc::vec::Vec;
use core::ptr::{null, null_mut};

use super::clock::TimeSpec;
use super::file::Fd;
use super::sys::{BestEffort, Errno, call};

const AF_UNIX: u16 = 1;
const AF_INET: u16 = 2;
const SOCK_STREAM_CLOEXEC: i32 = 1 | 0o2_000_000;
const SOL_SOCKET: i32 = 1;
const SO_REUSEADDR: i32 = 2;
const SO_ERROR: i32 = 4;
const SOCK_NONBLOCK: i32 = 0o4_000;
const SCM_RIGHTS: i32 = 1;
const SHUT_WR: i32 = 1;
const MSG_DONTWAIT: i32 = 0x40;
const MSG_NOSIGNAL: i32 = 0x4000;
const MSG_CMSG_CLOEXEC: i32 = 0x4000_0000;
const BACKLOG: i32 = 128;

/// Most descriptors that are received at once.
pub(crate) const MOST_RECEIVED: usize = 4;

/// There is something to read, or the end of it.
pub(crate) const POLLIN: i16 = 1;
/// There is room to write.
pub(crate) const POLLOUT: i16 = 4;

/// struct pollfd. A negative descriptor is not looked at.
#[repr(C)]
pub(crate) struct Watched {
    fd: i32,
    events: i16,
    seen: i16,
}

impl Watched {
    /// A descriptor to look at, for these events; for none, it is left alone, even when it breaks.
    pub(crate) fn new(fd: i32, events: i16) -> Self {
        Self { fd: if events == 0 { -1 } else { fd }, events, seen: 0 }
    }

    /// Whether an event came: one that was asked for, or an error or an end, which show in the next call on it.
    pub(crate) fn is_ready(&self) -> bool {
        self.seen != 0
    }
}

/// struct sockaddr_in.
#[repr(C)]
struct Address {
    family: u16,
    port: [u8; 2],
    host: [u8; 4],
    padding: [u8; 8],
}

impl Address {
    fn local(port: u16) -> Self {
        Self { family: AF_INET, port: port.to_be_bytes(), host: [127, 0, 0, 1], padding: [0; 8] }
    }
}

/// struct sockaddr_un.
#[repr(C)]
struct UnixAddress {
    family: u16,
    path: [u8; 108],
}

#[repr(C)]
struct IoVec {
    base: *const u8,
    length: usize,
}

#[repr(C)]
struct MessageHeader {
    name: *mut u8,
    name_length: u32,
    parts: *const IoVec,
    part_count: usize,
    control: *const u8,
    control_length: usize,
    flags: i32,
}

/// One control message with one descriptor: struct cmsghdr, its data, its padding (cmsg(3)).
#[repr(C)]
struct PassedDescriptor {
    length: usize,
    level: i32,
    kind: i32,
    fd: i32,
    padding: i32,
}

/// The same with as many as are received at once.
#[repr(C)]
struct ReceivedDescriptors {
    length: usize,
    level: i32,
    kind: i32,
    fds: [i32; MOST_RECEIVED],
}

/// Waits until one of the descriptors has something (or is closed), at most `timeout` milliseconds; -1 is for ever.
pub(crate) fn poll(watched: &mut [Watched], timeout: i32) {
    let mut time = TimeSpec { seconds: i64::from(timeout / 1000), nanos: i64::from(timeout % 1000) * 1_000_000 };
    let time = if timeout < 0 { null_mut() } else { &raw mut time };
    // SAFETY: the list is as long as said; a null mask of signals leaves them as they are.
    unsafe { call!(PPOLL, watched.as_mut_ptr(), watched.len(), time, null::<u64>(), 0_usize) }.best_effort();
}

/// [`poll`] for two descriptors that are read.
pub(crate) fn poll_two(first: i32, second: i32, timeout: i32) -> (bool, bool) {
    let mut watched = [Watched::new(first, POLLIN), Watched::new(second, POLLIN)];
    poll(&mut watched, timeout);
    let [first, second] = watched;
    (first.is_ready(), second.is_ready())
}

/// Lets that many milliseconds pass.
pub(crate) fn pause(milliseconds: i32) {
    poll(&mut [], milliseconds);
}

fn stream() -> Result<Fd, Errno> {
    // SAFETY: no memory is passed.
    Fd::from_call(unsafe { call!(SOCKET, i32::from(AF_INET), SOCK_STREAM_CLOEXEC, 0) })
}

/// Listens on this port of 127.0.0.1.
pub(crate) fn listen(port: u16) -> Result<Fd, Errno> {
    let socket = stream()?;
    let (yes, address) = (1_i32, Address::local(port));
    // SAFETY: the option's value and the address live across the calls and are as large as said.
    unsafe {
        call!(SETSOCKOPT, socket.0, SOL_SOCKET, SO_REUSEADDR, &raw const yes, size_of::<i32>())?;
        call!(BIND, socket.0, &raw const address, size_of::<Address>())?;
        call!(LISTEN, socket.0, BACKLOG)?;
    }
    Ok(socket)
}

/// Connects to this port of 127.0.0.1.
pub(crate) fn connect(port: u16) -> Result<Fd, Errno> {
    let (socket, address) = (stream()?, Address::local(port));
    // SAFETY: the address lives across the call and is as large as said.
    unsafe { call!(CONNECT, socket.0, &raw const address, size_of::<Address>()) }?;
    Ok(socket)
}

/// Connects a stream to an address as the kernel takes it (a struct sockaddr of the family), waiting at most that many
/// milliseconds.
pub(crate) fn connect_to(family: u16, address: &[u8], timeout: i32) -> Result<Fd, Errno> {
    let kind = SOCK_STREAM_CLOEXEC | SOCK_NONBLOCK;
    // SAFETY: no memory is passed.
    let socket = Fd::from_call(unsafe { call!(SOCKET, i32::from(family), kind, 0) })?;
    // SAFETY: the address lives across the call and is as long as said.
    match unsafe { call!(CONNECT, socket.0, address.as_ptr(), address.len()) } {
        Err(Errno::EINPROGRESS) => {}
        result => return result.map(|_| socket),
    }
    let mut watched = [Watched::new(socket.0, POLLOUT)];
    poll(&mut watched, timeout);
    let [watched] = watched;
    if !watched.is_ready() {
        return Err(Errno::ETIMEDOUT);
    }
    let (mut error, mut size) = (0_i32, 4_u32);
    // SAFETY: the value and its size live across the call.
    unsafe { call!(GETSOCKOPT, socket.0, SOL_SOCKET, SO_ERROR, &raw mut error, &raw mut size) }?;
    if error == 0 { Ok(socket) } else { Err(Errno(error)) }
}

/// Connects to the socket of this path.
pub(crate) fn connect_at(path: &[u8]) -> Result<Fd, Errno> {
    let mut address = UnixAddress { family: AF_UNIX, path: [0; 108] };
    // The last byte stays the end of the path.
    if path.len() >= address.path.len() {
        return Err(Errno::EINVAL);
    }
    for (place, byte) in address.path.iter_mut().zip(path) {
        *place = *byte;
    }
    // SAFETY: no memory is passed to the first; the address lives across the second and is as large as said.
    unsafe {
        let socket = Fd::from_call(call!(SOCKET, i32::from(AF_UNIX), SOCK_STREAM_CLOEXEC, 0))?;
        call!(CONNECT, socket.0, &raw const address, size_of::<UnixAddress>())?;
        Ok(socket)
    }
}

/// Waits for a message with descriptors; they, and how many of them there are. They are close-on-exec.
pub(crate) fn receive_descriptors(socket: i32) -> Result<([i32; MOST_RECEIVED], usize), Errno> {
    let mut byte = 0_u8;
    let part = IoVec { base: (&raw mut byte).cast_const(), length: 1 };
    let mut received = ReceivedDescriptors { length: 0, level: 0, kind: 0, fds: [-1; MOST_RECEIVED] };
    let mut message = MessageHeader {
        name: null_mut(),
        name_length: 0,
        parts: &raw const part,
        part_count: 1,
        control: (&raw mut received).cast_const().cast(),
        control_length: size_of::<ReceivedDescriptors>(),
        flags: 0,
    };
    // SAFETY: the message, its one part and its control data live across the call, may be written, and are as long as said.
    let count = unsafe { call!(RECVMSG, socket, &raw mut message, MSG_CMSG_CLOEXEC) }?;
    let carried = received.length.saturating_sub(size_of::<ReceivedDescriptors>() - size_of::<[i32; MOST_RECEIVED]>());
    let is_rights = (received.level, received.kind) == (SOL_SOCKET, SCM_RIGHTS);
    if count == 0 || !is_rights {
        return Ok((received.fds, 0));
    }
    Ok((received.fds, (carried / size_of::<i32>()).min(MOST_RECEIVED)))
}

/// Sends what the socket takes at once. Where nobody is at the other end any more, that is an error, no signal.
pub(crate) fn send_some(socket: i32, bytes: &[u8]) -> Result<usize, Errno> {
    send_with(socket, bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
}

/// The same for a socket that is somebody else's: as in [`file::write`](super::file::write), the signal comes.
pub(crate) fn write_some(socket: i32, bytes: &[u8]) -> Result<usize, Errno> {
    send_with(socket, bytes, MSG_DONTWAIT)
}

fn send_with(socket: i32, bytes: &[u8], flags: i32) -> Result<usize, Errno> {
    // SAFETY: the bytes are as many as said; no address is given.
    unsafe { call!(SENDTO, socket, bytes.as_ptr(), bytes.len(), flags, null::<u8>(), 0_usize) }
}

/// Receives what is there into an empty buffer, at most as much as it has room for; 0 is the end.
pub(crate) fn receive_some(socket: i32, buffer: &mut Vec<u8>) -> Result<usize, Errno> {
    buffer.clear();
    let room = buffer.spare_capacity_mut();
    // SAFETY: the buffer is as long as said; no address is asked for.
    let count =
        unsafe { call!(RECVFROM, socket, room.as_mut_ptr(), room.len(), MSG_DONTWAIT, null::<u8>(), null::<u8>()) }?;
    // SAFETY: the kernel has written that many bytes.
    unsafe { buffer.set_len(count) };
    Ok(count)
}

/// Tells the other end that nothing more comes.
pub(crate) fn end_sending(socket: i32) {
    // SAFETY: no memory is passed.
    unsafe { call!(SHUTDOWN, socket, SHUT_WR) }.best_effort();
}

/// Sends all bytes, the descriptor with the first of them.
pub(crate) fn send(socket: i32, mut bytes: &[u8], mut fd: Option<i32>) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let part = IoVec { base: bytes.as_ptr(), length: bytes.len() };
        let passed = PassedDescriptor {
            length: size_of::<PassedDescriptor>() - size_of::<i32>(),
            level: SOL_SOCKET,
            kind: SCM_RIGHTS,
            fd: fd.unwrap_or(-1),
            padding: 0,
        };
        let message = MessageHeader {
            name: null_mut(),
            name_length: 0,
            parts: &raw const part,
            part_count: 1,
            control: if fd.is_some() { (&raw const passed).cast() } else { null() },
            control_length: if fd.is_some() { size_of::<PassedDescriptor>() } else { 0 },
            flags: 0,
        };
        // SAFETY: the message, its one part and its control data live across the call and are as long as they say.
        match unsafe { call!(SENDMSG, socket, &raw const message, MSG_NOSIGNAL) } {
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                fd = None;
            }
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
