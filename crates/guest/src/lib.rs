//! The static helper that runs inside every sandbox, and the frames it speaks.
//!
//! [`HELPER`] is the executable: PID 1 of a sandbox, the supervisor of a host run, and ssh's way to the proxy.
//! [`frame`] is what it says to the daemon and hears from it. The daemon trusts no byte that comes from it: the socket's
//! other end lives beside hostile code.

extern crate alloc;

pub mod frame;

// The helper's parts that can be looked at one by one. What it is as a whole, tests/it sees from outside.
#[cfg(all(test, target_os = "linux"))]
#[allow(unsafe_code, dead_code, reason = "they are the helper's, which main.rs puts together")]
mod blocks;
#[cfg(all(test, target_os = "linux"))]
#[allow(unsafe_code, dead_code, reason = "they are the helper's, which main.rs puts together")]
mod init;

/// The helper's executable image for this target. Empty on systems without this kind of sandbox.
pub const HELPER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nexus-init"));

/// The descriptors that the helper is started with.
pub mod fd {
    /// The control socket, which speaks [`crate::frame`].
    pub const CONTROL: i32 = 3;
    /// Standard output of the command.
    pub const STDOUT: i32 = 4;
    /// Standard error of the command.
    pub const STDERR: i32 = 5;
    /// The helper's own image, which it closes with everything above.
    pub const IMAGE: i32 = 6;
}

/// Where the proxy is reached inside a sandbox.
pub const PROXY_PORT: u16 = 9080;
