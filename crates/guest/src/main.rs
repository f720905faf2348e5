//! nexus-init: PID 1 of a sandbox, the supervisor of a host run, and ssh's way to the proxy.
//!
//! One static file without dependencies, so it runs in any root directory, also one without a shell or a libc. It is
//! started with the descriptors of `guest::fd` and holds nothing that a process beside it could take: it is not dumpable.
//!
//! ```text
//! nexus-init sandbox            PID 1: when it ends, everything ends
//! nexus-init host               a subreaper: collects what the command leaves behind, and kills it
//! nexus-init connect HOST PORT  ProxyCommand: joins stdin and stdout to HOST:PORT through the proxy
//! ```

#![no_main]
#![allow(unsafe_code, reason = "libc is called by hand-declared functions: no crates")]
#![allow(unreachable_pub, dead_code, reason = "frame.rs is shared with the library")]

mod frame;
mod init;

use std::ffi::{CStr, c_char, c_int};

/// Entered by libc without the standard library's own start-up: nothing here needs it, and it costs system calls.
#[unsafe(no_mangle)]
extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let arguments: Vec<&[u8]> = (1..usize::try_from(argc).unwrap_or(0))
        // SAFETY: libc passes `argc` pointers to null-terminated strings that live as long as the process.
        .map(|index| unsafe { CStr::from_ptr(*argv.add(index)) }.to_bytes())
        .collect();
    match arguments.as_slice() {
        [b"sandbox"] => init::supervise(init::Mode::Sandbox),
        [b"host"] => init::supervise(init::Mode::Host),
        [b"connect", host, port] => init::connect::run(host, port),
        _ => {
            init::complain("usage: nexus-init sandbox | host | connect HOST PORT");
            2
        }
    }
}
