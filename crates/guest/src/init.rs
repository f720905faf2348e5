//! The supervisor: sets up, waits for its release, runs the command, reports how it ended.

pub(crate) mod bridge;
pub(crate) mod clock;
pub(crate) mod command;
pub(crate) mod connect;
pub(crate) mod container;
pub(crate) mod errors;
pub(crate) mod families;
pub(crate) mod file;
pub(crate) mod join;
pub(crate) mod landlock;
pub(crate) mod memory;
pub(crate) mod os;
pub(crate) mod probe;
pub(crate) mod relay;
pub(crate) mod socket;
pub(crate) mod sys;
pub(crate) mod tree;

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use clock::Instant;
use sys::{BestEffort, Errno};

use crate::frame::{Decoder, Ended, Failed, Frame, How, MAX_TO_HELPER, Order, Plan, Step};

/// The control socket and the command's outputs, as `guest::fd` has them.
const CONTROL: i32 = 3;
pub(crate) const STDOUT: i32 = 4;
pub(crate) const STDERR: i32 = 5;
const FIRST_OTHER: i32 = 6;

/// Most that is read of the control socket at once.
const READ: usize = 16 * 1024;

/// How long what a host command left behind may go on writing to its pipes.
const DRAIN: Duration = Duration::from_secs(2);

/// How often it is looked at meanwhile, in milliseconds.
const DRAIN_STEP: i32 = 20;

/// Where the supervisor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// PID 1 of a PID namespace: the kernel kills everything when it ends.
    Sandbox,
    /// The same in a container, whose engine is nobody's child here: the end of the control socket ends it.
    Container,
    /// A process of the host.
    Host,
}

struct Supervisor {
    mode: Mode,
    decoder: Decoder,
    /// Room for one read; its pages are touched as far as there is something to read.
    room: Vec<u8>,
    plan: Option<Plan>,
    /// The command's process, once it runs.
    command: Option<i32>,
    /// How the command ended, and since when what it left is drained.
    ended: Option<(How, Instant)>,
    /// The bridge's process, where it is one.
    socat: Option<i32>,
}

/// Runs until the command has ended or the daemon is gone; the exit code says only whether that was orderly.
pub(crate) fn supervise(mode: Mode) -> i32 {
    // Nothing beside this process may read its memory or take its descriptors (ptrace(2), pidfd_getfd(2), /proc/1/fd).
    os::set_not_dumpable();
    // It signals everything that it sees.
    if mode == Mode::Container && os::own_pid() != 1 {
        complain("nexus: the helper is not the container's first process: another init or PID namespace was asked for");
        return 1;
    }
    if mode == Mode::Host {
        // End of file on the control socket says that the daemon is gone; then the tree is killed, and not before.
        os::live_without_parent();
        os::adopt_orphans();
    }
    // The daemon's own may be tighter, as it is under the service units; what a command builds and packs would get other modes
    // than elsewhere.
    os::set_customary_umask();
    if mode == Mode::Sandbox {
        os::die_with_parent();
    }
    file::close_from(FIRST_OTHER);
    for fd in [CONTROL, STDOUT, STDERR] {
        file::close_on_exec(fd);
    }
    let Some(children) = os::watch_children() else { return 1 };
    let decoder = Decoder::new(MAX_TO_HELPER);
    let room = Vec::with_capacity(READ);
    let mut supervisor = Supervisor { mode, decoder, room, plan: None, command: None, ended: None, socat: None };
    loop {
        let timeout = if supervisor.ended.is_some() { DRAIN_STEP } else { -1 };
        let (heard, child) = socket::poll_two(CONTROL, children.0, timeout);
        if child {
            os::drain(children.0);
            supervisor.reap();
        }
        if heard && !supervisor.hear() {
            supervisor.kill_all();
            return 1;
        }
        if let Some(code) = supervisor.finish() {
            return code;
        }
    }
}

