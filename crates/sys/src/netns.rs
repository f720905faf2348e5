//! Sockets in another network namespace, and a range of addresses that is local there.
//!
//! A socket belongs to the namespace it was made in, whoever holds it (network_namespaces(7)). Making one there takes a
//! process that has entered the namespace, and giving it addresses takes a capability in the user namespace that owns it:
//! whoever made that one has it, and so has root. The process lives for some twenty system calls. Like those of
//! [`crate::spawn`] it shares the daemon's memory while the calling thread is stopped (CLONE_VM | CLONE_VFORK), and its
//! descriptors, too (CLONE_FILES): nothing is copied, executed or passed. It is in none of the namespace's PID
//! namespaces, so nothing in there sees it.

#![allow(unsafe_code)]

mod child;
mod netlink;

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};

use child::{Job, Report, Step};

pub use crate::netns_types::{Made, NetnsError, PortSocket, Wanted};

/// Most ports that sockets are made for.
pub const MAX_PORTS: usize = 64;

/// Ports from here on may be bound by anybody.
pub const FIRST_FREE_PORT: u16 = 1024;

/// The child's stack: it calls a handful of frames deep.
const STACK: usize = 64 * 1024;

/// Makes a range of addresses local in the namespace, and sockets there. Blocks for the time of some system calls.
///
/// # Errors
/// The namespace is none of ours to set up, or the kernel refuses a step.
pub fn make(netns: impl AsFd, wanted: &Wanted) -> Result<Made, NetnsError> {
    let failed = |step| move |source| NetnsError { step, source };
    check_not_own(netns.as_fd()).map_err(failed("looking at the network namespace"))?;
    let owner = owning_user_namespace(netns.as_fd()).map_err(failed("finding the network namespace's owner"))?;
    let ports = wanted.ports.get(..MAX_PORTS).unwrap_or(&wanted.ports);
    let sockets = UnsafeCell::new(vec![-1; ports.len() + 2]);
    let report = UnsafeCell::new(Report::default());
    let job = Job {
        user_namespace: owner.as_raw_fd(),
        netns: netns.as_fd().as_raw_fd(),
        address_v4: netlink::address(wanted.v4.0.into(), wanted.v4.1),
        // A prefix of IPv6 is not local with its address: it takes a route.
        address_v6: netlink::address(wanted.v6.0.into(), 128),
        route_v6: netlink::local_route(wanted.v6.0, wanted.v6.1),
        service: wanted.service,
        ports,
        sockets: &sockets,
        report: &report,
    };
    let ended = run(&job);
    // Owned from here on, whatever comes next.
    let mut made = sockets.into_inner().into_iter().map(|fd| {
        // SAFETY: the child wrote the numbers of descriptors that it made in the table that both share, and gave them
        // to nobody else.
        (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
    });
    let (udp, tcp) = (made.next().flatten(), made.next().flatten());
    let others: Vec<OwnedFd> = made.flatten().collect();
    ended.map_err(failed("making a process"))?;
    let report = report.into_inner();
    let source = || io::Error::from_raw_os_error(report.errno);
    match (udp, tcp) {
        (Some(udp), Some(tcp)) if report.step == Step::Done && others.len() == ports.len() => {
            let port = |(port, socket)| PortSocket { port, socket, bound: port < FIRST_FREE_PORT };
            let ports = ports.iter().copied().zip(others).map(port).collect();
            Ok(Made { udp, tcp, ports, ipv6: report.ipv6 })
        }
        _ => Err(NetnsError { step: report.step.describe(), source: source() }),
    }
}

/// The daemon's own network is given nothing, whatever went wrong elsewhere.
fn check_not_own(netns: BorrowedFd<'_>) -> io::Result<()> {
    let (own, other) = (rustix::fs::stat("/proc/thread-self/ns/net")?, rustix::fs::fstat(netns)?);
    if (own.st_dev, own.st_ino) == (other.st_dev, other.st_ino) {
        return Err(io::Error::other("it is the daemon's own"));
    }
    Ok(())
}

/// The user namespace whose capabilities count in a network namespace (ioctl_nsfs(2)).
fn owning_user_namespace(netns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: this call takes no argument and gives a new descriptor or -1.
    let fd: RawFd = unsafe { libc::ioctl(netns.as_raw_fd(), libc::NS_GET_USERNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs the job in a process of its own and waits for its end.
fn run(job: &Job<'_>) -> io::Result<()> {
    // u128 makes the stack's end aligned to 16 bytes, as every ABI here asks for.
    let mut stack = vec![0_u128; STACK / size_of::<u128>()];
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES | libc::CLONE_PIDFD | libc::SIGCHLD;
    let signals = BlockedSignals::new();
    // SAFETY: the stack is as large as said and grows down from its end; the child runs `child::main` on `job`, both of
    // which outlive it, because CLONE_VFORK stops this thread until the child has ended.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len()).cast::<c_void>();
        libc::clone(child::main, top, flags, std::ptr::from_ref(job).cast_mut().cast::<c_void>(), &raw mut pidfd)
    };
    let error = io::Error::last_os_error();
    drop(signals);
    if pid < 0 {
        return Err(error);
    }
    // SAFETY: the kernel has just made this descriptor for us (CLONE_PIDFD), close-on-exec.
    let child = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // It has let go of the memory, so it is about to end. Where somebody else has collected it, it has.
    loop {
        match waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED) {
            Ok(_) | Err(Errno::CHILD) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// While this lives the thread takes no signal: a handler of the daemon would run in the child, on memory of both.
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: both sets are written by the calls before they are read.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set is the one that the kernel gave; a null old set is allowed.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut());
        }
    }
}
