//! Programs that bring rights of their own.

use super::attack::Control::{Root, User};
use super::attack::Layer::{Mounts, NoNewPrivs};
use super::attack::probe;

attacks! { Setuid:
    a_planted_setuid_program, [NoNewPrivs, Mounts],
        probe(&["run-planted", "/workspace/setuid"], User).act(),
        "executes a setuid program of root's that lies in the facility";
    planted_capabilities, [NoNewPrivs, Mounts],
        probe(&["run-planted", "/workspace/capable"], User).act(),
        "executes a program in the facility that has file capabilities";
    mounts_that_heed_setuid, [Mounts],
        probe(&["may-be-setuid", "/", "/usr", "/workspace", "/tmp", "/run", "/dev/shm", "/dev", "/proc"], Root).act(),
        "looks for a mount that heeds setuid bits";
}
