//! What the process does in the namespace.
//!
//! Everything here runs on memory shared with the daemon while its thread is stopped: it makes system calls, reads what
//! was prepared, and writes to its own stack, [`Report`] and the list of sockets alone.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::net::SocketAddrV4;
use std::os::fd::RawFd;

use super::FIRST_FREE_PORT;

/// Where `lo` stands in every network namespace (LOOPBACK_IFINDEX).
pub(super) const LOOPBACK: u32 = 1;

/// How many connections of the service wait to be accepted.
const BACKLOG: c_int = 16;

/// What is in the way of an answer to a netlink request: its header, and the error.
const ERROR_AT: usize = 16;

/// How far the process came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    #[default]
    Enter,
    Addresses,
    Service,
    Ports,
    Done,
}

impl Step {
    pub(super) fn describe(self) -> &'static str {
        match self {
            Self::Enter => "entering the network namespace",
            Self::Addresses => "giving the network namespace addresses",
            Self::Service => "listening in the network namespace",
            Self::Ports | Self::Done => "making sockets in the network namespace",
        }
    }
}

/// What the process writes down.
#[derive(Default)]
pub(super) struct Report {
    pub(super) step: Step,
    pub(super) errno: c_int,
    pub(super) ipv6: bool,
}

/// All that the process reads, prepared before it was made.
pub(super) struct Job<'a> {
    pub(super) user_namespace: RawFd,
    pub(super) netns: RawFd,
    pub(super) address_v4: Vec<u8>,
    pub(super) address_v6: Vec<u8>,
    pub(super) route_v6: Vec<u8>,
    pub(super) service: SocketAddrV4,
    pub(super) ports: &'a [u16],
    /// UDP, TCP, and one for each port; -1 where there is none.
    pub(super) sockets: &'a UnsafeCell<Vec<c_int>>,
    pub(super) report: &'a UnsafeCell<Report>,
}

pub(super) extern "C" fn main(job: *mut c_void) -> c_int {
    // SAFETY: the caller passes a `Job` that lives until this process has ended, and looks at neither cell meanwhile.
    unsafe {
        let job = &*job.cast::<Job<'_>>();
        let report = &mut *job.report.get();
        if work(job, report).is_none() {
            report.errno = *libc::__errno_location();
        }
        libc::_exit(0)
    }
}

/// `None` where a call failed, its errno set.
fn work(job: &Job<'_>, report: &mut Report) -> Option<()> {
    // SAFETY: the descriptors are what they are called, and live as long as the job.
    unsafe {
        // Where it is this process's own already, that is an error and nothing is amiss: the next call tells.
        libc::setns(job.user_namespace, libc::CLONE_NEWUSER);
        done(libc::setns(job.netns, libc::CLONE_NEWNET))?;
    }
    report.step = Step::Addresses;
    let netlink = new_socket(libc::AF_NETLINK, libc::SOCK_RAW)?;
    request(netlink, &job.address_v4)?;
    // A host may be without IPv6.
    report.ipv6 = request(netlink, &job.address_v6).and_then(|()| request(netlink, &job.route_v6)).is_some();
    // SAFETY: this process made the descriptor, and nobody else uses it.
    unsafe { libc::close(netlink) };
    report.step = Step::Service;
    let udp = keep(job, 0, new_socket(libc::AF_INET, libc::SOCK_DGRAM)?)?;
    bind_v4(udp, job.service.ip().to_bits(), job.service.port())?;
    let tcp = keep(job, 1, new_socket(libc::AF_INET, libc::SOCK_STREAM)?)?;
    bind_v4(tcp, job.service.ip().to_bits(), job.service.port())?;
    // SAFETY: no memory is passed.
    done(unsafe { libc::listen(tcp, BACKLOG) })?;
    report.step = Step::Ports;
    let family = if report.ipv6 { libc::AF_INET6 } else { libc::AF_INET };
    for (place, port) in job.ports.iter().enumerate() {
        let socket = keep(job, place + 2, new_socket(family, libc::SOCK_STREAM)?)?;
        set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        if report.ipv6 {
            set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
        }
        if *port < FIRST_FREE_PORT {
            if report.ipv6 { bind_v6(socket, *port)? } else { bind_v4(socket, 0, *port)? }
        }
    }
    report.step = Step::Done;
    Some(())
}

fn done(result: c_int) -> Option<()> {
    (result == 0).then_some(())
}

fn new_socket(family: c_int, kind: c_int) -> Option<c_int> {
    // SAFETY: no memory is passed.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    (fd >= 0).then_some(fd)
}

/// Writes a socket down before anything else can fail, so that it is closed when something does.
fn keep(job: &Job<'_>, place: usize, socket: c_int) -> Option<c_int> {
    // SAFETY: the list is this process's alone until it has ended.
    let sockets = unsafe { &mut *job.sockets.get() };
    *sockets.get_mut(place)? = socket;
    Some(socket)
}

fn size_of_c<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0)
}

fn family(family: c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(family).unwrap_or(0)
}

fn set_option(socket: c_int, level: c_int, name: c_int, value: c_int) -> Option<()> {
    let size = size_of_c::<c_int>();
    // SAFETY: the value lives across the call and is as large as said.
    done(unsafe { libc::setsockopt(socket, level, name, (&raw const value).cast(), size) })
}

fn bind_v4(socket: c_int, address: u32, port: u16) -> Option<()> {
    let address = libc::sockaddr_in {
        sin_family: family(libc::AF_INET),
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: address.to_be() },
        sin_zero: [0; 8],
    };
    let size = size_of_c::<libc::sockaddr_in>();
    // SAFETY: the address lives across the call and is as large as said.
    done(unsafe { libc::bind(socket, (&raw const address).cast(), size) })
}

/// On every address of the namespace.
fn bind_v6(socket: c_int, port: u16) -> Option<()> {
    let address = libc::sockaddr_in6 {
        sin6_family: family(libc::AF_INET6),
        sin6_port: port.to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
        sin6_scope_id: 0,
    };
    let size = size_of_c::<libc::sockaddr_in6>();
    // SAFETY: the address lives across the call and is as large as said.
    done(unsafe { libc::bind(socket, (&raw const address).cast(), size) })
}

/// One request that the kernel carries out while it is being sent; its answer says how that went.
fn request(netlink: c_int, message: &[u8]) -> Option<()> {
    let mut answer = [MaybeUninit::<u8>::uninit(); 512];
    // SAFETY: both are as long as said.
    let received = unsafe {
        if libc::send(netlink, message.as_ptr().cast(), message.len(), 0) < 0 {
            return None;
        }
        libc::recv(netlink, answer.as_mut_ptr().cast(), answer.len(), 0)
    };
    let received = usize::try_from(received).ok()?;
    let mut number = [0; 4];
    for (to, place) in number.iter_mut().zip(ERROR_AT..received) {
        // SAFETY: the kernel wrote so many bytes.
        *to = unsafe { answer.get(place)?.assume_init() };
    }
    let errno = i32::from_ne_bytes(number).wrapping_neg();
    // SAFETY: the place of this thread's errno is always there.
    unsafe { *libc::__errno_location() = errno };
    done(errno)
}
