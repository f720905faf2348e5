//! Starting the command.

use alloc::borrow::ToOwned;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::sys::{BestEffort, Errno};
use super::{STDERR, STDOUT, complain, families, file, landlock, os};
use crate::frame::Plan;

/// How much sooner than anything else the kernel kills the command when memory runs out: before the helper, and before
/// the daemon.
const OOM_SCORE: &[u8] = b"500";

/// Starts `<shell> -c <script>` in a session of its own and gives its pid.
pub(crate) fn start(plan: &Plan) -> Result<i32, Errno> {
    match os::fork_process()? {
        Some(pid) => Ok(pid),
        None => run(plan),
    }
}

/// Starts a program of the helper's own, without the command's outputs.
pub(crate) fn start_program(argv: &[CString]) -> Result<i32, Errno> {
    if let Some(pid) = os::fork_process()? {
        return Ok(pid);
    }
    os::become_command(1, 2);
    let Some(path) = argv.first() else { os::exit(127) };
    os::execute(path, argv, &[]);
    os::exit(127)
}

fn run(plan: &Plan) -> ! {
    os::set_dumpable();
    // Best effort: a kernel without the file has no such score.
    file::write_file(c"/proc/self/oom_score_adj", OOM_SCORE).best_effort();
    os::become_command(STDOUT, STDERR);
    // The daemon says that these are in force, so without them nothing runs.
    in_force("Landlock", landlock::restrict(&plan.writable));
    if plan.own_network {
        in_force("the filter of address families", families::restrict());
    }
    if plan.processes > 0 {
        in_force("the limit of processes", os::limit_processes(plan.processes));
    }
    // Frames have no NUL bytes in texts, so every one is a string.
    let string = |bytes: &[u8]| CString::new(bytes).unwrap_or_default();
    let shell = string(&plan.shell);
    let argv = [shell.clone(), c"-c".to_owned(), string(&plan.script)];
    let env: Vec<CString> = plan.environment.iter().map(|variable| string(variable)).collect();
    let error = os::execute(&shell, &argv, &env);
    complain(&format!("nexus: {}: {error}", String::from_utf8_lossy(&plan.shell)));
    // As shells do: 127 when there is no such program, 126 when it cannot be run.
    os::exit(if error == Errno::ENOENT { 127 } else { 126 })
}

fn in_force(what: &str, done: Result<(), Errno>) {
    if let Err(error) = done {
        complain(&format!("nexus: {what}: {error}"));
        os::exit(126);
    }
}
