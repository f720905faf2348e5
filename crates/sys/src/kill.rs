//! Killing a process that was found by its number.

use rustix::process::{Pid, Signal};

/// Sends SIGKILL where `is_it` still says so once the process is held: the number may be another process's by then. One that
/// may not be killed is another user's.
pub(crate) fn kill_if(pid: i32, is_it: impl FnOnce() -> bool) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
        if let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
            && is_it()
        {
            pidfd_send_signal(process, Signal::KILL).unwrap_or(());
        }
    }
    // Nothing holds a process here: the moment between looking and killing stays.
    #[cfg(not(target_os = "linux"))]
    if is_it() {
        rustix::process::kill_process(pid, Signal::KILL).unwrap_or(());
    }
}
