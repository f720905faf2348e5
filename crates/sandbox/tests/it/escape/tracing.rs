//! The memory and descriptors of other processes.

use super::attack::Control::{Inside, Root, RootAt};
use super::attack::Layer::{Helper, Pids, Seccomp};
use super::attack::probe;

attacks! { Tracing:
    attach_outside, [Seccomp, Pids],
        probe(&["attach", "{pid}"], Root).act(),
        "PTRACE_ATTACH to a process of the host that has the sandbox's uid";
    seize_outside, [Seccomp, Pids],
        probe(&["seize", "{pid}"], Root).act(),
        "PTRACE_SEIZE of a process of the host that has the sandbox's uid";
    seize_the_helper, [Seccomp, Helper],
        probe(&["seize", "1"], RootAt(&["seize", "{pid}"])).act(),
        "PTRACE_SEIZE of process 1";
    seize_a_sibling, [Seccomp],
        probe(&["seize-sibling"], Root).act(),
        "PTRACE_SEIZE of a process that it has not started to trace";
    read_memory_outside, [Seccomp, Pids],
        probe(&["read-memory", "{pid}"], Root).act(),
        "process_vm_readv(2) from a process of the host";
    write_memory_outside, [Seccomp, Pids],
        probe(&["write-memory", "{pid}"], Root).act(),
        "process_vm_writev(2) into a process of the host";
    read_memory_of_the_helper, [Seccomp, Helper],
        probe(&["read-memory", "1"], RootAt(&["read-memory", "{pid}"])).act(),
        "process_vm_readv(2) from process 1";
    read_memory_of_a_sibling, [Seccomp],
        probe(&["memory-of-sibling"], Root).act(),
        "process_vm_readv(2) between two of its own";
    open_memory_outside, [Pids],
        probe(&["open-memory", "{pid}"], Root).act(),
        "opens `/proc/PID/mem` of a process of the host";
    open_memory_of_the_helper, [Helper],
        probe(&["open-memory", "1"], Inside(&["open-memory", "self"])).act(),
        "opens `/proc/1/mem`";
    take_a_descriptor_of_the_helper, [Seccomp, Helper],
        probe(&["take-descriptor", "1"], RootAt(&["take-descriptor", "{pid}"])).act(),
        "pidfd_getfd(2) from process 1, which holds the socket to the daemon";
    take_a_descriptor_outside, [Seccomp, Pids],
        probe(&["take-descriptor", "{pid}"], Root).act(),
        "pidfd_getfd(2) from a process of the host";
}