impl Supervisor {
    /// Takes what the daemon says; `false` when it is gone or wants everything dead.
    fn hear(&mut self) -> bool {
        let Ok(bytes) = file::read(CONTROL, self.room.spare_capacity_mut()) else { return false };
        if bytes.is_empty() {
            return false;
        }
        self.decoder.push(bytes);
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => {
                    if !self.obey(frame) {
                        return false;
                    }
                }
                Ok(None) => return true,
                Err(_) => return self.give_up(Step::Plan, Errno(0)),
            }
        }
    }

    fn obey(&mut self, frame: Frame) -> bool {
        match frame {
            Frame::Plan(plan) if self.plan.is_none() => self.set_up(plan),
            Frame::Release if self.command.is_none() => self.run(),
            Frame::Signal(Order::Terminate) => {
                match self.mode {
                    Mode::Sandbox | Mode::Container => os::signal_all(os::SIGTERM),
                    Mode::Host => tree::signal_descendants(os::SIGTERM),
                }
                true
            }
            Frame::Signal(Order::Kill) => false,
            _ => self.give_up(Step::Plan, Errno(0)),
        }
    }

    fn set_up(&mut self, plan: Plan) -> bool {
        if !plan.cwd.is_empty()
            && let Err(error) = os::enter(&plan.cwd)
        {
            return self.give_up(Step::EnterCwd, error);
        }
        match bridge::set_up(&plan.bridge, CONTROL) {
            Ok(socat) => self.socat = socat,
            Err((step, error)) => return self.give_up(step, error),
        }
        self.plan = Some(plan);
        say(&Frame::Ready)
    }

    fn run(&mut self) -> bool {
        let Some(plan) = &self.plan else { return self.give_up(Step::Plan, Errno(0)) };
        match command::start(plan) {
            Ok(pid) => {
                self.command = Some(pid);
                true
            }
            Err(error) => self.give_up(Step::Fork, error),
        }
    }

    /// Collects every child that has ended: as PID 1 or subreaper, all orphans are.
    fn reap(&mut self) {
        while let Some((pid, how)) = os::wait_any() {
            if Some(pid) == self.command {
                self.ended = Some((how, Instant::now()));
            }
        }
    }

    /// Reports and ends, once the command has ended and nothing has to be waited for.
    fn finish(&mut self) -> Option<i32> {
        let (how, since) = self.ended?;
        if self.mode == Mode::Host {
            // What holds the pipes may go on for a while, as in a shell: the tail of `exec > >(tee log)` would be lost. What
            // does not has been left behind.
            if tree::descendant_holds(&[STDOUT, STDERR]) {
                if since.elapsed() < DRAIN {
                    return None;
                }
                complain("a process that the command left behind held its output for 2 s more, and was killed");
            }
            self.kill_all();
        }
        let (user_micros, system_micros, max_rss_kib) = os::usage_of_children();
        let counted = if self.mode == Mode::Container { container::counted() } else { (0, 0) };
        let (oom_kills, pids_refused) = counted;
        say(&Frame::Exited(Ended { how, user_micros, system_micros, max_rss_kib, oom_kills, pids_refused }));
        Some(0)
    }

    /// Kills everything. In a sandbox the kernel does, when this process ends; in a container the daemon hears that end before,
    /// for the kernel closes the control socket first.
    fn kill_all(&mut self) {
        match self.mode {
            Mode::Sandbox => {}
            Mode::Container => tree::kill_namespace(),
            Mode::Host => tree::kill_descendants(),
        }
    }

    /// Reports what failed; the run is over.
    fn give_up(&mut self, step: Step, error: Errno) -> bool {
        say(&Frame::Failed(Failed { step, errno: u16::try_from(error.0).unwrap_or(0) }));
        false
    }
}

/// Sends a frame; `false` when the daemon is gone.
fn say(frame: &Frame) -> bool {
    socket::send(CONTROL, &frame.encode(), None).is_ok()
}

/// A line on standard error. Nobody can be told when even that fails.
pub(crate) fn complain(text: &str) {
    file::write_all(2, format!("{text}\n").as_bytes()).best_effort();
}
