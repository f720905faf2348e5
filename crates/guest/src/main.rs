//! nexus-init: PID 1 of a sandbox, the supervisor of a host run, and ssh's way to the proxy.
//!
//! One static file without a libc and without dependencies, so it starts in a fifth of a millisecond and runs in any root
//! directory, also one without a shell. It is started with the descriptors of `guest::fd` and holds nothing that a process
//! beside it could take: it is not dumpable.
//!
//! ```text
//! nexus-init sandbox            PID 1: when it ends, everything ends
//! nexus-init container [SOCKET] the same in a container, which ends with the control socket; it gets that over SOCKET
//! nexus-init host               a subreaper: collects what the command leaves behind, and kills it
//! nexus-init connect HOST PORT  ProxyCommand: joins stdin and stdout to HOST:PORT through the proxy
//! nexus-init probe KIND …       tries what a sandbox must not let happen, for `nexusd doctor --prove`
//! ```

#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "there is no libc: the kernel is called from here")]
#![allow(unreachable_pub, dead_code, reason = "frame.rs is shared with the library")]

extern crate alloc;
// build.rs builds the real thing, `bare`. cargo's own build of this target, which clippy looks at, unwinds when it panics,
// and only the standard library can say how.
#[cfg(not(bare))]
extern crate std;

mod blocks;
mod entry;
mod frame;
mod init;

use core::panic::PanicInfo;

use init::{connect, memory, os, probe};

/// What a shell would say of a program that a signal killed is no number of ours, and Rust's own for a panic is this.
const PANICKED: i32 = 101;

#[global_allocator]
static MEMORY: memory::Memory = memory::Memory::new();

/// What the arguments ask for; the exit code.
fn run(arguments: &[&[u8]]) -> i32 {
    match arguments {
        [b"sandbox"] => init::supervise(init::Mode::Sandbox),
        [b"container"] => init::supervise(init::Mode::Container),
        [b"container", socket] => match init::join::join(socket) {
            true => init::supervise(init::Mode::Container),
            false => 1,
        },
        [b"host"] => init::supervise(init::Mode::Host),
        [b"connect", host, port] => connect::run(host, port),
        [b"probe", probe @ ..] => probe::run(probe),
        _ => {
            init::complain(
                "usage: nexus-init sandbox | container [SOCKET] | host | connect HOST PORT | probe KIND ...",
            );
            2
        }
    }
}

/// A bug here ends everything: the kernel kills what PID 1 leaves, and the daemon hears the end of a host run.
#[cfg_attr(bare, panic_handler)]
fn panicked(info: &PanicInfo<'_>) -> ! {
    init::complain(&alloc::format!("nexus-init: {info}"));
    os::exit(PANICKED)
}
