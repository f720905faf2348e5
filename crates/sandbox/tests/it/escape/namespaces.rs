//! Further namespaces, and those of others.

use super::attack::Control::{Root, User};
use super::attack::Layer::{Capabilities, Pids, Seccomp, Userns};
use super::attack::probe;

attacks! { Namespaces:
    unshare_a_user_namespace, [Seccomp, Userns],
        probe(&["unshare", "0x10000000"], User).act(),
        "unshare(CLONE_NEWUSER)";
    unshare_a_mount_namespace, [Seccomp, Capabilities],
        probe(&["unshare", "0x00020000"], Root).act(),
        "unshare(CLONE_NEWNS)";
    unshare_a_network, [Seccomp, Capabilities],
        probe(&["unshare", "0x40000000"], Root).act(),
        "unshare(CLONE_NEWNET)";
    unshare_everything, [Seccomp, Userns],
        probe(&["unshare", "0x7e020080"], User).act(),
        "unshare(2) of all kinds at once, the user namespace first";
    clone_a_user_namespace, [Seccomp, Userns],
        probe(&["clone", "0x10000000"], User).act(),
        "clone(CLONE_NEWUSER)";
    clone_a_pid_namespace, [Seccomp, Capabilities],
        probe(&["clone", "0x20000000"], Root).act(),
        "clone(CLONE_NEWPID)";
    clone3_a_user_namespace, [Seccomp, Userns],
        probe(&["clone3", "0x10000000"], User).act(),
        "clone3(CLONE_NEWUSER), whose flags no filter sees";
    clone3_into_a_cgroup, [Seccomp],
        probe(&["clone3", "0"], User).act(),
        "clone3(2) at all: by it a process starts in another cgroup";
    enter_a_namespace_of_the_helper_s, [Seccomp, Capabilities],
        probe(&["setns", "/proc/self/ns/net"], Root).act(),
        "setns(2) into a namespace that it has a file of";
    enter_the_namespaces_of_a_process_outside, [Seccomp, Pids, Capabilities],
        probe(&["setns-pidfd", "{pid}"], Root).act(),
        "setns(2) into the namespaces of a process of the host, by pidfd";
}
